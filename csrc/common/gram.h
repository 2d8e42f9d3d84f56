// Gram matrices of rows that exist only a chunk at a time: out += R^T R in float64.
#pragma once

#include <algorithm>
#include <cstdint>

#include "blas.h"
#include "parallel.h"

namespace ncfast {

// Rows of a chunk: products are summed in T over these only. A chunk holds 4 Mi values at most.
inline int64_t gram_rows(int64_t width) {
  return std::clamp<int64_t>((int64_t{4} << 20) / std::max<int64_t>(width, 1), 256, 4096);
}
// Rows of an output panel; the part left of it is mirrored. Over N D^2 FLOP at the sgemm rate, at
// N=65,536, D=768, 96 takes 1.42 (1.51 on two threads), 128 takes 1.43 (1.58), 192 takes 1.52.
constexpr int64_t kGramPanel = 96;

// Adds R^T R to `out` ([width, width] float64, contiguous; only its upper triangle is read), where
// fill(row, target) writes row `row` of R ([width] T). Panels of the upper triangle take
// (1 + 96/width)/2 of the full product. Mirrors at the end.
template <class T, class Fill>
void add_gram(int64_t rows, int64_t width, const Fill& fill, double* out) {
  const int64_t chunk_rows = std::min(gram_rows(width), rows);
  const int64_t panels = (width + kGramPanel - 1) / kGramPanel;
  Buffer<T> chunk(chunk_rows * width);
  for (int64_t begin = 0; begin < rows; begin += chunk_rows) {
    const int64_t count = std::min(chunk_rows, rows - begin);
    const int64_t block = 32;
    parallel_units((count + block - 1) / block, [&](const auto& take) {
      for (int64_t unit = take(); unit >= 0; unit = take()) {
        for (int64_t r = unit * block; r < std::min(count, (unit + 1) * block); ++r) {
          fill(begin + r, chunk.get() + r * width);
        }
      }
    });
    // Panels shrink with their number, so handing them out in order balances the threads.
    parallel_units(panels, [&](const auto& take) {
      Buffer<T> tile(std::min(kGramPanel, width) * width);
      for (int64_t panel = take(); panel >= 0; panel = take()) {
        const int64_t first = panel * kGramPanel;
        const int64_t height = std::min(kGramPanel, width - first), span = width - first;
        multiply(matrix_view(chunk.get() + first, height, count, int64_t{1}, width),
                 matrix_view(chunk.get() + first, count, span, width, int64_t{1}),
                 matrix_view(tile.get(), height, span, span, int64_t{1}));
        for (int64_t i = 0; i < height; ++i) {
          double* target = out + (first + i) * width + first;
          const T* source = tile.get() + i * span;
          for (int64_t j = i; j < span; ++j) {
            target[j] += static_cast<double>(source[j]);
          }
        }
      }
    });
  }
  for (int64_t i = 0; i < width; ++i) {
    for (int64_t j = i + 1; j < width; ++j) {
      out[j * width + i] = out[i * width + j];
    }
  }
}

// G + G^T of a contiguous [width, width] float64 gradient, in T: what a Gram's backward multiplies by.
template <class T>
class SymmetricSum {
 public:
  explicit SymmetricSum(const torch::stable::Tensor& grad)
      : width_(grad.size(0)), data_(width_ * width_) {
    const auto* in = static_cast<const double*>(grad.const_data_ptr());
    for (int64_t i = 0; i < width_; ++i) {
      for (int64_t j = 0; j < width_; ++j) {
        data_[i * width_ + j] = static_cast<T>(in[i * width_ + j] + in[j * width_ + i]);
      }
    }
  }
  torch::stable::Tensor view() const {
    return matrix_view(data_.get(), width_, width_, width_, int64_t{1});
  }

 private:
  int64_t width_;
  Buffer<T> data_;
};

}  // namespace ncfast
