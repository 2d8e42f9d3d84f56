// Gram matrices of rows that exist only a chunk at a time: out += R^T R in float64.
#pragma once

#include <algorithm>
#include <cstdint>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "parallel.h"
#include "products.h"
#include "vectors.h"

namespace ncfast {

// Rows of a chunk: products are summed in T over these only. A chunk holds 4 Mi values at most. With
// 4,064 rows oneDNN's 105 GFLOP/s are 101. Where columns are stored below each other, a power of two of
// them apart they would share few cache sets.
inline int64_t gram_rows(Library library, int64_t width) {
  const int64_t rows = (int64_t{4} << 20) / std::max<int64_t>(width, 1) / kProductStep * kProductStep;
  return std::clamp<int64_t>(rows, 256, library == Library::onednn ? 2048 : 4096) - kProductStep;
}
// Rows of the last chunk, filled up with zeros: two sizes an octave, for oneDNN keeps a kernel each.
inline int64_t filled_rows(int64_t rows, int64_t max_rows) {
  int64_t size = kProductStep;
  while (size < rows) {
    size = size > kProductStep && size / 2 * 3 >= rows ? size / 2 * 3 : 2 * size;
  }
  return std::min(size, max_rows);
}

// Columns of an output panel; what is below it is mirrored. oneDNN copies its second factor: 105
// GFLOP/s where that is the panel, 100 where it is what the panel is multiplied by. Of panels of 48 to
// 192 columns those of 64 are the fastest: of a width of 384 they take 0.95 of the time of 96 columns,
// of 768 and 2,048 0.97 to 0.99.
constexpr int64_t kGramPanel = 96, kGramPanelOnednn = 64;
constexpr int64_t gram_panel(Library library) {
  return library == Library::onednn ? kGramPanelOnednn : kGramPanel;
}

// A row of R that is yet to be computed: scale (row - center).
template <class T>
struct GramRow {
  const T *row, *center;
  T scale;

  // Writes `span` values from `begin` on.
  void write(int64_t begin, int64_t span, T* out) const {
    const T *from = row + begin, *less = center + begin;
    fill_values<T>(
        span, [&](int64_t d) { return scale * (load<T>(from + d) - load<T>(less + d)); },
        [&](int64_t d) { return scale * (from[d] - less[d]); }, out);
  }
};

// Rows and columns that are turned at a time: a cache line of either.
constexpr int64_t kTurned = 16;

#if defined(__AVX2__)
// Writes the columns of 8 x 8 values, `in_stride` apart, as rows `out_stride` apart.
inline void turn_square(const float* in, int64_t in_stride, float* out, int64_t out_stride) {
  __m256 rows[8], pairs[8];
  for (int64_t r = 0; r < 8; ++r) {
    rows[r] = _mm256_loadu_ps(in + r * in_stride);
  }
  for (int64_t r = 0; r < 8; r += 2) {
    pairs[r] = _mm256_unpacklo_ps(rows[r], rows[r + 1]);
    pairs[r + 1] = _mm256_unpackhi_ps(rows[r], rows[r + 1]);
  }
  for (int64_t r = 0; r < 8; r += 4) {
    for (int64_t half = 0; half < 2; ++half) {
      const __m256 a = pairs[r + half], b = pairs[r + 2 + half];
      rows[r + 2 * half] = _mm256_shuffle_ps(a, b, 0x44);
      rows[r + 2 * half + 1] = _mm256_shuffle_ps(a, b, 0xee);
    }
  }
  for (int64_t r = 0; r < 4; ++r) {
    _mm256_storeu_ps(out + r * out_stride, _mm256_permute2f128_ps(rows[r], rows[r + 4], 0x20));
    _mm256_storeu_ps(out + (r + 4) * out_stride,
                     _mm256_permute2f128_ps(rows[r], rows[r + 4], 0x31));
  }
}
#endif

// Writes `span` columns of 16 x 16 values as rows `stride` apart.
template <class T>
void turn_lines(const T (&lines)[kTurned][kTurned], int64_t span, T* out, int64_t stride) {
#if defined(__AVX2__)
  if constexpr (std::is_same_v<T, float>) {
    if (span == kTurned) {
      for (int64_t r = 0; r < kTurned; r += 8) {
        turn_square(&lines[r][0], kTurned, out + r, stride);
        turn_square(&lines[r][8], kTurned, out + 8 * stride + r, stride);
      }
      return;
    }
  }
#endif
  for (int64_t c = 0; c < span; ++c) {
    for (int64_t r = 0; r < kTurned; ++r) {
      out[c * stride + r] = lines[r][c];
    }
  }
}

// Writes 16 rows below each other as columns, `stride` apart. By way of a few contiguous lines: rows of
// 8 KiB share one set of the first cache. What the `next` 16 rows are made of, which lies anywhere, and
// the columns' next lines are asked for meanwhile: 16,128 rows of 768 take 5.4 ms, without that 15.3.
template <class T>
void turn_rows(const GramRow<T>* rows, const GramRow<T>* next, int64_t width, T* columns,
               int64_t stride) {
  alignas(64) T lines[kTurned][kTurned];
  for (int64_t d = 0; d < width; d += kTurned) {
    const int64_t span = std::min(kTurned, width - d), more = std::min(kTurned, width - d - span);
    for (int64_t r = 0; next != nullptr && r < kTurned; ++r) {
      __builtin_prefetch(next[r].row + d, 0, 2);
      __builtin_prefetch(next[r].center + d, 0, 2);
    }
    for (int64_t c = 0; c < more; ++c) {
      __builtin_prefetch(columns + (d + kTurned + c) * stride, 1, 3);
    }
    for (int64_t r = 0; r < kTurned; ++r) {
      rows[r].write(d, span, lines[r]);
    }
    turn_lines(lines, span, columns + d * stride, stride);
  }
}

// A chunk of rows as its library reads them without copying: MKL takes rows as they are; for oneDNN
// they lie below each other as columns, filled up with zeros.
template <class T>
class GramChunk {
 public:
  GramChunk(Library library, int64_t most_rows, int64_t width)
      : library_(library),
        width_(width),
        data_((turned() ? filled_rows(most_rows, gram_rows(library, width)) : most_rows) * width) {}

  // row_of(r, scratch) returns row r of `count`; what is not stored as T it may write to scratch.
  template <class RowOf>
  void take(int64_t count, const RowOf& row_of) {
    rows_ = turned() ? filled_rows(count, gram_rows(library_, width_)) : count;
    const int64_t block = 128;
    parallel_units((rows_ + block - 1) / block, [&](const auto& next) {
      for (int64_t unit = next(); unit >= 0; unit = next()) {
        const int64_t begin = unit * block, end = std::min(rows_, begin + block);
        if (turned()) {
          turn(begin, end, count, row_of);
          continue;
        }
        for (int64_t r = begin; r < end; ++r) {
          T* target = data_.get() + r * width_;
          row_of(r, target).write(0, width_, target);
        }
      }
    });
  }

  // Columns [0, first + span) times columns [first, first + span), in `scratch` or memory of its own.
  Product<T> multiply(int64_t first, int64_t span, T* scratch) const {
    const int64_t all = first + span;
    if (turned()) {
      return Product<T>(library_, data_.get(), all, rows_, data_.get() + first * rows_, span,
                        Layout::rows, scratch);
    }
    ncfast::multiply(matrix_view(data_.get(), all, rows_, int64_t{1}, width_),
                     matrix_view(data_.get() + first, rows_, span, width_, int64_t{1}),
                     matrix_view(scratch, all, span, span, int64_t{1}));
    return Product<T>(scratch);
  }

 private:
  bool turned() const { return library_ == Library::onednn; }

  // Turns rows [begin, end), of which those from `count` on are zeros.
  template <class RowOf>
  void turn(int64_t begin, int64_t end, int64_t count, const RowOf& row_of) {
    // Rows an odd number of cache lines apart: 3 KiB apart they share four sets of the first cache.
    const int64_t line = 64 / sizeof(T), stride = ((width_ + line - 1) / line | 1) * line;
    Buffer<T> scratch((2 * kTurned + 1) * stride);
    T* const zeros = scratch.get() + 2 * kTurned * stride;
    std::fill_n(zeros, width_, T(0));
    GramRow<T> rows[2 * kTurned];
    const auto find = [&](int64_t first) {
      const int64_t at = first % (2 * kTurned);
      for (int64_t r = 0; r < kTurned; ++r) {
        rows[at + r] = first + r < count ? row_of(first + r, scratch.get() + (at + r) * stride)
                                         : GramRow<T>{zeros, zeros, T(0)};
      }
      return rows + at;
    };
    const GramRow<T>* current = find(begin);
    for (int64_t first = begin; first < end; first += kTurned) {
      const GramRow<T>* next = first + kTurned < end ? find(first + kTurned) : nullptr;
      turn_rows(current, next, width_, data_.get() + first, rows_);
      current = next;
    }
  }

  const Library library_;
  const int64_t width_;
  int64_t rows_ = 0;
  Buffer<T> data_;
};

// Calls visit(i, j) for every place of a [width, width] matrix, a square at a time: whoever reads (j, i)
// too finds its lines in the first cache. At width 4,096 a Gram of 32 rows takes 60 ms so, and 115 ms
// row by row; its backward 44 and 167.
template <class Visit>
void visit_squares(int64_t width, const Visit& visit) {
  constexpr int64_t kSide = 32;
  const int64_t squares = (width + kSide - 1) / kSide;
  parallel_units(squares, [&](const auto& take) {
    for (int64_t unit = take(); unit >= 0; unit = take()) {
      const int64_t top = unit * kSide, bottom = std::min(width, top + kSide);
      for (int64_t left = 0; left < width; left += kSide) {
        const int64_t right = std::min(width, left + kSide);
        for (int64_t i = top; i < bottom; ++i) {
          for (int64_t j = left; j < right; ++j) {
            visit(i, j);
          }
        }
      }
    }
  });
}

// Adds R^T R to `out` ([width, width] float64, contiguous; only its upper triangle is read), where
// row_of(row, scratch) returns row `row` of R, and may use scratch ([width] T) for it. Panels of the
// upper triangle take (1 + panel/width)/2 of the full product. Mirrors at the end.
template <class T, class RowOf>
void add_gram(int64_t rows, int64_t width, const RowOf& row_of, double* out) {
  const Library library = library_for<T>(rows * width * width);
  const int64_t chunk_rows = std::min(gram_rows(library, width), rows);
  const int64_t panel = gram_panel(library), panels = (width + panel - 1) / panel;
  GramChunk<T> chunk(library, chunk_rows, width);
  for (int64_t begin = 0; begin < rows; begin += chunk_rows) {
    const int64_t count = std::min(chunk_rows, rows - begin);
    chunk.take(count, [&](int64_t r, T* scratch) { return row_of(begin + r, scratch); });
    // Panels grow with their number, so handing out the last one first balances the threads.
    parallel_units(panels, [&](const auto& take) {
      Buffer<T> tile(std::min(panel, width) * width);
      for (int64_t unit = take(); unit >= 0; unit = take()) {
        const int64_t first = (panels - 1 - unit) * panel;
        const int64_t span = std::min(panel, width - first);
        const Product<T> products = chunk.multiply(first, span, tile.get());
        for (int64_t i = 0; i < first + span; ++i) {
          double* target = out + i * width + first;
          const T* source = products.data() + i * span;
          for (int64_t j = 0; i + 2 < first + span && j < span; j += 8) {
            __builtin_prefetch(target + 2 * width + j, 1, 3);  // rows are too short to be foreseen
          }
          for (int64_t j = std::max<int64_t>(0, i - first); j < span; ++j) {
            target[j] += static_cast<double>(source[j]);
          }
        }
      }
    });
  }
  visit_squares(width, [&](int64_t i, int64_t j) {
    if (j < i) {
      out[i * width + j] = out[j * width + i];
    }
  });
}

// G + G^T of a contiguous [width, width] float64 gradient, in T: what a Gram's backward multiplies by.
template <class T>
class SymmetricSum {
 public:
  explicit SymmetricSum(const torch::stable::Tensor& grad)
      : width_(grad.size(0)), data_(width_ * width_) {
    const auto* in = static_cast<const double*>(grad.const_data_ptr());
    visit_squares(width_, [&](int64_t i, int64_t j) {
      data_[i * width_ + j] = static_cast<T>(in[i * width_ + j] + in[j * width_ + i]);
    });
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
