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
    Octet<T> value;
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
                                         float (&out)[kOctet]) const {
    float value[kOctet] = {}, origin[kOctet] = {};
    if (fetched.scale != 0) {
      fetched.value.unpack(value);
      Octet<float> octet;
      octet.template load<kWhole>(center, 0, column);
      octet.unpack(origin);
    }
#pragma unroll
    for (int i = 0; i < kOctet; ++i) {
      out[i] = fetched.scale * (value[i] - origin[i]);
    }
  }
};

__global__ void check_weights(const double* weights, int64_t count, Findings* findings) {
  const int64_t k = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (k < count && !(weights[k] >= 0 && weights[k] <= 1.7976931348623157e308)) {
    findings->report(kBadWeight, k);
  }
}

}  // namespace

void between_class_scatter(Context& context, const Rows& means, const double* weights,
                           const float* center, const Integers& index, double* scatter) {
  with_type(means.dtype, [&](auto type) {
    using T = decltype(type);
    Findings* findings = new_findings(context);
    const RowIndex visited = checked_index(context, index, means.rows, findings);
    if (weights != nullptr) {
      launch(check_weights, divide_up(visited.count, 256), 256, 0, context, weights, visited.count,
             findings);
    }
    const auto rows = matrix<T>(means);
    const auto origin = contiguous(const_cast<float*>(center), 1, means.width);
    add_gram(
        context,
        [&](auto whole) {
          return CentredMeans<T, whole>{rows, visited, weights, origin, means.width};
        },
        rows.whole() && origin.whole(), means.width, visited.count, scatter, findings);
    Subjects subjects = subjects_of_index(visited);
    subjects.weights = weights;
    publish_findings(context, findings, subjects);
  });
}

NCFAST_KERNEL(between_class_scatter)

}  // namespace ncfast::cuda
