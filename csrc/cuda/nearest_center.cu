// The nearest class mean for each token: the largest of products less half of squares.
#include "decisions.cuh"

namespace ncfast::cuda {
namespace {

constexpr int kThreads = ProductShape::kThreads;

// -|x - m|^2/2 and <x - c, m - c> - |m - c|^2/2 differ by nothing that depends on m. With c near the
// means the products are small, and so is their rounding: c is the mean of some visited rows, kept
// to 1/256 of its largest entry so that small whole numbers less it are exact, and tie as they should.
// Means that it would not bring nearer to 0 stay where they are (moved: 0).
__global__ void __launch_bounds__(kThreads) choose_center(AnyRows means, float* center,
                                                          int32_t* moved_out) {
  struct Shared {
    double sums[kThreads / kWarp];
    float largest[kThreads / kWarp];
  };
  Shared& shared = shared_memory<Shared>();
  const int64_t width = means.matrix.width;
  const int64_t step = means.index.count / 64 > 1 ? means.index.count / 64 : 1;
  double gain = 0;
  float largest = 0;
  for (int64_t d = threadIdx.x; d < width; d += kThreads) {
    double sum = 0, squares = 0;
    int taken = 0;
    for (int64_t k = 0; k < means.index.count; k += step, ++taken) {
      const int64_t row = means.row(k);
      const double value = row < 0 ? 0.0 : means.matrix.value(row, d);
      sum += value;
      squares += value * value;
    }
    const double mean = sum / taken;
    center[d] = static_cast<float>(mean);
    gain += 2 * mean * mean - squares / taken;
    largest = fabsf(center[d]) > largest ? fabsf(center[d]) : largest;
  }
  gain = block_sum(gain, shared.sums, kThreads / kWarp);
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    const float other = __shfl_xor_sync(kAllLanes, largest, distance);
    largest = other > largest ? other : largest;
  }
  if (threadIdx.x % kWarp == 0) {
    shared.largest[threadIdx.x / kWarp] = largest;
  }
  __syncthreads();
  for (int w = 0; w < kThreads / kWarp; ++w) {
    largest = shared.largest[w] > largest ? shared.largest[w] : largest;
  }
  const bool moved = gain > 0 && is_finite(largest);
  if (threadIdx.x == 0) {
    *moved_out = moved ? 1 : 0;
  }
  const float grid = exp2f(floorf(log2f(largest)) - 8);
  for (int64_t d = threadIdx.x; d < width; d += kThreads) {
    center[d] = moved ? rintf(center[d] / grid) * grid : 0.0f;
  }
}

// One warp per visited class.
__global__ void half_squares(AnyRows means, float* offsets) {
  const int64_t k = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarp;
  if (k >= means.index.count) {
    return;
  }
  float sum = 0;
  for (int64_t d = threadIdx.x % kWarp * kVec8; d < means.matrix.width; d += kWarp * kVec8) {
    float values[kVec8];
    means.finish(means.fetch(k, d), d, values);
#pragma unroll
    for (int i = 0; i < kVec8; ++i) {
      sum += values[i] * values[i];
    }
  }
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp == 0) {
    offsets[k] = -0.5f * sum;
  }
}

}  // namespace

void nearest_center(Context& context, const Rows& x, const Rows& means, const Integers& index,
                    int64_t* classes, float* margins) {
  DeviceErrors* errors = new_errors(context);
  auto* nonfinite = context.workspace<int32_t>(1);
  const RowIndex visited = checked_index(context, index, means.rows, errors);
  auto* center = context.workspace<float>(means.width);
  auto* moved = context.workspace<int32_t>(1);
  auto* offsets = context.workspace<float>(visited.count);
  const AnyRows tokens = {any_matrix(x), every_row(x.rows), center};
  const AnyRows head = {any_matrix(means), visited, center};
  launch(choose_center, 1, kThreads, 8 * 12, context, head, center, moved);
  launch(half_squares, divide_up(visited.count * kWarp, kThreads), kThreads, 0, context, head,
         offsets);
  decide(context, tokens, head, offsets, moved, nonfinite, classes, margins);
  report_values(context, tokens, head, nullptr, nonfinite, errors);
}

NCFAST_KERNEL(nearest_center)

}  // namespace ncfast::cuda
