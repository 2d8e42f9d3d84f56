// Derivatives of functions of pairs, for a row of pairs at a time.
#pragma once

#include <algorithm>
#include <cstdint>

#include "pair_functions.h"

namespace ncfast {

// Derivatives of a row of pairs: dL/d(squared distance) and dL/dcosine of each; dL/d(variance of a).
template <class T>
struct PairDerivatives {
  Buffer<T> square, cosine;
  double variance = 0;

  explicit PairDerivatives(int64_t capacity)
      : square(capacity + kLanes<T>), cosine(capacity + kLanes<T>) {}

  void clear(int64_t n) {
    std::fill_n(square.get(), n + kLanes<T>, T(0));
    std::fill_n(cosine.get(), n + kLanes<T>, T(0));
    variance = 0;
  }

  template <class Function>
  void add_row(Function f, const PairRow<T>& row, const T* half_variances, T half_variance,
               int64_t n, T by_sum, T by_squares) {
    const T* measured = f.measured(row);
    Vector<T> of_variance = {};
    for (int64_t j = 0; j < n; j += kLanes<T>) {
      Vector<T> x = load<T>(measured + j);
      const Mask<T> counts = f.has_value(x) & first_lanes<T>(n - j);
      x = counts ? x : Vector<T>{} + T(1);
      const Vector<T> value = f.value(x, load<T>(half_variances + j) + half_variance);
      const Vector<T> derivative = counts ? f.derivative(value, by_sum, by_squares) : Vector<T>{};
      if constexpr (f.kKind == PairKind::cosine) {
        store<T>(&cosine[j], load<T>(&cosine[j]) + derivative);
      } else if constexpr (f.kKind == PairKind::log_distance) {
        store<T>(&cosine[j], load<T>(&cosine[j]) + derivative / x);  // x = 2 - 2 cosine
      } else if constexpr (f.kKind == PairKind::riesz) {
        store<T>(&cosine[j], load<T>(&cosine[j]) + derivative * f.power / x);
      } else if constexpr (f.kKind == PairKind::log_distance_raw) {
        store<T>(&square[j], load<T>(&square[j]) - T(0.5) * derivative / x);
      } else {
        const Vector<T> once = T(0.5) * derivative / x;
        of_variance += f.kPower == 1 ? once : once / x;
        store<T>(&square[j],
                 load<T>(&square[j]) - static_cast<T>(f.kPower) * derivative * value / x);
      }
    }
    variance += lane_total<T>(of_variance);
  }
};

}  // namespace ncfast
