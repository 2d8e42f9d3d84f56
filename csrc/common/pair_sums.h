// What the values of a function of pairs add up to, for a row of pairs at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "energies.h"
#include "pair_functions.h"

namespace ncfast {

// Sums over pairs, in a form that adds up in a fixed order. Of energies the sum and the sum of squares
// are `energies`.
struct PairSums {
  double count = 0, sum = 0, squares = 0, deviation = 0;
  double minimum = std::numeric_limits<double>::infinity(), maximum = -minimum;
  int64_t coincident = 0;
  Energies energies;

  void merge(const PairSums& other) {
    count += other.count;
    sum += other.sum;
    squares += other.squares;
    energies.merge(other.energies);
    deviation += other.deviation;
    minimum = std::min(minimum, other.minimum);
    maximum = std::max(maximum, other.maximum);
    coincident += other.coincident;
  }
};

// The same, by lanes: in T along a row of at most 512 pairs, in double from row to row.
template <class T>
class LaneSums {
 public:
  // Adds the first n values of a row, and leaves them in `values`, NaN where there is none.
  template <class Function>
  void add_row(Function f, const PairRow<T>& row, const T* half_variances, T half_variance,
               int64_t n, double target, T* values) {
    const T* measured = f.measured(row);
    const T target_value = static_cast<T>(target);
    Vector<T> sum = {}, squares = {}, deviation = {}, minimum = minimum_, maximum = maximum_;
    int64_t j = 0;
    for (const int64_t whole = f.excluded(row) ? 0 : n / kLanes<T> * kLanes<T>; j < whole;
         j += kLanes<T>) {
      const Vector<T> value =
          f.value(load<T>(measured + j), load<T>(half_variances + j) + half_variance);
      const Vector<T> away = value - target_value;
      sum += value;
      squares += value * value;
      deviation += away < Vector<T>{} ? -away : away;
      minimum = value < minimum ? value : minimum;
      maximum = value > maximum ? value : maximum;
      store<T>(values + j, value);
    }
    for (; j < n; j += kLanes<T>) {
      Vector<T> x = load<T>(measured + j);
      const Mask<T> counts = f.has_value(x) & first_lanes<T>(n - j);
      x = counts ? x : Vector<T>{} + T(1);
      const Vector<T> value = f.value(x, load<T>(half_variances + j) + half_variance);
      const Vector<T> counted = counts ? value : Vector<T>{}, away = counts ? value - target_value : counted;
      sum += counted;
      squares += counted * counted;
      deviation += away < Vector<T>{} ? -away : away;
      minimum = (counts & (value < minimum)) ? value : minimum;
      maximum = (counts & (value > maximum)) ? value : maximum;
      store<T>(values + j, counts ? value : Vector<T>{} + std::numeric_limits<T>::quiet_NaN());
    }
    minimum_ = minimum;
    maximum_ = maximum;
    if constexpr (f.kKind == PairKind::riesz) {
      energies_.add_row<T>(values, n);
      sum = squares = Vector<T>{};
    }
    if (__builtin_expect(any_lane<T>(squares > Vector<T>{} + std::numeric_limits<T>::max()), 0)) {
      squares = Vector<T>{};  // the square of 1e20 is infinite in float
      for (j = 0; j < n; ++j) {
        const double value = static_cast<double>(values[j]);
        squares_[0] += value == value ? value * value : 0.0;
      }
    }
    for (int64_t lane = 0; lane < kLanes<T>; ++lane) {
      sum_[lane] += static_cast<double>(sum[lane]);
      squares_[lane] += static_cast<double>(squares[lane]);
      deviation_[lane] += static_cast<double>(deviation[lane]);
    }
    count_ += n - f.excluded(row);
    coincident_ += f.coincident(row);
  }

  PairSums total() const {
    PairSums result;
    result.count = static_cast<double>(count_);
    result.coincident = coincident_;
    result.energies = energies_;
    for (int64_t lane = 0; lane < kLanes<T>; ++lane) {
      result.sum += sum_[lane];
      result.squares += squares_[lane];
      result.deviation += deviation_[lane];
      result.minimum = std::min(result.minimum, static_cast<double>(minimum_[lane]));
      result.maximum = std::max(result.maximum, static_cast<double>(maximum_[lane]));
    }
    return result;
  }

 private:
  int64_t count_ = 0, coincident_ = 0;
  double sum_[kLanes<T>] = {}, squares_[kLanes<T>] = {}, deviation_[kLanes<T>] = {};
  Energies energies_;
  Vector<T> minimum_ = Vector<T>{} + std::numeric_limits<T>::infinity(), maximum_ = -minimum_;
};

}  // namespace ncfast
