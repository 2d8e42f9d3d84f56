// What functions of pairs of points are made of: forward and backward of pair_stats.
#pragma once

#include "dispatch.cuh"
#include "products.cuh"

namespace ncfast::cuda {

// At or below this share of |a|^2 + |b|^2 a squared distance from the Gram matrix has lost digits,
// and is found again from differences (csrc/common/pairs.h).
constexpr float kNear = 0.125f;

enum Kind { kCdnv = 0, kLogDistance = 1, kCosine = 2, kLogDistanceRaw = 3 };

// What every pair needs of a visited point, measured from the center.
struct Measured {
  float *squares, *norms, *half_variances;
};

static __global__ void measure_points(AnyRows points, const double* variances, Measured out,
                               Findings* findings) {
  const int64_t k = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / kWarp;
  if (k >= points.index.count) {
    return;
  }
  const int64_t row = points.row(k);
  float square = 0;
  for (int64_t d = threadIdx.x % kWarp * kOctet; row >= 0 && d < points.matrix.width;
       d += kWarp * kOctet) {
    float values[kOctet];
    read_octet(points.matrix, row, d, values);
    for (int i = 0; i < kOctet; ++i) {
      if (!is_finite(values[i])) {
        findings->report(kNotFinite, row * points.matrix.width + d + i);
      }
      const float moved =
          d + i < points.matrix.width ? values[i] - points.origin[d + i] : 0.0f;
      square += moved * moved;
    }
  }
  square = warp_sum(square);
  if (threadIdx.x % kWarp == 0) {
    const double variance = variances && row >= 0 ? variances[row] : 0.0;
    if (!(variance >= 0 && variance <= 1.7976931348623157e308)) {
      findings->report(kBadWeight, row);
    }
    out.squares[k] = square;
    out.norms[k] = sqrtf(square);
    out.half_variances[k] = static_cast<float>(variance / 2);
  }
}

static __global__ void check_center(const float* center, int64_t width, Findings* findings) {
  const int64_t d = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (d < width && !is_finite(center[d])) {
    findings->report(kNotFiniteBias, d);
  }
}

// |a - b|^2 of the points as they are: exact where they are close, unlike from centred points.
__device__ __forceinline__ float raw_gap(const AnyMatrix& points, int64_t a, int64_t b) {
  float sums[kOctet] = {};
  for (int64_t d = 0; d < points.width; d += kOctet) {
    float left[kOctet], right[kOctet];
    read_octet(points, a, d, left);
    read_octet(points, b, d, right);
    for (int i = 0; i < kOctet; ++i) {
      sums[i] += (left[i] - right[i]) * (left[i] - right[i]);
    }
  }
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

// |a/|a| - b/|b||^2 of centred points. Divided, not multiplied by an inverse: x/|x| is 1.
__device__ __forceinline__ float unit_gap(const AnyMatrix& points, const float* center, int64_t a,
                                       float a_norm, int64_t b, float b_norm) {
  float sums[kOctet] = {};
  for (int64_t d = 0; d < points.width; d += kOctet) {
    float left[kOctet], right[kOctet];
    read_octet(points, a, d, left);
    read_octet(points, b, d, right);
    for (int i = 0; i < kOctet && d + i < points.width; ++i) {
      const float gap = (left[i] - center[d + i]) / a_norm - (right[i] - center[d + i]) / b_norm;
      sums[i] += gap * gap;
    }
  }
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

}  // namespace ncfast::cuda
