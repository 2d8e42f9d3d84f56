// Mean and sum of squared distances of every class, from grouped tokens: one warp per segment of at
// most kSegment tokens of one class, partial results of longer classes merged in order.
#pragma once

#include "token_groups.cuh"

namespace ncfast::cuda {

constexpr int kSegment = NCFAST_SIZE(64, 16);  // tokens that one warp adds up
constexpr int kPlaces = 8;     // places in the order that one warp looks after
constexpr int kInFlight = 4;   // rows a warp loads before it adds them
constexpr int kMomentWarps = 4, kMergeThreads = 256;

// Where a class's results go: the row of its own number, or of its slot.
struct MomentRows {
  Matrix<float> means;
  double* m2;
  const int32_t* slots;  // null: the class itself
  __device__ __forceinline__ int64_t row(int32_t c) const { return slots ? slots[c] : c; }
};

// Segments of a class start kSegment apart, so that a window of kSegment places holds at most one
// that begins a long class and one that continues one: two rows of partial results per window.
__device__ __forceinline__ int64_t partial_row(int64_t place, bool first) {
  return place / kSegment * 2 + (first ? 1 : 0);
}

// Looks for the first value of a segment that is not finite; its moments gave it away.
template <class T>
__device__ __forceinline__ void report_not_finite(const Matrix<T>& x, const TokenGroups& groups, int32_t begin,
                                  int32_t end, DeviceErrors* errors) {
  for (int32_t place = begin; place < end; ++place) {
    const int64_t token = groups.order[place];
    for (int64_t d = threadIdx.x % kWarp; d < x.width; d += kWarp) {
      if (!is_finite(to_float(*x.at(token, d)))) {
        errors->report(kNotFinite, token * x.width + d);
      }
    }
  }
}

// Sums are of differences from the segment's first token: no digits are lost to a large mean.
template <class T>
__device__ __forceinline__ void segment_moments(const Matrix<T>& x, const int32_t* order, int32_t n,
                                                const Matrix<float>& means, int64_t row, float& m2,
                                                bool& finite) {
  const float share = 1.0f / static_cast<float>(n);
  for (int64_t d = threadIdx.x % kWarp * kVec8; d < x.width; d += kWarp * kVec8) {
    float pivot[kVec8], sum[kVec8] = {}, square[kVec8] = {};
    read_vec8(x, order[0], d, pivot);
    for (int32_t t = 1; t < n; t += kInFlight) {
      Vec8<T> rows[kInFlight];
#pragma unroll
      for (int u = 0; u < kInFlight; ++u) {
        rows[u].load(x, order[t + u < n ? t + u : 0], d);  // past the end: the origin adds nothing
      }
#pragma unroll
      for (int u = 0; u < kInFlight; ++u) {
        float values[kVec8];
        rows[u].unpack(values);
#pragma unroll
        for (int i = 0; i < kVec8; ++i) {
          const float difference = values[i] - pivot[i];
          sum[i] += difference;
          square[i] += difference * difference;
        }
      }
    }
    float mean[kVec8];
#pragma unroll
    for (int i = 0; i < kVec8; ++i) {
      const float shift = sum[i] * share;
      mean[i] = pivot[i] + shift;
      const float spread = square[i] - sum[i] * shift;
      m2 += spread > 0 || !is_finite(spread) ? spread : 0.0f;
      finite = finite && is_finite(mean[i]);
    }
    write_vec8(means, row, d, mean);
  }
}

template <class T>
__global__ void __launch_bounds__(kMomentWarps* kWarp)
    moments_of_segments(Matrix<T> x, TokenGroups groups, MomentRows out, Matrix<float> partial_means,
                        double* partial_m2, DeviceErrors* errors) {
  const int lane = threadIdx.x % kWarp;
  const int64_t first = (int64_t{blockIdx.x} * kMomentWarps + threadIdx.x / kWarp) * kPlaces;
  for (int64_t place = first; place < first + kPlaces && place < groups.tokens; ++place) {
    const int32_t c = groups.labels[place];
    if (c == groups.classes) {
      return;  // ignored tokens come last
    }
    const int32_t begin = groups.begin[c], end = groups.end[c];
    const int32_t at = static_cast<int32_t>(place);
    if ((at - begin) % kSegment != 0) {
      continue;
    }
    const int32_t stop = at + kSegment < end ? at + kSegment : end;
    const bool whole = end - begin <= kSegment;
    const int64_t row = whole ? out.row(c) : partial_row(place, at == begin);
    float m2 = 0.0f;
    bool finite = true;
    // Both are contiguous and of one width: choosing between the structs would put them on the stack.
    Matrix<float> means = partial_means;
    means.data = whole ? out.means.data : partial_means.data;
    segment_moments(x, groups.order + at, stop - at, means, row, m2, finite);
    finite = finite && is_finite(m2);
    if (__any_sync(kAllLanes, !finite)) {
      report_not_finite(x, groups, at, stop, errors);
    }
    const double total = warp_sum(static_cast<double>(m2));
    if (lane == 0) {
      (whole ? out.m2 : partial_m2)[row] = total;
    }
  }
}

// One block per window: if a long class begins in it, merges the class's segments in order.
static __global__ void __launch_bounds__(kMergeThreads)
    merge_segments(TokenGroups groups, MomentRows out, Matrix<float> partial_means,
                   const double* partial_m2) {
  struct Shared {
    int32_t begin;
    double sums[kMergeThreads / kWarp];
  };
  Shared& shared = shared_memory<Shared>();
  if (threadIdx.x == 0) {
    shared.begin = -1;
  }
  __syncthreads();
  const int64_t place = int64_t{blockIdx.x} * kSegment + threadIdx.x;
  if (threadIdx.x < kSegment && place < groups.tokens) {
    const int32_t label = groups.labels[place];
    if (label < groups.classes && groups.begin[label] == place &&
        groups.end[label] - place > kSegment) {
      shared.begin = static_cast<int32_t>(place);
    }
  }
  __syncthreads();
  const int32_t begin = shared.begin;
  if (begin < 0) {
    return;
  }
  const int32_t c = groups.labels[begin], end = groups.end[c];
  const int64_t row = out.row(c);
  double m2 = 0;
  for (int64_t d = threadIdx.x; d < out.means.width; d += kMergeThreads) {
    double mean = 0, before = 0;
    for (int32_t at = begin; at < end; at += kSegment) {
      const double added = at + kSegment < end ? kSegment : end - at;
      const double difference = *partial_means.at(partial_row(at, at == begin), d) - mean;
      m2 += difference * difference * before * added / (before + added);
      before += added;
      mean += difference * added / before;
    }
    *out.means.at(row, d) = static_cast<float>(mean);
  }
  for (int32_t s = threadIdx.x; begin + s * kSegment < end; s += kMergeThreads) {
    m2 += partial_m2[partial_row(begin + s * kSegment, s == 0)];
  }
  m2 = block_sum(m2, shared.sums, kMergeThreads / kWarp);
  if (threadIdx.x == 0) {
    out.m2[row] = m2;
  }
}

// The moments of every class that occurs; rows of absent classes are left alone.
template <class T>
void compute_moments(Context& context, const Matrix<T>& x, const TokenGroups& groups,
                     const MomentRows& out, DeviceErrors* errors) {
  const int64_t windows = divide_up(groups.tokens, kSegment);
  const auto partial_means =
      contiguous(context.workspace<float>(windows * 2 * x.width), windows * 2, x.width);
  auto* partial_m2 = context.workspace<double>(windows * 2);
  launch(moments_of_segments<T>, divide_up(groups.tokens, kMomentWarps * kPlaces),
         kMomentWarps * kWarp, 0, context, x, groups, out, partial_means, partial_m2, errors);
  launch(merge_segments, windows, kMergeThreads, 16 + kMergeThreads / kWarp * sizeof(double),
         context, groups, out, partial_means, partial_m2);
}

}  // namespace ncfast::cuda
