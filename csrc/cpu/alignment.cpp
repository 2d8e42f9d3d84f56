#include "../common/index.h"
#include "../common/parallel.h"
#include "../common/rows.h"
#include "../common/vectors.h"
#include "ops.h"

#include <algorithm>
#include <cmath>

namespace ncfast::cpu {
namespace {

constexpr const char* kOp = "alignment";
constexpr int64_t kTileRows = 64;

// One head row w and one centred point q: their product and norms.
template <class T>
struct Pair {
  double product, head_norm, point_norm;

  Pair(const T* w, const T* q, int64_t width) {
    double sums[3];
    sum_terms<T, 3>(
        width,
        [&](int64_t d, Vector<T>* terms) {
          const Vector<T> a = load<T>(w + d), b = load<T>(q + d);
          terms[0] = a * b;
          terms[1] = a * a;
          terms[2] = b * b;
        },
        [&](int64_t d, T* terms) {
          terms[0] = w[d] * q[d];
          terms[1] = w[d] * w[d];
          terms[2] = q[d] * q[d];
        },
        sums);
    product = sums[0];
    head_norm = std::sqrt(sums[1]);
    point_norm = std::sqrt(sums[2]);
  }
  // A zero vector has no direction: cosine 0, gradient 0.
  bool defined() const { return head_norm > 0 && point_norm > 0; }
  double cosine() const { return defined() ? product / (head_norm * point_norm) : 0.0; }
};

template <class T>
void center_row(const T* point, const T* center, int64_t width, T* out) {
  for (int64_t d = 0; d < width; ++d) {
    out[d] = point[d] - center[d];
  }
}

template <class T>
void forward(const Tensor& head_weight, const Tensor& points, const Tensor& center,
             const OptionalTensor& index, const Tensor& cosines) {
  const int64_t width = points.size(1);
  const RowIndex rows(kOp, index, points.size(0));
  const RowReader<T> head(head_weight), point(points);
  const auto* origin = static_cast<const T*>(center.const_data_ptr());
  auto* out = static_cast<T*>(cosines.mutable_data_ptr());
  parallel_units((rows.count + kTileRows - 1) / kTileRows, [&](const auto& take) {
    Buffer<T> w(width), q(width);
    for (int64_t unit = take(); unit >= 0; unit = take()) {
      for (int64_t k = unit * kTileRows; k < std::min(rows.count, (unit + 1) * kTileRows); ++k) {
        center_row(point.row(rows[k], q.get()), origin, width, q.get());
        out[k] = static_cast<T>(
            Pair<T>(head.row(rows[k], w.get()), q.get(), width).cosine());
      }
    }
  });
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
  const auto* origin = static_cast<const T*>(center.const_data_ptr());
  const auto* upstream = static_cast<const T*>(grad_cosines.const_data_ptr());
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
        const T* w = head.row(row, w_scratch.get());
        center_row(point.row(row, q.get()), origin, width, q.get());
        const Pair<T> pair(w, q.get(), width);
        const double g = pair.defined() ? static_cast<double>(upstream[k]) : 0.0;
        const double inverse = pair.defined() ? 1 / (pair.head_norm * pair.point_norm) : 0.0;
        const T cross = static_cast<T>(g * inverse);
        const auto combine = [&](T* out, const T* other, const T* own, double norm) {
          const T along = static_cast<T>(
              pair.defined() ? g * pair.cosine() / (norm * norm) : 0.0);
          for (int64_t d = 0; d < width; ++d) {
            out[d] = cross * other[d] - along * own[d];
          }
        };
        if (grad_head_weight) {
          const RowWriter<T> writer(*grad_head_weight);
          T* direct = writer.direct(row);
          combine(direct ? direct : result.get(), q.get(), w, pair.head_norm);
          if (!direct) {
            writer.write(row, result.get());
          }
        }
        if (!needs_point) {
          continue;
        }
        T* direct = grad_points ? RowWriter<T>(*grad_points).direct(row) : nullptr;
        T* out = direct ? direct : result.get();
        combine(out, w, q.get(), pair.point_norm);
        if (grad_points && !direct) {
          RowWriter<T>(*grad_points).write(row, out);
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
