// Kernels with a fault each, and their sound twins: what the emulator must catch, and must not.
#include "../../csrc/cuda/device.h"

namespace {

using namespace ncfast::cuda;

// The sum of 256 values by shared memory; kBarrier false leaves out the barrier between steps.
template <bool kBarrier>
__global__ void tree_sum(const float* values, float* sum) {
  struct Shared {
    float values[256];
  };
  Shared& shared = shared_memory<Shared>();
  shared.values[threadIdx.x] = values[threadIdx.x];
  __syncthreads();
  for (int half = 128; half > 0; half /= 2) {
    if (threadIdx.x < half) {
      shared.values[threadIdx.x] += shared.values[threadIdx.x + half];
    }
    if (kBarrier) {
      __syncthreads();
    }
  }
  if (threadIdx.x == 0) {
    *sum = shared.values[0];
  }
}

// One buffer filled and read in turns: without the trailing barrier a fast warp overwrites what a
// slow one still reads.
template <bool kBarrier>
__global__ void rotate(const float* values, float* out, int rounds) {
  struct Shared {
    float buffer[64];
  };
  Shared& shared = shared_memory<Shared>();
  float sum = 0;
  for (int round = 0; round < rounds; ++round) {
    shared.buffer[threadIdx.x] = values[round * 64 + threadIdx.x];
    __syncthreads();
    for (int i = 0; i < 64; ++i) {
      sum += shared.buffer[(threadIdx.x + i) % 64] * static_cast<float>(i);
      __syncwarp();
    }
    if (kBarrier) {
      __syncthreads();
    }
  }
  out[threadIdx.x] = sum;
}

// kWait false reads what cp.async may not have brought yet.
template <bool kWait>
__global__ void copy_through(const float* values, float* out) {
  struct Shared {
    alignas(16) float buffer[128];
  };
  Shared& shared = shared_memory<Shared>();
  ncfast::emulator::async_copy_16(shared.buffer + threadIdx.x * 4, values + threadIdx.x * 4, 16);
  ncfast::emulator::commit_copies();
  if (kWait) {
    ncfast::emulator::wait_for_copies(0);
  }
  __syncwarp();
  const int i = (threadIdx.x + 1) % 32 * 4;
  out[threadIdx.x] = shared.buffer[i] + shared.buffer[i + 3];
  ncfast::emulator::wait_for_copies(0);
}

__global__ void read_past_the_end(const float* values, float* out, int count, int past) {
  if (threadIdx.x < count) {
    out[threadIdx.x] = values[threadIdx.x + past];
  }
}

__global__ void read_past_shared(float* out, int past) {
  struct Shared {
    float values[32];
  };
  Shared& shared = shared_memory<Shared>();
  shared.values[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = shared.values[threadIdx.x + past];
}

__global__ void write_past_shared(int past) {
  struct Shared {
    float values[32];
  };
  shared_memory<Shared>().values[threadIdx.x + past] = 1;
}

__global__ void barrier_for_some() {
  if (threadIdx.x < 7) {
    __syncthreads();
  }
}
__global__ void two_barriers() {
  if (threadIdx.x < 7) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
__global__ void barrier_against_shuffle(int* out) {
  if (threadIdx.x < 7) {
    __syncthreads();
  } else {
    out[threadIdx.x] = __shfl_xor_sync(kAllLanes, 1, 1);
  }
}
__global__ void shuffle_against_vote(int* out) {
  if (threadIdx.x % 2) {
    out[threadIdx.x] = __shfl_xor_sync(kAllLanes, 1, 1);
  } else {
    out[threadIdx.x] = __any_sync(kAllLanes, 1);
  }
}
__global__ void shuffle_with_the_departed(int* out) {
  if (threadIdx.x < 31) {
    out[threadIdx.x] = __shfl_xor_sync(kAllLanes, 1, 1);
  }
}
__global__ void unpoisoned(float* out) {
  struct Shared {
    float values[32];
  };
  out[threadIdx.x] = shared_memory<Shared>().values[threadIdx.x];
}

// Every primitive once, on three warps, against what the host computes.
__global__ void primitives(int* out) {
  const int lane = threadIdx.x % 32, at = static_cast<int>(threadIdx.x) * 8;
  out[at] = __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x), 5);
  out[at + 1] = __shfl_xor_sync(kAllLanes, lane, 3);
  out[at + 2] = __shfl_up_sync(kAllLanes, lane, 2);
  out[at + 3] = __shfl_down_sync(kAllLanes, lane, 2, 8);
  out[at + 4] = static_cast<int>(__ballot_sync(kAllLanes, lane % 3 == 0));
  out[at + 5] = __syncthreads_count(threadIdx.x % 5 == 0);
  out[at + 6] = __all_sync(kAllLanes, lane < 32) * 2 + __any_sync(kAllLanes, lane == 40);
  out[at + 7] = __shfl_sync(0xffu << (lane / 8 * 8), lane, 1, 8);
}

__global__ void product(const uint32_t* a, const uint32_t* b, float* c, int kind) {
  uint32_t left[4], right[2];
  float sums[4] = {};
  for (int i = 0; i < 4; ++i) {
    left[i] = a[threadIdx.x * 4 + i];
  }
  for (int i = 0; i < 2; ++i) {
    right[i] = b[threadIdx.x * 2 + i];
  }
  if (kind == 0) {
    ncfast::emulator::mma_bfloat16(sums, left, right);
  } else if (kind == 1) {
    ncfast::emulator::mma_half(sums, left, right);
  } else {
    ncfast::emulator::mma_tf32(sums, left, right);
  }
  for (int i = 0; i < 4; ++i) {
    c[threadIdx.x * 4 + i] = sums[i];
  }
}

struct NoMemory final : Context {
  void* allocate(size_t) override { return nullptr; }
};

template <class Body>
const char* told(Body&& body) {
  static thread_local std::string error;
  NoMemory context;
  try {
    body(context);
    return "";
  } catch (const std::exception& caught) {
    error = caught.what();
    return error.c_str();
  }
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT const char* run_tree_sum(int sound, const float* values, float* sum) {
  return told([&](auto& context) {
    launch(sound ? tree_sum<true> : tree_sum<false>, 1, 256, 1024, context, values, sum);
  });
}
EXPORT const char* run_rotate(int sound, const float* values, float* out, int rounds) {
  return told([&](auto& context) {
    launch(sound ? rotate<true> : rotate<false>, 1, 64, 256, context, values, out, rounds);
  });
}
EXPORT const char* run_copy_through(int sound, const float* values, float* out) {
  return told([&](auto& context) {
    launch(sound ? copy_through<true> : copy_through<false>, 1, 32, 512, context, values, out);
  });
}
EXPORT const char* run_read_past_the_end(const float* values, float* out, int count, int past) {
  return told([&](auto& context) {
    launch(read_past_the_end, 1, 32, 0, context, values, out, count, past);
  });
}
EXPORT const char* run_read_past_shared(float* out, int past) {
  return told([&](auto& context) { launch(read_past_shared, 1, 32, 128, context, out, past); });
}
EXPORT const char* run_write_past_shared(int past) {
  return told([&](auto& context) { launch(write_past_shared, 1, 32, 128, context, past); });
}
EXPORT const char* run_divergent(int which, int* out) {
  return told([&](auto& context) {
    if (which == 0) {
      launch(barrier_for_some, 1, 64, 0, context);
    } else if (which == 1) {
      launch(two_barriers, 1, 64, 0, context);
    } else if (which == 2) {
      launch(barrier_against_shuffle, 1, 32, 0, context, out);
    } else if (which == 3) {
      launch(shuffle_against_vote, 1, 32, 0, context, out);
    } else {
      launch(shuffle_with_the_departed, 1, 32, 0, context, out);
    }
  });
}
EXPORT const char* run_unpoisoned(float* out) {
  return told([&](auto& context) { launch(unpoisoned, 1, 32, 128, context, out); });
}
EXPORT const char* run_primitives(int* out) {
  return told([&](auto& context) { launch(primitives, 1, 96, 0, context, out); });
}
EXPORT const char* run_product(const uint32_t* a, const uint32_t* b, float* c, int kind) {
  return told([&](auto& context) { launch(product, 1, 32, 0, context, a, b, c, kind); });
}
EXPORT const char* run_too_large(int threads, int shared) {
  return told([&](auto& context) {
    launch(barrier_for_some, 1, threads, static_cast<size_t>(shared), context);
  });
}
