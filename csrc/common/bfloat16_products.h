// Products of bfloat16 rows as they are stored: each product above 2^-126 is exact, what is below is
// 0, sums are float32.
//
// On CPUs with AVX512_BF16 a vector instruction multiplies and adds pairs of them: on a Zen 4, 212
// GFLOP/s a thread with the copying, where float32 reaches 97 (torch.mm) and 103 (oneDNN). MKL's
// gemm_bf16bf16f32 uses AMX where there is AMX; on AMD's CPUs it widens, at 100 GFLOP/s. torch's own
// product of bfloat16 rounds its results to bfloat16, which is no use here.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#if defined(__x86_64__) && defined(__GNUC__) && defined(__AVX2__)
#define NCFAST_DOT_PAIRS 1
#include <immintrin.h>
#endif

#include "blas.h"
#include "parallel.h"
#include "rows.h"

extern "C" void cblas_gemm_bf16bf16f32(int layout, int transpose_a, int transpose_b, int m, int n,
                                       int k, float alpha, const uint16_t* a, int lda,
                                       const uint16_t* b, int ldb, float beta, float* c, int ldc)
    __attribute__((weak));

namespace ncfast {

// How bfloat16 is multiplied.
enum class Narrow { widened, dot_pairs, mkl };

inline bool can_dot_pairs() {
#ifdef NCFAST_DOT_PAIRS
  static const bool yes = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw");
  return yes;
#else
  return false;
#endif
}

// Columns of a panel: four vectors. Pairs that one float32 sum runs over: longer ones lose digits.
constexpr int64_t kPanelColumns = 64;
constexpr int64_t kPanelPairs = 128;

inline int64_t padded_columns(int64_t columns) {
  return (columns + kPanelColumns - 1) / kPanelColumns * kPanelColumns;
}

#ifdef NCFAST_DOT_PAIRS

// `out` (+)= rows x panel, for `Rows` rows of pairs and a panel [pairs, 64 columns] of them.
template <int Rows>
__attribute__((target("avx512f,avx512bw,avx512bf16"))) inline void dot_strip(
    const uint32_t* rows, int64_t row_pairs, const uint32_t* panel, int64_t pairs, float* out,
    int64_t stride, bool add) {
  constexpr int vectors = kPanelColumns / 16;
  __m512 sums[Rows][vectors];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      sums[r][v] = _mm512_setzero_ps();
    }
  }
  for (int64_t p = 0; p < pairs; ++p) {
    __m512bh columns[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      columns[v] = (__m512bh)_mm512_load_si512(panel + p * kPanelColumns + 16 * v);
    }
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const __m512bh pair = (__m512bh)_mm512_set1_epi32(static_cast<int>(rows[r * row_pairs + p]));
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
        sums[r][v] = _mm512_dpbf16_ps(sums[r][v], pair, columns[v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      float* at = out + r * stride + 16 * v;
      _mm512_storeu_ps(at, add ? _mm512_add_ps(_mm512_loadu_ps(at), sums[r][v]) : sums[r][v]);
    }
  }
}

inline void dot_rows(int64_t count, const uint32_t* rows, int64_t row_pairs, const uint32_t* panel,
                     int64_t pairs, float* out, int64_t stride, bool add) {
  constexpr auto strip = [](int64_t height) {
    switch (height) {
      case 1: return dot_strip<1>;
      case 2: return dot_strip<2>;
      case 3: return dot_strip<3>;
      case 4: return dot_strip<4>;
      case 5: return dot_strip<5>;
      default: return dot_strip<6>;  // 24 of 32 registers hold sums
    }
  };
  for (int64_t r = 0; r < count; r += 6) {
    strip(count - r)(rows + r * row_pairs, row_pairs, panel, pairs, out + r * stride, stride, add);
  }
}

#endif

// A thread's memory for tiles of products of bfloat16 rows: a b^T for a tile a and a tile b.
class NarrowTiles {
 public:
  NarrowTiles(Narrow how, int64_t width, int64_t max_rows, int64_t max_columns)
      : how_(how),
        width_(width),
        pairs_((width + 1) / 2),
        max_columns_(padded_columns(max_columns)),
        rows_(padded_rows(max_rows) * pairs_),
        columns_(max_columns_ * pairs_) {}

  // Takes row_of(0), ..., row_of(count - 1) of a.
  template <class T, class RowOf>
  void take_rows(const RowReader<T>& a, int64_t count, const RowOf& row_of) {
    count_ = count;
    for (int64_t r = 0; r < count; ++r) {
      copy_row(a.template stored<BFloat16>(row_of(r)), rows_.get() + r * pairs_);
    }
    if (how_ == Narrow::mkl) {
      std::fill_n(rows_.get() + count * pairs_, (padded_rows(count) - count) * pairs_, 0u);
    }
  }

  // Takes rows of b, which are the product's columns.
  template <class T, class RowOf>
  void take_columns(const RowReader<T>& b, int64_t count, const RowOf& row_of) {
    span_ = count;
    if (how_ == Narrow::mkl) {
      for (int64_t c = 0; c < count; ++c) {
        copy_row(b.template stored<BFloat16>(row_of(c)), columns_.get() + c * pairs_);
      }
      std::fill_n(columns_.get() + count * pairs_, (max_columns_ - count) * pairs_, 0u);
      return;
    }
    for (int64_t first = 0; first < count; first += kPanelColumns) {
      const BFloat16* rows[kPanelColumns] = {};
      for (int64_t c = 0; c < std::min(kPanelColumns, count - first); ++c) {
        rows[c] = b.template stored<BFloat16>(row_of(first + c));
      }
      place_panel(rows, columns_.get() + first * pairs_);
    }
  }

  // Writes the product to `out`: `stride` values a row, at least padded_columns(max_columns), of which
  // those past b's rows are zeros or untouched; rows past a's up to a multiple of 32 are too. MKL always
  // gets a whole tile: it may add in another order where sizes differ, and equal rows of b in two
  // tiles have to tie.
  void multiply(float* out, int64_t stride) const {
    if (how_ == Narrow::mkl) {
      const SequentialBlas sequential;
      constexpr int by_rows = 101, as_it_is = 111, transposed = 112;
      const int k = static_cast<int>(2 * pairs_);
      cblas_gemm_bf16bf16f32(by_rows, as_it_is, transposed, static_cast<int>(padded_rows(count_)),
                             static_cast<int>(max_columns_), k, 1,
                             reinterpret_cast<const uint16_t*>(rows_.get()), k,
                             reinterpret_cast<const uint16_t*>(columns_.get()), k, 0, out,
                             static_cast<int>(stride));
      return;
    }
#ifdef NCFAST_DOT_PAIRS
    for (int64_t pair = 0; pair == 0 || pair < pairs_; pair += kPanelPairs) {
      const int64_t pairs = std::min(kPanelPairs, pairs_ - pair);
      for (int64_t first = 0; first < span_; first += kPanelColumns) {
        dot_rows(count_, rows_.get() + pair, pairs_,
                 columns_.get() + first * pairs_ + pair * kPanelColumns, pairs, out + first, stride,
                 pair > 0);
      }
    }
#endif
  }

 private:
  static int64_t padded_rows(int64_t rows) { return (rows + 31) / 32 * 32; }

  // Copies a row, and a zero behind an odd number of values.
  void copy_row(const BFloat16* in, uint32_t* out) const {
    if (pairs_ > 0) {
      out[pairs_ - 1] = 0;
      std::memcpy(out, in, width_ * sizeof(BFloat16));
    }
  }

  // Writes the pairs of each row below each other, zeros where there is no row.
  void place_panel(const BFloat16* const* rows, uint32_t* panel) const {
    constexpr int64_t some = 16;  // of a panel's 256-byte lines: they stay in the first cache
    for (int64_t p = 0; p < pairs_; p += some) {
      const int64_t values = std::min(2 * some, width_ - 2 * p), pairs = (values + 1) / 2;
      for (int64_t c = 0; c < kPanelColumns; ++c) {
        uint32_t in[some] = {};
        if (rows[c] != nullptr && values == 2 * some) {
          std::memcpy(in, rows[c] + 2 * p, sizeof(in));
        } else if (rows[c] != nullptr) {
          std::memcpy(in, rows[c] + 2 * p, values * sizeof(BFloat16));
        }
        uint32_t* out = panel + p * kPanelColumns + c;
        for (int64_t u = 0; u < pairs; ++u) {
          out[u * kPanelColumns] = in[u];
        }
      }
    }
  }

  const Narrow how_;
  const int64_t width_, pairs_, max_columns_;
  int64_t count_ = 0, span_ = 0;
  Buffer<uint32_t> rows_, columns_;
};

}  // namespace ncfast
