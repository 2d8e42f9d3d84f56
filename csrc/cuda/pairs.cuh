// What functions of pairs of points are made of: forward and backward of pair_stats.
#pragma once

#include "dispatch.cuh"
#include "products.cuh"

#include <cmath>

namespace ncfast::cuda {

// At or below this share of |a|^2 + |b|^2 a squared distance from the Gram matrix has lost digits,
// and is found again from differences (csrc/common/pairs.h).
constexpr float kNear = 0.125f;

// As KINDS of ncfast/reference/pair_stats.py.
enum Kind { kCdnv = 0, kLogDistance = 1, kCosine = 2, kLogDistanceRaw = 3, kRiesz = 4 };

// Products of 16-bit points as they are cost a sixth of those of centred points, which take three
// products of tf32. (a - c).(b - c) = a.b - a.c - b.c + c.c loses digits where the center is much of
// a point, and tensor cores, which truncate, make a bias of it. A point is center-dominated where
// |a|^2 is more than this many |a - c|^2. At 2, typical pairs, at half of |a|^2 + |b|^2, are well above kNear. More
// than 256 columns allow less: cosines are about 1/sqrt(D), and so must be their errors. In the
// emulator at D = 4,096, where |c|^2 is 1/4 of |a - c|^2 they come to 0.8 of what the error rule
// allows, where it is 4/5 to 2.8 times that.
inline float center_dominated_factor(int64_t width) {
  return 1 + (width > 256 ? 16 / std::sqrt(static_cast<float>(width)) : 1.0f);
}
// Pairs of center-dominated points are computed from differences. That is worth it while there are
// few: one point in kFewCenterDominated reads a quarter of the bytes that all tiles read.
constexpr int64_t kFewCenterDominated = 1024;

// The functions of a pair that a call computes.
struct PairFunctions {
  static constexpr int kMax = 8;
  int count = 0;
  int kinds[kMax] = {}, powers[kMax] = {};
  float targets[kMax] = {};
};

inline PairFunctions pair_functions(const char* op, const std::vector<int64_t>& kinds,
                            const std::vector<int64_t>& powers, const double* targets) {
  if (kinds.size() > PairFunctions::kMax) {
    reject(op, "kinds holds ", kinds.size(), "; the CUDA kernels take at most ",
           PairFunctions::kMax, " in one call");
  }
  PairFunctions functions;
  for (size_t p = 0; p < kinds.size(); ++p) {
    functions.kinds[p] = static_cast<int>(kinds[p]);
    functions.powers[p] = static_cast<int>(powers[p]);
    functions.targets[p] = targets ? static_cast<float>(targets[p]) : 0.0f;
  }
  functions.count = static_cast<int>(kinds.size());
  return functions;
}

// What every pair needs of a visited point: |a - c|^2, its root, and half the variance; of 16-bit
// points |a|^2 and (a - c).c + |c|^2/2 as well, and how many are center-dominated.
struct Measured {
  float *squares, *norms, *half_variances;
  float *raw_squares = nullptr, *along = nullptr;
  int32_t* center_dominated = nullptr;
  float factor;  // center_dominated_factor

  Measured(Context& context, const AnyRows& points)
      : squares(context.workspace<float>(points.index.count)),
        norms(context.workspace<float>(points.index.count)),
        half_variances(context.workspace<float>(points.index.count)),
        factor(center_dominated_factor(points.matrix.width)) {
    if (points.matrix.dtype != Dtype::float32) {
      raw_squares = context.workspace<float>(points.index.count);
      along = context.workspace<float>(points.index.count);
      center_dominated = context.workspace<int32_t>(1);
    }
  }
  KernelVariant variant(int64_t count) const { return {center_dominated, count / kFewCenterDominated}; }
  __device__ __forceinline__ bool is_center_dominated(int64_t k) const {
    return raw_squares[k] > factor * squares[k];
  }
};

static __global__ void measure_points(AnyRows points, const double* variances, Measured out,
                                      DeviceErrors* errors) {
  const int64_t k = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / kWarp;
  if (k >= points.index.count) {
    return;
  }
  const int64_t row = points.row(k);
  float square = 0, raw_square = 0, along = 0, center_square = 0;
  for (int64_t d = threadIdx.x % kWarp * kVec8; row >= 0 && d < points.matrix.width;
       d += kWarp * kVec8) {
    float values[kVec8];
    read_vec8(points.matrix, row, d, values);
    for (int i = 0; i < kVec8; ++i) {
      if (!is_finite(values[i])) {
        errors->report(kNotFinite, row * points.matrix.width + d + i);
      }
      const float c = d + i < points.matrix.width ? points.center[d + i] : 0.0f;
      const float moved = values[i] - c;
      square += moved * moved;
      raw_square += values[i] * values[i];
      along += moved * c;
      center_square += c * c;
    }
  }
  square = warp_sum(square);
  raw_square = warp_sum(raw_square);
  along = warp_sum(along);
  center_square = warp_sum(center_square);
  if (threadIdx.x % kWarp == 0) {
    const double variance = variances && row >= 0 ? variances[row] : 0.0;
    if (!(variance >= 0 && variance <= 1.7976931348623157e308)) {
      errors->report(kBadWeight, row);
    }
    out.squares[k] = square;
    out.norms[k] = sqrtf(square);
    out.half_variances[k] = static_cast<float>(variance / 2);
    if (out.center_dominated != nullptr) {
      out.raw_squares[k] = raw_square;
      out.along[k] = along + center_square / 2;
      if (square > 0 && out.is_center_dominated(k)) {  // at the center there is no direction to find
        atomicAdd(out.center_dominated, 1);
      }
    }
  }
}

// Returns what every pair needs, and reports what is wrong with the points.
inline Measured measure(Context& context, const AnyRows& points, const double* variances,
                        DeviceErrors* errors) {
  constexpr int kThreads = 256;
  const Measured out(context, points);
  if (out.center_dominated != nullptr) {
    launch(clear_flag, 1, 1, 0, context, out.center_dominated);
  }
  launch(measure_points, divide_up(points.index.count * kWarp, kThreads), kThreads, 0, context,
         points, variances, out, errors);
  return out;
}

static __global__ void check_center(const float* center, int64_t width, DeviceErrors* errors) {
  const int64_t d = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (d < width && !is_finite(center[d])) {
    errors->report(kNotFiniteBias, d);
  }
}

// Adds up squares of difference(a's value, b's, column, b's norm) for every lane that requests it,
// with the lane's own row b: one lane after another, by the whole warp, which reads a row in whole words.
template <class Difference>
__device__ __forceinline__ float sum_squares(const AnyMatrix& points, bool requested, float otherwise,
                                             int64_t a, int64_t b, float b_norm,
                                             Difference&& difference) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  for (unsigned left = __ballot_sync(kAllLanes, requested); left != 0; left &= left - 1) {
    const int turn = __ffs(static_cast<int>(left)) - 1;
    const int64_t other = __shfl_sync(kAllLanes, b, turn);
    const float norm = __shfl_sync(kAllLanes, b_norm, turn);
    float sum = 0;
    for (int64_t d = lane * kVec8; d < points.width; d += kWarp * kVec8) {
      float x[kVec8], y[kVec8];
      read_vec8(points, a, d, x);
      read_vec8(points, other, d, y);
      for (int i = 0; i < kVec8 && d + i < points.width; ++i) {
        const float between = difference(x[i], y[i], d + i, norm);
        sum += between * between;
      }
    }
    sum = warp_sum(sum);
    otherwise = lane == turn ? sum : otherwise;
  }
  return otherwise;
}

// A squared distance, and whether it was found from differences.
struct Distance {
  float square;
  bool near;
};

// Of a row i, one for the warp, and rows j of its lanes; `real`: lanes that have a pair.
template <bool kRaw>
struct PairsOfRow {
  const AnyRows& points;
  const Measured& m;
  int64_t i, j;
  bool real;

  // |a - b|^2. From differences of points as they are it is exact where they are close.
  __device__ __forceinline__ Distance raw_distance(float product) const {
    const float centred = m.squares[i] + m.squares[j];
    const float sum = kRaw ? m.raw_squares[i] + m.raw_squares[j] : centred;
    const float square = sum - 2 * product;
    const bool near = real && square <= (centred > sum ? centred : sum) * kNear;
    return {sum_squares(points.matrix, near, square, points.row(i), points.row(j), 1,
                     [](float x, float y, int64_t, float) { return x - y; }),
            near};
  }
  __device__ __forceinline__ bool defined() const { return m.norms[i] > 0 && m.norms[j] > 0; }
  // The cosine from the center, 0 where there is none.
  __device__ __forceinline__ float cosine(float product) const {
    if (!defined()) {
      return 0;
    }
    product = kRaw ? product - m.along[i] - m.along[j] : product;
    const float cosine = product * ((1 / m.norms[i]) * (1 / m.norms[j]));
    return cosine < -1 ? -1.0f : cosine < 1 ? cosine : 1.0f;
  }
  // |a/|a| - b/|b||^2 = 2 - 2 cosine, found again where it is small or, of points as they are, not
  // right. Divided, not multiplied by an inverse: x/|x| is 1.
  __device__ __forceinline__ Distance unit_distance(float cosine, bool small_too) const {
    const float square = 2 - 2 * cosine, norm = m.norms[i];
    bool near = small_too && square <= 2 * kNear;
    if constexpr (kRaw) {
      near = near || m.is_center_dominated(i) || m.is_center_dominated(j);
    }
    near = near && real && defined();
    const float* center = points.center;
    return {sum_squares(points.matrix, near, square, points.row(i), points.row(j), m.norms[j],
                     [&](float x, float y, int64_t d, float other) {
                       return (x - center[d]) / norm - (y - center[d]) / other;
                     }),
            near};
  }
};

}  // namespace ncfast::cuda
