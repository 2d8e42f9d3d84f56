#include "../common/pair_functions.h"
#include "../common/pair_histogram.h"
#include "../common/pair_sums.h"
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
  const std::vector<RequestedFunction> functions;
  std::vector<Bins<T>> bins;
  Triangle triangle;
  std::vector<PairSums> sums;  // per unit and function
  std::vector<std::atomic<int64_t>> counts;

  Forward(const Tensor& matrix, const OptionalTensor& variances, const Tensor& center,
          const OptionalTensor& index, std::vector<RequestedFunction> requested,
          const OptionalTensor& edges)
      : points(kOp, matrix, variances, center, index),
        functions(std::move(requested)),
        triangle(points.count, block_rows(4 * kMiB, row_bytes()),
                 block_rows(3 * kMiB / 2, row_bytes())),
        sums(triangle.units.size() * functions.size()),
        counts(edges ? functions.size() * (edges->size(1) - 1) : 0) {
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
      PairRow<T> row(points, needs_of(functions), triangle.columns);
      std::vector<Histogram<T>> own(bins.begin(), bins.end());
      for (int64_t unit = take(); unit >= 0; unit = take()) {
        const auto [first_row, first_tile, tiles] = triangle.units[unit];
        std::vector<LaneSums<T>> lanes(functions.size());
        a.pack(points, first_row);
        for (int64_t t = first_tile; t < first_tile + tiles; ++t) {
          b.pack(points, first_row + t * triangle.columns);
          const GramTile<T> tile(library(), a, b, points.width, scratch);
          visit_tile(a, b, tile, row, values.get(), lanes, own);
        }
        for (size_t p = 0; p < functions.size(); ++p) {
          sums[unit * functions.size() + p] = lanes[p].total();
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
      for (size_t p = 0; p < functions.size(); ++p) {
        with_function<T>(functions[p], [&](auto f) {
          lanes[p].add_row(f, row, points.half_variances.get() + first,
                           points.half_variances[point], n, functions[p].target, values);
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
    for (size_t p = 0; p < functions.size(); ++p) {
      PairSums total;
      for (size_t unit = 0; unit < triangle.units.size(); ++unit) {
        total.merge(sums[unit * functions.size() + p]);
      }
      const double none = total.count > 0 ? 0 : std::numeric_limits<double>::quiet_NaN();
      const bool energies = functions[p].kind == PairKind::riesz;
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

}  // namespace

void pair_stats(Tensor points, OptionalTensor variances, Tensor center, OptionalTensor index,
                std::vector<int64_t> kinds, std::vector<int64_t> powers, Tensor targets,
                OptionalTensor edges, Tensor stats, Tensor histogram, Tensor coincident) {
  const auto* target = static_cast<const double*>(targets.const_data_ptr());
  with_accumulation_type(center, [&](auto type) {
    Forward<decltype(type)> job(points, variances, center, index,
                                requested_functions(kinds, powers, target, nullptr), edges);
    job.visit();
    job.write(stats, histogram, coincident);
  });
}

}  // namespace ncfast::cpu

NCFAST_KERNEL(pair_stats)
