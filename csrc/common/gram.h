// Gram matrices of rows that exist only a chunk at a time: out += R^T R in float64.
#pragma once

#include <algorithm>
#include <cstdint>

#include "parallel.h"
#include "products.h"

namespace ncfast {

// Rows of a chunk: products are summed in T over these only. A chunk holds 4 Mi values at most. Its
// columns are stored below each other; a power of two of them apart, they would share few cache sets.
inline int64_t gram_rows(int64_t width) {
  const int64_t rows = (int64_t{4} << 20) / std::max<int64_t>(width, 1) / kProductStep * kProductStep;
  return std::clamp<int64_t>(rows, 256, 4096) - kProductStep;
}
// Rows of the last chunk, filled up with zeros: two sizes an octave, for oneDNN keeps a kernel each.
inline int64_t filled_rows(int64_t rows, int64_t max_rows) {
  int64_t size = kProductStep;
  while (size < rows) {
    size = size > kProductStep && size / 2 * 3 >= rows ? size / 2 * 3 : 2 * size;
  }
  return std::min(size, max_rows);
}
// Rows of an output panel; the part left of it is mirrored. Over N D^2 FLOP at the sgemm rate, at
// N=65,536, D=768, 96 takes 1.42 (1.51 on two threads), 128 takes 1.43 (1.58), 192 takes 1.52.
constexpr int64_t kGramPanel = 96;

// Writes 32 rows below each other as columns, `stride` apart. A cache line of each row at a time, by
// way of contiguous memory: rows that are 3 KiB apart share four sets of the first cache.
template <class T>
void transpose_block(const T* rows, int64_t width, T* columns, int64_t stride) {
  constexpr int64_t line = 64 / sizeof(T), height = kProductStep;
  T part[height][line];
  for (int64_t begin = 0; begin < width; begin += line) {
    const int64_t span = std::min(line, width - begin);
    for (int64_t r = 0; r < height; ++r) {
      std::copy_n(rows + r * width + begin, span, part[r]);
    }
    for (int64_t d = 0; d < span; ++d) {
      T* column = columns + (begin + d) * stride;
      for (int64_t r = 0; r < height; ++r) {
        column[r] = part[r][d];
      }
    }
  }
}

// Adds R^T R to `out` ([width, width] float64, contiguous; only its upper triangle is read), where
// fill(row, target) writes row `row` of R ([width] T). Panels of the upper triangle take
// (1 + 96/width)/2 of the full product. Mirrors at the end.
template <class T, class Fill>
void add_gram(int64_t rows, int64_t width, const Fill& fill, double* out) {
  const int64_t chunk_rows = std::min(gram_rows(width), rows);
  const Library library = library_for<T>(rows * width * width);
  const int64_t panels = (width + kGramPanel - 1) / kGramPanel;
  Buffer<T> chunk(filled_rows(chunk_rows, gram_rows(width)) * width);
  for (int64_t begin = 0; begin < rows; begin += chunk_rows) {
    const int64_t count = std::min(chunk_rows, rows - begin);
    const int64_t filled = filled_rows(count, gram_rows(width));
    const int64_t block = 32;  // kProductStep
    parallel_units(filled / block, [&](const auto& take) {
      Buffer<T> lines(block * width);
      for (int64_t unit = take(); unit >= 0; unit = take()) {
        for (int64_t r = 0; r < block; ++r) {
          T* line = lines.get() + r * width;
          if (unit * block + r < count) {
            fill(begin + unit * block + r, line);
          } else {
            std::fill_n(line, width, T(0));
          }
        }
        transpose_block(lines.get(), width, chunk.get() + unit * block, filled);
      }
    });
    // Panels shrink with their number, so handing them out in order balances the threads.
    parallel_units(panels, [&](const auto& take) {
      Buffer<T> tile(std::min(kGramPanel, width) * width);
      for (int64_t panel = take(); panel >= 0; panel = take()) {
        const int64_t first = panel * kGramPanel;
        const int64_t height = std::min(kGramPanel, width - first), span = width - first;
        const T* columns = chunk.get() + first * filled;
        const Product<T> products(library, columns, height, filled, columns, span, Layout::rows,
                                  tile.get());
        for (int64_t i = 0; i < height; ++i) {
          double* target = out + (first + i) * width + first;
          const T* source = products.data() + i * span;
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
  // Multiplies `count` rows by the sum, which is symmetric; fills `rows` up with zeros.
  Product<T> times(Library library, T* rows, int64_t count, T* scratch) const {
    const int64_t padded = padded_size(count);
    std::fill_n(rows + count * width_, (padded - count) * width_, T(0));
    return Product<T>(library, rows, padded, width_, data_.get(), width_, Layout::rows, scratch);
  }

 private:
  int64_t width_;
  Buffer<T> data_;
};

}  // namespace ncfast
