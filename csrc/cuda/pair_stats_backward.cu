// Gradients of pair_stats. With R a pair's derivative along a - b and C that along a/|a| - b/|b|,
//     grad a = sum_b R (a - b) + 2 C/|a| (a/|a| - b/|b|) - C u/|a|^2 a,  u = |a/|a| - b/|b||^2,
// which for pairs that are not near is own_a a + sum_b W b: a panel of weights W is made from tiles
// of the Gram matrix and multiplied into the rows. Terms of near pairs would cancel in it: they are
// added one by one, from differences.
#include "columns.cuh"
#include "pairs.cuh"
#include "panels.cuh"

#include <algorithm>

namespace ncfast::cuda {
namespace {

using Shape = ProductShape;
constexpr int kTile = Shape::kTile, kThreads = Shape::kThreads, kWarps = kThreads / kWarp;
constexpr int kNearRows = 8;     // rows whose near pairs one warp looks after
constexpr int kCenterRows = 64;  // rows that one thread adds up for the center
constexpr int64_t kSpan = NCFAST_SIZE(2048, 256);  // 16 MB a panel

struct Upstream {
  const double *grad, *stats;  // [functions, 6]: sums in column 1, sums of squares in column 2
  PairFunctions functions;
  bool raw, log_unit;  // which distances the functions ask for

  __device__ __forceinline__ float derivative(int p, float value) const {
    return static_cast<float>(grad[p * 6 + 1]) + 2 * static_cast<float>(grad[p * 6 + 2]) * value;
  }
  // Of log sum e^v and log sum e^2v: shares of the sums, of which v is too close to theirs in float.
  __device__ __forceinline__ float energy_derivative(int p, float value) const {
    const double* of = stats + p * 6;
    const float share = expf(static_cast<float>(value - of[1]));
    const float of_squares = expf(static_cast<float>(2.0 * value - of[2]));
    return static_cast<float>(grad[p * 6 + 1]) * share +
           2 * static_cast<float>(grad[p * 6 + 2]) * of_squares;
  }
};

// The derivatives of one pair; `variance` by either point's variance.
struct PairDerivative {
  float raw = 0, unit = 0, variance = 0, cosine = 0, unit_square = 0;
  bool raw_near = false, unit_near = false;
};

template <bool kRaw>
__device__ __forceinline__ PairDerivative derivative_of(const Upstream& up, const PairsOfRow<kRaw>& pairs,
                                              float product) {
  PairDerivative result;
  const Measured& m = pairs.m;
  const int64_t i = pairs.i, j = pairs.j;
  Distance raw = {0, false};
  if (up.raw) {
    raw = pairs.raw_distance(product);
  }
  const bool defined = pairs.defined();
  result.cosine = pairs.cosine(product);
  const Distance unit = pairs.unit_distance(result.cosine, up.log_unit);
  result.unit_square = unit.square;
  result.raw_near = raw.near;
  result.unit_near = unit.near;
  if (unit.near) {
    result.cosine = 1 - unit.square / 2;
  }
  if (!pairs.real) {
    return result;
  }
  const bool apart = raw.square > 0, unit_apart = defined && unit.square > 0;
  const float safe = apart ? raw.square : 1.0f, safe_unit = unit_apart ? unit.square : 1.0f;
#pragma unroll 1
  for (int p = 0; p < up.functions.count; ++p) {
    const int kind = up.functions.kinds[p], power = up.functions.powers[p];
    if (kind == kCdnv && apart) {
      const float once = 1 / safe, all = power == 1 ? once : once / safe;
      const float value = (m.half_variances[i] + m.half_variances[j]) * all;
      const float derivative = up.derivative(p, value);
      result.variance += derivative * all / 2;
      result.raw -= 2 * static_cast<float>(power) * derivative * value / safe;
    } else if (kind == kLogDistanceRaw && apart) {
      result.raw -= up.derivative(p, -0.5f * logf(safe)) / safe;
    } else if (kind == kCosine && defined) {
      result.unit -= up.derivative(p, result.cosine) / 2;
    } else if (kind == kLogDistance && unit_apart) {
      result.unit -= up.derivative(p, -0.5f * logf(safe_unit)) / (2 * safe_unit);
    } else if (kind == kRiesz && unit_apart) {
      const float s = static_cast<float>(power);
      result.unit -= s * up.energy_derivative(p, s * (-0.5f * logf(safe_unit))) / (2 * safe_unit);
    }
  }
  return result;
}

// What the pairs of one row add to scalars: multiples of the row itself in its gradient and in the
// center's, and the gradient of its variance.
struct RowPart {
  float own, center, variance;
};
struct RowTotals {
  double *own, *center, *variance;
};

// Panels of weights: of pairs that are not near, and, only where `flags` says that a row has any in
// a tile, of near ones.
struct PairPanels {
  Panel weights;
  float *raw_near, *unit_near;
  int32_t* flags;  // [rows, column tiles]
  RowPart* parts;  // [rows, column tiles]
  int64_t column_tiles, first_row, first_column;
};

template <class Source>
union DerivativeShared {
  typename ProductMemory<Source>::Type products;
  ProductValues values;
};

template <class Source>
__global__ void __launch_bounds__(kThreads, 1)
    fill_pairs(Source source, KernelVariant variant, AnyRows points, Measured m,
               const __grid_constant__ Upstream up, PairPanels panels) {
  if (!variant.runs<Source>()) {
    return;
  }
  auto& shared = shared_memory<DerivativeShared<Source>>();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t tile_row = blockIdx.x / panels.column_tiles * kTile;
  const int64_t tile_of_columns = blockIdx.x % panels.column_tiles;
  const int64_t first_row = panels.first_row + tile_row;
  const int64_t first_column = panels.first_column + tile_of_columns * kTile;
  ProductTile tile;
  multiply_rows(tile, shared.products, source, first_row, source, first_column,
                points.matrix.width);
  shared.values.put(tile);
#pragma unroll 1
  for (int r = static_cast<int>(threadIdx.x) / kWarp; r < kTile; r += kWarps) {
    const int64_t i = first_row + r, at = (tile_row + r) * panels.weights.stride;
    const bool exists = points.row(i) >= 0;
    RowPart part = {0, 0, 0};
    bool near = false;
#pragma unroll 1
    for (int c = lane; c < kTile; c += kWarp) {
      const int64_t j = first_column + c;
      PairDerivative derivative;
      if (exists) {
        const bool real = i != j && points.row(j) >= 0;
        const PairsOfRow<kIsRaw<Source>> row = {points, m, i, real ? j : i, real};
        derivative = derivative_of(up, row, shared.values.at[r][c]);
      }
      const float inverse = derivative.unit != 0 ? 1 / m.norms[i] : 0.0f;
      const float raw = derivative.raw_near ? 0.0f : derivative.raw;
      const float unit = derivative.unit_near ? -derivative.unit * derivative.unit_square * inverse * inverse
                                         : 2 * derivative.unit * derivative.cosine * inverse * inverse;
      const float cross =
          derivative.unit_near || derivative.unit == 0 ? 0.0f : 2 * derivative.unit * inverse / m.norms[j];
      part.own += raw + unit;
      part.center += cross - unit;
      part.variance += derivative.variance;
      const int64_t to = at + tile_of_columns * kTile + c;
      panels.weights.data[to] = -raw - cross;
      panels.raw_near[to] = derivative.raw_near ? derivative.raw : 0.0f;
      panels.unit_near[to] = derivative.unit_near ? derivative.unit : 0.0f;
      near = near || derivative.raw_near || derivative.unit_near;
    }
    const int any = __any_sync(kAllLanes, near);
    part = {warp_sum(part.own), warp_sum(part.center), warp_sum(part.variance)};
    if (lane == 0) {
      const int64_t to = (tile_row + r) * panels.column_tiles + tile_of_columns;
      panels.parts[to] = part;
      panels.flags[to] = any;
    }
  }
}

// A thread per row of the panel, its tiles in order.
__global__ void add_parts(PairPanels panels, int64_t count, RowTotals totals) {
  const int64_t r = int64_t{blockIdx.x} * kThreads + threadIdx.x, i = panels.first_row + r;
  if (r >= kSpan || i >= count) {
    return;
  }
  const bool fresh = panels.first_column == 0;
  double own = fresh ? 0 : totals.own[i], center = fresh ? 0 : totals.center[i];
  double variance = fresh ? 0 : totals.variance[i];
  for (int64_t t = 0; t < panels.column_tiles; ++t) {
    const RowPart& part = panels.parts[r * panels.column_tiles + t];
    own += part.own;
    center += part.center;
    variance += part.variance;
  }
  totals.own[i] = own;
  totals.center[i] = center;
  totals.variance[i] = variance;
}

// A warp per kNearRows rows and kWarp columns: adds their near pairs, from differences.
__global__ void add_near(AnyRows points, Measured m, PairPanels panels, int64_t column_blocks,
                         RowSums out, Matrix<float> center) {
  const int64_t warp = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarp;
  const int64_t d = warp % column_blocks * kWarp + threadIdx.x % kWarp;
  const int64_t begin = warp / column_blocks * kNearRows;
  if (begin >= kSpan || panels.first_row + begin >= points.index.count || d >= points.matrix.width) {
    return;
  }
  const float center_value = points.center[d];
  float of_center = 0;
  for (int64_t r = begin; r < begin + kNearRows; ++r) {
    const int64_t i = panels.first_row + r, row = points.row(i);
    float sum = 0;
    for (int64_t t = 0; row >= 0 && t < panels.column_tiles; ++t) {
      if (panels.flags[r * panels.column_tiles + t] == 0) {
        continue;
      }
      const float a = points.matrix.value(row, d);
      for (int64_t c = t * kTile; c < (t + 1) * kTile; ++c) {
        const float raw = panels.raw_near[r * panels.weights.stride + c];
        const float unit = panels.unit_near[r * panels.weights.stride + c];
        if (raw == 0 && unit == 0) {
          continue;
        }
        const int64_t j = panels.first_column + c;
        const float b = points.matrix.value(points.row(j), d);
        sum += raw * (a - b);
        if (unit != 0) {
          const float difference = (a - center_value) / m.norms[i] - (b - center_value) / m.norms[j];
          const float along = 2 * unit / m.norms[i] * difference;
          sum += along;
          of_center -= along;
        }
      }
    }
    if (sum != 0 && out.sums.data != nullptr) {
      *out.sums.at(out.index.row(out.first + r), d) += sum;
    }
  }
  if (center.data != nullptr) {
    float* at = center.at((panels.first_row + begin) / kNearRows, d);
    *at = panels.first_column == 0 ? of_center : *at + of_center;
  }
}

// grad a = sums + own a, rounded once; a warp per row.
__global__ void finish_points(AnyRows points, const double* own, RowSums sums, AnyMatrix out) {
  const int64_t k = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarp;
  const int64_t row = points.row(k);
  for (int64_t d = threadIdx.x % kWarp; row >= 0 && d < out.width; d += kWarp) {
    const float a = points.matrix.value(row, d) - points.center[d];
    out.store(row, d, *sums.sums.at(sums.index.row(k), d) + static_cast<float>(own[k]) * a);
  }
}

__global__ void finish_variances(RowIndex index, const double* totals, double* out) {
  const int64_t k = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (k < index.count && index.row(k) >= 0) {
    out[index.row(k)] = totals[k];
  }
}

// Multiples of kCenterRows rows, added up; a thread per column.
__global__ void sum_center(AnyRows points, const double* weights, int64_t column_blocks,
                           Matrix<float> sums) {
  const int64_t chunk = blockIdx.x / column_blocks;
  const int64_t d = blockIdx.x % column_blocks * kThreads + threadIdx.x;
  if (d >= sums.width) {
    return;
  }
  float sum = 0;
  for (int64_t k = chunk * kCenterRows; k < (chunk + 1) * kCenterRows; ++k) {
    const int64_t row = points.row(k);
    if (row >= 0) {
      const float a = points.matrix.value(row, d) - points.center[d];
      sum += static_cast<float>(weights[k]) * a;
    }
  }
  *sums.at(chunk, d) = sum;
}

Upstream upstream_of(const double* grad, const double* stats, const PairFunctions& functions) {
  Upstream up = {grad, stats, functions, false, false};
  for (int p = 0; p < functions.count; ++p) {
    up.raw |= functions.kinds[p] == kCdnv || functions.kinds[p] == kLogDistanceRaw;
    up.log_unit |= functions.kinds[p] == kLogDistance || functions.kinds[p] == kRiesz;
  }
  return up;
}

PairPanels new_panels(Context& context, int64_t span) {
  const int64_t tiles = span / kTile;
  return {{context.workspace<float>(span * span), span},
          context.workspace<float>(span * span),
          context.workspace<float>(span * span),
          context.workspace<int32_t>(span * tiles),
          context.workspace<RowPart>(span * tiles),
          0,
          0,
          0};
}

// Every panel: rows outside, so that what a row adds up is added in the order of the columns.
void visit_panels(Context& context, const AnyRows& points, const Measured& m, const Upstream& up,
                  const RowTotals& totals, RowSums out, const Matrix<float>& center) {
  const int64_t count = points.index.count, width = points.matrix.width;
  PairPanels panels = new_panels(context, std::min(kSpan, divide_up(count, kTile) * kTile));
  const int64_t column_blocks = divide_up(width, kWarp);
  const KernelVariant variant = m.variant(count);
  for (int64_t row = 0; row < count; row += kSpan) {
    const int64_t rows_here = std::min(kSpan, count - row);
    for (int64_t column = 0; column < count; column += kSpan) {
      const int64_t columns_here = std::min(kSpan, count - column);
      panels.column_tiles = divide_up(columns_here, kTile);
      panels.first_row = row;
      panels.first_column = column;
      with_either_sources(points, points, variant, [&](auto source, auto, const KernelVariant& of_launch) {
        using Source = decltype(source);
        launch(fill_pairs<Source>, divide_up(rows_here, kTile) * panels.column_tiles, kThreads,
               sizeof(DerivativeShared<Source>), context, source, of_launch, points, m, up, panels);
      });
      launch(add_parts, divide_up(rows_here, kThreads), kThreads, 0, context, panels, count,
             totals);
      out.first = row;
      out.fresh = column == 0;
      if (out.sums.data != nullptr) {
        add_panel<false>(context, panels.weights, {points, column, columns_here, nullptr}, out,
                         rows_here);
      }
      launch(add_near, divide_up(divide_up(rows_here, kNearRows) * column_blocks, kWarps), kThreads,
             0, context, points, m, panels, column_blocks, out, center);
    }
  }
}

}  // namespace

void pair_stats_backward(Context& context, const double* grad, const double* stats,
                         const Rows& points, const double* variances, const float* center,
                         const Integers& index, const std::vector<int64_t>& kinds,
                         const std::vector<int64_t>& powers, const Rows& grad_points,
                         double* grad_variances, float* grad_center) {
  DeviceErrors* errors = new_errors(context);
  const RowIndex visited = checked_index(context, index, points.rows, errors);
  const AnyRows rows = {any_matrix(points), visited, center};
  const int64_t count = visited.count, width = points.width;
  const RowTotals totals = {context.workspace<double>(count), context.workspace<double>(count),
                            context.workspace<double>(count)};
  const Measured measured = measure(context, rows, variances, errors);
  RowSums sums = {{}, visited, 0, true};
  if (grad_points.data != nullptr && grad_points.dtype == Dtype::float32) {
    sums.sums = matrix<float>(grad_points);
  } else if (grad_points.data != nullptr) {
    sums.sums = contiguous(context.workspace<float>(count * width), count, width);
    sums.index = every_row(count);
  }
  Matrix<float> near;
  if (grad_center != nullptr) {
    const int64_t groups = divide_up(count, kNearRows);
    near = contiguous(context.workspace<float>(groups * width), groups, width);
  }
  const PairFunctions functions = pair_functions("pair_stats_backward", kinds, powers, nullptr);
  visit_panels(context, rows, measured, upstream_of(grad, stats, functions), totals, sums, near);
  if (grad_points.data != nullptr) {
    launch(finish_points, divide_up(count * kWarp, kThreads), kThreads, 0, context, rows,
           totals.own, sums, any_matrix(grad_points));
  }
  if (grad_variances != nullptr) {
    launch(finish_variances, divide_up(count, kThreads), kThreads, 0, context, visited,
           totals.variance, grad_variances);
  }
  if (grad_center != nullptr) {
    const int64_t chunks = divide_up(count, kCenterRows), blocks = divide_up(width, kThreads);
    const auto parts = contiguous(context.workspace<float>(chunks * width), chunks, width);
    launch(sum_center, chunks * blocks, kThreads, 0, context, rows, totals.center, blocks, parts);
    write_column_sums(context, parts, grad_center, near);
  }
  Subjects subjects = subjects_of_index(visited);
  subjects.features = rows.matrix;
  subjects.weights = variances;
  publish_errors(context, errors, subjects);
}

NCFAST_KERNEL(pair_stats_backward)

}  // namespace ncfast::cuda
