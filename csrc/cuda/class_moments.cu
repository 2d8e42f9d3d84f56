#include "dispatch.cuh"
#include "moments.cuh"

namespace ncfast::cuda {
namespace {

constexpr int kThreads = 128;

// One warp per class: counts and m2 of all, and zeros for the rows of absent ones.
__global__ void finish_classes(TokenGroups groups, MomentRows moments, int64_t* counts, float* m2) {
  const int64_t c = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarp;
  if (c >= groups.classes) {
    return;
  }
  const int32_t n = groups.end[c] - groups.begin[c];
  if (threadIdx.x % kWarp == 0) {
    counts[c] = n;
    m2[c] = n > 0 ? static_cast<float>(moments.m2[c]) : 0.0f;
  }
  const float zeros[kVec8] = {};
  for (int64_t d = threadIdx.x % kWarp * kVec8; n == 0 && d < moments.means.width;
       d += kWarp * kVec8) {
    write_vec8(moments.means, c, d, zeros);
  }
}

// One warp per token: dmean_c / n_c + 2 dm2_c (x_i - mean_c), 0 where ignored.
template <class T>
__global__ void __launch_bounds__(kThreads)
    gradients(Matrix<float> grad_means, const float* grad_m2, Matrix<T> x, const int64_t* labels,
              int64_t label_stride, int64_t classes, const int64_t* counts, Matrix<float> means,
              Matrix<T> grad_x, DeviceErrors* errors) {
  const int64_t token = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarp;
  if (token >= x.rows) {
    return;
  }
  const int64_t c = labels[token * label_stride];
  const bool counted = c >= 0 && c < classes;
  if (!counted && c != -100) {
    errors->report(kBadLabel, token);
  }
  const float share = counted && grad_means.data ? 1.0f / static_cast<float>(counts[c]) : 0.0f;
  const float derivative = counted && grad_m2 ? 2 * grad_m2[c] : 0.0f;
  for (int64_t d = threadIdx.x % kWarp * kVec8; d < x.width; d += kWarp * kVec8) {
    float result[kVec8] = {}, upstream[kVec8] = {}, value[kVec8], mean[kVec8];
    if (counted) {
      read_vec8(x, token, d, value);
      read_vec8(means, c, d, mean);
      if (grad_means.data) {
        read_vec8(grad_means, c, d, upstream);
      }
#pragma unroll
      for (int i = 0; i < kVec8; ++i) {
        result[i] = upstream[i] * share + (grad_m2 ? derivative * (value[i] - mean[i]) : 0.0f);
      }
    }
    write_vec8(grad_x, token, d, result);
  }
}

}  // namespace

void class_moments(Context& context, const Rows& x, const Integers& y, int64_t* counts,
                   const Table<float>& means, float* m2) {
  const int64_t classes = means.rows;
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    DeviceErrors* errors = new_errors(context);
    const auto features = matrix<T>(x);
    const TokenGroups groups =
        group_tokens(context, y.data, y.stride, y.count, classes, errors);
    const MomentRows out = {contiguous(means), context.workspace<double>(classes), nullptr};
    compute_moments(context, features, groups, out, errors);
    launch(finish_classes, divide_up(classes * kWarp, kThreads), kThreads, 0, context, groups, out,
           counts, m2);
    publish_errors(context, errors,
                     subjects_of_tokens(features, y.data, y.stride, classes));
  });
}

void class_moments_backward(Context& context, const Rows& grad_means, const float* grad_m2,
                            const Rows& x, const Integers& y, const int64_t* counts,
                            const Table<float>& means, const Rows& grad_x) {
  const int64_t classes = means.rows;
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    DeviceErrors* errors = new_errors(context);
    launch(gradients<T>, divide_up(y.count * kWarp, kThreads), kThreads, 0, context,
           matrix<float>(grad_means), grad_m2, matrix<T>(x), y.data, y.stride, classes, counts,
           contiguous(means), matrix<T>(grad_x), errors);
    publish_errors(context, errors,
                     subjects_of_tokens(matrix<T>(x), y.data, y.stride, classes));
  });
}

NCFAST_KERNEL(class_moments)
NCFAST_KERNEL(class_moments_backward)

}  // namespace ncfast::cuda
