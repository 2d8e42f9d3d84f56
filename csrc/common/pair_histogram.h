// The values of a function of pairs, counted by bin.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "reject.h"
#include "vectors.h"

namespace ncfast {

// Uniform bins from `low` to `high`; values outside are counted nowhere.
template <class T>
struct Bins {
  T low = 0, high = 0, scale = 0;
  int64_t count = 0;

  Bins() = default;
  Bins(const char* op, int64_t function, const double* edge, int64_t bins)
      : low(static_cast<T>(edge[0])), high(static_cast<T>(edge[bins])), count(bins) {
    const double width = (edge[bins] - edge[0]) / static_cast<double>(bins);
    bool even = std::isfinite(width) && width > 0;
    for (int64_t i = 0; even && i <= bins; ++i) {
      even = std::abs(edge[i] - edge[0] - static_cast<double>(i) * width) <= 1e-3 * width;
    }
    if (!even) {
      reject(op, "edges[", function, "] goes from ", edge[0], " to ", edge[bins],
             "; expected finite ascending edges of bins of one width");
    }
    scale = static_cast<T>(static_cast<double>(bins) / (edge[bins] - edge[0]));
  }
};

// Counts of one function's values. Four copies, as adding to the same bin twice in a row waits for
// the first to be stored; one bin more takes what is outside.
template <class T>
class Histogram {
 public:
  explicit Histogram(const Bins<T>& bins) : bins_(bins), counts_(4 * (bins.count + 1), 0) {}

  void add(const T* values, int64_t n) {
    const T last = static_cast<T>(bins_.count - 1), outside = static_cast<T>(bins_.count);
    const int64_t stride = bins_.count + 1;
    for (int64_t j = 0; j < n; j += kLanes<T>) {
      const Vector<T> value = load<T>(values + j);
      const Mask<T> inside = (value >= bins_.low) & (value <= bins_.high);
      Vector<T> place = (value - bins_.low) * bins_.scale;
      place = place < last ? place : Vector<T>{} + last;  // the last edge is of the last bin
      place = inside ? place : Vector<T>{} + outside;
      const Mask<T> bin = __builtin_convertvector(place, Mask<T>);
      for (int64_t lane = 0; lane < kLanes<T>; ++lane) {
        ++counts_[lane % 4 * stride + bin[lane]];
      }
    }
  }
  int64_t total(int64_t bin) const {
    int64_t sum = 0;
    for (int64_t copy = 0; copy < 4; ++copy) {
      sum += counts_[copy * (bins_.count + 1) + bin];
    }
    return sum;
  }
  int64_t bins() const { return bins_.count; }

 private:
  Bins<T> bins_;
  std::vector<int64_t> counts_;
};

}  // namespace ncfast
