// Functions of a pair of points: their values and derivatives, for a row of pairs at a time.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "energies.h"
#include "pairs.h"
#include "reject.h"
#include "vectors.h"

namespace ncfast {

// Numbered as KINDS of ncfast/reference/pair_stats.py.
enum class PairKind : int64_t {
  cdnv = 0,
  log_distance = 1,
  cosine = 2,
  log_distance_raw = 3,
  riesz = 4
};

struct PairTerm {
  PairKind kind;
  int64_t power;
  double target;
  const double* stats;  // of the forward pass, in the backward pass
};

inline std::vector<PairTerm> pair_terms(const std::vector<int64_t>& kinds,
                                        const std::vector<int64_t>& powers, const double* targets,
                                        const double* stats) {
  std::vector<PairTerm> terms;
  for (size_t p = 0; p < kinds.size(); ++p) {
    terms.push_back({static_cast<PairKind>(kinds[p]), powers[p], targets ? targets[p] : 0.0,
                     stats ? stats + 6 * p : nullptr});
  }
  return terms;
}

inline PairNeeds needs_of(const std::vector<PairTerm>& terms) {
  PairNeeds needs;
  for (const PairTerm& term : terms) {
    needs.raw |= term.kind == PairKind::cdnv || term.kind == PairKind::log_distance_raw;
    needs.unit |= term.kind == PairKind::log_distance || term.kind == PairKind::riesz;
    needs.cosine |= needs.unit || term.kind == PairKind::cosine;
  }
  return needs;
}

// One kind with its power, as types, so that the loops over pairs hold no choice.
template <class T, PairKind Kind, int64_t Power>
struct PairFunction {
  static constexpr PairKind kKind = Kind;
  static constexpr int64_t kPower = Power;

  // What it is a function of: a squared distance, or the cosine.
  static const T* measured(const PairRow<T>& row) {
    if constexpr (Kind == PairKind::cosine) {
      return row.cosine.get();
    }
    return Kind == PairKind::log_distance ? row.unit.get() : row.raw.get();
  }
  static int64_t coincident(const PairRow<T>& row) {
    if constexpr (Kind == PairKind::log_distance) {
      return row.coincident_unit + row.undefined;
    }
    return Kind == PairKind::cosine ? row.undefined : row.coincident_raw;
  }
  // Pairs without a value. A cosine always has one: 0 where a vector has no direction.
  static int64_t excluded(const PairRow<T>& row) {
    return Kind == PairKind::cosine ? 0 : coincident(row);
  }
  static Mask<T> has_value(Vector<T> x) {
    return Kind == PairKind::cosine ? x == x : x > Vector<T>{};
  }
  // `variance` is (s_a + s_b)/2.
  static Vector<T> value(Vector<T> x, Vector<T> variance) {
    if constexpr (Kind == PairKind::cosine) {
      return x;
    } else if constexpr (Kind == PairKind::cdnv) {
      return Power == 1 ? variance / x : variance / x / x;
    } else {
      return T(-0.5) * log_of(x);
    }
  }
  // dL/dvalue, of dL/d(sum of values) and twice dL/d(sum of squares).
  static Vector<T> derivative(Vector<T> value, T by_sum, T by_squares) {
    return by_sum + by_squares * value;
  }
};

// The logarithm of a Riesz energy, |a^ - b^|^-s: as log_distance but for s, known when it runs. Sums
// are of energies, and so are derivatives.
template <class T>
struct RieszFunction : PairFunction<T, PairKind::log_distance, 1> {
  static constexpr PairKind kKind = PairKind::riesz;
  const T power;
  const LogSum<T> sum, squares;

  explicit RieszFunction(const PairTerm& term)
      : power(static_cast<T>(term.power)),
        sum(term.stats ? term.stats[1] : 0),
        squares(term.stats ? term.stats[2] / 2 : 0) {}

  Vector<T> value(Vector<T> x, Vector<T>) const { return T(-0.5) * power * log_of(x); }
  // Shares of the sum, e^(v - log sum e^v), and of the sum of squares.
  Vector<T> derivative(Vector<T> value, T by_sum, T by_squares) const {
    const Vector<T> root = squares.share(value);
    return by_sum * sum.share(value) + by_squares * (root * root);
  }
};

template <class T, class F>
void with_function(const PairTerm& term, const F& f) {
  switch (term.kind) {
    case PairKind::cdnv:
      return term.power == 1 ? f(PairFunction<T, PairKind::cdnv, 1>{})
                             : f(PairFunction<T, PairKind::cdnv, 2>{});
    case PairKind::log_distance:
      return f(PairFunction<T, PairKind::log_distance, 1>{});
    case PairKind::cosine:
      return f(PairFunction<T, PairKind::cosine, 1>{});
    case PairKind::riesz:
      return f(RieszFunction<T>(term));
    default:
      return f(PairFunction<T, PairKind::log_distance_raw, 1>{});
  }
}

// All bits set in the first n lanes.
template <class T>
Mask<T> first_lanes(int64_t n) {
  Mask<T> number;
  for (int64_t lane = 0; lane < kLanes<T>; ++lane) {
    number[lane] = static_cast<Integer<T>>(lane);
  }
  return number < static_cast<Integer<T>>(std::min(n, kLanes<T>));
}

// Uniform bins from `low` to `high`; values outside are counted nowhere.
template <class T>
struct Bins {
  T low = 0, high = 0, scale = 0;
  int64_t count = 0;

  Bins() = default;
  Bins(const char* op, int64_t term, const double* edge, int64_t bins)
      : low(static_cast<T>(edge[0])), high(static_cast<T>(edge[bins])), count(bins) {
    const double width = (edge[bins] - edge[0]) / static_cast<double>(bins);
    bool even = std::isfinite(width) && width > 0;
    for (int64_t i = 0; even && i <= bins; ++i) {
      even = std::abs(edge[i] - edge[0] - static_cast<double>(i) * width) <= 1e-3 * width;
    }
    if (!even) {
      reject(op, "edges[", term, "] goes from ", edge[0], " to ", edge[bins],
             "; expected finite ascending edges of bins of one width");
    }
    scale = static_cast<T>(static_cast<double>(bins) / (edge[bins] - edge[0]));
  }
};

// Counts of one term's values. Four copies, as adding to the same bin twice in a row waits for the
// first to be stored; one bin more takes what is outside.
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
