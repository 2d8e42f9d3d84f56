// Rows times G + G^T: the gradient of every scatter R^T R, whose upstream gradient is G.
#pragma once

#include "dispatch.cuh"
#include "products.cuh"

namespace ncfast::cuda {

// What every row is, less what: means of their class, or one center; times a weight.
struct CentredRows {
  AnyRows rows;             // without a center
  Matrix<float> centers;    // one per class, or one
  const int64_t* labels;    // of the rows, with their stride; null: the one center of all
  int64_t label_stride;
  const double* weights;    // by place; null: 1

  struct Fetched {
    AnyRows::Fetched value;
    Vec8<float> center;
    float weight;
  };
  // The center of a row that exists, or -1.
  __device__ __forceinline__ int64_t center(int64_t row) const {
    if (labels == nullptr) {
      return 0;
    }
    const int64_t label = labels[row * label_stride];
    return label >= 0 && label < centers.rows ? label : -1;
  }
  __device__ __forceinline__ int64_t row(int64_t k) const {
    const int64_t row = rows.row(k);
    return row >= 0 && center(row) >= 0 ? row : -1;
  }
  __device__ __forceinline__ Fetched fetch(int64_t k, int64_t column) const {
    Fetched result;
    const int64_t r = row(k);
    result.value.exists = r >= 0;
    if (r >= 0) {
      rows.matrix.load(r, column, result.value.value);
      result.center.load(centers, center(r), column);
      result.weight = weights ? static_cast<float>(weights[k]) : 1.0f;
    }
    return result;
  }
  __device__ __forceinline__ void finish(const Fetched& fetched, int64_t column,
                                         float (&out)[kVec8]) const {
    rows.finish(fetched.value, column, out);
    if (fetched.value.exists) {
      float less[kVec8];
      fetched.center.unpack(less);
#pragma unroll
      for (int i = 0; i < kVec8; ++i) {
        out[i] = fetched.weight * (out[i] - less[i]);
      }
    }
  }
};

// G + G^T as float32, [width, width].
AnyRows symmetric(Context& context, const double* grad, int64_t width);

// out[row(k)] = rows[k] (G + G^T), rounded once; zeros for a row that exists but does not count,
// where rows are not named by an index.
void multiply_symmetric(Context& context, const CentredRows& rows, const AnyRows& symmetric,
                        const Rows& out);

// out = -sums (G + G^T), for sums of such rows.
void multiply_sums(Context& context, const Matrix<float>& sums, const AnyRows& symmetric,
                   float* out);

}  // namespace ncfast::cuda
