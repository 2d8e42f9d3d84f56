#include "../common/finite.h"
#include "../common/index.h"
#include "../common/parallel.h"
#include "../common/rows.h"
#include "../common/vectors.h"
#include "kernel.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <optional>
#include <stdexcept>
#include <vector>

namespace ncfast::cpu {
namespace {

constexpr const char* kOp = "alignment";
constexpr int64_t kTileRows = 64;

// A point less the center, which it writes to `out` as it is read.
template <class T>
struct Centering {
  const T *point, *center;
  T* out;

  Vector<T> vector(int64_t d) const {
    const Vector<T> q = load<T>(point + d) - load<T>(center + d);
    store<T>(out + d, q);
    return q;
  }
  T scalar(int64_t d) const { return out[d] = point[d] - center[d]; }
};

// A centred point.
template <class T>
struct Centered {
  const T* q;

  Vector<T> vector(int64_t d) const { return load<T>(q + d); }
  T scalar(int64_t d) const { return q[d]; }
};

// One head row w and one centred point q: their product and norms.
template <class T>
struct Pair {
  double product, head_norm, point_norm;

  template <class Point>
  Pair(const T* w, const Point& q, int64_t width) {
    double sums[3];
    sum_terms<T, 3, 4>(
        width,
        [&](int64_t d, Vector<T>* terms) {
          const Vector<T> a = load<T>(w + d), b = q.vector(d);
          terms[0] = a * b;
          terms[1] = a * a;
          terms[2] = b * b;
        },
        [&](int64_t d, T* terms) {
          const T b = q.scalar(d);
          terms[0] = w[d] * b;
          terms[1] = w[d] * w[d];
          terms[2] = b * b;
        },
        sums);
    product = sums[0];
    head_norm = std::sqrt(sums[1]);
    point_norm = std::sqrt(sums[2]);
  }
  // Whether no square can have overflowed, or have lost digits that matter, in T.
  bool in_range() const {
    const double lowest = std::sqrt(std::numeric_limits<T>::min() * 1e12);
    const double highest = std::sqrt(std::numeric_limits<T>::max() * 1e-3);
    return head_norm >= lowest && head_norm <= highest && point_norm >= lowest && point_norm <= highest;
  }
  // A zero vector has no direction: cosine 0, gradient 0.
  bool defined() const { return head_norm > 0 && point_norm > 0; }
  double cosine() const { return defined() ? product / head_norm / point_norm : product; }  // NaN stays
};

// The power of two that brings the largest value of a row near 1, or 1 for zeros.
template <class T>
T unit_scale(const T* row, int64_t width) {
  T highest = 0;
  for (int64_t d = 0; d < width; ++d) {
    highest = std::max(highest, std::abs(row[d]));
  }
  if (!(highest > 0) || !std::isfinite(highest)) {
    return T(1);
  }
  const int limit = std::numeric_limits<T>::max_exponent - 3;
  return std::ldexp(T(1), std::clamp(-std::ilogb(highest), -limit, limit));
}

// A pair and what its rows were multiplied by: a cosine depends on no scale, but squares overflow.
template <class T>
struct ScaledPair {
  Pair<T> pair;
  const T* head;
  T head_scale = 1, point_scale = 1;

  // Writes the centred point, multiplied, to `q`.
  ScaledPair(const T* w, T* scratch, const T* point, const T* center, T* q, int64_t width)
      : pair(w, Centering<T>{point, center, q}, width), head(w) {
    if (pair.in_range()) {
      return;
    }
    head_scale = unit_scale(w, width);
    point_scale = unit_scale(q, width);
    for (int64_t d = 0; d < width; ++d) {
      scratch[d] = w[d] * head_scale;
      q[d] *= point_scale;
    }
    head = scratch;
    pair = Pair<T>(head, Centered<T>{q}, width);
  }
};

// Says which value made a cosine NaN.
template <class T>
[[noreturn]] void reject_nonfinite(const Tensor& head_weight, const Tensor& points,
                                   const Tensor& center, const RowIndex& rows) {
  std::vector<bool> visited(points.size(0), false);
  for (int64_t k = 0; k < rows.count; ++k) {
    visited[rows[k]] = true;
  }
  const auto counts = [&](int64_t row) { return visited[row]; };
  check_finite_rows<T>(kOp, "head_weight", head_weight, counts);
  check_finite_rows<T>(kOp, "points", points, counts);
  const auto* center_data = static_cast<const T*>(center.const_data_ptr());
  for (int64_t d = 0; d < center.size(0); ++d) {
    if (!std::isfinite(center_data[d])) {
      reject(kOp, "center[", d, "] is ", center_data[d], "; expected finite values");
    }
  }
  reject(kOp, "points less center overflows; expected finite differences");
  throw std::logic_error("unreachable");
}

template <class T>
void forward(const Tensor& head_weight, const Tensor& points, const Tensor& center,
             const OptionalTensor& index, const Tensor& cosines) {
  const int64_t width = points.size(1);
  const RowIndex rows(kOp, index, points.size(0));
  const RowReader<T> head(head_weight), point(points);
  const auto* center_data = static_cast<const T*>(center.const_data_ptr());
  auto* out = static_cast<T*>(cosines.mutable_data_ptr());
  std::atomic<bool> finite{true};
  parallel_units((rows.count + kTileRows - 1) / kTileRows, [&](const auto& take) {
    Buffer<T> w(width), q(width);
    for (int64_t unit = take(); unit >= 0; unit = take()) {
      for (int64_t k = unit * kTileRows; k < std::min(rows.count, (unit + 1) * kTileRows); ++k) {
        const ScaledPair<T> scaled(head.row(rows[k], w.get()), w.get(), point.row(rows[k], q.get()),
                                   center_data, q.get(), width);
        out[k] = static_cast<T>(scaled.pair.cosine());
        if (!std::isfinite(out[k])) {
          finite = false;
        }
      }
    }
  });
  if (!finite) {
    reject_nonfinite<T>(head_weight, points, center, rows);
  }
}

template <class T>
std::optional<RowWriter<T>> writer_of(const OptionalTensor& out) {
  return out ? std::optional<RowWriter<T>>(std::in_place, *out) : std::nullopt;
}

// d cos/dw = (q/|q| - cos w/|w|) / |w|, d cos/dp = (w/|w| - cos q/|q|) / |q|.
template <class T>
void backward(const Tensor& grad_cosines, const Tensor& head_weight, const Tensor& points,
              const Tensor& center, const OptionalTensor& index,
              const OptionalTensor& grad_head_weight, const OptionalTensor& grad_points,
              const OptionalTensor& grad_center) {
  const int64_t width = points.size(1);
  const RowIndex rows(kOp, index, points.size(0));
  const RowReader<T> head(head_weight), point(points);
  const auto* center_data = static_cast<const T*>(center.const_data_ptr());
  const auto* upstream = static_cast<const T*>(grad_cosines.const_data_ptr());
  // Made once, not for each row: they ask the tensor for its type and memory through the stable ABI.
  const std::optional<RowWriter<T>> head_writer = writer_of<T>(grad_head_weight);
  const std::optional<RowWriter<T>> point_writer = writer_of<T>(grad_points);
  const int64_t tiles = (rows.count + kTileRows - 1) / kTileRows;
  const bool needs_point = grad_points.has_value() || grad_center.has_value();
  Buffer<T> sums(grad_center ? tiles * width : 0);
  parallel_units(tiles, [&](const auto& take) {
    Buffer<T> w_scratch(width), q(width), result(width);
    for (int64_t unit = take(); unit >= 0; unit = take()) {
      T* sum = grad_center ? sums.get() + unit * width : nullptr;
      if (sum != nullptr) {
        std::fill_n(sum, width, T(0));
      }
      for (int64_t k = unit * kTileRows; k < std::min(rows.count, (unit + 1) * kTileRows); ++k) {
        const int64_t row = rows[k];
        const ScaledPair<T> scaled(head.row(row, w_scratch.get()), w_scratch.get(),
                                   point.row(row, q.get()), center_data, q.get(), width);
        const Pair<T>& pair = scaled.pair;
        const T* w = scaled.head;
        const double g = pair.defined() ? static_cast<double>(upstream[k]) : 0.0;
        const double inverse = pair.defined() ? 1 / (pair.head_norm * pair.point_norm) : 0.0;
        const T cross = static_cast<T>(g * inverse);
        const auto combine = [&](T* out, const T* other, const T* own, double norm, T scale) {
          const T along = static_cast<T>(
              pair.defined() ? g * pair.cosine() / (norm * norm) : 0.0);
          for (int64_t d = 0; d < width; ++d) {
            out[d] = scale * (cross * other[d] - along * own[d]);
          }
        };
        if (head_writer) {
          T* direct = head_writer->direct(row);
          combine(direct ? direct : result.get(), q.get(), w, pair.head_norm, scaled.head_scale);
          if (!direct) {
            head_writer->write(row, result.get());
          }
        }
        if (!needs_point) {
          continue;
        }
        T* direct = point_writer ? point_writer->direct(row) : nullptr;
        T* out = direct ? direct : result.get();
        combine(out, w, q.get(), pair.point_norm, scaled.point_scale);
        if (point_writer && !direct) {
          point_writer->write(row, out);
        }
        if (sum != nullptr) {
          for (int64_t d = 0; d < width; ++d) {
            sum[d] -= out[d];
          }
        }
      }
    }
  });
  if (!grad_center) {
    return;
  }
  auto* out = static_cast<T*>(grad_center->mutable_data_ptr());
  for (int64_t d = 0; d < width; ++d) {
    double total = 0;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      total += static_cast<double>(sums[tile * width + d]);
    }
    out[d] = static_cast<T>(total);
  }
}

}  // namespace

void alignment(Tensor head_weight, Tensor points, Tensor center, OptionalTensor index,
               Tensor cosines) {
  with_accumulation_type(center, [&](auto type) {
    forward<decltype(type)>(head_weight, points, center, index, cosines);
  });
}

void alignment_backward(Tensor grad_cosines, Tensor head_weight, Tensor points, Tensor center,
                        OptionalTensor index, OptionalTensor grad_head_weight,
                        OptionalTensor grad_points, OptionalTensor grad_center) {
  with_accumulation_type(center, [&](auto type) {
    backward<decltype(type)>(grad_cosines, head_weight, points, center, index, grad_head_weight,
                             grad_points, grad_center);
  });
}

}  // namespace ncfast::cpu

NCFAST_KERNEL(alignment)
NCFAST_KERNEL(alignment_backward)
