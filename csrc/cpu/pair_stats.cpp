#include "../common/pair_terms.h"
#include "../common/pairs.h"
#include "../common/parallel.h"
#include "kernel.h"

namespace ncfast::cpu {
namespace {

constexpr const char* kOp = "pair_stats";
constexpr int64_t kMiB = int64_t{1} << 20;

// The upper triangle of all pairs, cut into tiles of `rows` x `columns` and those into units of a
// few tiles beside each other, at most about 4,096 units: their sums are what is kept, so memory
// stays a few hundred KiB at any V. The cut depends on V and D alone.
struct Triangle {
  int64_t count, rows, columns, tiles_per_unit = 1;
  struct Unit {
    int64_t row, first_tile, tiles;
  };
  std::vector<Unit> units;

  Triangle(int64_t points, int64_t row_block, int64_t column_block)
      : count(points), rows(row_block), columns(column_block) {
    int64_t tiles = 0;
    for (int64_t row = 0; row < count; row += rows) {
      tiles += tiles_beside(row);
    }
    tiles_per_unit = std::max<int64_t>(1, tiles / 2048);
    for (int64_t row = 0; row < count; row += rows) {
      for (int64_t tile = 0; tile < tiles_beside(row); tile += tiles_per_unit) {
        units.push_back({row, tile, std::min(tiles_per_unit, tiles_beside(row) - tile)});
      }
    }
  }
  int64_t tiles_beside(int64_t row) const { return (count - row + columns - 1) / columns; }
};

template <class T>
struct Forward {
  const PointSet<T> points;
  const std::vector<PairTerm> terms;
  std::vector<Bins<T>> bins;
  Triangle triangle;
  std::vector<PairSums> sums;  // per unit and term
  std::vector<std::atomic<int64_t>> counts;

  Forward(const Tensor& matrix, const OptionalTensor& variances, const Tensor& center,
          const OptionalTensor& index, std::vector<PairTerm> requested, const OptionalTensor& edges)
      : points(kOp, matrix, variances, center, index),
        terms(std::move(requested)),
        triangle(points.count, block_rows(4 * kMiB, row_bytes()),
                 block_rows(3 * kMiB / 2, row_bytes())),
        sums(triangle.units.size() * terms.size()),
        counts(edges ? terms.size() * (edges->size(1) - 1) : 0) {
    const auto* edge = edges ? static_cast<const double*>(edges->const_data_ptr()) : nullptr;
    for (int64_t p = 0; edges && p < edges->size(0); ++p) {
      bins.emplace_back(kOp, p, edge + p * edges->size(1), edges->size(1) - 1);
    }
  }
  Library library() const { return library_for<T>(points.count * points.count / 2 * points.width); }
  int64_t row_bytes() const { return points.width * static_cast<int64_t>(sizeof(T)); }

  void visit() {
    parallel_units(static_cast<int64_t>(triangle.units.size()), [&](const auto& take) {
      PointBlock<T> a(triangle.rows, points.width), b(triangle.columns, points.width);
      const GramScratch<T> scratch(triangle.rows, triangle.columns);
      Buffer<T> values(triangle.columns + kLanes<T>);
      PairRow<T> row(points, needs_of(terms), triangle.columns);
      std::vector<Histogram<T>> own(bins.begin(), bins.end());
      for (int64_t unit = take(); unit >= 0; unit = take()) {
        const auto [first_row, first_tile, tiles] = triangle.units[unit];
        std::vector<LaneSums<T>> lanes(terms.size());
        a.pack(points, first_row);
        for (int64_t t = first_tile; t < first_tile + tiles; ++t) {
          b.pack(points, first_row + t * triangle.columns);
          const GramTile<T> tile(library(), a, b, points.width, scratch);
          visit_tile(a, b, tile, row, values.get(), lanes, own);
        }
        for (size_t p = 0; p < terms.size(); ++p) {
          sums[unit * terms.size() + p] = lanes[p].total();
        }
      }
      // Whole numbers: adding them in any order is exact.
      for (size_t p = 0; p < own.size(); ++p) {
        for (int64_t bin = 0; bin < own[p].bins(); ++bin) {
          counts[p * own[p].bins() + bin] += own[p].total(bin);
        }
      }
    });
  }

  void visit_tile(const PointBlock<T>& a, const PointBlock<T>& b, const GramTile<T>& tile,
                  PairRow<T>& row, T* values, std::vector<LaneSums<T>>& lanes, std::vector<Histogram<T>>& own) {
    for (int64_t i = 0; i < a.count; ++i) {
      const int64_t point = a.begin + i, first = std::max(b.begin, point + 1);
      const int64_t n = b.begin + b.count - first, skipped = first - b.begin;
      if (n <= 0) {
        break;  // nor do the rows below reach beyond the diagonal
      }
      row.measure(point, first, n, tile.row(i) + skipped, a.row(i, points.width),
                  b.row(skipped, points.width));
      for (size_t p = 0; p < terms.size(); ++p) {
        with_function<T>(terms[p], [&](auto f) {
          lanes[p].add_row(f, row, points.half_variances.get() + first,
                           points.half_variances[point], n, terms[p].target, values);
        });
        if (!own.empty()) {
          own[p].add(values, n);
        }
      }
    }
  }

  void write(const Tensor& stats, const Tensor& histogram, const Tensor& coincident) const {
    auto* out = static_cast<double*>(stats.mutable_data_ptr());
    auto* same = static_cast<int64_t*>(coincident.mutable_data_ptr());
    for (size_t p = 0; p < terms.size(); ++p) {
      PairSums total;
      for (size_t unit = 0; unit < triangle.units.size(); ++unit) {
        total.merge(sums[unit * terms.size() + p]);
      }
      const double none = total.count > 0 ? 0 : std::numeric_limits<double>::quiet_NaN();
      const bool energies = terms[p].kind == PairKind::riesz;
      const double values[6] = {total.count,
                                energies ? total.energies.log_sum() : total.sum,
                                energies ? total.energies.log_squares() : total.squares,
                                total.minimum + none,
                                total.maximum + none,
                                total.deviation};
      std::copy_n(values, 6, out + p * 6);
      same[p] = total.coincident;
    }
    auto* bin = static_cast<int64_t*>(histogram.mutable_data_ptr());
    std::copy(counts.begin(), counts.end(), bin);
  }
};

// A row's gradient needs every other point, so both triangles are visited and no two threads add to
// one row. With C = dL/d(squared distance), E = dL/dcosine and W = E/(|a||b|) - 2 C:
//     grad a = sum_b W b + (sum_b 2 C - E cosine/|a|^2) a.
// Terms of close pairs would cancel in it: they are added one by one, from differences.
template <class T>
struct Backward {
  const PointSet<T> points;
  const std::vector<PairTerm> terms;
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
          row(job.points, needs_of(job.terms), job.columns),
          derivatives(job.columns) {}
  };

  Backward(const Tensor& grad, const Tensor& matrix, const OptionalTensor& variances,
           const Tensor& center, const OptionalTensor& index, std::vector<PairTerm> requested,
           const OptionalTensor& for_points, const OptionalTensor& for_variances,
           const OptionalTensor& for_center)
      : points(kOp, matrix, variances, center, index),
        terms(std::move(requested)),
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
    for (size_t p = 0; p < terms.size(); ++p) {
      with_function<T>(terms[p], [&](auto f) {
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

void pair_stats(Tensor points, OptionalTensor variances, Tensor center, OptionalTensor index,
                std::vector<int64_t> kinds, std::vector<int64_t> powers, Tensor targets,
                OptionalTensor edges, Tensor stats, Tensor histogram, Tensor coincident) {
  const auto* target = static_cast<const double*>(targets.const_data_ptr());
  with_accumulation_type(center, [&](auto type) {
    Forward<decltype(type)> job(points, variances, center, index,
                                pair_terms(kinds, powers, target, nullptr), edges);
    job.visit();
    job.write(stats, histogram, coincident);
  });
}

void pair_stats_backward(Tensor grad, Tensor stats, Tensor points, OptionalTensor variances,
                         Tensor center, OptionalTensor index, std::vector<int64_t> kinds,
                         std::vector<int64_t> powers, OptionalTensor grad_points,
                         OptionalTensor grad_variances, OptionalTensor grad_center) {
  const auto* found = static_cast<const double*>(stats.const_data_ptr());
  with_accumulation_type(center, [&](auto type) {
    Backward<decltype(type)> job(grad, points, variances, center, index,
                                 pair_terms(kinds, powers, nullptr, found), grad_points,
                                 grad_variances, grad_center);
    job.visit();
  });
}

}  // namespace ncfast::cpu

NCFAST_KERNEL(pair_stats)
NCFAST_KERNEL(pair_stats_backward)
