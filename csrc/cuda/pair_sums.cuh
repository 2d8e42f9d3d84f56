// What the values of a function of pairs add up to: over threads, warps and blocks, in a fixed order.
#pragma once

#include "device.h"

namespace ncfast::cuda {

constexpr int kParts = 7;  // of a function's sums, below

// e^(part - most): what sums of multiples of e^part are multiplied by, to be of e^most.
__device__ __forceinline__ float share_of(double part, double maximum) {
  return part < maximum ? expf(static_cast<float>(part - maximum)) : 1.0f;
}

// A function's sums: pairs, sum, squares, least, greatest, deviations, coincident pairs. Of Riesz
// energies e^v the sum and that of squares are of multiples of e^greatest: no float holds one.
struct PairSums {
  double parts[kParts];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      parts[i] = i == 3 ? INFINITY : i == 4 ? -INFINITY : 0.0;
    }
  }
  __device__ __forceinline__ void merge(const double* other, bool energies) {
    double own = 1, theirs = 1;
    if (energies) {
      own = share_of(parts[4], other[4]);
      theirs = share_of(other[4], parts[4]);
    }
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      if (i == 3 || i == 4) {
        const bool beyond = i == 3 ? other[i] < parts[i] : other[i] > parts[i];
        parts[i] = beyond ? other[i] : parts[i];
      } else if (energies && (i == 1 || i == 2)) {
        parts[i] = i == 1 ? parts[i] * own + other[i] * theirs
                          : parts[i] * (own * own) + other[i] * (theirs * theirs);
      } else {
        parts[i] += other[i];
      }
    }
  }
  // Over the warp, on every lane.
  __device__ __forceinline__ void merge_lanes(bool energies) {
    for (int distance = kWarp / 2; distance > 0; distance /= 2) {
      double other[kParts];
#pragma unroll
      for (int i = 0; i < kParts; ++i) {
        other[i] = __shfl_xor_sync(kAllLanes, parts[i], distance);
      }
      merge(other, energies);
    }
  }
};

__device__ __forceinline__ void store_sums(const PairSums& sums, double* to) {
#pragma unroll
  for (int i = 0; i < kParts; ++i) {
    to[i] = sums.parts[i];
  }
}

}  // namespace ncfast::cuda
