// Arithmetic on contiguous rows. Plain loops: the compiler vectorises them for the capability the
// file is built for. Sums use fixed lanes, so their order (and bits) never depends on alignment.
#pragma once

#include <cstdint>

namespace ncfast {

constexpr int64_t kLanes = 32;

// Adds f(d) for d in [0, n) in float lanes of at most 4096/32 terms, then in double.
template <class T, class F>
double lane_sum(int64_t n, const F& term) {
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += 4096) {
    const int64_t end = n < begin + 4096 ? n : begin + 4096;
    T lanes[kLanes] = {};
    int64_t d = begin;
    for (; d + kLanes <= end; d += kLanes) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        lanes[lane] += term(d + lane);
      }
    }
    for (; d < end; ++d) {
      lanes[d % kLanes] += term(d);
    }
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      total += lanes[lane];
    }
  }
  return total;
}

template <class T>
double dot(const T* a, const T* b, int64_t n) {
  return lane_sum<T>(n, [=](int64_t d) { return a[d] * b[d]; });
}

template <class T>
double squared_distance(const T* a, const T* b, int64_t n) {
  return lane_sum<T>(n, [=](int64_t d) {
    const T difference = a[d] - b[d];
    return difference * difference;
  });
}

}  // namespace ncfast
