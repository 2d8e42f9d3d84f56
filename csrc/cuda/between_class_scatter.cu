#include "dispatch.cuh"
#include "gram.cuh"
#include "index.cuh"

namespace ncfast::cuda {
namespace {

// Visited means about the center, times the root of their weight.
template <class T, bool kWhole>
struct CentredMeans {
  Matrix<T> means;
  RowIndex index;
  const double* weights;
  Matrix<float> center;
  int64_t width;

  struct Fetched {
    Vec8<T> value;
    float scale;
  };

  __device__ __forceinline__ int64_t rows() const { return index.count; }

  __device__ __forceinline__ Fetched fetch(int64_t k, int64_t column) const {
    Fetched result;
    const int64_t row = k < index.count ? index.row(k) : -1;
    result.scale = 0.0f;
    if (row >= 0) {
      result.scale = weights ? sqrtf(static_cast<float>(weights[k])) : 1.0f;
      result.value.template load<kWhole>(means, row, column);
    }
    return result;
  }

  __device__ __forceinline__ void finish(const Fetched& fetched, int64_t, int64_t column, bool,
                                         float (&out)[kVec8]) const {
    float value[kVec8] = {}, center_values[kVec8] = {};
    if (fetched.scale != 0) {
      fetched.value.unpack(value);
      Vec8<float> vec8;
      vec8.template load<kWhole>(center, 0, column);
      vec8.unpack(center_values);
    }
#pragma unroll
    for (int i = 0; i < kVec8; ++i) {
      out[i] = fetched.scale * (value[i] - center_values[i]);
    }
  }
};

__global__ void check_weights(const double* weights, int64_t count, DeviceErrors* errors) {
  const int64_t k = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (k < count && !(weights[k] >= 0 && weights[k] <= 1.7976931348623157e308)) {
    errors->report(kBadWeight, k);
  }
}

}  // namespace

void between_class_scatter(Context& context, const Rows& means, const double* weights,
                           const float* center, const Integers& index, double* scatter) {
  with_type(means.dtype, [&](auto type) {
    using T = decltype(type);
    DeviceErrors* errors = new_errors(context);
    const RowIndex visited = checked_index(context, index, means.rows, errors);
    if (weights != nullptr) {
      launch(check_weights, divide_up(visited.count, 256), 256, 0, context, weights, visited.count,
             errors);
    }
    const auto rows = matrix<T>(means);
    const auto center_values = contiguous(const_cast<float*>(center), 1, means.width);
    add_gram(
        context,
        [&](auto whole) {
          return CentredMeans<T, whole>{rows, visited, weights, center_values, means.width};
        },
        rows.whole() && center_values.whole(), means.width, visited.count, scatter, errors);
    Subjects subjects = subjects_of_index(visited);
    subjects.weights = weights;
    publish_errors(context, errors, subjects);
  });
}

NCFAST_KERNEL(between_class_scatter)

}  // namespace ncfast::cuda
