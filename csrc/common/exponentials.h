// exp, tanh and maximum of vectors, for a tile of scores while it is in cache.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "vectors.h"

namespace ncfast {

// exp x for x <= 88, to 1e-7 relative (float). x = n ln 2 + r with |r| <= ln 2 / 2; e^r by its series
// up to r^7, whose next term is below 6e-9; 2^n through the exponent's bits. Under -87, where the
// result would leave the normal range, it is 0: a product with a subnormal costs 100 cycles.
inline Vector<float> exp_of(Vector<float> x) {
  constexpr float shift = 12582912.0f;  // 1.5 x 2^23: adding it rounds to a whole number
  const Vector<float> clamped = x < -87.0f ? Vector<float>{} - 87.0f : x;
  const Vector<float> shifted = clamped * 1.44269504f + shift, n = shifted - shift;
  // ln 2 in two parts: n times the first, of 9 bits, is exact.
  const Vector<float> r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  Vector<float> series = r * (1.0f / 5040) + 1.0f / 720;
  series = series * r + 1.0f / 120;
  series = series * r + 1.0f / 24;
  series = series * r + 1.0f / 6;
  series = series * r + 0.5f;
  series = series * r + 1.0f;
  series = series * r + 1.0f;
  Mask<float> bits;
  std::memcpy(&bits, &shifted, 32);
  bits = (bits + 127) << 23;
  Vector<float> scale;
  std::memcpy(&scale, &bits, 32);
  return x < -87.0f ? Vector<float>{} : series * scale;
}
inline Vector<double> exp_of(Vector<double> x) {
  Vector<double> result;
  for (int64_t lane = 0; lane < kLanes<double>; ++lane) {
    result[lane] = std::exp(x[lane]);
  }
  return result;
}

// tanh x to 2e-7 relative (float): 1 - 2 / (e^2x + 1), which cancels near 0, and there its series.
inline Vector<float> tanh_of(Vector<float> x) {
  const Vector<float> square = x * x;
  Vector<float> series = square * (62.0f / 2835) - 17.0f / 315;
  series = series * square + 2.0f / 15;
  series = series * square - 1.0f / 3;
  series = x + x * square * series;
  const Vector<float> lowest = Vector<float>{} - 20.0f, highest = Vector<float>{} + 20.0f;
  const Vector<float> clamped = x < lowest ? lowest : (x > highest ? highest : x);
  const Vector<float> far = 1.0f - 2.0f / (exp_of(clamped + clamped) + 1.0f);
  return square < 0.0625f ? series : far;
}
inline Vector<double> tanh_of(Vector<double> x) {
  Vector<double> result;
  for (int64_t lane = 0; lane < kLanes<double>; ++lane) {
    result[lane] = std::tanh(x[lane]);
  }
  return result;
}

// The largest of n values; -inf if there are none.
template <class T>
T largest(const T* values, int64_t n) {
  T highest = -std::numeric_limits<T>::infinity();
  Vector<T> lanes = Vector<T>{} + highest;
  int64_t j = 0;
  for (; j + kLanes<T> <= n; j += kLanes<T>) {
    const Vector<T> next = load<T>(values + j);
    lanes = next > lanes ? next : lanes;
  }
  for (; j < n; ++j) {
    highest = values[j] > highest ? values[j] : highest;
  }
  for (int64_t lane = 0; lane < kLanes<T>; ++lane) {
    highest = lanes[lane] > highest ? lanes[lane] : highest;
  }
  return highest;
}

// Calls f(vector at j, lanes that count) over [0, n), the last vector padded with `pad`; what f
// returns replaces the values.
template <class T, class F>
void transform(T* values, int64_t n, T pad, const F& f) {
  int64_t j = 0;
  for (; j + kLanes<T> <= n; j += kLanes<T>) {
    store<T>(values + j, f(load<T>(values + j), j));
  }
  if (j < n) {
    T rest[kLanes<T>];
    for (int64_t lane = 0; lane < kLanes<T>; ++lane) {
      rest[lane] = j + lane < n ? values[j + lane] : pad;
    }
    store<T>(rest, f(load<T>(rest), j));
    std::memcpy(values + j, rest, (n - j) * sizeof(T));
  }
}

}  // namespace ncfast
