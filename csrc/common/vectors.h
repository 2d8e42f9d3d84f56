// Arithmetic on contiguous rows, in vectors of 32 bytes (8 floats or 4 doubles) that the compiler
// lowers to whatever the file is built for. The order of every sum is fixed by the width alone.
#pragma once

#include <torch/headeronly/util/Half.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace ncfast {

// Stored dtypes that C++ has no arithmetic for.
struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

inline double widen(double value) { return value; }
inline float widen(float value) { return value; }
inline float widen(BFloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float wide;
  std::memcpy(&wide, &bits, 4);
  return wide;
}
inline float widen(Half value) {
  return torch::headeronly::detail::fp16_ieee_to_fp32_value(value.bits);
}

// Rounds to nearest even; NaN stays NaN.
inline BFloat16 to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    return {0x7fc0};
  }
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}
inline Half to_half(float value) {
  return {torch::headeronly::detail::fp16_ieee_from_fp32_value(value)};
}

template <class T>
using Vector [[gnu::vector_size(32)]] = T;
template <class T>
constexpr int64_t kLanes = 32 / sizeof(T);
// What comparing two vectors gives: all bits set in the lanes where it holds.
template <class T>
using Integer = std::conditional_t<std::is_same_v<T, double>, int64_t, int32_t>;
template <class T>
using Mask = Vector<Integer<T>>;

// Loads kLanes<T> stored values as T.
template <class T, class Stored>
inline Vector<T> load(const Stored* from) {
  Vector<T> wide;
  if constexpr (std::is_same_v<T, Stored>) {
    std::memcpy(&wide, from, 32);
  } else if constexpr (std::is_same_v<T, float> && std::is_same_v<Stored, BFloat16>) {
    typedef uint16_t Narrow __attribute__((vector_size(16)));
    typedef uint32_t Wide __attribute__((vector_size(32)));
    Narrow bits;
    std::memcpy(&bits, from, 16);
    const Wide shifted = __builtin_convertvector(bits, Wide) << 16;
    std::memcpy(&wide, &shifted, 32);
  } else {
#if defined(__F16C__)
    if constexpr (std::is_same_v<T, float> && std::is_same_v<Stored, Half>) {
      const __m256 values =
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
      std::memcpy(&wide, &values, 32);
      return wide;
    }
#endif
    for (int64_t lane = 0; lane < kLanes<T>; ++lane) {
      wide[lane] = static_cast<T>(widen(from[lane]));
    }
  }
  return wide;
}

template <class T>
inline void store(T* to, Vector<T> value) {
  std::memcpy(to, &value, 32);
}

// ln x for positive finite x, to 1e-7 relative (float). Exponent and mantissa m in [sqrt(1/2),
// sqrt(2)); ln m = 2 atanh(s), s = (m - 1)/(m + 1), as a series in s^2. A subnormal x has no such
// bits: it is made normal first.
inline Vector<float> log_of(Vector<float> x) {
  typedef int32_t Bits __attribute__((vector_size(32)));
  const Mask<float> subnormal = x < 0x1p-126f;
  const Vector<float> normal = subnormal ? x * 0x1p23f : x;
  Bits bits;
  std::memcpy(&bits, &normal, 32);
  const Bits shifted = bits - 0x3f3504f3;  // the bits of sqrt(1/2)
  const Bits exponent = shifted >> 23;
  bits = (shifted & 0x007fffff) + 0x3f3504f3;
  Vector<float> m;
  std::memcpy(&m, &bits, 32);
  // A comparison that holds is -1.
  const Vector<float> e = __builtin_convertvector(exponent + 23 * subnormal, Vector<float>);
  const Vector<float> s = (m - 1.0f) / (m + 1.0f), z = s * s;
  const Vector<float> series =
      2.0f + z * (0.66666666f + z * (0.4f + z * (0.28571429f + z * 0.22222222f)));
  return e * 0.69314718f + s * series;
}
inline Vector<double> log_of(Vector<double> x) {
  Vector<double> result;
  for (int64_t lane = 0; lane < kLanes<double>; ++lane) {
    result[lane] = std::log(x[lane]);
  }
  return result;
}

template <class T>
inline double lane_total(Vector<T> value) {
  double total = 0;
  for (int64_t lane = 0; lane < kLanes<T>; ++lane) {
    total += static_cast<double>(value[lane]);
  }
  return total;
}

// Adds whole groups of `Chains` vectors of [d, n) to `totals` and moves d behind them.
template <class T, int64_t Sums, int64_t Chains, class VectorTerm>
inline void add_vectors(int64_t& d, int64_t n, const VectorTerm& vector, double* totals) {
  constexpr int64_t step = Chains * kLanes<T>, run = 512 * kLanes<T>;
  while (d + step <= n) {
    const int64_t stop = n < d + run ? n : d + run;
    Vector<T> sums[Chains][Sums] = {};
    for (; d + step <= stop; d += step) {
      for (int64_t chain = 0; chain < Chains; ++chain) {
        Vector<T> terms[Sums];
        vector(d + chain * kLanes<T>, terms);
        for (int64_t s = 0; s < Sums; ++s) {
          sums[chain][s] += terms[s];
        }
      }
    }
    for (int64_t s = 0; s < Sums; ++s) {
      for (int64_t chain = 1; chain < Chains; ++chain) {
        sums[0][s] += sums[chain][s];
      }
      totals[s] += lane_total<T>(sums[0][s]);
    }
  }
}

// Sums `Sums` expressions over [0, n): vector(d) fills an array of vectors for the lanes at d,
// scalar(d) an array of values. A lane adds at most 512 terms in T, then goes to double. With
// `Chains` vectors side by side no addition waits for the one before it.
template <class T, int64_t Sums, int64_t Chains = 1, class VectorTerm, class ScalarTerm>
inline void sum_terms(int64_t n, const VectorTerm& vector, const ScalarTerm& scalar, double* totals) {
  for (int64_t s = 0; s < Sums; ++s) {
    totals[s] = 0;
  }
  int64_t d = 0;
  if constexpr (Chains > 1) {
    add_vectors<T, Sums, Chains>(d, n, vector, totals);
  }
  add_vectors<T, Sums, 1>(d, n, vector, totals);
  for (; d < n; ++d) {
    T terms[Sums];
    scalar(d, terms);
    for (int64_t s = 0; s < Sums; ++s) {
      totals[s] += static_cast<double>(terms[s]);
    }
  }
}

// Applies out[d] = vector(d) or scalar(d) for d in [0, n).
template <class T, class VectorValue, class ScalarValue>
inline void fill_values(int64_t n, const VectorValue& vector, const ScalarValue& scalar, T* out) {
  int64_t d = 0;
  for (; d + kLanes<T> <= n; d += kLanes<T>) {
    store<T>(out + d, vector(d));
  }
  for (; d < n; ++d) {
    out[d] = scalar(d);
  }
}

}  // namespace ncfast
