// Functions of every pair of points. Tiles of the upper triangle of the Gram matrix stay on the
// chip, where the functions are formed and added up; nothing of V x V is stored.
#include "pair_sums.cuh"
#include "pairs.cuh"
#include "triangle.cuh"

namespace ncfast::cuda {
namespace {

using Shape = ProductShape;
constexpr int kTile = Shape::kTile, kThreads = Shape::kThreads, kWarps = kThreads / kWarp;
constexpr int64_t kUnits = NCFAST_SIZE(2048, 2);      // blocks at most, each with its own sums
constexpr int64_t kSharedBins = NCFAST_SIZE(2048, 96);  // a histogram of more is counted in global memory

// Bins must be of one width, to within a thousandth.
__global__ void check_edges(const double* edges, int64_t bins, DeviceErrors* errors) {
  const double* edge = edges + blockIdx.x * (bins + 1);
  const double width = (edge[bins] - edge[0]) / static_cast<double>(bins);
  for (int64_t i = threadIdx.x; i <= bins; i += kWarp) {
    const double away = edge[i] - edge[0] - static_cast<double>(i) * width;
    if (!(width > 0 && width <= 1.7976931348623157e308 && away <= 1e-3 * width &&
          away >= -1e-3 * width)) {
      errors->report(kBadEdges, blockIdx.x);
    }
  }
}

struct PairValue {
  float value;
  bool counts, coincident;
};

// A function of the pairs of a row, from their products.
template <bool kRaw>
__device__ __forceinline__ PairValue pair_value(int kind, int power, const PairsOfRow<kRaw>& pairs,
                                                float product) {
  const Measured& m = pairs.m;
  if (kind == kCdnv || kind == kLogDistanceRaw) {
    const float square = pairs.raw_distance(product).square;
    const bool apart = square > 0;
    const float safe = apart ? square : 1.0f;
    const float once = (m.half_variances[pairs.i] + m.half_variances[pairs.j]) / safe;
    const float value = kind == kLogDistanceRaw ? -0.5f * logf(safe) : power == 1 ? once : once / safe;
    return {value, apart, !apart};
  }
  const bool defined = pairs.defined();
  const float cosine = pairs.cosine(product);
  const Distance distance = pairs.unit_distance(cosine, kind != kCosine);
  if (kind == kCosine) {
    return {distance.near ? 1 - distance.square / 2 : cosine, true, !defined};
  }
  const bool apart = defined && distance.square > 0;
  const float value = -0.5f * logf(apart ? distance.square : 1.0f);
  return {kind == kRiesz ? static_cast<float>(power) * value : value, apart, !apart};
}

struct Bins {
  const double* edges;
  int64_t count;
  unsigned long long* counts;
  int64_t all;     // of every function
  bool in_shared;  // counted there first

  // Bin floor((value - first) B / (last - first)) in float32; the last edge is in the last bin.
  __device__ __forceinline__ int64_t bin(int function, float value) const {
    const double* edge = edges + function * (count + 1);
    const float low = static_cast<float>(edge[0]), high = static_cast<float>(edge[count]);
    if (!(value >= low && value <= high)) {
      return -1;
    }
    const float scale = static_cast<float>(static_cast<double>(count) / (edge[count] - edge[0]));
    const auto at = static_cast<int64_t>((value - low) * scale);
    return at < count ? at : count - 1;
  }
};

template <class Source>
struct PairShared {
  union {
    typename ProductMemory<Source>::Type operands;
    ProductValues products;
  };
  double sums[kWarps][PairFunctions::kMax][kParts];
  int32_t bins[kSharedBins];
};

// One function of the pairs of a tile, of which a thread has those of a column in every second row;
// the sums of a warp, on every lane.
template <class Source>
__device__ __forceinline__ PairSums fold_tile(PairShared<Source>& shared, const AnyRows& points,
                                              const Measured& measured,
                                              const PairFunctions& functions, int p,
                                              int64_t first_row, int64_t first_column,
                                              const Bins& bins) {
  const int column = static_cast<int>(threadIdx.x) % kTile;
  const int64_t j = first_column + column;
  const bool exists = points.row(j) >= 0;
  const bool energies = functions.kinds[p] == kRiesz;
  float sum = 0, squares = 0, deviation = 0, minimum = INFINITY, maximum = -INFINITY;
  int pairs = 0, coincident = 0;
#pragma unroll 1
  for (int r = static_cast<int>(threadIdx.x) / kTile; r < kTile; r += kThreads / kTile) {
    const int64_t i = first_row + r;
    if (points.row(i) < 0) {
      continue;
    }
    const bool real = exists && i < j;
    const PairsOfRow<kIsRaw<Source>> row = {points, measured, i, real ? j : i, real};
    const PairValue pair =
        pair_value(functions.kinds[p], functions.powers[p], row, shared.products.at[r][column]);
    coincident += real && pair.coincident ? 1 : 0;
    if (!real || !pair.counts) {
      continue;
    }
    ++pairs;
    float value = pair.value;
    if (energies) {
      const float share = share_of(maximum, pair.value);
      value = share_of(pair.value, maximum);
      sum *= share;
      squares *= share * share;
    }
    sum += value;
    squares += value * value;
    deviation += fabsf(pair.value - functions.targets[p]);
    minimum = pair.value < minimum ? pair.value : minimum;
    maximum = pair.value > maximum ? pair.value : maximum;
    const int64_t bin = bins.count > 0 ? bins.bin(p, pair.value) : -1;
    if (bin >= 0 && bins.in_shared) {
      atomicAdd(&shared.bins[p * bins.count + bin], 1);
    } else if (bin >= 0) {
      atomicAdd(&bins.counts[p * bins.count + bin], 1ull);
    }
  }
  PairSums sums = {{static_cast<double>(pairs), sum, squares, minimum, maximum, deviation,
                    static_cast<double>(coincident)}};
  sums.merge_lanes(energies);
  return sums;
}

template <class Source>
__global__ void __launch_bounds__(kThreads, 1)
    visit_pairs(Source source, KernelVariant variant, AnyRows points, Measured measured,
                const __grid_constant__ PairFunctions functions, TriangleWalk walk, Bins bins,
                double* partials) {
  if (!variant.runs<Source>()) {
    return;
  }
  auto& shared = shared_memory<PairShared<Source>>();
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  PairSums sums;
  sums.clear();
  for (int p = lane; p < functions.count; p += kWarp) {
    store_sums(sums, shared.sums[warp][p]);
  }
  for (int b = threadIdx.x; bins.in_shared && b < bins.all; b += kThreads) {
    shared.bins[b] = 0;
  }
  for (int64_t t = blockIdx.x; t < walk.places; t += gridDim.x) {
    int64_t row_tile, column_tile;
    if (!walk.tile(t, row_tile, column_tile)) {
      continue;
    }
    ProductTile tile;
    multiply_rows(tile, shared.operands, source, row_tile * kTile, source,
                  column_tile * kTile, points.matrix.width);
    shared.products.put(tile);
    for (int p = 0; p < functions.count; ++p) {
      sums = fold_tile(shared, points, measured, functions, p, row_tile * kTile,
                       column_tile * kTile, bins);
      if (lane == 0) {
        sums.merge(shared.sums[warp][p], functions.kinds[p] == kRiesz);
        store_sums(sums, shared.sums[warp][p]);
      }
    }
  }
  __syncthreads();
  if (threadIdx.x < functions.count) {
    sums.clear();
    for (int w = 0; w < kWarps; ++w) {
      sums.merge(shared.sums[w][threadIdx.x], functions.kinds[threadIdx.x] == kRiesz);
    }
    store_sums(sums, partials + (int64_t{blockIdx.x} * functions.count + threadIdx.x) * kParts);
  }
  for (int64_t b = threadIdx.x; bins.in_shared && b < bins.all; b += kThreads) {
    if (shared.bins[b] != 0) {
      atomicAdd(&bins.counts[b], static_cast<unsigned long long>(shared.bins[b]));
    }
  }
}

__global__ void clear_counts(unsigned long long* counts, int64_t count) {
  const int64_t b = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (b < count) {
    counts[b] = 0;
  }
}

// One warp per function: every lane adds up some of the blocks, in order, then lanes are added.
__global__ void finish_functions(const double* partials, int64_t units,
                                 const __grid_constant__ PairFunctions functions, double* stats,
                                 int64_t* coincident) {
  const int p = blockIdx.x;
  const bool energies = functions.kinds[p] == kRiesz;
  PairSums total;
  total.clear();
  for (int64_t unit = threadIdx.x; unit < units; unit += kWarp) {
    total.merge(partials + (unit * functions.count + p) * kParts, energies);
  }
  total.merge_lanes(energies);
  if (threadIdx.x == 0) {
    if (energies) {
      total.parts[1] = total.parts[4] + log(total.parts[1]);
      total.parts[2] = 2 * total.parts[4] + log(total.parts[2]);
    }
#pragma unroll
    for (int i = 0; i < 6; ++i) {
      const bool none = total.parts[0] == 0 && (i == 3 || i == 4);
      stats[p * 6 + i] = none ? NAN : total.parts[i];
    }
    coincident[p] = static_cast<int64_t>(total.parts[6]);
  }
}

}  // namespace

// targets lie on the CPU; stats [functions, 6].
void pair_stats(Context& context, const Rows& points, const double* variances, const float* center,
                const Integers& index, const std::vector<int64_t>& kinds,
                const std::vector<int64_t>& powers, const double* targets,
                const Table<double>& edge_rows, double* stats, int64_t* histogram,
                int64_t* coincident) {
  const PairFunctions functions = pair_functions("pair_stats", kinds, powers, targets);
  const double* edges = edge_rows.data;
  const int64_t bins = edges ? edge_rows.width - 1 : 0;
  DeviceErrors* errors = new_errors(context);
  const RowIndex visited = checked_index(context, index, points.rows, errors);
  const AnyRows rows = {any_matrix(points), visited, center};
  const TriangleWalk walk(divide_up(visited.count, kTile));
  const int64_t units = walk.places < kUnits ? walk.places : kUnits;
  auto* partials = context.workspace<double>(units * functions.count * kParts);
  const int64_t all_bins = bins * functions.count;
  const Bins binning = {edges, bins, reinterpret_cast<unsigned long long*>(histogram), all_bins,
                        all_bins <= kSharedBins};
  launch(check_center, divide_up(points.width, kThreads), kThreads, 0, context, center,
         points.width, errors);
  if (edges != nullptr) {
    launch(check_edges, functions.count, kWarp, 0, context, edges, bins, errors);
  }
  launch(clear_counts, divide_up(all_bins, kThreads), kThreads, 0, context, binning.counts,
         all_bins);
  const Measured measured = measure(context, rows, variances, errors);
  const KernelVariant variant = measured.variant(visited.count);
  with_either_sources(rows, rows, variant, [&](auto source, auto, const KernelVariant& of_launch) {
    using Source = decltype(source);
    launch(visit_pairs<Source>, units, kThreads, sizeof(PairShared<Source>), context, source,
           of_launch, rows, measured, functions, walk, binning, partials);
  });
  launch(finish_functions, functions.count, kWarp, 0, context, partials, units, functions, stats,
         coincident);
  Subjects subjects;
  subjects.labels = visited.data;
  subjects.label_stride = visited.stride;
  subjects.limit = visited.rows;
  subjects.features = rows.matrix;
  subjects.weights = variances;
  subjects.bias = center;
  subjects.edges = edges;
  subjects.bins = bins;
  publish_errors(context, errors, subjects);
}

NCFAST_KERNEL(pair_stats)

}  // namespace ncfast::cuda
