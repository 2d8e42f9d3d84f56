// Products of packed tiles by the faster of torch's two CPU libraries.
//
// torch.mm is MKL, which runs AVX2 code on AMD's CPUs: 112 GFLOP/s a thread on a Zen 5 whose AVX-512
// gives 220-240 to oneDNN, on the same tiles. oneDNN is reached through the C function that
// AOTInductor's code calls. On other CPUs, or where a torch lacks it, tiles go to torch.mm.
#pragma once

#include <optional>

#include "blas.h"

extern "C" AOTITorchError aoti_torch_cpu__linear_pointwise(AtenTensorHandle, AtenTensorHandle,
                                                           AtenTensorHandle*, const char*,
                                                           const double**, int64_t, const char**,
                                                           AtenTensorHandle*) __attribute__((weak));

namespace ncfast {

inline bool prefers_onednn() {
#if defined(__x86_64__) && defined(__GNUC__)
  static const bool yes = aoti_torch_cpu__linear_pointwise != nullptr && __builtin_cpu_is("amd") &&
                          __builtin_cpu_supports("avx512f");
  return yes;
#else
  return false;
#endif
}

// How the second factor lies in memory, always without gaps.
enum class Layout { rows, columns };

// a b^T for a [m, k] and b [n, k], both without gaps; b may be stored as [k, n] (columns). The result
// is in `scratch` ([m, n]) or in memory of its own.
template <class T>
class Product {
 public:
  Product(const T* a, int64_t m, int64_t k, const T* b, int64_t n, Layout layout, T* scratch)
      : data_(scratch) {
    const bool rows = layout == Layout::rows;
    const auto left = matrix_view(a, m, k, k, int64_t{1});
    // A product below 4 MFLOP is not worth a kernel generated for its shape.
    if (std::is_same_v<T, float> && prefers_onednn() && m * n * k >= (int64_t{1} << 21)) {
      const auto right = matrix_view(b, n, k, rows ? k : 1, rows ? int64_t{1} : n);
      AtenTensorHandle out = nullptr;
      TORCH_ERROR_CODE_CHECK(aoti_torch_cpu__linear_pointwise(
          left.get(), right.get(), nullptr, "none", nullptr, 0, nullptr, &out));
      owner_.emplace(out);
      data_ = static_cast<T*>(owner_->mutable_data_ptr());
      return;
    }
    multiply(left, matrix_view(b, k, n, rows ? int64_t{1} : n, rows ? k : 1),
             matrix_view(scratch, m, n, n, int64_t{1}));
  }
  T* data() const { return data_; }

 private:
  std::optional<torch::stable::Tensor> owner_;
  T* data_;
};

}  // namespace ncfast
