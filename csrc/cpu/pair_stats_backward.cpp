#include "../common/pair_derivatives.h"
#include "../common/pair_functions.h"
#include "../common/pairs.h"
#include "../common/parallel.h"
#include "kernel.h"

#include <cstring>

namespace ncfast::cpu {
namespace {

constexpr const char* kOp = "pair_stats";
constexpr int64_t kMiB = int64_t{1} << 20;

// A row's gradient needs every other point, so both triangles are visited and no two threads add to
// one row. With C = dL/d(squared distance), E = dL/dcosine and W = E/(|a||b|) - 2 C:
//     grad a = sum_b W b + (sum_b 2 C - E cosine/|a|^2) a.
// Terms of close pairs would cancel in it: they are added one by one, from differences.
template <class T>
struct Backward {
  const PointSet<T> points;
  const std::vector<RequestedFunction> functions;
  const double* upstream;
  const OptionalTensor grad_points, grad_variances, grad_center;
  int64_t rows, columns, blocks;
  const Library library;
  Buffer<double> center_sums;  // per block of rows

  struct Scratch {
    PointBlock<T> a, b;
    GramScratch<T> gram;
    Buffer<T> weights, product, difference;
    Buffer<double> total, own, of_center, by_variance;
    PairRow<T> row;
    PairDerivatives<T> derivatives;

    explicit Scratch(const Backward& job)
        : a(job.rows, job.points.width),
          b(job.columns, job.points.width),
          gram(job.rows, job.columns),
          weights(job.rows * job.columns),
          product(job.rows * job.points.width),
          difference(job.points.width),
          total(job.rows * job.points.width),
          own(job.rows),
          of_center(job.rows),
          by_variance(job.rows),
          row(job.points, needs_of(job.functions), job.columns),
          derivatives(job.columns) {}
  };

  Backward(const Tensor& grad, const Tensor& matrix, const OptionalTensor& variances,
           const Tensor& center, const OptionalTensor& index,
           std::vector<RequestedFunction> requested, const OptionalTensor& for_points,
           const OptionalTensor& for_variances, const OptionalTensor& for_center)
      : points(kOp, matrix, variances, center, index),
        functions(std::move(requested)),
        upstream(static_cast<const double*>(grad.const_data_ptr())),
        grad_points(for_points),
        grad_variances(for_variances),
        grad_center(for_center),
        // A row is packed, multiplied and summed in double: 16 bytes a value in float.
        rows(block_rows(4 * kMiB, points.width * int64_t{8 + 2 * sizeof(T)})),
        columns(block_rows(3 * kMiB / 2, points.width * int64_t{sizeof(T)})),
        blocks((points.count + rows - 1) / rows),
        library(library_for<T>(points.count * points.count * points.width)),
        center_sums(for_center ? blocks * points.width : 0) {}

  bool needs_rows() const { return grad_points.has_value() || grad_center.has_value(); }

  void visit() {
    parallel_units(blocks, [&](const auto& take) {
      Scratch s(*this);
      for (int64_t unit = take(); unit >= 0; unit = take()) {
        s.a.pack(points, unit * rows);
        std::fill_n(s.total.get(), s.a.count * points.width, 0.0);
        for (Buffer<double>* sums : {&s.own, &s.of_center, &s.by_variance}) {
          std::fill_n(sums->get(), s.a.count, 0.0);
        }
        double* center_sum = grad_center ? center_sums.get() + unit * points.width : nullptr;
        std::fill_n(center_sums.get() + unit * points.width, grad_center ? points.width : 0, 0.0);
        for (int64_t begin = 0; begin < points.count; begin += columns) {
          s.b.pack(points, begin);
          const GramTile<T> tile(library, s.a, s.b, points.width, s.gram);
          for (int64_t i = 0; i < s.a.count; ++i) {
            weight_row(s, tile, i, center_sum);
          }
          if (needs_rows()) {
            add_products(s);
          }
        }
        write_block(s, center_sum);
      }
    });
    if (grad_center) {
      write_center();
    }
  }

  // Makes a row of weights W of a row of the tile.
  void weight_row(Scratch& s, const GramTile<T>& tile, int64_t i, double* center_sum) {
    const int64_t point = s.a.begin + i, first = s.b.begin, n = s.b.count;
    T* weights = s.weights.get() + i * s.b.padded();
    s.row.measure(point, first, n, tile.row(i), s.a.row(i, points.width), s.b.row(0, points.width));
    s.derivatives.clear(n);
    for (size_t p = 0; p < functions.size(); ++p) {
      with_function<T>(functions[p], [&](auto f) {
        s.derivatives.add_row(f, s.row, points.half_variances.get() + first,
                         points.half_variances[point], n, static_cast<T>(upstream[p * 6 + 1]),
                         static_cast<T>(2 * upstream[p * 6 + 2]));
      });
    }
    s.by_variance[i] += s.derivatives.variance;
    add_close(s, i, center_sum);
    const T inverse = points.inverse_norms[point];
    const T* inverses = points.inverse_norms.get() + first;
    Vector<T> own = {}, along = {}, across = {};
    for (int64_t j = 0; j < n; j += kLanes<T>) {
      const Vector<T> square = load<T>(&s.derivatives.square[j]);
      const Vector<T> cosine = load<T>(&s.derivatives.cosine[j]) * inverse;
      const Vector<T> cross = cosine * load<T>(inverses + j);
      own += square;
      across += cross;
      along += first_lanes<T>(n - j) ? cosine * load<T>(&s.row.cosine[j]) : Vector<T>{};
      const Vector<T> weight = cross - T(2) * square;
      std::memcpy(weights + j, &weight, std::min(n - j, kLanes<T>) * sizeof(T));
    }
    std::fill(weights + n, weights + s.b.padded(), T(0));
    const double unit = -lane_total<T>(along) * static_cast<double>(inverse);
    s.own[i] += 2 * lane_total<T>(own) + unit;
    s.of_center[i] += unit + lane_total<T>(across);
  }

  // Adds the terms of close pairs to row i, and takes them out of the derivatives.
  void add_close(Scratch& s, int64_t i, double* center_sum) {
    const int64_t point = s.a.begin + i, first = s.b.begin;
    if (first <= point && point < first + s.b.count) {
      s.derivatives.square[point - first] = s.derivatives.cosine[point - first] = T(0);
    }
    double* total = s.total.get() + i * points.width;
    for (const int32_t j : s.row.near_raw) {
      const double scale = 2 * static_cast<double>(s.derivatives.square[j]);
      s.derivatives.square[j] = T(0);
      s.row.raw_difference(point, first + j, s.difference.get());
      for (int64_t d = 0; scale != 0 && d < points.width; ++d) {
        total[d] += scale * static_cast<double>(s.difference[d]);
      }
    }
    const T* a = s.a.row(i, points.width);
    const double norm = static_cast<double>(points.norms[point]);
    for (const int32_t j : s.row.near_unit) {
      const double scale = static_cast<double>(s.derivatives.cosine[j]) / norm;
      const double square = s.row.unit_difference(point, first + j, a, s.b.row(j, points.width), s.difference.get());
      s.derivatives.cosine[j] = T(0);
      for (int64_t d = 0; scale != 0 && d < points.width; ++d) {
        // dcosine/da = -(a^ - b^ - |a^ - b^|^2/2 a^)/|a|
        const double along = square / 2 * static_cast<double>(a[d]) / norm;
        const double value = scale * (along - static_cast<double>(s.difference[d]));
        total[d] += value;
        if (center_sum != nullptr) {
          center_sum[d] -= value;
        }
      }
    }
  }

  void add_products(Scratch& s) {
    const int64_t width = points.width, along = s.b.padded();
    std::fill(s.weights.get() + s.a.count * along, s.weights.get() + s.a.padded() * along, T(0));
    const Product<T> product(library, s.weights.get(), s.a.padded(), along, s.b.rows.get(), width,
                             Layout::columns, s.product.get());
    for (int64_t at = 0; at < s.a.count * width; ++at) {
      s.total[at] += static_cast<double>(product.data()[at]);
    }
  }

  void write_block(Scratch& s, double* center_sum) {
    const int64_t width = points.width;
    for (int64_t i = 0; i < s.a.count; ++i) {
      const int64_t row = points.visited[s.a.begin + i];
      const T* a = s.a.row(i, width);
      for (int64_t d = 0; center_sum != nullptr && d < width; ++d) {
        center_sum[d] -= s.of_center[i] * static_cast<double>(a[d]);
      }
      if (grad_points) {
        for (int64_t d = 0; d < width; ++d) {
          s.difference[d] =
              static_cast<T>(s.total[i * width + d] + s.own[i] * static_cast<double>(a[d]));
        }
        RowWriter<T>(*grad_points).write(row, s.difference.get());
      }
      if (grad_variances) {
        static_cast<double*>(grad_variances->mutable_data_ptr())[row] = s.by_variance[i];
      }
    }
  }

  void write_center() const {
    auto* out = static_cast<T*>(grad_center->mutable_data_ptr());
    for (int64_t d = 0; d < points.width; ++d) {
      double sum = 0;
      for (int64_t block = 0; block < blocks; ++block) {
        sum += center_sums[block * points.width + d];
      }
      out[d] = static_cast<T>(sum);
    }
  }
};

}  // namespace

void pair_stats_backward(Tensor grad, Tensor stats, Tensor points, OptionalTensor variances,
                         Tensor center, OptionalTensor index, std::vector<int64_t> kinds,
                         std::vector<int64_t> powers, OptionalTensor grad_points,
                         OptionalTensor grad_variances, OptionalTensor grad_center) {
  const auto* found = static_cast<const double*>(stats.const_data_ptr());
  with_accumulation_type(center, [&](auto type) {
    Backward<decltype(type)> job(grad, points, variances, center, index,
                                 requested_functions(kinds, powers, nullptr, found), grad_points,
                                 grad_variances, grad_center);
    job.visit();
  });
}

}  // namespace ncfast::cpu

NCFAST_KERNEL(pair_stats_backward)
