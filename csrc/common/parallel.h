// Parallel loops over independent units of work, and the scratch memory they use.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace ncfast {

// Asks for huge pages under memory that is about to be written for the first time. A 94 MB output
// otherwise costs 23,000 page faults, more than the arithmetic of the ops that fill it.
inline void prefer_huge_pages(void* data, int64_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t huge = uintptr_t{2} << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + huge - 1) / huge * huge;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / huge * huge;
  if (begin < end) {
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // advice: the kernel may ignore it
  }
#endif
}

// Whether scratch memory comes full of NaN, as tests ask: what is read before it was written shows
// then, though it be multiplied by the zeros that pad a panel.
inline bool fills_scratch() {
  static const bool asked = std::getenv("NCFAST_FILL_SCRATCH") != nullptr;
  return asked;
}

// Owns 64-byte aligned, uninitialised memory.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t count) {
    const size_t bytes = (count * sizeof(T) + 64) / 64 * 64;
    data_ = static_cast<T*>(std::aligned_alloc(64, bytes));
    if (data_ == nullptr) {
      throw std::bad_alloc();
    }
    prefer_huge_pages(data_, static_cast<int64_t>(bytes));
    if (fills_scratch()) {
      std::memset(data_, 0xff, bytes);
    }
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }
  T* get() const { return data_; }
  T& operator[](int64_t i) const { return data_[i]; }

 private:
  T* data_;
};

// Calls `worker(take)` once per thread; each worker calls `take()` for its next unit until it is
// negative. Units are handed out dynamically, so a unit's result may depend on nothing but its
// number: that is what keeps results the same bits at any thread count.
//
// The range has one entry per thread even when there are fewer units: torch then opens an OpenMP
// region, inside which BLAS runs sequentially. Without it a single unit would run BLAS in
// parallel, with other bits than on one thread.
template <class Worker>
void parallel_units(int64_t units, const Worker& worker) {
  std::atomic<int64_t> next{0};
  const auto take = [&]() -> int64_t {
    const int64_t unit = next.fetch_add(1, std::memory_order_relaxed);
    return unit < units ? unit : -1;
  };
  const int64_t threads = torch::stable::get_num_threads();
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread) {
      worker(take);
    }
  });
}

}  // namespace ncfast
