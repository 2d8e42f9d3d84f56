// The largest of many scores per token. A block owns 128 tokens and a group of classes, and keeps
// best and second of every token in registers: no N x V memory.
#include "decisions.cuh"

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
  int32_t* nonfinite;  // 1 where a score is not finite: only then are the inputs looked through
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
    best_of_groups(Source x, Source head, KernelVariant variant, const float* offsets,
                   Decisions decisions) {
  if (!variant.runs<Source>()) {
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
    atomicOr(decisions.nonfinite, 1);
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

__global__ void find_not_finite_bias(RowIndex index, const float* bias, DeviceErrors* errors) {
  const int64_t k = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t row = k < index.count ? index.row(k) : -1;
  if (row >= 0 && !is_finite(bias[row])) {
    errors->report(kNotFiniteBias, row);
  }
}

// Last in the order of errors: it is published where every input is finite.
__global__ void find_overflow(const int32_t* nonfinite, DeviceErrors* errors) {
  if (*nonfinite != 0) {
    errors->report(kOverflow, 0);
  }
}

}  // namespace

void decide(Context& context, const AnyRows& x, const AnyRows& head, const float* offsets,
            const int32_t* moved, int32_t* nonfinite, int64_t* classes, float* margins) {
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
                               nonfinite};
  launch(clear_flag, 1, 1, 0, context, nonfinite);
  with_either_sources(x, head, {moved, 0}, [&](auto left, auto right, const KernelVariant& variant) {
    using Source = decltype(left);
    launch(best_of_groups<Source>, token_tiles * groups, kThreads, sizeof(BestShared<Source>),
           context, left, right, variant, offsets, decisions);
  });
  launch(best_of_all, divide_up(tokens, kThreads), kThreads, 0, context, decisions, tokens,
         classes, margins);
}

void report_values(Context& context, const AnyRows& x, const AnyRows& head, const float* bias,
                   const int32_t* nonfinite, DeviceErrors* errors) {
  launch(find_not_finite_rows, divide_up(x.index.count * kWarp, kThreads), kThreads, 0, context, x,
         nonfinite, kNotFinite, errors);
  launch(find_not_finite_rows, divide_up(head.index.count * kWarp, kThreads), kThreads, 0, context,
         head, nonfinite, kNotFiniteOther, errors);
  if (bias != nullptr) {
    launch(find_not_finite_bias, divide_up(head.index.count, kThreads), kThreads, 0, context,
           head.index, bias, errors);
  }
  launch(find_overflow, 1, 1, 0, context, nonfinite, errors);
  Subjects subjects;
  subjects.labels = head.index.data;
  subjects.label_stride = head.index.stride;
  subjects.limit = head.index.rows;
  subjects.features = x.matrix;
  subjects.others = head.matrix;
  subjects.bias = bias;
  publish_errors(context, errors, subjects);
}

}  // namespace ncfast::cuda
