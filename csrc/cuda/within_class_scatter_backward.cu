#include "symmetric.cuh"
#include "token_groups.cuh"

namespace ncfast::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;
constexpr int kSegment = NCFAST_SIZE(64, 16);  // tokens of one class that one warp adds up

// The segment of its class that begins at a place, if one does: tokens [at, stop) of the order.
struct Segment {
  int32_t clazz, stop;
  bool begins, whole;  // whole: the class has no other
};

__device__ __forceinline__ Segment segment_at(const TokenGroups& groups, int64_t place) {
  const int32_t c = groups.labels[place];
  if (c == groups.classes) {
    return {c, 0, false, false};
  }
  const int32_t begin = groups.begin[c], end = groups.end[c], at = static_cast<int32_t>(place);
  return {c, at + kSegment < end ? at + kSegment : end, (at - begin) % kSegment == 0,
          end - begin <= kSegment};
}

// Sums of residuals: of whole classes to their row, of longer ones' segments to partial rows, two
// for every kSegment places (one that begins a class, one that continues one). A warp per place.
__global__ void __launch_bounds__(kThreads)
    sum_segments(CentredRows rows, TokenGroups groups, Matrix<float> sums, Matrix<float> partial) {
  const int64_t place = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (place >= groups.tokens) {
    return;
  }
  const Segment segment = segment_at(groups, place);
  if (!segment.begins) {
    return;
  }
  const bool first = groups.begin[segment.clazz] == place;
  const int64_t to = segment.whole ? segment.clazz : place / kSegment * 2 + (first ? 1 : 0);
  for (int64_t d = threadIdx.x % kWarp * kVec8; d < sums.width; d += kWarp * kVec8) {
    float sum[kVec8] = {};
    for (int64_t at = place; at < segment.stop; ++at) {
      float values[kVec8];
      rows.finish(rows.fetch(groups.order[at], d), d, values);
#pragma unroll
      for (int i = 0; i < kVec8; ++i) {
        sum[i] += values[i];
      }
    }
    if (segment.whole) {
      write_vec8(sums, to, d, sum);
    } else {
      write_vec8(partial, to, d, sum);
    }
  }
}

// A block per class: zeros for one without tokens, the partial sums of a long one in order.
__global__ void __launch_bounds__(kThreads)
    finish_sums(TokenGroups groups, Matrix<float> sums, Matrix<float> partial) {
  const int64_t c = blockIdx.x;
  const int32_t begin = groups.begin[c], end = groups.end[c];
  if (end > begin && end - begin <= kSegment) {
    return;
  }
  for (int64_t d = threadIdx.x; d < sums.width; d += kThreads) {
    double sum = 0;
    for (int32_t at = begin; at < end; at += kSegment) {
      sum += *partial.at(at / kSegment * 2 + (at == begin ? 1 : 0), d);
    }
    *sums.at(c, d) = static_cast<float>(sum);
  }
}

}  // namespace

// d/dx_i = (x_i - mean) (G + G^T); a mean's is minus the sum over its class: of the residuals first,
// then one product for every class.
void within_class_scatter_backward(Context& context, const double* grad, const Rows& x,
                                   const Integers& y, const Table<float>& means,
                                   const Rows& grad_x, float* grad_means) {
  DeviceErrors* errors = new_errors(context);
  const int64_t classes = means.rows, width = x.width;
  const CentredRows rows = {
      {any_matrix(x), every_row(x.rows)}, contiguous(means), y.data, y.stride, nullptr};
  const TokenGroups groups = group_tokens(context, y.data, y.stride, y.count, classes, errors);
  const AnyRows both = symmetric(context, grad, width);
  if (grad_x.data != nullptr) {
    multiply_symmetric(context, rows, both, grad_x);
  }
  if (grad_means != nullptr) {
    const int64_t windows = divide_up(y.count, kSegment) * 2;
    const auto sums = contiguous(context.workspace<float>(classes * width), classes, width);
    const auto partial = contiguous(context.workspace<float>(windows * width), windows, width);
    launch(sum_segments, divide_up(y.count, kWarps), kThreads, 0, context, rows, groups, sums,
           partial);
    launch(finish_sums, classes, kThreads, 0, context, groups, sums, partial);
    multiply_sums(context, sums, both, grad_means);
  }
  publish_errors(context, errors,
                   subjects_of_tokens(any_matrix(x), y.data, y.stride, classes));
}

NCFAST_KERNEL(within_class_scatter_backward)

}  // namespace ncfast::cuda
