// Kernels with a race each, and their sound twins: what the race detector must name, and must not.
// Most answers are right all the same: that is why a schedule alone does not show them.
#include "../../csrc/cuda/device.h"

namespace {

using namespace ncfast::cuda;
namespace emulator = ncfast::emulator;

struct Shared {
  alignas(16) int values[64];
};

__device__ int next_of(int thread, int threads) { return (thread + 1) % threads; }

// Written by each thread for itself, and ordered before what follows.
__device__ Shared& written_memory() {
  Shared& shared = shared_memory<Shared>();
  shared.values[threadIdx.x] = 1;
  __syncthreads();
  return shared;
}

template <bool kSound>
__global__ void read_without_a_barrier(int* out) {
  Shared& shared = written_memory();
  const int thread = static_cast<int>(threadIdx.x);
  shared.values[thread] = 1;
  if (kSound) {
    __syncthreads();
  }
  out[thread] = shared.values[next_of(thread, 64)];
}

template <bool kSound>
__global__ void write_while_others_read(int* out) {
  Shared& shared = shared_memory<Shared>();
  const int thread = static_cast<int>(threadIdx.x);
  shared.values[thread] = 1;
  __syncthreads();
  out[thread] = shared.values[next_of(thread, 64)];
  if (kSound) {
    __syncthreads();
  }
  shared.values[thread] = 1;
}

// The lanes of a warp do not run in step.
template <bool kSound>
__global__ void lanes_without_a_sync(int* out) {
  Shared& shared = written_memory();
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  shared.values[thread] = 1;
  if (kSound) {
    __syncwarp();
  }
  out[thread] = shared.values[thread - lane + next_of(lane, 32)];
}

template <bool kSound>
__global__ void warps_with_a_warp_sync(int* out) {
  Shared& shared = written_memory();
  const int thread = static_cast<int>(threadIdx.x);
  shared.values[thread] = 1;
  if (kSound) {
    __syncthreads();
  } else {
    __syncwarp();
  }
  out[thread] = shared.values[(thread + 32) % 64];
}

// Half of the lanes meet; those of the other half are ordered after nobody.
template <bool kSound>
__global__ void half_a_warp(int* out) {
  Shared& shared = written_memory();
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, half = lane / 16;
  shared.values[thread] = 1;
  __syncwarp(half ? 0xffff0000u : 0x0000ffffu);
  out[thread] = shared.values[thread - lane + (kSound ? half * 16 + next_of(lane % 16, 16)
                                                      : next_of(lane, 32))];
}

// A shuffle is no fence.
template <bool kSound>
__global__ void lanes_with_a_shuffle(int* out) {
  Shared& shared = written_memory();
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  shared.values[thread] = 1;
  out[thread] = __shfl_xor_sync(kAllLanes, lane, 1);
  if (kSound) {
    __syncwarp();
  }
  out[thread] += shared.values[thread - lane + next_of(lane, 32)];
}

template <bool kSound>
__global__ void copy_without_its_wait(const int* from, int* out) {
  Shared& shared = written_memory();
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < 16) {
    emulator::async_copy_16(shared.values + thread * 4, from + thread * 4, 16);
    emulator::commit_copies();
    if (kSound) {
      emulator::wait_for_copies(0);
    }
  }
  __syncthreads();
  out[thread] = shared.values[next_of(thread, 64)];
  if (thread < 16) {
    emulator::wait_for_copies(0);
  }
}

// Lands long after, but may have landed at once.
template <bool kSound>
__global__ void copy_while_others_read(const int* from, int* out) {
  Shared& shared = shared_memory<Shared>();
  const int thread = static_cast<int>(threadIdx.x);
  shared.values[thread] = 1;
  __syncthreads();
  out[thread] = shared.values[next_of(thread, 64)];
  if (kSound) {
    __syncthreads();
  }
  if (thread < 16) {
    emulator::async_copy_16(shared.values + thread * 4, from + thread * 4, 16);
    emulator::commit_copies();
  }
  __syncthreads();
  if (thread < 16) {
    emulator::wait_for_copies(0);
  }
  __syncthreads();
  out[thread] += shared.values[thread];
}

template <bool kSound>
__global__ void read_what_nobody_wrote(int* out) {
  Shared& shared = shared_memory<Shared>();
  const int thread = static_cast<int>(threadIdx.x);
  if (kSound || thread != 63) {
    shared.values[thread] = 1;
  }
  __syncthreads();
  out[thread] = shared.values[thread];
}

template <bool kSound>
__global__ void bins_without_atomics(int* out) {
  Shared& shared = shared_memory<Shared>();
  const int thread = static_cast<int>(threadIdx.x);
  shared.values[thread] = 0;
  __syncthreads();
  if (kSound) {
    atomicAdd(&shared.values[thread / 2], 1);
  } else {
    shared.values[thread / 2] += 1;
  }
  __syncthreads();
  out[thread] = shared.values[thread];
}

template <bool kSound>
__global__ void atomics_while_others_clear(int* out) {
  Shared& shared = written_memory();
  const int thread = static_cast<int>(threadIdx.x);
  shared.values[thread] = 0;
  if (kSound) {
    __syncthreads();
  }
  atomicAdd(&shared.values[next_of(thread, 64)], 0);
  __syncthreads();
  out[thread] = shared.values[thread];
}

// From here on, global memory.
template <bool kSound>
__global__ void threads_of_a_block(int* out) {
  const int thread = static_cast<int>(threadIdx.x);
  out[thread] = 1;
  if (kSound) {
    __syncthreads();
  }
  const int next = out[next_of(thread, 64)];
  __syncthreads();
  out[thread] = next;
}

template <bool kSound>
__global__ void blocks_that_write_the_same(int* out) {
  if (threadIdx.x == 0) {
    out[kSound ? blockIdx.x : 0] = 1;
  }
}

template <bool kSound>
__global__ void block_that_reads_another(int* out) {
  if (threadIdx.x == 0) {
    out[blockIdx.x] = 1;
    out[blockIdx.x + 2] = kSound ? 1 : out[1 - blockIdx.x];
  }
}

template <bool kSound>
__global__ void atomics_beside_a_plain_write(int* out) {
  if (threadIdx.x == 0) {
    if (kSound || blockIdx.x == 0) {
      atomicAdd(out, 1);
    } else {
      *out = 2;
    }
  }
}

struct NoMemory final : Context {
  void* allocate(size_t) override { return nullptr; }
};

using WithOut = void (*)(int*);
using WithBoth = void (*)(const int*, int*);

#define TWINS(name) {#name, name<true>, name<false>}
const struct {
  const char* name;
  WithOut sound, planted;
} kKernels[] = {
    TWINS(read_without_a_barrier), TWINS(write_while_others_read), TWINS(lanes_without_a_sync),
    TWINS(warps_with_a_warp_sync), TWINS(half_a_warp), TWINS(lanes_with_a_shuffle),
    TWINS(read_what_nobody_wrote), TWINS(bins_without_atomics), TWINS(atomics_while_others_clear),
    TWINS(threads_of_a_block), TWINS(blocks_that_write_the_same), TWINS(block_that_reads_another),
    TWINS(atomics_beside_a_plain_write)};
const struct {
  const char* name;
  WithBoth sound, planted;
} kCopies[] = {TWINS(copy_without_its_wait), TWINS(copy_while_others_read)};

}  // namespace

// Runs two blocks of 64 threads; returns what the emulator has to say.
extern "C" __attribute__((visibility("default"))) const char* run_race(const char* name, int sound,
                                                                       const int* from, int* out) {
  static thread_local std::string error;
  NoMemory context;
  const std::string asked = name;
  const bool of_blocks = asked.find("block") == 0 || asked.find("atomics_beside") == 0;
  try {
    for (const auto& kernel : kKernels) {
      if (asked == kernel.name) {
        launch(sound ? kernel.sound : kernel.planted, of_blocks ? 2 : 1, 64, sizeof(Shared), context,
               out);
        return "";
      }
    }
    for (const auto& kernel : kCopies) {
      if (asked == kernel.name) {
        launch(sound ? kernel.sound : kernel.planted, 1, 64, sizeof(Shared), context, from, out);
        return "";
      }
    }
    return "no such kernel";
  } catch (const std::exception& caught) {
    error = caught.what();
    return error.c_str();
  }
}
