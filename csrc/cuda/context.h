// What a launcher needs besides its tensors. Host code only.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(NCFAST_EMULATOR)
using cudaStream_t = void*;
#else
#include <cuda_runtime_api.h>
#endif

// Sizes that decide how work is cut, and the small ones of a build for tests (csrc/build_cuda.py
// --small): there every loop over chunks, splits, groups and units goes round, on small samples.
#if defined(NCFAST_SMALL)
#define NCFAST_SIZE(size, small) (small)
#else
#define NCFAST_SIZE(size, small) (size)
#endif

namespace ncfast::cuda {

// A stream, memory that lives until the stream is past the op, the record that errors about bad
// values are published in (device_errors.cuh), and the number they name the op by: its caller's.
struct Context {
  cudaStream_t stream = nullptr;
  int64_t* record = nullptr;
  int64_t op = 0;

  virtual void* allocate(size_t bytes) = 0;  // 256-byte aligned, contents undefined
  template <class T>
  T* workspace(int64_t count) {
    return static_cast<T*>(allocate(static_cast<size_t>(count > 0 ? count : 1) * sizeof(T)));
  }

 protected:
  ~Context() = default;
};

}  // namespace ncfast::cuda
