// A radix sort of eight bits a pass: tiles count their digits, one block scans the counts, tiles
// place their tokens in order. Stable, so the order of additions depends on the labels alone.
#include "token_groups.cuh"

namespace ncfast::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp, kDigits = 256;
constexpr int kTile = NCFAST_SIZE(2048, 512);
constexpr int kScanThreads = 1024;
constexpr int64_t kIgnoreIndex = -100;

// The sort key of a token in the first pass, where labels are still the caller's.
__device__ int32_t key_of(const int64_t* labels, int64_t stride, int32_t token, int32_t classes,
                          DeviceErrors* errors) {
  const int64_t label = labels[token * stride];
  if (label >= 0 && label < classes) {
    return static_cast<int32_t>(label);
  }
  if (label != kIgnoreIndex) {
    errors->report(kBadLabel, token);
  }
  return classes;
}

__global__ void read_labels(const int64_t* labels, int64_t stride, int32_t tokens, int32_t classes,
                            int32_t* keys, int32_t* order, DeviceErrors* errors) {
  const int64_t token = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (token < tokens) {
    keys[token] = key_of(labels, stride, static_cast<int32_t>(token), classes, errors);
    order[token] = static_cast<int32_t>(token);
  }
}

// counts[digit * tiles + tile]
__global__ void count_digits(const int32_t* keys, int32_t tokens, int shift, int32_t* counts,
                             int32_t tiles) {
  struct Shared {
    int32_t counts[kDigits];
  };
  Shared& shared = shared_memory<Shared>();
  shared.counts[threadIdx.x] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < kTile; i += kThreads) {
    const int64_t token = int64_t{blockIdx.x} * kTile + i;
    if (token < tokens) {
      atomicAdd(&shared.counts[keys[token] >> shift & (kDigits - 1)], 1);
    }
  }
  __syncthreads();
  counts[int64_t{threadIdx.x} * tiles + blockIdx.x] = shared.counts[threadIdx.x];
}

// One block: every thread sums a run of values, the sums are scanned, the runs written back.
__global__ void scan_block(int32_t* values, int64_t count) {
  struct Shared {
    int32_t sums[kScanThreads / kWarp];
  };
  Shared& shared = shared_memory<Shared>();
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t run = (count + kScanThreads - 1) / kScanThreads;
  const int64_t begin = threadIdx.x * run, end = begin + run < count ? begin + run : count;
  int32_t sum = 0;
  for (int64_t i = begin; i < end; ++i) {
    sum += values[i];
  }
  int32_t through = sum;  // of this lane and those before it in the warp
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const int32_t before = __shfl_up_sync(kAllLanes, through, distance);
    through += lane >= distance ? before : 0;
  }
  if (lane == kWarp - 1) {
    shared.sums[warp] = through;
  }
  __syncthreads();
  int32_t before = through - sum;
  for (int w = 0; w < warp; ++w) {
    before += shared.sums[w];
  }
  for (int64_t i = begin; i < end; ++i) {
    const int32_t value = values[i];
    values[i] = before;
    before += value;
  }
}

// The lanes of a warp that hold the same digit.
__device__ unsigned lanes_alike(int digit, bool valid) {
  unsigned alike = __ballot_sync(kAllLanes, valid);
  for (int bit = 1; bit < kDigits; bit *= 2) {
    const unsigned set = __ballot_sync(kAllLanes, digit & bit);
    alike &= digit & bit ? set : ~set;
  }
  return alike;
}

__global__ void __launch_bounds__(kThreads)
    place_tokens(const int32_t* keys, const int32_t* order, int32_t tokens, int shift,
                 const int32_t* offsets, int32_t tiles, int32_t* sorted_keys,
                 int32_t* sorted_order) {
  struct Shared {
    int32_t next[kDigits], places[kWarps][kDigits];
  };
  Shared& shared = shared_memory<Shared>();
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  shared.next[threadIdx.x] = offsets[int64_t{threadIdx.x} * tiles + blockIdx.x];
  for (int round = 0; round < kTile; round += kThreads) {
    const int64_t token = int64_t{blockIdx.x} * kTile + round + threadIdx.x;
    const bool valid = token < tokens;
    const int32_t key = valid ? keys[token] : 0;
    const int digit = key >> shift & (kDigits - 1);
    for (int w = 0; w < kWarps; ++w) {
      shared.places[w][threadIdx.x] = 0;
    }
    __syncthreads();
    const unsigned alike = lanes_alike(digit, valid);
    const int rank = __popc(alike & ((1u << lane) - 1));
    if (valid && rank == 0) {
      shared.places[warp][digit] = __popc(alike);
    }
    __syncthreads();
    int32_t next = shared.next[threadIdx.x];
    for (int w = 0; w < kWarps; ++w) {
      const int32_t count = shared.places[w][threadIdx.x];
      shared.places[w][threadIdx.x] = next;
      next += count;
    }
    shared.next[threadIdx.x] = next;
    __syncthreads();
    if (valid) {
      const int32_t place = shared.places[warp][digit] + rank;
      sorted_keys[place] = key;
      sorted_order[place] = order[token];
    }
    __syncthreads();
  }
}

__global__ void find_bounds(const int32_t* labels, int32_t tokens, int32_t classes, int32_t* begin,
                            int32_t* end) {
  const int64_t place = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (place >= tokens || labels[place] == classes) {
    return;
  }
  const int32_t label = labels[place];
  if (place == 0 || labels[place - 1] != label) {
    begin[label] = static_cast<int32_t>(place);
  }
  if (place + 1 == tokens || labels[place + 1] != label) {
    end[label] = static_cast<int32_t>(place) + 1;
  }
}

__global__ void clear_bounds(int32_t* begin, int32_t* end, int32_t classes) {
  const int64_t c = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (c < classes) {
    begin[c] = end[c] = 0;
  }
}

}  // namespace

void exclusive_scan(Context& context, int32_t* values, int64_t count) {
  launch(scan_block, 1, kScanThreads, kScanThreads / kWarp * sizeof(int32_t), context, values,
         count);
}

TokenGroups group_tokens(Context& context, const int64_t* labels, int64_t label_stride,
                         int64_t tokens, int64_t classes, DeviceErrors* errors) {
  if (tokens > 0x7fffffff - kTile || classes > 0x7ffffffe) {
    throw std::runtime_error("more than 2^31 tokens or classes in one call");
  }
  const auto count = static_cast<int32_t>(tokens), class_count = static_cast<int32_t>(classes);
  const int64_t tiles = divide_up(tokens, kTile);
  auto* counts = context.workspace<int32_t>(tiles * kDigits);
  auto* begin = context.workspace<int32_t>(classes);
  auto* end = context.workspace<int32_t>(classes);
  int32_t *keys[2], *order[2];
  for (int i = 0; i < 2; ++i) {
    keys[i] = context.workspace<int32_t>(tokens);
    order[i] = context.workspace<int32_t>(tokens);
  }
  launch(clear_bounds, divide_up(classes, kThreads), kThreads, 0, context, begin, end, class_count);
  launch(read_labels, divide_up(tokens, kThreads), kThreads, 0, context, labels, label_stride,
         count, class_count, keys[0], order[0], errors);
  int now = 0;
  for (int shift = 0; shift < 32 && classes >> shift > 0 && tokens > 0; shift += 8) {
    launch(count_digits, tiles, kThreads, kDigits * sizeof(int32_t), context, keys[now], count,
           shift, counts, static_cast<int32_t>(tiles));
    exclusive_scan(context, counts, tiles * kDigits);
    launch(place_tokens, tiles, kThreads, (kWarps + 1) * kDigits * sizeof(int32_t), context,
           keys[now], order[now], count, shift, counts, static_cast<int32_t>(tiles), keys[1 - now],
           order[1 - now]);
    now = 1 - now;
  }
  launch(find_bounds, divide_up(tokens, kThreads), kThreads, 0, context, keys[now], count, class_count,
         begin, end);
  return {count, class_count, order[now], keys[now], begin, end};
}

}  // namespace ncfast::cuda
