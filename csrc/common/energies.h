// Sums of e^v and e^2v whose values leave the range of every float: what is stored are multiples of the
// largest term, and its logarithm.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "exponentials.h"
#include "vectors.h"

namespace ncfast {

// Of values v seen so far: the greatest, m; sums of e^(v - m) and of its square.
struct Energies {
  double maximum = -std::numeric_limits<double>::infinity(), sum = 0, squares = 0;

  // Of n values, NaN where there is none; whole vectors are read.
  template <class T>
  void add_row(const T* values, int64_t n) {
    const T peak = largest(values, n);
    Vector<T> sums = {}, of_squares = {};
    for (int64_t j = 0; j < n && peak > -std::numeric_limits<T>::infinity(); j += kLanes<T>) {
      const Vector<T> value = load<T>(values + j);
      const Vector<T> energy = value == value ? exp_of(value - peak) : Vector<T>{};
      sums += energy;
      of_squares += energy * energy;
    }
    merge({static_cast<double>(peak), lane_total<T>(sums), lane_total<T>(of_squares)});
  }

  void merge(const Energies& other) {
    const double peak = other.maximum > maximum ? other.maximum : maximum;
    const double own = share(maximum, peak), theirs = share(other.maximum, peak);
    sum = sum * own + other.sum * theirs;
    squares = squares * (own * own) + other.squares * (theirs * theirs);
    maximum = peak;
  }

  double log_sum() const { return maximum + std::log(sum); }
  double log_squares() const { return 2 * maximum + std::log(squares); }

 private:
  static double share(double part, double peak) { return part < peak ? std::exp(part - peak) : 1; }
};

// The logarithm of a sum of e^v, from which a v differs by less than T keeps of either: in two parts.
template <class T>
struct LogSum {
  T high, low;

  explicit LogSum(double value)
      : high(static_cast<T>(value)),
        low(std::isfinite(value) ? static_cast<T>(value - static_cast<double>(high)) : T(0)) {}
  // e^v over the sum.
  Vector<T> share(Vector<T> value) const { return exp_of((value - high) - low); }
};

}  // namespace ncfast
