// One sequential matrix product on a tile, through torch's own BLAS.
//
// The stable ABI has no BLAS, but its dispatcher call works inside its parallel_for: measured on
// 2 cores, 300-345 GFLOP/s on 256..512-row tiles where a whole torch.mm reaches 345 (1 thread:
// 160-170 of 170), the same bits on 1 and 2 threads, unaffected by grad, inference or dispatch modes.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <type_traits>

// Where torch's BLAS is MKL: how many threads it may use from here on this thread; returns what it was.
extern "C" int MKL_Set_Num_Threads_Local(int count) __attribute__((weak));

namespace ncfast {

// Keeps MKL sequential on this thread. Inside an OpenMP region MKL runs on one thread, but still
// cuts a narrow product (33 x 1103 x 33) into as many parts as torch has threads: other bits.
class SequentialBlas {
 public:
  SequentialBlas() : before_(MKL_Set_Num_Threads_Local ? MKL_Set_Num_Threads_Local(1) : 0) {}
  SequentialBlas(const SequentialBlas&) = delete;
  SequentialBlas& operator=(const SequentialBlas&) = delete;
  ~SequentialBlas() {
    if (MKL_Set_Num_Threads_Local) {
      MKL_Set_Num_Threads_Local(before_);
    }
  }

 private:
  int before_;
};

// A [rows, columns] view of memory with any strides (in elements).
template <class T>
torch::stable::Tensor matrix_view(const T* data, int64_t rows, int64_t columns, int64_t row_stride,
                                  int64_t column_stride) {
  const int64_t sizes[2] = {rows, columns}, strides[2] = {row_stride, column_stride};
  const auto type = std::is_same_v<T, double> ? torch::headeronly::ScalarType::Double
                                              : torch::headeronly::ScalarType::Float;
  return torch::stable::from_blob(const_cast<T*>(data), {sizes, 2}, {strides, 2},
                                  torch::stable::Device(torch::headeronly::DeviceType::CPU), type);
}

// out = a @ b. `out` must not overlap a or b.
inline void multiply(const torch::stable::Tensor& a, const torch::stable::Tensor& b,
                     const torch::stable::Tensor& out) {
  const SequentialBlas sequential;
  StableIValue stack[3] = {torch::stable::detail::from(a), torch::stable::detail::from(b),
                           torch::stable::detail::from(out)};
  // Not the macro's STABLE_ form, which says more: torch 2.11 has none, and would not compile.
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::mm", "out", stack, TORCH_ABI_VERSION));
  torch::stable::detail::to<torch::stable::Tensor>(stack[0]);  // releases the returned handle
}

}  // namespace ncfast
