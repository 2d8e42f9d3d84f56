// Products of packed tiles by the faster of torch's two CPU libraries.
//
// torch.mm is MKL, which runs AVX2 code on AMD's CPUs: 112 GFLOP/s a thread on a Zen 5 whose AVX-512
// gives 220-240 to oneDNN, on the same tiles; on a Zen 4, whose AVX-512 is no wider, they are 97 and
// 103. oneDNN is reached through the C function that AOTInductor's code calls.
#pragma once

#include <optional>

#include "blas.h"
#include "product_choice.h"

namespace ncfast {

// oneDNN keeps up to 1,024 kernels, one a shape: sizes that differ from call to call are to be
// padded with zeros to multiples of this (csrc/common/head_panels.h says what it costs otherwise).
constexpr int64_t kProductStep = 32;
inline int64_t padded_size(int64_t size) {
  return (size + kProductStep - 1) / kProductStep * kProductStep;
}

// How the second factor lies in memory, always contiguous.
enum class Layout { rows, columns };

enum class Library { mm, onednn };

// Which library a call with this many multiplications uses, in each of its products: a choice by tile
// would let equal rows of two tiles differ in their last digits.
template <class T>
Library library_for(int64_t multiplications) {
  const bool chooses = std::is_same_v<T, float> && multiplications >= kWorthChoosing;
  return chooses && product_choice().onednn ? Library::onednn : Library::mm;
}

// a b^T for a [m, k] and b [n, k], both contiguous; b may be stored as [k, n] (columns). The result
// is in `scratch` ([m, n]) or in memory of its own, and nothing behind it may be read.
template <class T>
class Product {
 public:
  Product(Library library, const T* a, int64_t m, int64_t k, const T* b, int64_t n, Layout layout,
          T* scratch)
      : data_(scratch) {
    const bool rows = layout == Layout::rows;
    const auto left = matrix_view(a, m, k, k, int64_t{1});
    if (library == Library::onednn) {
      owner_.emplace(onednn_product(left, matrix_view(b, n, k, rows ? k : 1, rows ? int64_t{1} : n)));
      data_ = static_cast<T*>(owner_->mutable_data_ptr());
      return;
    }
    multiply(left, matrix_view(b, k, n, rows ? int64_t{1} : n, rows ? k : 1),
             matrix_view(scratch, m, n, n, int64_t{1}));
  }
  // A product that was computed otherwise.
  explicit Product(T* found) : data_(found) {}
  T* data() const { return data_; }

 private:
  std::optional<torch::stable::Tensor> owner_;
  T* data_;
};

}  // namespace ncfast
