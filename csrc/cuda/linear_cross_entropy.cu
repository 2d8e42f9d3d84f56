// nll and log-sum-exp of a linear classifier. A block owns 128 tokens and a group of classes, and
// folds the logits of each tile as it is made: none is kept but those to be stored.
#include "logits.cuh"

namespace ncfast::cuda {
namespace {

using Shape = ProductShape;
constexpr int kTile = Shape::kTile, kThreads = Shape::kThreads, kWarps = kThreads / kWarp;
constexpr int64_t kBlocks = NCFAST_SIZE(512, 2);  // blocks to aim at: few tokens are cut by classes too
constexpr int64_t kClearChunk = NCFAST_SIZE(4096, 64);

// Log-sum-exp so far, as most + ln(sum), and the plain sum that label smoothing asks for.
struct Fold {
  float maximum, sum, total;
};

struct Folds {
  Fold* data;  // [valid tokens, groups]
  int64_t groups;
  bool totals;
  float* targets;    // the logit of the label; not written where it is in another shard
  int32_t* nonfinite;  // 1 where a product is not finite: only then are the features looked through
};

// Adds the logits z of a warp's lanes, and the plain sum of a lane's.
template <int kCount>
__device__ __forceinline__ Fold fold_warp(const Fold& before, const float (&z)[kCount],
                                          float total) {
  float maximum = before.maximum;
#pragma unroll
  for (int c = 0; c < kCount; ++c) {
    maximum = z[c] > maximum ? z[c] : maximum;
  }
  maximum = warp_max(maximum);
  float sum = 0;
#pragma unroll
  for (int c = 0; c < kCount; ++c) {
    sum += z[c] == -INFINITY ? 0.0f : expf(z[c] - maximum);  // NaN stays NaN
  }
  const float old = before.maximum == maximum ? before.sum : before.sum * expf(before.maximum - maximum);
  return {maximum, old + warp_sum(sum), before.total + warp_sum(total)};
}

template <class Source>
struct FoldShared {
  union {
    typename ProductMemory<Source>::Type products;
    ProductValues values;
  };
  Fold folds[kTile];
  int32_t labels[kTile];
};

template <class Source>
__global__ void __launch_bounds__(kThreads, 1)
    fold_logits(Source x, Source head, LogitEpilogue epilogue, ValidTokens valid,
                StoredLogits stored, Folds folds) {
  auto& shared = shared_memory<FoldShared<Source>>();
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t token = blockIdx.x / folds.groups * kTile, group = blockIdx.x % folds.groups;
  const int64_t tiles = (epilogue.classes + kTile - 1) / kTile, count = valid.count();
  if (token >= count) {
    return;
  }
  const int64_t columns = stored.columns(count, epilogue.classes);
  if (threadIdx.x < kTile) {
    shared.folds[threadIdx.x] = {-INFINITY, 0, 0};
    shared.labels[threadIdx.x] =
        token + threadIdx.x < count ? valid.labels[token + threadIdx.x] : -1;
  }
  bool finite = true;
  for (int64_t t = group * tiles / folds.groups; t < (group + 1) * tiles / folds.groups; ++t) {
    ProductTile tile;
    multiply_rows(tile, shared.products, x, token, head, t * kTile, x.matrix.width);
    shared.values.put(tile);
#pragma unroll 1
    for (int row = warp; row < kTile && token + row < count; row += kWarps) {
      float z[kTile / kWarp], total = 0;
#pragma unroll
      for (int c = 0; c < kTile / kWarp; ++c) {
        const int64_t j = t * kTile + c * kWarp + lane;
        const float product = shared.values.at[row][c * kWarp + lane];
        finite = finite && is_finite(product);
        z[c] = j < epilogue.classes ? epilogue.logit(product, j) : -INFINITY;
        total += folds.totals && j < epilogue.classes ? z[c] : 0.0f;
        if (j == shared.labels[row]) {
          folds.targets[token + row] = z[c];
        }
        if (j < columns) {
          stored.data[(token + row) * columns + j] = z[c];
        }
      }
      const Fold fold = fold_warp(shared.folds[row], z, total);
      __syncwarp();  // shuffles order no memory, and every lane has read the last fold
      if (lane == 0) {
        shared.folds[row] = fold;
      }
    }
  }
  if (!finite) {
    atomicOr(folds.nonfinite, 1);
  }
  __syncthreads();
  if (threadIdx.x < kTile && token + threadIdx.x < count) {
    folds.data[(token + threadIdx.x) * folds.groups + group] = shared.folds[threadIdx.x];
  }
}

struct Smoothing {
  double share, per_class;
};

__global__ void finish_tokens(Folds folds, ValidTokens valid, Smoothing smoothing, float* nll,
                              float* lse) {
  const int64_t token = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (token >= valid.tokens) {
    return;
  }
  if (!valid.counts(token)) {
    nll[token] = lse[token] = 0;
    return;
  }
  const int64_t k = valid.places[token];
  const Fold* parts = folds.data + k * folds.groups;
  float maximum = -INFINITY;
  for (int64_t g = 0; g < folds.groups; ++g) {
    maximum = parts[g].maximum > maximum ? parts[g].maximum : maximum;
  }
  double sum = 0, total = 0;
  for (int64_t g = 0; g < folds.groups; ++g) {
    const double scale =
        parts[g].maximum == maximum ? 1.0 : exp(static_cast<double>(parts[g].maximum) - maximum);
    sum += parts[g].sum * scale;
    total += parts[g].total;
  }
  double target = valid.labels[k] < 0 ? 0.0 : (1 - smoothing.share) * folds.targets[k];
  if (smoothing.share > 0) {
    target += smoothing.per_class * total;
  }
  const double log_sum = log(sum);
  lse[token] = static_cast<float>(maximum + log_sum);
  nll[token] = static_cast<float>((maximum - target) + log_sum);
}

// Zeros behind the logits that are stored.
__global__ void clear_rest(StoredLogits stored, ValidTokens valid, int64_t classes) {
  const int64_t used = valid.count() * stored.columns(valid.count(), classes);
  const int64_t end = (int64_t{blockIdx.x} + 1) * kClearChunk;
  for (int64_t at = end - kClearChunk + threadIdx.x; at < end && at < stored.values;
       at += kThreads) {
    if (at >= used) {
      stored.data[at] = 0;
    }
  }
}

}  // namespace

// logits: filled with as many as fit.
void linear_cross_entropy(Context& context, const Rows& x, const Rows& head_weight,
                          const Integers& y, const Rows& head_bias, double softcap,
                          int64_t vocab_start, int64_t vocab_size, double label_smoothing,
                          bool check_finite, float* nll, float* lse, const Table<float>& logits) {
  const HeadSettings settings =
      head_settings(head_weight, softcap, vocab_start, vocab_size, label_smoothing);
  DeviceErrors* errors = new_errors(context);
  const ValidTokens valid = list_valid_tokens(context, y, settings, errors);
  const AnyRows tokens = {any_matrix(x), valid.index()};
  const AnyRows head = {any_matrix(head_weight), every_row(settings.classes)};
  const LogitEpilogue epilogue = {read_head_bias(context, head_bias, settings.classes),
                            static_cast<float>(settings.softcap), settings.classes};
  const StoredLogits stored = {logits.data, logits.count()};
  const int64_t token_tiles = divide_up(y.count, kTile);
  const int64_t class_tiles = divide_up(settings.classes, kTile);
  int64_t groups = token_tiles > 0 ? divide_up(kBlocks, token_tiles) : 1;
  groups = groups < class_tiles ? groups : class_tiles;
  const Folds folds = {context.workspace<Fold>(y.count * groups), groups,
                       settings.label_smoothing > 0, context.workspace<float>(y.count),
                       context.workspace<int32_t>(1)};
  launch(clear_flag, 1, 1, 0, context, folds.nonfinite);
  launch(clear_rest, divide_up(stored.values, kClearChunk), kThreads, 0, context, stored, valid,
         settings.classes);
  with_sources(tokens, head, [&](auto left, auto right) {
    using Source = decltype(left);
    launch(fold_logits<Source>, token_tiles * groups, kThreads, sizeof(FoldShared<Source>), context,
           left, right, epilogue, valid, stored, folds);
  });
  const Smoothing smoothing = {
      settings.label_smoothing,
      settings.label_smoothing / static_cast<double>(settings.vocab_size)};
  launch(finish_tokens, divide_up(y.count, kThreads), kThreads, 0, context, folds, valid, smoothing,
         nll, lse);
  if (check_finite) {
    launch(find_not_finite_rows, divide_up(y.count * kWarp, kThreads), kThreads, 0, context, tokens,
           folds.nonfinite, kNotFinite, errors);
  }
  publish_errors(context, errors,
                   subjects_of_tokens(tokens.matrix, y.data, y.stride, settings.vocab_size));
}

NCFAST_KERNEL(linear_cross_entropy)

}  // namespace ncfast::cuda
