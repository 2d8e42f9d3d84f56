// The batch's moments go to a workspace row per class that occurs, and only then into the state: a
// bad value is found before anything changes, without the host waiting.
#include "dispatch.cuh"
#include "gram.cuh"
#include "moments.cuh"

namespace ncfast::cuda {
namespace {

constexpr int kThreads = 128;
// Batch means of at most this size; larger batches go slice by slice, which is the same sum.
constexpr int64_t kSliceBytes = NCFAST_SIZE(int64_t{256} << 20, 4096);
constexpr int64_t kSliceRows = NCFAST_SIZE(1024, 64);

struct State {
  int64_t* counts;
  Matrix<float> means;
  double* m2;
};

// Classes of the batch numbered by rank: slot by class, class by slot, and how many there are.
struct Slots {
  int32_t *of_class, *classes;
  int32_t* count;
};

__global__ void mark_present(TokenGroups groups, int32_t* of_class) {
  const int64_t c = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (c < groups.classes) {
    of_class[c] = groups.end[c] > groups.begin[c] ? 1 : 0;
  }
}

__global__ void list_present(TokenGroups groups, Slots slots) {
  const int64_t c = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (c >= groups.classes) {
    return;
  }
  const bool present = groups.end[c] > groups.begin[c];
  const int32_t slot = slots.of_class[c];
  if (present) {
    slots.classes[slot] = static_cast<int32_t>(c);
  }
  if (c == groups.classes - 1) {
    *slots.count = slot + (present ? 1 : 0);
  }
}

Slots number_present(Context& context, const TokenGroups& groups) {
  const Slots slots = {context.workspace<int32_t>(groups.classes),
                       context.workspace<int32_t>(groups.classes), context.workspace<int32_t>(1)};
  const int64_t blocks = divide_up(groups.classes, kThreads);
  launch(mark_present, blocks, kThreads, 0, context, groups, slots.of_class);
  exclusive_scan(context, slots.of_class, groups.classes);
  launch(list_present, blocks, kThreads, 0, context, groups, slots);
  return slots;
}

// One warp per class of the batch: Chan's merge, unless something was found wrong.
__global__ void __launch_bounds__(kThreads)
    merge_into_state(State state, TokenGroups groups, Slots slots, MomentRows batch,
                     const DeviceErrors* errors) {
  const int64_t slot = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarp;
  if (slot >= *slots.count || errors->any()) {
    return;
  }
  const int32_t c = slots.classes[slot];
  const int64_t before = state.counts[c], added = groups.end[c] - groups.begin[c];
  const double share = static_cast<double>(added) / static_cast<double>(before + added);
  double distance = 0;
  for (int64_t d = threadIdx.x % kWarp * kVec8; d < state.means.width; d += kWarp * kVec8) {
    float mean[kVec8], own[kVec8];
    read_vec8(batch.means, slot, d, mean);
    if (before > 0) {
      read_vec8(state.means, c, d, own);
#pragma unroll
      for (int i = 0; i < kVec8; ++i) {
        const double difference = static_cast<double>(mean[i]) - static_cast<double>(own[i]);
        distance += difference * difference;
        mean[i] = static_cast<float>(static_cast<double>(own[i]) + difference * share);
      }
    }
    write_vec8(state.means, c, d, mean);
  }
  distance = warp_sum(distance);
  __syncwarp();  // shuffles order no memory, and every lane has read the count
  if (threadIdx.x % kWarp == 0) {
    const double m2 = batch.m2[slot] + distance * static_cast<double>(before) * share;
    state.m2[c] = before > 0 ? state.m2[c] + m2 : batch.m2[slot];
    state.counts[c] = before + added;
  }
}

// Tokens about their batch mean, then sqrt(n_a n_b / n) (batch mean - running mean) per class.
template <class T, bool kWhole>
struct ScatterRows {
  Matrix<T> x;
  const int64_t* labels;
  int64_t label_stride, width;
  TokenGroups groups;
  Slots slots;
  Matrix<float> batch;
  State state;

  struct Fetched {
    Vec8<float> plus, minus;  // a token lies at the start of plus: registers are scarce
    float scale;
    int kind;  // 0: a row of zeros, 1: a token, 2: a class
  };

  __device__ __forceinline__ int64_t rows() const { return x.rows + *slots.count; }

  __device__ __forceinline__ Fetched fetch(int64_t row, int64_t column) const {
    Fetched result;
    result.kind = 0;
    result.scale = 1.0f;
    if (row < x.rows) {
      const int64_t label = labels[row * label_stride];
      if (label >= 0 && label < groups.classes) {
        result.kind = 1;
        Vec8<T> token;
        token.template load<kWhole>(x, row, column);
        __builtin_memcpy(&result.plus, &token, sizeof token);
        result.minus.template load<kWhole>(batch, slots.of_class[label], column);
      }
    } else if (row < rows()) {
      const int32_t slot = static_cast<int32_t>(row - x.rows), c = slots.classes[slot];
      const double before = static_cast<double>(state.counts[c]);
      const double added = groups.end[c] - groups.begin[c];
      result.scale = sqrtf(static_cast<float>(before * added / (before + added)));
      result.kind = before > 0 ? 2 : 0;
      if (before > 0) {
        result.plus.template load<kWhole>(batch, slot, column);
        result.minus.template load<kWhole>(state.means, c, column);
      }
    }
    return result;
  }

  __device__ __forceinline__ void finish(const Fetched& fetched, int64_t, int64_t, bool,
                                         float (&out)[kVec8]) const {
    float minus[kVec8] = {};
#pragma unroll
    for (int i = 0; i < kVec8; ++i) {
      out[i] = 0.0f;
    }
    if (fetched.kind == 1) {
      Vec8<T> token;
      __builtin_memcpy(&token, &fetched.plus, sizeof token);
      token.unpack(out);
      fetched.minus.unpack(minus);
    } else if (fetched.kind == 2) {
      fetched.plus.unpack(out);
      fetched.minus.unpack(minus);
    }
#pragma unroll
    for (int i = 0; i < kVec8; ++i) {
      out[i] = fetched.scale * (out[i] - minus[i]);
    }
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads)
    find_not_finite(Matrix<T> x, const int64_t* labels, int64_t label_stride, int64_t classes,
                    DeviceErrors* errors) {
  const int64_t token = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarp;
  if (token >= x.rows) {
    return;
  }
  const int64_t label = labels[token * label_stride];
  if (label == -100) {
    return;
  }
  if (label < 0 || label >= classes) {
    errors->report(kBadLabel, token);
    return;
  }
  for (int64_t d = threadIdx.x % kWarp * kVec8; d < x.width; d += kWarp * kVec8) {
    float values[kVec8];
    read_vec8(x, token, d, values);
    for (int i = 0; i < kVec8; ++i) {
      if (!is_finite(values[i])) {
        errors->report(kNotFinite, token * x.width + d + i);
      }
    }
  }
}

template <class T>
void accumulate_slice(Context& context, const State& state, double* scatter, const Matrix<T>& x,
                      const int64_t* labels, int64_t label_stride, int64_t classes,
                      const DeviceErrors* errors, DeviceErrors* reports) {
  const TokenGroups groups = group_tokens(context, labels, label_stride, x.rows, classes, reports);
  const Slots slots = number_present(context, groups);
  const int64_t max_rows = x.rows < classes ? x.rows : classes;
  const MomentRows batch = {contiguous(context.workspace<float>(max_rows * x.width), max_rows, x.width),
                            context.workspace<double>(max_rows), slots.of_class};
  compute_moments(context, x, groups, batch, reports);
  if (scatter != nullptr) {
    add_gram(
        context,
        [&](auto whole) {
          return ScatterRows<T, whole>{x,      labels, label_stride, x.width,
                                       groups, slots,  batch.means,  state};
        },
        x.whole() && batch.means.whole() && state.means.whole(), x.width, x.rows + max_rows, scatter,
        errors);
  }
  launch(merge_into_state, divide_up(max_rows * kWarp, kThreads), kThreads, 0, context, state, groups,
         slots, batch, errors);
}

}  // namespace

void accumulate_class_moments_(Context& context, int64_t* counts, const Table<float>& means,
                               double* m2, double* scatter, const Rows& x, const Integers& y) {
  const int64_t classes = means.rows;
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    DeviceErrors* errors = new_errors(context);
    const Matrix<T> features = matrix<T>(x);
    const State state = {counts, contiguous(means), m2};
    const int64_t row_bytes = (x.width > 0 ? x.width : 1) * static_cast<int64_t>(sizeof(float));
    const int64_t max_rows = kSliceBytes / row_bytes > kSliceRows ? kSliceBytes / row_bytes : kSliceRows;
    const int64_t step = classes > max_rows && y.count > max_rows ? max_rows : y.count;
    DeviceErrors* reports = errors;
    if (step < y.count) {
      // A later slice may hold what must stop an earlier one; and slices number their own tokens.
      launch(find_not_finite<T>, divide_up(y.count * kWarp, kThreads), kThreads, 0, context,
             features, y.data, y.stride, classes, errors);
      reports = new_errors(context);
    }
    for (int64_t begin = 0; begin < y.count; begin += step) {
      const int64_t count = begin + step < y.count ? step : y.count - begin;
      const Matrix<T> part(features.data + begin * features.row_stride, count, features.width,
                           features.row_stride, features.column_stride);
      accumulate_slice(context, state, scatter, part, y.data + begin * y.stride, y.stride, classes,
                       errors, reports);
    }
    publish_errors(context, errors,
                     subjects_of_tokens(features, y.data, y.stride, classes));
  });
}

NCFAST_KERNEL(accumulate_class_moments_)

}  // namespace ncfast::cuda
