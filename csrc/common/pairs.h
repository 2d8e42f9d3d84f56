// Functions of pairs of points, from a tile of their Gram matrix.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "blas.h"
#include "index.h"
#include "parallel.h"
#include "rows.h"

namespace ncfast {

// The kinds of ncfast.functional.pair_stats, in the order of ncfast/reference/pair_stats.py.
enum class PairKind : int64_t { cdnv = 0, log_distance = 1, cosine = 2, log_distance_raw = 3 };

struct PairTerm {
  PairKind kind;
  double power, target;
};

constexpr int64_t kPairTile = 512;  // a Gram tile of 1 MiB, half of an L2 cache

// A squared distance from a Gram matrix is |a|^2 + |b|^2 - 2 a.b and loses digits as it gets small
// beside |a|^2 + |b|^2: below this share it is computed again from differences. In float32 a Gram
// entry errs by about 1e-6 of |a||b|, so what is kept is good to 1e-4.
template <class T>
constexpr T kNear = std::is_same_v<T, double> ? T(1e-6) : T(1e-2);

// ln x for positive finite x, to 1e-7 relative (float). Exponent and mantissa m in [sqrt(1/2),
// sqrt(2)); ln m = 2 atanh(s), s = (m - 1)/(m + 1), as a series in s^2.
inline Vector<float> log_of(Vector<float> x) {
  typedef int32_t Bits __attribute__((vector_size(32)));
  Bits bits;
  std::memcpy(&bits, &x, 32);
  const Bits shifted = bits - 0x3f3504f3;  // the bits of sqrt(1/2)
  const Bits exponent = shifted >> 23;
  bits = (shifted & 0x007fffff) + 0x3f3504f3;
  Vector<float> m;
  std::memcpy(&m, &bits, 32);
  const Vector<float> e = __builtin_convertvector(exponent, Vector<float>);
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

// A block of centred points packed as contiguous T, with what every pair needs of them.
template <class T>
struct PointBlock {
  Buffer<T> rows, squares, inverse_norms, variances;
  int64_t begin = -1, count = 0;

  explicit PointBlock(int64_t width)
      : rows(kPairTile * width),
        squares(kPairTile + kLanes<T>),
        inverse_norms(kPairTile + kLanes<T>),
        variances(kPairTile + kLanes<T>) {}

  void pack(const RowReader<T>& points, const RowIndex& index, const T* center,
            const double* variance, int64_t block) {
    const int64_t width = points.width();
    if (begin == block * kPairTile) {
      return;
    }
    begin = block * kPairTile;
    count = std::min(kPairTile, index.count - begin);
    std::fill_n(squares.get(), kPairTile + kLanes<T>, T(1));  // lanes past the end stay finite
    std::fill_n(inverse_norms.get(), kPairTile + kLanes<T>, T(0));
    std::fill_n(variances.get(), kPairTile + kLanes<T>, T(0));
    for (int64_t k = 0; k < count; ++k) {
      T* row = rows.get() + k * width;
      points.read(index[begin + k], row);
      double square;
      sum_terms<T, 1>(
          width,
          [&](int64_t d, Vector<T>* term) {
            const Vector<T> moved = load<T>(row + d) - load<T>(center + d);
            store<T>(row + d, moved);
            term[0] = moved * moved;
          },
          [&](int64_t d, T* term) {
            row[d] -= center[d];
            term[0] = row[d] * row[d];
          },
          &square);
      squares[k] = static_cast<T>(square);
      inverse_norms[k] = square > 0 ? static_cast<T>(1 / std::sqrt(square)) : T(0);
      variances[k] = variance ? static_cast<T>(variance[index[begin + k]]) : T(0);
    }
  }
};

// |scale_a a - scale_b b|^2 from differences.
template <class T>
double difference_square(const T* a, T scale_a, const T* b, T scale_b, int64_t width) {
  double total;
  sum_terms<T, 1>(
      width,
      [&](int64_t d, Vector<T>* term) {
        const Vector<T> gap = load<T>(a + d) * scale_a - load<T>(b + d) * scale_b;
        term[0] = gap * gap;
      },
      [&](int64_t d, T* term) {
        const T gap = a[d] * scale_a - b[d] * scale_b;
        term[0] = gap * gap;
      },
      &total);
  return total;
}

// The Gram tile of two blocks, `tile` being [kPairTile, kPairTile] with rows of kPairTile values.
template <class T>
void gram_tile(const PointBlock<T>& a, const PointBlock<T>& b, int64_t width, T* tile) {
  multiply(matrix_view(a.rows.get(), a.count, width, width, int64_t{1}),
           matrix_view(b.rows.get(), width, b.count, int64_t{1}, width),
           matrix_view(tile, a.count, b.count, kPairTile, int64_t{1}));
}

// Squared distances, raw and between unit vectors, of row i of block a to `kLanes` columns of b.
template <class T>
struct PairLanes {
  Vector<T> raw, unit, cosine;

  PairLanes(const PointBlock<T>& a, const PointBlock<T>& b, int64_t width, const T* gram_row,
            int64_t i, int64_t j, bool needs_raw, bool needs_unit) {
    const Vector<T> gram = load<T>(gram_row + j), squares = load<T>(b.squares.get() + j);
    const Vector<T> sum = squares + a.squares[i];
    raw = sum - T(2) * gram;
    cosine = gram * (load<T>(b.inverse_norms.get() + j) * a.inverse_norms[i]);
    unit = T(2) - T(2) * cosine;
    const auto raw_near = raw < sum * kNear<T>;
    const auto unit_near = unit < Vector<T>{} + T(2) * kNear<T>;
    bool any = false;
    for (int64_t lane = 0; lane < kLanes<T>; ++lane) {
      any |= (needs_raw && raw_near[lane]) || (needs_unit && unit_near[lane]);
    }
    if (__builtin_expect(any, 0)) {
      repair(a, b, width, i, j, needs_raw, needs_unit);
    }
  }

 private:
  __attribute__((noinline)) void repair(const PointBlock<T>& a, const PointBlock<T>& b,
                                        int64_t width, int64_t i, int64_t j, bool needs_raw,
                                        bool needs_unit) {
    for (int64_t lane = 0; lane < kLanes<T> && j + lane < b.count; ++lane) {
      const T* left = a.rows.get() + i * width;
      const T* right = b.rows.get() + (j + lane) * width;
      if (needs_raw && raw[lane] < (a.squares[i] + b.squares[j + lane]) * kNear<T>) {
        raw[lane] = static_cast<T>(difference_square(left, T(1), right, T(1), width));
      }
      if (needs_unit && unit[lane] < 2 * kNear<T>) {
        unit[lane] = static_cast<T>(difference_square(left, a.inverse_norms[i], right,
                                                      b.inverse_norms[j + lane], width));
      }
    }
  }
};

}  // namespace ncfast
