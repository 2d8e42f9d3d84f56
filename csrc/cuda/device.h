// One platform for two compilers: nvcc for GPUs, g++ with csrc/testing/ for tests on a CPU. Kernels
// use only what is named here or in the emulator.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#if !defined(NCFAST_EMULATOR)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#else
#include "../testing/emulator.h"
#include "../testing/launches.h"
#include "../testing/tensor_cores.h"
#endif

#include "context.h"

namespace ncfast::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The block's shared memory as one struct; a launch gives its size.
template <class T>
__device__ __forceinline__ T& shared_memory() {
#if !defined(NCFAST_EMULATOR)
  extern __shared__ __align__(16) unsigned char ncfast_shared[];
  return *reinterpret_cast<T*>(ncfast_shared);
#else
  return *static_cast<T*>(emulator::shared_bytes());
#endif
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, size_t shared_bytes,
            const Context& context, Arguments... arguments) {
  if (blocks == 0) {
    return;
  }
  if (blocks > 0x7fffffff) {
    throw std::runtime_error("a launch of " + std::to_string(blocks) + " blocks");
  }
#if !defined(NCFAST_EMULATOR)
  cudaError_t error = cudaSuccess;
  if (shared_bytes > 48 * 1024) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shared_bytes));
  }
  if (error == cudaSuccess) {
    kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes, context.stream>>>(arguments...);
    error = cudaGetLastError();
  }
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
  }
#else
  emulator::note_launch(reinterpret_cast<const void*>(kernel), shared_bytes);
  emulator::races::launch_begins(reinterpret_cast<const void*>(kernel));
  emulator::launch(dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)),
                   shared_bytes, [&] { kernel(arguments...); });
#endif
}

// -- warps

template <class T>
__device__ __forceinline__ T warp_sum(T value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, distance);
  }
  return value;
}

__device__ __forceinline__ float warp_max(float value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    const float other = __shfl_xor_sync(kAllLanes, value, distance);
    value = other > value ? other : value;
  }
  return value;
}

// The sum over the block in a fixed order, on every thread. `scratch` holds one value per warp.
template <class T>
__device__ __forceinline__ T block_sum(T value, T* scratch, int warps) {
  value = warp_sum(value);
  const int lane = threadIdx.x % kWarp;
  __syncthreads();  // scratch may still be read from the last call
  if (lane == 0) {
    scratch[threadIdx.x / kWarp] = value;
  }
  __syncthreads();
  return warp_sum(lane < warps ? scratch[lane] : T(0));
}

}  // namespace ncfast::cuda
