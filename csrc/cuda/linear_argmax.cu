// linear_argmax and nearest_center: the largest of many scores per token. A block owns 128 tokens and
// a group of classes, and keeps best and second of every token in registers: no N x V memory.
#include "dispatch.cuh"
#include "index.cuh"
#include "products.cuh"

#include <type_traits>

namespace ncfast::cuda {
namespace {

using Shape = ProductShape;
constexpr int kTile = Shape::kTile, kThreads = Shape::kThreads, kRows = Shape::kWarpRows * 2;
constexpr int64_t kBlocks = 512;  // blocks to aim at: few tokens are cut by classes too

// Best and second-best score so far. Ties go to the lowest id.
struct Best {
  float score, second;
  int32_t id;

  __device__ __forceinline__ void offer(float candidate, int32_t candidate_id) {
    if (id < 0 || candidate > score || (candidate == score && candidate_id < id)) {
      second = id < 0 ? -INFINITY : score;
      score = candidate;
      id = candidate_id;
    } else if (candidate > second) {
      second = candidate;
    }
  }
  __device__ __forceinline__ void merge(float other, float other_second, int32_t other_id) {
    if (other_id >= 0) {
      offer(other, other_id);
      second = other_second > second ? other_second : second;
    }
  }
};

struct Decisions {
  float *scores, *seconds;  // [tokens, groups]
  int32_t* ids;
  int64_t groups;
  int32_t* suspect;  // 1 where a score is not finite: only then are the inputs looked through
};

template <bool kSixteen, class X, class W>
__global__ void __launch_bounds__(kThreads)
    best_of_groups(Rows32<X> x, Rows32<W> head, const float* offsets, Decisions decisions) {
  struct Ends {
    float scores[kTile][Shape::kAcross], seconds[kTile][Shape::kAcross];
    int32_t ids[kTile][Shape::kAcross];
  };
  struct Shared {
    union {
      Shape::Floats floats;
      Shape::Sixteen<X> sixteen;
      Ends ends;
    };
  };
  Shared& shared = shared_memory<Shared>();
  const int64_t token = blockIdx.x / decisions.groups * kTile, group = blockIdx.x % decisions.groups;
  const int64_t tiles = (head.index.count + kTile - 1) / kTile;
  Best best[kRows];
  bool finite = true;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    best[r] = {-INFINITY, -INFINITY, -1};
  }
  for (int64_t t = group * tiles / decisions.groups; t < (group + 1) * tiles / decisions.groups; ++t) {
    ProductTile tile;
    if constexpr (kSixteen) {
      multiply_rows_16<X>(tile, shared.sixteen, x, token, head, t * kTile, x.matrix.width);
    } else {
      multiply_rows(tile, shared.floats, x, token, head, t * kTile, x.matrix.width);
    }
#pragma unroll
    for (int c = 0; c < Shape::kWarpColumns; ++c) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int64_t k = t * kTile + warp_column() + ProductTile::column(c, i);
        const int64_t row = head.row(k);
        if (row < 0) {
          continue;
        }
        const float offset = offsets ? offsets[k] : 0.0f;
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const float score = tile.values[r / 2][c][r % 2 * 2 + i] + offset;
          finite = finite && is_finite(score);
          best[r].offer(score, static_cast<int32_t>(row));
        }
      }
    }
  }
  if (!finite) {
    atomicOr(decisions.suspect, 1);
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    // The four lanes that share a row hold different columns of it.
    for (int distance = 1; distance < 4; distance *= 2) {
      const float score = __shfl_xor_sync(kAllLanes, best[r].score, distance);
      const float second = __shfl_xor_sync(kAllLanes, best[r].second, distance);
      best[r].merge(score, second, __shfl_xor_sync(kAllLanes, best[r].id, distance));
    }
    const int row = warp_row() + ProductTile::row(r / 2, r % 2 * 2);
    const int across = static_cast<int>(threadIdx.x) / kWarp % Shape::kAcross;
    if (threadIdx.x % 4 == 0) {
      shared.ends.scores[row][across] = best[r].score;
      shared.ends.seconds[row][across] = best[r].second;
      shared.ends.ids[row][across] = best[r].id;
    }
  }
  __syncthreads();
  if (threadIdx.x < kTile && token + threadIdx.x < x.index.count) {
    Best winner = {-INFINITY, -INFINITY, -1};
    for (int across = 0; across < Shape::kAcross; ++across) {
      winner.merge(shared.ends.scores[threadIdx.x][across],
                   shared.ends.seconds[threadIdx.x][across], shared.ends.ids[threadIdx.x][across]);
    }
    const int64_t at = (token + threadIdx.x) * decisions.groups + group;
    decisions.scores[at] = winner.score;
    decisions.seconds[at] = winner.second;
    decisions.ids[at] = winner.id;
  }
}

__global__ void best_of_all(Decisions decisions, int64_t tokens, int64_t* classes, float* margins) {
  const int64_t token = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (token >= tokens) {
    return;
  }
  Best winner = {-INFINITY, -INFINITY, -1};
  for (int64_t group = 0; group < decisions.groups; ++group) {
    const int64_t at = token * decisions.groups + group;
    winner.merge(decisions.scores[at], decisions.seconds[at], decisions.ids[at]);
  }
  classes[token] = winner.id;
  margins[token] = winner.score - winner.second;
}

// What is added to the score of every visited class: its bias.
__global__ void read_bias(RowIndex index, const float* bias, float* offsets) {
  const int64_t k = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (k < index.count) {
    const int64_t row = index.row(k);
    offsets[k] = row < 0 ? 0.0f : bias[row];
  }
}

// -|x - m|^2/2 and <x - c, m - c> - |m - c|^2/2 differ by nothing that depends on m. With c near the
// means the products are small, and so is their rounding: c is the mean of some visited rows, kept
// to 1/256 of its largest entry so that small whole numbers less it are exact, and tie as they should.
template <class T>
__global__ void __launch_bounds__(kThreads) choose_origin(Rows32<T> means, float* origin) {
  struct Shared {
    double sums[kThreads / kWarp];
    float largest[kThreads / kWarp];
  };
  Shared& shared = shared_memory<Shared>();
  const int64_t width = means.matrix.width;
  const int64_t step = means.index.count / 64 > 1 ? means.index.count / 64 : 1;
  double gain = 0;
  float largest = 0;
  for (int64_t d = threadIdx.x; d < width; d += kThreads) {
    double sum = 0, squares = 0;
    int taken = 0;
    for (int64_t k = 0; k < means.index.count; k += step, ++taken) {
      const int64_t row = means.row(k);
      const double value = row < 0 ? 0.0 : to_float(*means.matrix.at(row, d));
      sum += value;
      squares += value * value;
    }
    const double mean = sum / taken;
    origin[d] = static_cast<float>(mean);
    gain += 2 * mean * mean - squares / taken;
    largest = fabsf(origin[d]) > largest ? fabsf(origin[d]) : largest;
  }
  gain = block_sum(gain, shared.sums, kThreads / kWarp);
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    const float other = __shfl_xor_sync(kAllLanes, largest, distance);
    largest = other > largest ? other : largest;
  }
  if (threadIdx.x % kWarp == 0) {
    shared.largest[threadIdx.x / kWarp] = largest;
  }
  __syncthreads();
  for (int w = 0; w < kThreads / kWarp; ++w) {
    largest = shared.largest[w] > largest ? shared.largest[w] : largest;
  }
  const bool moved = gain > 0 && is_finite(largest);
  const float grid = exp2f(floorf(log2f(largest)) - 8);
  for (int64_t d = threadIdx.x; d < width; d += kThreads) {
    origin[d] = moved ? rintf(origin[d] / grid) * grid : 0.0f;
  }
}

// One warp per visited class.
template <class T>
__global__ void half_squares(Rows32<T> means, float* offsets) {
  const int64_t k = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarp;
  if (k >= means.index.count) {
    return;
  }
  float sum = 0;
  for (int64_t d = threadIdx.x % kWarp * kOctet; d < means.matrix.width; d += kWarp * kOctet) {
    float values[kOctet];
    means.finish(means.fetch(k, d), d, values);
#pragma unroll
    for (int i = 0; i < kOctet; ++i) {
      sum += values[i] * values[i];
    }
  }
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp == 0) {
    offsets[k] = -0.5f * sum;
  }
}

__global__ void clear_suspect(int32_t* suspect) { *suspect = 0; }

template <class T>
__global__ void find_not_finite_rows(Rows32<T> rows, const int32_t* suspect, Finding finding,
                                     Findings* findings) {
  const int64_t k = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarp;
  const int64_t row = k < rows.index.count && *suspect != 0 ? rows.row(k) : -1;
  for (int64_t d = threadIdx.x % kWarp; row >= 0 && d < rows.matrix.width; d += kWarp) {
    if (!is_finite(to_float(*rows.matrix.at(row, d)))) {
      findings->report(finding, row * rows.matrix.width + d);
    }
  }
}

__global__ void find_not_finite_bias(RowIndex index, const float* bias, Findings* findings) {
  const int64_t k = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t row = k < index.count ? index.row(k) : -1;
  if (row >= 0 && !is_finite(bias[row])) {
    findings->report(kNotFiniteBias, row);
  }
}

template <class X, class W>
void decide(Context& context, const Rows32<X>& x, const Rows32<W>& head, const float* offsets,
            int32_t* suspect, int64_t* classes, float* margins) {
  const int64_t tokens = x.index.count, token_tiles = divide_up(tokens, kTile);
  const int64_t class_tiles = divide_up(head.index.count, kTile);
  int64_t groups = token_tiles > 0 ? divide_up(kBlocks, token_tiles) : 1;
  groups = groups < class_tiles ? groups : class_tiles;
  groups = groups > 0 ? groups : 1;
  const Decisions decisions = {context.workspace<float>(tokens * groups),
                               context.workspace<float>(tokens * groups),
                               context.workspace<int32_t>(tokens * groups), groups, suspect};
  constexpr size_t kShared = sizeof(Shape::Floats);
  static_assert(kShared >= sizeof(Shape::Sixteen<Half>) && kShared >= 12 * kTile * Shape::kAcross);
  auto* kernel = best_of_groups<false, X, W>;
  if constexpr (std::is_same_v<X, W> && !std::is_same_v<X, float>) {
    const bool whole = x.matrix.packed && head.matrix.packed && x.matrix.width % kOctet == 0;
    kernel = whole && x.origin == nullptr ? best_of_groups<true, X, W> : kernel;
  }
  launch(clear_suspect, 1, 1, 0, context, suspect);
  launch(kernel, token_tiles * groups, kThreads, kShared, context, x, head, offsets, decisions);
  launch(best_of_all, divide_up(tokens, kThreads), kThreads, 0, context, decisions, tokens,
         classes, margins);
}

// Looks for what made a score not finite, where one was, and publishes what was found.
template <class X, class W>
void report_values(Context& context, const Rows32<X>& x, const Rows32<W>& head, const float* bias,
                   const int32_t* suspect, Findings* findings, Op op) {
  launch(find_not_finite_rows<X>, divide_up(x.index.count * kWarp, kThreads), kThreads, 0, context,
         x, suspect, kNotFinite, findings);
  launch(find_not_finite_rows<W>, divide_up(head.index.count * kWarp, kThreads), kThreads, 0,
         context, head, suspect, kNotFiniteOther, findings);
  if (bias != nullptr) {
    launch(find_not_finite_bias, divide_up(head.index.count, kThreads), kThreads, 0, context,
           head.index, bias, findings);
  }
  Subjects<X, W> subjects;
  subjects.labels = head.index.data;
  subjects.label_stride = head.index.stride;
  subjects.limit = head.index.rows;
  subjects.features = x.matrix;
  subjects.others = head.matrix;
  subjects.bias = bias;
  publish_findings(context, findings, op, subjects);
}

template <class Body>
void with_types(const Rows& x, const Rows& head, Body&& body) {
  if (x.width > 0 && x.rows > 0x7fffffff) {
    throw std::runtime_error("more than 2^31 tokens in one call");
  }
  with_type(x.dtype, [&](auto a) { with_type(head.dtype, [&](auto b) { body(a, b); }); });
}

RowIndex every_row(int64_t rows) { return {nullptr, rows, 1, rows, false}; }

}  // namespace

void linear_argmax(Context& context, const Rows& x, const Rows& head_weight, const float* bias,
                   const Integers& index, int64_t* classes, float* margins) {
  with_types(x, head_weight, [&](auto a, auto b) {
    using X = decltype(a);
    using W = decltype(b);
    Findings* findings = new_findings(context);
    auto* suspect = context.workspace<int32_t>(1);
    const RowIndex visited = checked_index(context, index, head_weight.rows, findings);
    float* offsets = nullptr;
    if (bias != nullptr) {
      offsets = context.workspace<float>(visited.count);
      launch(read_bias, divide_up(visited.count, kThreads), kThreads, 0, context, visited, bias,
             offsets);
    }
    const Rows32<X> tokens = {matrix<X>(x), every_row(x.rows), nullptr};
    const Rows32<W> head = {matrix<W>(head_weight), visited, nullptr};
    decide(context, tokens, head, offsets, suspect, classes, margins);
    report_values(context, tokens, head, bias, suspect, findings, kLinearArgmax);
  });
}

void nearest_center(Context& context, const Rows& x, const Rows& means, const Integers& index,
                    int64_t* classes, float* margins) {
  with_types(x, means, [&](auto a, auto b) {
    using X = decltype(a);
    using W = decltype(b);
    Findings* findings = new_findings(context);
    auto* suspect = context.workspace<int32_t>(1);
    const RowIndex visited = checked_index(context, index, means.rows, findings);
    auto* origin = context.workspace<float>(means.width);
    auto* offsets = context.workspace<float>(visited.count);
    const Rows32<X> tokens = {matrix<X>(x), every_row(x.rows), origin};
    const Rows32<W> head = {matrix<W>(means), visited, origin};
    launch(choose_origin<W>, 1, kThreads, 8 * 12, context, head, origin);
    launch(half_squares<W>, divide_up(visited.count * kWarp, kThreads), kThreads, 0, context, head,
           offsets);
    decide(context, tokens, head, offsets, suspect, classes, margins);
    report_values(context, tokens, head, static_cast<const float*>(nullptr), suspect, findings,
                  kNearestCenter);
  });
}

}  // namespace ncfast::cuda
