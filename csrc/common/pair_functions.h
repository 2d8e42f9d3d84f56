// Functions of a pair of points: which a call asks for, and each as a type with its value.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "energies.h"
#include "pairs.h"
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

struct RequestedFunction {
  PairKind kind;
  int64_t power;
  double target;
  const double* stats;  // of the forward pass, in the backward pass
};

inline std::vector<RequestedFunction> requested_functions(const std::vector<int64_t>& kinds,
                                        const std::vector<int64_t>& powers, const double* targets,
                                        const double* stats) {
  std::vector<RequestedFunction> functions;
  for (size_t p = 0; p < kinds.size(); ++p) {
    functions.push_back({static_cast<PairKind>(kinds[p]), powers[p], targets ? targets[p] : 0.0,
                     stats ? stats + 6 * p : nullptr});
  }
  return functions;
}

inline PairNeeds needs_of(const std::vector<RequestedFunction>& functions) {
  PairNeeds needs;
  for (const RequestedFunction& function : functions) {
    needs.raw |= function.kind == PairKind::cdnv || function.kind == PairKind::log_distance_raw;
    needs.unit |= function.kind == PairKind::log_distance || function.kind == PairKind::riesz;
    needs.cosine |= needs.unit || function.kind == PairKind::cosine;
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

  explicit RieszFunction(const RequestedFunction& function)
      : power(static_cast<T>(function.power)),
        sum(function.stats ? function.stats[1] : 0),
        squares(function.stats ? function.stats[2] / 2 : 0) {}

  Vector<T> value(Vector<T> x, Vector<T>) const { return T(-0.5) * power * log_of(x); }
  // Shares of the sum, e^(v - log sum e^v), and of the sum of squares.
  Vector<T> derivative(Vector<T> value, T by_sum, T by_squares) const {
    const Vector<T> root = squares.share(value);
    return by_sum * sum.share(value) + by_squares * (root * root);
  }
};

template <class T, class F>
void with_function(const RequestedFunction& function, const F& f) {
  switch (function.kind) {
    case PairKind::cdnv:
      return function.power == 1 ? f(PairFunction<T, PairKind::cdnv, 1>{})
                             : f(PairFunction<T, PairKind::cdnv, 2>{});
    case PairKind::log_distance:
      return f(PairFunction<T, PairKind::log_distance, 1>{});
    case PairKind::cosine:
      return f(PairFunction<T, PairKind::cosine, 1>{});
    case PairKind::riesz:
      return f(RieszFunction<T>(function));
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

}  // namespace ncfast
