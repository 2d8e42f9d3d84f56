// Runs CUDA C++ kernels on a CPU, for tests: the same .cu files, compiled by g++ instead of nvcc.
//
// Every CUDA thread of a block is a fiber. Barriers, shuffles and votes really wait; the order in
// which fibers and blocks run, and the moment at which asynchronous copies land, are chosen by
// NCFAST_EMULATOR_SCHEDULE (forward, reverse, random:SEED) and NCFAST_EMULATOR_COPIES (late, early,
// mixed), so that a missing barrier or wait changes the answer. A barrier that some threads do not
// reach is an error with a place, never a hang. CONTRIBUTING.md says how it is used and what it
// cannot see.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>

#include "races.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

using cudaStream_t = void*;

namespace ncfast::emulator {

// What the calling fiber sees as threadIdx, blockIdx, blockDim and gridDim.
struct Position {
  uint3 thread, block;
  dim3 threads, blocks;
  int lane, warp;
};
extern constinit thread_local const Position* position;
inline const Position& here() { return *position; }

// Runs `body` once per thread of every block; throws std::runtime_error on a broken rule.
void launch(dim3 blocks, dim3 threads, size_t shared_bytes, const std::function<void()>& body);

// The block's dynamic shared memory: all bits set (NaN, -1) when the block starts.
void* shared_bytes();

// Ends the launch with an error. Called from a fiber; does not return.
[[noreturn]] void fail(const std::string& what);

// Waits for every thread of the block; returns the sum of `value` over them.
int block_barrier(int value, const char* where);

// Waits for every lane of the mask and hands each lane's `size` bytes to all of them.
constexpr size_t kSlotBytes = 64;
struct Slots {
  alignas(16) unsigned char bytes[32][kSlotBytes];
  template <class T>
  NCFAST_UNWATCHED T get(int lane) const {
    T value;
    std::memcpy(&value, bytes[lane], sizeof(T));
    return value;
  }
};
const Slots& exchange(unsigned mask, const void* value, size_t size, const char* operation);

// Asynchronous copies of the calling fiber: see memory.h.
void copy_later(void* to, const void* from, size_t given, size_t size, const void* caller);
void commit_copies();
void wait_for_copies(int groups_left_open);

}  // namespace ncfast::emulator

#define threadIdx (ncfast::emulator::here().thread)
#define blockIdx (ncfast::emulator::here().block)
#define blockDim (ncfast::emulator::here().threads)
#define gridDim (ncfast::emulator::here().blocks)

#define NCFAST_EMULATOR_TEXT_(x) #x
#define NCFAST_EMULATOR_TEXT(x) NCFAST_EMULATOR_TEXT_(x)
#define NCFAST_EMULATOR_BARRIER(name, value) \
  (ncfast::emulator::block_barrier(value, name " at " __FILE__ ":" NCFAST_EMULATOR_TEXT(__LINE__)))
#define __syncthreads() ((void)NCFAST_EMULATOR_BARRIER("__syncthreads", 0))
#define __syncthreads_count(p) NCFAST_EMULATOR_BARRIER("__syncthreads_count", (p) ? 1 : 0)
#define __syncthreads_or(p) (NCFAST_EMULATOR_BARRIER("__syncthreads_or", (p) ? 1 : 0) > 0)

#include "memory.h"
#include "warp.h"
