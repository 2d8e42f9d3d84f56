#include "../common/pairs.h"

#include "../common/finite.h"
#include "ops.h"

namespace ncfast::cpu {
namespace {

constexpr const char* kOp = "pair_stats";
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Sums over pairs for one term; doubles, merged tile by tile in a fixed order.
struct Partial {
  double count = 0, sum = 0, squares = 0, least = kInfinity, most = -kInfinity, deviation = 0;
  int64_t coincident = 0;

  void merge(const Partial& other) {
    count += other.count;
    sum += other.sum;
    squares += other.squares;
    least = std::min(least, other.least);
    most = std::max(most, other.most);
    deviation += other.deviation;
    coincident += other.coincident;
  }
};

struct Request {
  std::vector<PairTerm> terms;
  bool raw = false, unit = false;

  Request(const std::vector<int64_t>& kinds, const std::vector<int64_t>& powers,
          const std::vector<double>& targets) {
    for (size_t p = 0; p < kinds.size(); ++p) {
      terms.push_back({static_cast<PairKind>(kinds[p]), static_cast<double>(powers[p]), targets[p]});
      raw |= terms[p].kind == PairKind::cdnv || terms[p].kind == PairKind::log_distance_raw;
      unit |= terms[p].kind == PairKind::log_distance;
    }
  }
};

// Uniform bins [low, low + bins / scale]; values outside are counted nowhere.
struct Bins {
  double low = 0, scale = 0;
  int64_t count = 0;
};

// The value of a term at some lanes, and which of them are pairs that count.
template <class T>
Vector<T> term_value(const PairTerm& term, const PairLanes<T>& lanes, Vector<T> variances,
                     Vector<T> defined, Mask<T>& counts, Mask<T>& coincident) {
  if (term.kind == PairKind::cosine) {
    coincident = Mask<T>{};
    return lanes.cosine;
  }
  const Vector<T> square = term.kind == PairKind::log_distance ? lanes.unit : lanes.raw;
  Mask<T> apart = square > Vector<T>{};
  if (term.kind == PairKind::log_distance) {
    apart = apart & (defined > Vector<T>{});  // a zero vector has no direction
  }
  coincident = counts & ~apart;
  counts = counts & apart;
  const Vector<T> safe = apart ? square : Vector<T>{} + T(1);
  if (term.kind != PairKind::cdnv) {
    return T(-0.5) * log_of(safe);
  }
  const Vector<T> once = T(0.5) * variances / safe;
  return term.power == 1 ? once : once / safe;
}

template <class T>
void visit_tile(const PointBlock<T>& a, const PointBlock<T>& b, int64_t width, const T* tile,
                const Request& request, const std::vector<Bins>& bins, Partial* partials,
                std::vector<std::vector<int64_t>>& histograms) {
  Mask<T> lane_number;
  for (int64_t lane = 0; lane < kLanes<T>; ++lane) {
    lane_number[lane] = static_cast<Integer<T>>(lane);
  }
  const bool diagonal = a.begin == b.begin;
  for (size_t p = 0; p < request.terms.size(); ++p) {
    const PairTerm& term = request.terms[p];
    const bool needs_raw = term.kind == PairKind::cdnv || term.kind == PairKind::log_distance_raw;
    const bool needs_unit = term.kind == PairKind::log_distance;
    double sum[kLanes<T>] = {}, squares[kLanes<T>] = {}, deviation[kLanes<T>] = {};
    Vector<T> least = Vector<T>{} + static_cast<T>(kInfinity), most = -least;
    Partial& partial = partials[p];
    int64_t pairs = 0;
    for (int64_t i = 0; i < a.count; ++i) {
      const int64_t first = diagonal ? (i + 1) / kLanes<T> * kLanes<T> : 0;
      Vector<T> row_sum = {}, row_squares = {}, row_deviation = {};
      for (int64_t j = first; j < b.count; j += kLanes<T>) {
        const PairLanes<T> lanes(a, b, width, tile + i * kPairTile, i, j, needs_raw, needs_unit);
        const Mask<T> column = lane_number + static_cast<Integer<T>>(j);
        Mask<T> counts = column < static_cast<Integer<T>>(b.count);
        if (diagonal) {
          counts = counts & (column > static_cast<Integer<T>>(i));
        }
        Mask<T> coincident;
        const Vector<T> value = term_value<T>(
            term, lanes, load<T>(b.variances.get() + j) + a.variances[i],
            load<T>(b.inverse_norms.get() + j) * a.inverse_norms[i], counts, coincident);
        const Vector<T> kept = counts ? value : Vector<T>{};
        row_sum += kept;
        row_squares += kept * kept;
        const Vector<T> away = kept - static_cast<T>(term.target);
        row_deviation += counts ? (away < Vector<T>{} ? -away : away) : Vector<T>{};
        least = (counts & (value < least)) ? value : least;
        most = (counts & (value > most)) ? value : most;
        for (int64_t lane = 0; lane < kLanes<T>; ++lane) {
          pairs -= counts[lane];
          partial.coincident -= coincident[lane];
        }
        if (bins[p].count > 0) {
          for (int64_t lane = 0; lane < kLanes<T>; ++lane) {
            const double at = (static_cast<double>(value[lane]) - bins[p].low) * bins[p].scale;
            // The last edge belongs to the last bin, as in numpy.histogram.
            if (counts[lane] && at >= 0 && at <= static_cast<double>(bins[p].count)) {
              ++histograms[p][std::min(static_cast<int64_t>(at), bins[p].count - 1)];
            }
          }
        }
      }
      for (int64_t lane = 0; lane < kLanes<T>; ++lane) {
        sum[lane] += static_cast<double>(row_sum[lane]);
        squares[lane] += static_cast<double>(row_squares[lane]);
        deviation[lane] += static_cast<double>(row_deviation[lane]);
      }
    }
    partial.count = static_cast<double>(pairs);
    for (int64_t lane = 0; lane < kLanes<T>; ++lane) {
      partial.sum += sum[lane];
      partial.squares += squares[lane];
      partial.deviation += deviation[lane];
      partial.least = std::min(partial.least, static_cast<double>(least[lane]));
      partial.most = std::max(partial.most, static_cast<double>(most[lane]));
    }
  }
}

std::vector<Bins> read_bins(const OptionalTensor& edges, size_t terms) {
  std::vector<Bins> bins(terms);
  if (edges) {
    const auto* edge = static_cast<const double*>(edges->const_data_ptr());
    const int64_t count = edges->size(1) - 1;
    for (size_t p = 0; p < terms; ++p) {
      const double low = edge[p * (count + 1)], high = edge[p * (count + 1) + count];
      bins[p] = {low, static_cast<double>(count) / (high - low), count};
    }
  }
  return bins;
}

// Tile t of the upper triangle of blocks x blocks, row by row.
std::pair<int64_t, int64_t> tile_of(int64_t t, int64_t blocks) {
  int64_t i = 0;
  while (t >= blocks - i) {
    t -= blocks - i;
    ++i;
  }
  return {i, i + t};
}

template <class T>
void forward(const Tensor& points, const OptionalTensor& variances, const Tensor& center,
             const OptionalTensor& index, const Request& request, const OptionalTensor& edges,
             const Tensor& stats, const Tensor& histogram, const Tensor& coincident) {
  const int64_t width = points.size(1), terms = static_cast<int64_t>(request.terms.size());
  const RowIndex rows(kOp, index, points.size(0));
  const RowReader<T> reader(points);
  std::vector<bool> visited(points.size(0), !index.has_value());
  for (int64_t k = 0; k < rows.count; ++k) {
    visited[rows[k]] = true;
  }
  check_finite_rows<T>(kOp, "points", points, [&](int64_t i) { return visited[i]; });
  const auto* origin = static_cast<const T*>(center.const_data_ptr());
  const auto* variance =
      variances ? static_cast<const double*>(variances->const_data_ptr()) : nullptr;
  const std::vector<Bins> bins = read_bins(edges, request.terms.size());
  const int64_t blocks = (rows.count + kPairTile - 1) / kPairTile;
  const int64_t tiles = blocks * (blocks + 1) / 2;
  std::vector<Partial> partials(tiles * terms);
  auto* counts = static_cast<int64_t*>(histogram.mutable_data_ptr());
  std::vector<std::atomic<int64_t>> shared(histogram.numel());
  parallel_units(tiles, [&](const auto& take) {
    PointBlock<T> a(width), b(width);
    Buffer<T> tile(kPairTile * kPairTile + kLanes<T>);
    std::vector<std::vector<int64_t>> own;
    for (const Bins& bin : bins) {
      own.emplace_back(bin.count, 0);
    }
    for (int64_t unit = take(); unit >= 0; unit = take()) {
      const auto [i, j] = tile_of(unit, blocks);
      a.pack(reader, rows, origin, variance, i);
      b.pack(reader, rows, origin, variance, j);
      gram_tile(a, b, width, tile.get());
      visit_tile(a, b, width, tile.get(), request, bins, &partials[unit * terms], own);
    }
    // Whole numbers: adding them in any order is exact.
    for (size_t p = 0; p < own.size(); ++p) {
      for (size_t bin = 0; bin < own[p].size(); ++bin) {
        shared[p * own[p].size() + bin] += own[p][bin];
      }
    }
  });
  for (size_t at = 0; at < shared.size(); ++at) {
    counts[at] = shared[at];
  }
  auto* out = static_cast<double*>(stats.mutable_data_ptr());
  auto* same = static_cast<int64_t*>(coincident.mutable_data_ptr());
  for (int64_t p = 0; p < terms; ++p) {
    Partial total;
    for (int64_t t = 0; t < tiles; ++t) {
      total.merge(partials[t * terms + p]);
    }
    const double none = total.count > 0 ? 0 : std::numeric_limits<double>::quiet_NaN();
    const double values[6] = {total.count,        total.sum,         total.squares,
                              total.least + none, total.most + none, total.deviation};
    std::copy_n(values, 6, out + p * 6);
    same[p] = total.coincident;
  }
}

// dL/d(squared distance) and dL/dcosine of one pair, and dL/d(variance) of either point.
struct Slope {
  double square = 0, cosine = 0, variance = 0;
};

template <class T>
Slope slope_of(const Request& request, const double* grad, double variance, double raw,
               double unit, double cosine, bool defined) {
  Slope slope;
  for (size_t p = 0; p < request.terms.size(); ++p) {
    const PairTerm& term = request.terms[p];
    const double by_sum = grad[p * 6 + 1], by_squares = 2 * grad[p * 6 + 2];
    if (term.kind == PairKind::cosine) {
      slope.cosine += by_sum + by_squares * cosine;
      continue;
    }
    const bool of_units = term.kind == PairKind::log_distance;
    const double square = of_units ? unit : raw;
    if (!(square > 0) || (of_units && !defined)) {
      continue;
    }
    if (term.kind == PairKind::cdnv) {
      const double share = 0.5 / (term.power == 1 ? square : square * square);
      const double by_value = by_sum + by_squares * variance * share;
      slope.variance += by_value * share;
      slope.square -= by_value * variance * share * term.power / square;
      continue;
    }
    const double by_value = by_sum + by_squares * -0.5 * std::log(square);
    if (of_units) {
      slope.cosine += by_value / square;  // unit square = 2 - 2 cosine
    } else {
      slope.square -= 0.5 * by_value / square;
    }
  }
  return slope;
}

// A row's gradient needs every other point, so both triangles are visited and no two threads add
// to one row. With C = dL/d(square) and E = dL/dcosine / |b|: grad a = 2 (sum C) a - 2 C B, and
// (E B - cosine part along a) / |a|.
template <class T>
void backward(const Tensor& grad, const Tensor& points, const OptionalTensor& variances,
              const Tensor& center, const OptionalTensor& index, const Request& request,
              const OptionalTensor& grad_points, const OptionalTensor& grad_variances,
              const OptionalTensor& grad_center) {
  const int64_t width = points.size(1);
  const RowIndex rows(kOp, index, points.size(0));
  const RowReader<T> reader(points);
  const auto* origin = static_cast<const T*>(center.const_data_ptr());
  const auto* variance =
      variances ? static_cast<const double*>(variances->const_data_ptr()) : nullptr;
  const auto* upstream = static_cast<const double*>(grad.const_data_ptr());
  const int64_t blocks = (rows.count + kPairTile - 1) / kPairTile;
  Buffer<double> center_sums(blocks * width);
  parallel_units(blocks, [&](const auto& take) {
    PointBlock<T> a(width), b(width);
    Buffer<T> tile(kPairTile * kPairTile + kLanes<T>), weights(kPairTile * kPairTile);
    Buffer<T> product(kPairTile * width), row(width);
    Buffer<double> total(kPairTile * width), own(kPairTile), by_variance(kPairTile);
    for (int64_t unit = take(); unit >= 0; unit = take()) {
      a.pack(reader, rows, origin, variance, unit);
      std::fill_n(total.get(), a.count * width, 0.0);
      std::fill_n(own.get(), a.count, 0.0);
      std::fill_n(by_variance.get(), a.count, 0.0);
      for (int64_t block = 0; block < blocks; ++block) {
        b.pack(reader, rows, origin, variance, block);
        gram_tile(a, b, width, tile.get());
        for (int64_t i = 0; i < a.count; ++i) {
          for (int64_t j = 0; j < b.count; ++j) {
            const int64_t at = j / kLanes<T> * kLanes<T>, lane = j - at;
            T* weight = &weights[i * kPairTile + j];
            if (a.begin + i == b.begin + j) {
              *weight = T(0);
              continue;
            }
            const PairLanes<T> lanes(a, b, width, tile.get() + i * kPairTile, i, at, request.raw,
                                     request.unit);
            const double inverse = static_cast<double>(a.inverse_norms[i]) *
                                   static_cast<double>(b.inverse_norms[j]);
            const Slope slope = slope_of<T>(
                request, upstream,
                static_cast<double>(a.variances[i]) + static_cast<double>(b.variances[j]),
                static_cast<double>(lanes.raw[lane]), static_cast<double>(lanes.unit[lane]),
                static_cast<double>(lanes.cosine[lane]), inverse > 0);
            // grad a = sum_j weight_j b_j + own a
            *weight = static_cast<T>(slope.cosine * inverse - 2 * slope.square);
            own[i] += 2 * slope.square;
            if (inverse > 0) {
              own[i] -= slope.cosine * static_cast<double>(lanes.cosine[lane]) /
                        static_cast<double>(a.squares[i]);
            }
            by_variance[i] += slope.variance;
          }
        }
        multiply(matrix_view(weights.get(), a.count, b.count, kPairTile, int64_t{1}),
                 matrix_view(b.rows.get(), b.count, width, width, int64_t{1}),
                 matrix_view(product.get(), a.count, width, width, int64_t{1}));
        for (int64_t at = 0; at < a.count * width; ++at) {
          total[at] += static_cast<double>(product[at]);
        }
      }
      double* center_sum = center_sums.get() + unit * width;
      std::fill_n(center_sum, width, 0.0);
      for (int64_t i = 0; i < a.count; ++i) {
        for (int64_t d = 0; d < width; ++d) {
          const double value =
              total[i * width + d] + own[i] * static_cast<double>(a.rows[i * width + d]);
          row[d] = static_cast<T>(value);
          center_sum[d] -= value;
        }
        if (grad_points) {
          RowWriter<T>(*grad_points).write(rows[a.begin + i], row.get());
        }
        if (grad_variances) {
          static_cast<double*>(grad_variances->mutable_data_ptr())[rows[a.begin + i]] =
              by_variance[i];
        }
      }
    }
  });
  if (!grad_center) {
    return;
  }
  auto* out = static_cast<T*>(grad_center->mutable_data_ptr());
  for (int64_t d = 0; d < width; ++d) {
    double sum = 0;
    for (int64_t block = 0; block < blocks; ++block) {
      sum += center_sums[block * width + d];
    }
    out[d] = static_cast<T>(sum);
  }
}

}  // namespace

void pair_stats(Tensor points, OptionalTensor variances, Tensor center, OptionalTensor index,
                std::vector<int64_t> kinds, std::vector<int64_t> powers, Tensor targets,
                OptionalTensor edges, Tensor stats, Tensor histogram, Tensor coincident) {
  const auto* target = static_cast<const double*>(targets.const_data_ptr());
  const Request request(kinds, powers, {target, target + kinds.size()});
  with_accumulation_type(center, [&](auto type) {
    forward<decltype(type)>(points, variances, center, index, request, edges, stats, histogram,
                            coincident);
  });
}

void pair_stats_backward(Tensor grad, Tensor points, OptionalTensor variances, Tensor center,
                         OptionalTensor index, std::vector<int64_t> kinds,
                         std::vector<int64_t> powers, OptionalTensor grad_points,
                         OptionalTensor grad_variances, OptionalTensor grad_center) {
  const std::vector<double> targets(kinds.size(), 0.0);
  const Request request(kinds, powers, targets);
  with_accumulation_type(center, [&](auto type) {
    backward<decltype(type)>(grad, points, variances, center, index, request, grad_points,
                             grad_variances, grad_center);
  });
}

}  // namespace ncfast::cpu
