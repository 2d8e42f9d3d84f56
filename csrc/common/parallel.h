// Parallel loops over independent units of work, and the scratch memory they use.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace ncfast {

// Owns 64-byte aligned, uninitialised memory.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t count)
      : data_(static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 64) / 64 * 64))) {
    if (data_ == nullptr) {
      throw std::bad_alloc();
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
