// Distances of pairs of points, from tiles of their Gram matrix.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "finite.h"
#include "index.h"
#include "parallel.h"
#include "products.h"
#include "rows.h"

namespace ncfast {

// A squared distance from a Gram matrix is |a|^2 + |b|^2 - 2 a.b, whose error is a few roundings of
// |a|^2 + |b|^2. At or below this share of it the distance is found again, from differences: what is
// kept errs by a few dozen roundings at most, and equal points are at distance 0 exactly.
template <class T>
constexpr T kNear = T(1) / 8;

// The points an op visits, and what every pair needs of one, measured from the center.
template <class T>
struct PointSet {
  RowIndex visited;
  RowReader<T> reader;
  const T* center;
  int64_t count, width;
  Buffer<T> squares, norms, inverse_norms, half_variances;  // padded: lanes past the end stay finite
  bool any_zero = false;  // a point at the center has no direction

  PointSet(const char* op, const Tensor& points, const std::optional<Tensor>& variances,
           const Tensor& center_tensor, const std::optional<Tensor>& index)
      : visited(op, index, points.size(0)),
        reader(points),
        center(static_cast<const T*>(center_tensor.const_data_ptr())),
        count(visited.count),
        width(points.size(1)),
        squares(count + kLanes<T>),
        norms(count + kLanes<T>),
        inverse_norms(count + kLanes<T>),
        half_variances(count + kLanes<T>) {
    for (Buffer<T>* padded : {&squares, &norms, &inverse_norms, &half_variances}) {
      std::fill_n(padded->get() + count, kLanes<T>, T(0));
    }
    for (int64_t d = 0; d < width; ++d) {
      if (!std::isfinite(center[d])) {
        reject(op, "center[", d, "] is ", center[d], "; expected finite values");
      }
    }
    if (!measure()) {
      std::vector<bool> counts(points.size(0), false);
      for (int64_t k = 0; k < count; ++k) {
        counts[visited[k]] = true;
      }
      check_finite_rows<T>(op, "points", points, [&](int64_t v) { return counts[v]; });
    }
    read_variances(op, variances);
  }

  // Reads point k, less the center.
  void read_centred(int64_t k, T* row) const {
    reader.read(visited[k], row);
    fill_values<T>(
        width, [&](int64_t d) { return load<T>(row + d) - load<T>(center + d); },
        [&](int64_t d) { return row[d] - center[d]; }, row);
  }

 private:
  // Returns whether everything is finite.
  bool measure() {
    std::atomic<bool> finite{true}, zero{false};
    const int64_t block = 256;
    parallel_units((count + block - 1) / block, [&](const auto& take) {
      Buffer<T> row(width);
      for (int64_t unit = take(); unit >= 0; unit = take()) {
        for (int64_t k = unit * block; k < std::min(count, (unit + 1) * block); ++k) {
          read_centred(k, row.get());
          double square;
          sum_terms<T, 1>(
              width, [&](int64_t d, Vector<T>* t) { t[0] = load<T>(&row[d]) * load<T>(&row[d]); },
              [&](int64_t d, T* t) { t[0] = row[d] * row[d]; }, &square);
          squares[k] = static_cast<T>(square);
          norms[k] = static_cast<T>(std::sqrt(square));
          inverse_norms[k] = norms[k] > 0 ? static_cast<T>(1 / std::sqrt(square)) : T(0);
          if (!std::isfinite(squares[k])) {
            finite = false;
          }
          if (norms[k] == 0) {
            zero = true;
          }
        }
      }
    });
    any_zero = zero;
    return finite;
  }

  void read_variances(const char* op, const std::optional<Tensor>& variances) {
    const auto* data = variances ? static_cast<const double*>(variances->const_data_ptr()) : nullptr;
    for (int64_t k = 0; k < count; ++k) {
      const double value = data != nullptr ? data[visited[k]] : 0;
      if (!(value >= 0) || std::isinf(value)) {
        reject(op, "variances[", visited[k], "] is ", value,
               "; expected a finite variance of at least 0");
      }
      half_variances[k] = static_cast<T>(value / 2);
    }
  }
};

// Consecutive points, centred, as contiguous T, and rows of zeros up to padded() of them.
template <class T>
struct PointBlock {
  Buffer<T> rows;
  int64_t begin = -1, count = 0;

  PointBlock(int64_t capacity, int64_t width) : rows(capacity * width), capacity_(capacity) {}

  void pack(const PointSet<T>& points, int64_t first) {
    if (begin == first) {
      return;
    }
    begin = first;
    count = std::min(capacity_, points.count - first);
    for (int64_t k = 0; k < count; ++k) {
      points.read_centred(first + k, rows.get() + k * points.width);
    }
    std::fill_n(rows.get() + count * points.width, (padded() - count) * points.width, T(0));
  }
  int64_t padded() const { return padded_size(count); }  // capacity is a multiple, too
  const T* row(int64_t k, int64_t width) const { return rows.get() + k * width; }

 private:
  int64_t capacity_;
};

// Memory for a tile of products, and for its last row with a vector more.
template <class T>
struct GramScratch {
  Buffer<T> tile, last;
  GramScratch(int64_t rows, int64_t columns) : tile(rows * columns), last(columns + kLanes<T>) {}
};

// The products of all points of a with all of b.
template <class T>
class GramTile {
 public:
  GramTile(Library library, const PointBlock<T>& a, const PointBlock<T>& b, int64_t width,
           const GramScratch<T>& scratch)
      : rows_(a.padded()),
        stride_(b.padded()),
        products_(library, a.rows.get(), rows_, width, b.rows.get(), stride_, Layout::rows,
                  scratch.tile.get()),
        last_(scratch.last.get()) {
    std::copy_n(products_.data() + (rows_ - 1) * stride_, stride_, last_);
    std::fill_n(last_ + stride_, kLanes<T>, T(0));
  }
  // Row i; values of a vector more may be read behind it.
  const T* row(int64_t i) const {
    return i + 1 < rows_ ? products_.data() + i * stride_ : last_;
  }

 private:
  const int64_t rows_, stride_;
  const Product<T> products_;
  T* const last_;
};

template <class T>
bool any_lane(Mask<T> mask) {
  int64_t words[4];
  std::memcpy(words, &mask, 32);
  return (words[0] | words[1] | words[2] | words[3]) != 0;
}

// What a call needs to know of each pair.
struct PairNeeds {
  bool raw = false, cosine = false, unit = false;  // unit needs cosine
};

// One point a with n others, from `first` on: squared distances of the points as they are and of
// unit vectors from the center, and cosines.
template <class T>
class PairRow {
 public:
  Buffer<T> raw, unit, cosine;
  std::vector<int32_t> near_raw, near_unit;  // which were found from differences
  int64_t coincident_raw = 0, coincident_unit = 0, undefined = 0;

  PairRow(const PointSet<T>& points, PairNeeds needs, int64_t capacity)
      : raw(capacity + kLanes<T>),
        unit(capacity + kLanes<T>),
        cosine(capacity + kLanes<T>),
        points_(points),
        needs_(needs),
        left_(points.width),
        right_(points.width) {
    for (Buffer<T>* values : {&raw, &unit, &cosine}) {
      std::fill_n(values->get(), capacity + kLanes<T>, T(0));  // what is not needed is multiplied by 0
    }
  }

  // `gram` holds a's products with the others. `centred_a` is a's packed row, `centred_first` that of
  // the first of the others, which follow it. A point with itself is at distance 0 and not counted.
  void measure(int64_t a, int64_t first, int64_t n, const T* gram, const T* centred_a,
               const T* centred_first) {
    near_raw.clear();
    near_unit.clear();
    coincident_raw = coincident_unit = undefined = 0;
    Mask<T> near = {};
    if (needs_.raw) {
      measure_raw(a, first, n, gram, near);
    }
    if (needs_.cosine) {
      measure_units(a, first, n, gram, near);
    }
    if (__builtin_expect(any_lane<T>(near) || (needs_.cosine && points_.any_zero), 0)) {
      repair(a, first, n, centred_a, centred_first);
    }
  }

  // a - b as the points are, in `difference`; exact where they are close, unlike of centred points.
  double raw_difference(int64_t a, int64_t b, T* difference) {
    const T* left = points_.reader.row(points_.visited[a], left_.get());
    const T* right = points_.reader.row(points_.visited[b], right_.get());
    return fill_difference(
        [&](int64_t d) { return load<T>(left + d) - load<T>(right + d); },
        [&](int64_t d) { return left[d] - right[d]; }, difference);
  }
  // a/|a| - b/|b| of centred points, in `difference`. Divided, not multiplied by an inverse: x/|x| is 1.
  double unit_difference(int64_t a, int64_t b, const T* left, const T* right, T* difference) {
    const T left_norm = points_.norms[a], right_norm = points_.norms[b];
    return fill_difference(
        [&](int64_t d) { return load<T>(left + d) / left_norm - load<T>(right + d) / right_norm; },
        [&](int64_t d) { return left[d] / left_norm - right[d] / right_norm; }, difference);
  }

 private:
  void measure_raw(int64_t a, int64_t first, int64_t n, const T* gram, Mask<T>& near) {
    const T own = points_.squares[a];
    const T* squares = points_.squares.get() + first;
    for (int64_t j = 0; j < n; j += kLanes<T>) {
      const Vector<T> sum = load<T>(squares + j) + own;
      const Vector<T> square = sum - T(2) * load<T>(gram + j);
      near |= square <= sum * kNear<T>;
      store<T>(raw.get() + j, square);
    }
  }

  void measure_units(int64_t a, int64_t first, int64_t n, const T* gram, Mask<T>& near) {
    const T own = points_.inverse_norms[a];
    const T* inverse = points_.inverse_norms.get() + first;
    const Vector<T> one = Vector<T>{} + T(1), close = Vector<T>{} + 2 * kNear<T>;
    for (int64_t j = 0; j < n; j += kLanes<T>) {
      Vector<T> value = load<T>(gram + j) * (load<T>(inverse + j) * own);
      value = value < one ? value : one;
      value = value > -one ? value : -one;
      const Vector<T> square = T(2) - T(2) * value;
      near |= needs_.unit ? square <= close : Mask<T>{};
      store<T>(cosine.get() + j, value);
      store<T>(unit.get() + j, square);
    }
  }

  template <class VectorValue, class ScalarValue>
  double fill_difference(const VectorValue& vector, const ScalarValue& scalar, T* difference) {
    fill_values<T>(points_.width, vector, scalar, difference);
    double total;
    sum_terms<T, 1>(
        points_.width, [&](int64_t d, Vector<T>* t) { t[0] = load<T>(difference + d) * load<T>(difference + d); },
        [&](int64_t d, T* t) { t[0] = difference[d] * difference[d]; }, &total);
    return total;
  }

  __attribute__((noinline)) void repair(int64_t a, int64_t first, int64_t n, const T* centred_a,
                                        const T* centred_first) {
    Buffer<T> difference(points_.width);
    for (int64_t j = 0; j < n; ++j) {
      const int64_t b = first + j;
      if (a == b) {
        raw[j] = unit[j] = T(0);
        continue;
      }
      if (needs_.raw && raw[j] <= (points_.squares[a] + points_.squares[b]) * kNear<T>) {
        raw[j] = static_cast<T>(raw_difference(a, b, difference.get()));
        coincident_raw += raw[j] == 0;
        near_raw.push_back(static_cast<int32_t>(j));
      }
      if (!needs_.cosine) {
        continue;
      }
      if (points_.norms[a] == 0 || points_.norms[b] == 0) {
        unit[j] = T(0);
        ++undefined;
      } else if (needs_.unit && unit[j] <= 2 * kNear<T>) {
        const T* right = centred_first + j * points_.width;
        unit[j] = static_cast<T>(unit_difference(a, b, centred_a, right, difference.get()));
        coincident_unit += unit[j] == 0;
        near_unit.push_back(static_cast<int32_t>(j));
      }
    }
  }

  const PointSet<T>& points_;
  const PairNeeds needs_;
  Buffer<T> left_, right_;
};

}  // namespace ncfast
