// linear_argmax and nearest_center: the largest of many scores per token. A block owns 128 tokens and
// a group of classes, and keeps best and second of every token in registers: no N x V memory.
#include "dispatch.cuh"
#include "index.cuh"
#include "products.cuh"

namespace ncfast::cuda {
namespace {

using Shape = ProductShape;
constexpr int kTile = Shape::kTile, kThreads = Shape::kThreads, kWarps = kThreads / kWarp;
constexpr int64_t kBlocks = NCFAST_SIZE(512, 2);  // blocks to aim at: few tokens are cut by classes too

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
  int64_t groups, tiles;  // of classes
  int32_t* suspect;  // 1 where a score is not finite: only then are the inputs looked through
};

template <class Source>
struct BestShared {
  union {
    typename ProductMemory<Source>::Type products;
    ProductValues values;
  };
  Best best[kTile];
};

template <class Source>
__global__ void __launch_bounds__(kThreads, 1)
    best_of_groups(Source x, Source head, RawChoice choice, const float* offsets,
                   Decisions decisions) {
  if (!choice.falls_on<Source>()) {
    return;
  }
  auto& shared = shared_memory<BestShared<Source>>();
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t token = blockIdx.x / decisions.groups * kTile, group = blockIdx.x % decisions.groups;
  if (threadIdx.x < kTile) {
    shared.best[threadIdx.x] = {-INFINITY, -INFINITY, -1};
  }
  bool finite = true;
  // int: they are live while a tile is multiplied, and int64 would spill for sm_100a.
  const int last = static_cast<int>((group + 1) * decisions.tiles / decisions.groups);
  for (int t = static_cast<int>(group * decisions.tiles / decisions.groups); t < last; ++t) {
    ProductTile tile;
    multiply_rows(tile, shared.products, x, token, head, int64_t{t} * kTile, x.matrix.width);
    shared.values.put(tile);
    int32_t ids[kTile / kWarp];
    float offset[kTile / kWarp];
#pragma unroll
    for (int c = 0; c < kTile / kWarp; ++c) {
      const int64_t k = int64_t{t} * kTile + c * kWarp + lane;
      ids[c] = static_cast<int32_t>(head.row(k));
      offset[c] = offsets && ids[c] >= 0 ? offsets[k] : 0.0f;
    }
#pragma unroll 1
    for (int row = warp; row < kTile && token + row < x.index.count; row += kWarps) {
      Best best = {-INFINITY, -INFINITY, -1};
#pragma unroll
      for (int c = 0; c < kTile / kWarp; ++c) {
        if (ids[c] >= 0) {
          const float score = shared.values.at[row][c * kWarp + lane] + offset[c];
          finite = finite && is_finite(score);
          best.offer(score, ids[c]);
        }
      }
      for (int distance = 1; distance < kWarp; distance *= 2) {
        const float score = __shfl_xor_sync(kAllLanes, best.score, distance);
        const float second = __shfl_xor_sync(kAllLanes, best.second, distance);
        best.merge(score, second, __shfl_xor_sync(kAllLanes, best.id, distance));
      }
      if (lane == 0) {
        shared.best[row].merge(best.score, best.second, best.id);
      }
    }
  }
  if (!finite) {
    atomicOr(decisions.suspect, 1);
  }
  __syncthreads();
  if (threadIdx.x < kTile && token + threadIdx.x < x.index.count) {
    const Best& winner = shared.best[threadIdx.x];
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
// Means that it would not bring nearer to 0 stay where they are (moved: 0).
__global__ void __launch_bounds__(kThreads) choose_origin(AnyRows means, float* origin,
                                                          int32_t* moved_out) {
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
      const double value = row < 0 ? 0.0 : means.matrix.value(row, d);
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
  if (threadIdx.x == 0) {
    *moved_out = moved ? 1 : 0;
  }
  const float grid = exp2f(floorf(log2f(largest)) - 8);
  for (int64_t d = threadIdx.x; d < width; d += kThreads) {
    origin[d] = moved ? rintf(origin[d] / grid) * grid : 0.0f;
  }
}

// One warp per visited class.
__global__ void half_squares(AnyRows means, float* offsets) {
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

__global__ void find_not_finite_bias(RowIndex index, const float* bias, Findings* findings) {
  const int64_t k = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t row = k < index.count ? index.row(k) : -1;
  if (row >= 0 && !is_finite(bias[row])) {
    findings->report(kNotFiniteBias, row);
  }
}

// Last in the order of findings: it is told of where no input is to blame.
__global__ void find_overflow(const int32_t* suspect, Findings* findings) {
  if (*suspect != 0) {
    findings->report(kOverflow, 0);
  }
}

// `moved`: whether rows are less their origin, known on the device; null: they have none.
void decide(Context& context, const AnyRows& x, const AnyRows& head, const float* offsets,
            const int32_t* moved, int32_t* suspect, int64_t* classes, float* margins) {
  if (head.index.rows > 0x7fffffff) {
    throw std::runtime_error("more than 2^31 classes in one call");
  }
  const int64_t tokens = x.index.count, token_tiles = divide_up(tokens, kTile);
  const int64_t class_tiles = divide_up(head.index.count, kTile);
  int64_t groups = token_tiles > 0 ? divide_up(kBlocks, token_tiles) : 1;
  groups = groups < class_tiles ? groups : class_tiles;
  groups = groups > 0 ? groups : 1;
  const Decisions decisions = {context.workspace<float>(tokens * groups),
                               context.workspace<float>(tokens * groups),
                               context.workspace<int32_t>(tokens * groups), groups, class_tiles,
                               suspect};
  launch(clear_suspect, 1, 1, 0, context, suspect);
  with_either_sources(x, head, {moved, 0}, [&](auto left, auto right, const RawChoice& choice) {
    using Source = decltype(left);
    launch(best_of_groups<Source>, token_tiles * groups, kThreads, sizeof(BestShared<Source>),
           context, left, right, choice, offsets, decisions);
  });
  launch(best_of_all, divide_up(tokens, kThreads), kThreads, 0, context, decisions, tokens,
         classes, margins);
}

// Looks for what made a score not finite, where one was, and publishes what was found.
void report_values(Context& context, const AnyRows& x, const AnyRows& head, const float* bias,
                   const int32_t* suspect, Findings* findings) {
  launch(find_not_finite_rows, divide_up(x.index.count * kWarp, kThreads), kThreads, 0, context, x,
         suspect, kNotFinite, findings);
  launch(find_not_finite_rows, divide_up(head.index.count * kWarp, kThreads), kThreads, 0, context,
         head, suspect, kNotFiniteOther, findings);
  if (bias != nullptr) {
    launch(find_not_finite_bias, divide_up(head.index.count, kThreads), kThreads, 0, context,
           head.index, bias, findings);
  }
  launch(find_overflow, 1, 1, 0, context, suspect, findings);
  Subjects subjects;
  subjects.labels = head.index.data;
  subjects.label_stride = head.index.stride;
  subjects.limit = head.index.rows;
  subjects.features = x.matrix;
  subjects.others = head.matrix;
  subjects.bias = bias;
  publish_findings(context, findings, subjects);
}

}  // namespace

void linear_argmax(Context& context, const Rows& x, const Rows& head_weight, const float* bias,
                   const Integers& index, int64_t* classes, float* margins) {
  Findings* findings = new_findings(context);
  auto* suspect = context.workspace<int32_t>(1);
  const RowIndex visited = checked_index(context, index, head_weight.rows, findings);
  float* offsets = nullptr;
  if (bias != nullptr) {
    offsets = context.workspace<float>(visited.count);
    launch(read_bias, divide_up(visited.count, kThreads), kThreads, 0, context, visited, bias,
           offsets);
  }
  const AnyRows tokens = {any_matrix(x), every_row(x.rows)};
  const AnyRows head = {any_matrix(head_weight), visited};
  decide(context, tokens, head, offsets, nullptr, suspect, classes, margins);
  report_values(context, tokens, head, bias, suspect, findings);
}

void nearest_center(Context& context, const Rows& x, const Rows& means, const Integers& index,
                    int64_t* classes, float* margins) {
  Findings* findings = new_findings(context);
  auto* suspect = context.workspace<int32_t>(1);
  const RowIndex visited = checked_index(context, index, means.rows, findings);
  auto* origin = context.workspace<float>(means.width);
  auto* moved = context.workspace<int32_t>(1);
  auto* offsets = context.workspace<float>(visited.count);
  const AnyRows tokens = {any_matrix(x), every_row(x.rows), origin};
  const AnyRows head = {any_matrix(means), visited, origin};
  launch(choose_origin, 1, kThreads, 8 * 12, context, head, origin, moved);
  launch(half_squares, divide_up(visited.count * kWarp, kThreads), kThreads, 0, context, head,
         offsets);
  decide(context, tokens, head, offsets, moved, suspect, classes, margins);
  report_values(context, tokens, head, nullptr, suspect, findings);
}

}  // namespace ncfast::cuda
