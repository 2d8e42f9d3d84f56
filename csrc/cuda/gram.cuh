// scatter += R^T R for rows R that a source makes as they are read: [D, D] in float64, added up by
// tiles of the upper triangle and by splits of the rows, in a fixed order.
//
// A source has: rows() on the device, width, a type Fetched, fetch(row, column) that only loads,
// and finish(fetched, row, column, first_reader, values) that makes eight values of them.
#pragma once

#include "device_errors.cuh"
#include "tensor_cores.cuh"
#include "triangle.cuh"

#include <type_traits>

namespace ncfast::cuda {

template <int kTileWidth>
struct GramShape {
  static constexpr int kTile = kTileWidth, kStep = 16, kStride = kTile + 8;
  static constexpr int kWarpRows = kTile == 128 ? 4 : 2, kWarpColumns = 4;
  static constexpr int kAcross = kTile / (kWarpColumns * 8);  // warps beside one another
  static constexpr int kWarps = kTile / (kWarpRows * 16) * kAcross;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kVectors = kTile / kVec8;
  static_assert(kStep * kVectors == kThreads, "every thread loads eight values of either side");

  struct Operands {
    float left[2][kStep][kStride], right[2][kStep][kStride];
  };
  union Shared {
    Operands operands;
    float sums[kTile][kTile + 4];
  };
};

constexpr int kGramChunk = NCFAST_SIZE(1024, 32);  // rows that are added up in float32
constexpr int kGramBlocks = NCFAST_SIZE(512, 3);  // blocks to aim at: a few for every multiprocessor

template <int kTileWidth, class Source>
__global__ void __launch_bounds__(GramShape<kTileWidth>::kThreads, 1)
    gram_tiles(Source source, int64_t side, int64_t splits, double* partials) {
  using Shape = GramShape<kTileWidth>;
  auto& memory = shared_memory<typename Shape::Shared>();
  auto& shared = memory.operands;
  const int64_t tile = blockIdx.x / splits, split = blockIdx.x % splits, rows = source.rows();
  int64_t i, j;
  triangle_tile(tile, side, i, j);
  const int warp = threadIdx.x / kWarp;
  const int warp_row = warp / Shape::kAcross * Shape::kWarpRows * 16;
  const int warp_column = warp % Shape::kAcross * Shape::kWarpColumns * 8;
  const int step_row = threadIdx.x / Shape::kVectors;
  const int vec_column = threadIdx.x % Shape::kVectors * kVec8;
  const int64_t left = i * Shape::kTile + vec_column, right = j * Shape::kTile + vec_column;
  double* out = partials + static_cast<int64_t>(blockIdx.x) * Shape::kTile * Shape::kTile;
  int buffer = 0;
  for (int64_t begin = split * kGramChunk; begin < rows || begin == split * kGramChunk;
       begin += splits * kGramChunk) {
    const int64_t end = begin + kGramChunk < rows ? begin + kGramChunk : rows;
    WarpTile<Shape::kWarpRows, Shape::kWarpColumns> sums;
    sums.clear();
    auto left_next = source.fetch(begin + step_row, left);
    auto right_next = source.fetch(begin + step_row, right);
#pragma unroll 1
    for (int64_t k = begin; k < end; k += Shape::kStep, buffer = 1 - buffer) {
      float values[kVec8];
      source.finish(left_next, k + step_row, left, i == j, values);
      store_vec8(shared.left[buffer][step_row] + vec_column, values);
      source.finish(right_next, k + step_row, right, false, values);
      store_vec8(shared.right[buffer][step_row] + vec_column, values);
      __syncthreads();
      const auto load_next = [&] {
        if (k + Shape::kStep < end) {
          left_next = source.fetch(k + Shape::kStep + step_row, left);
          right_next = source.fetch(k + Shape::kStep + step_row, right);
        }
      };
      if constexpr (kLoadAhead) {
        load_next();
      }
      using View = SharedView<1, Shape::kStride>;
      // Eight at once: with sixteen, 8 bytes are spilled for sm_90a.
      sums.template multiply<Shape::kStep, 8>(View{&shared.left[buffer][0][warp_row]},
                                              View{&shared.right[buffer][0][warp_column]});
      if constexpr (!kLoadAhead) {
        load_next();
      }
    }
    // Through shared memory: unrolled over the registers that hold the sums, the additions to
    // float64 spill, and are not side by side in memory.
    __syncthreads();
#pragma unroll
    for (int r = 0; r < Shape::kWarpRows; ++r) {
#pragma unroll
      for (int c = 0; c < Shape::kWarpColumns; ++c) {
#pragma unroll
        for (int v = 0; v < 4; ++v) {
          memory.sums[warp_row + sums.row(r, v)][warp_column + sums.column(c, v)] =
              sums.values[r][c][v];
        }
      }
    }
    __syncthreads();
#pragma unroll 4
    for (int at = threadIdx.x; at < Shape::kTile * Shape::kTile; at += Shape::kThreads) {
      const double sum = memory.sums[at / Shape::kTile][at % Shape::kTile];
      out[at] = begin == split * kGramChunk ? sum : out[at] + sum;
    }
    __syncthreads();  // before the next rows are stored
  }
}

// Adds the splits to both triangles of the scatter; nothing where values were found wrong.
template <int kTile>
__global__ void add_gram_tiles(const double* partials, int64_t side, int64_t splits, int64_t width,
                               double* scatter, const DeviceErrors* errors) {
  const int64_t tile = blockIdx.x / kTile, row = blockIdx.x % kTile;
  int64_t i, j;
  triangle_tile(tile, side, i, j);
  i = i * kTile + row;
  j = j * kTile + threadIdx.x;
  if (i > j || j >= width || errors->any()) {
    return;
  }
  double sum = 0;
  for (int64_t split = 0; split < splits; ++split) {
    sum += partials[((tile * splits + split) * kTile + row) * kTile + threadIdx.x];
  }
  scatter[i * width + j] += sum;
  if (i != j) {
    scatter[j * width + i] += sum;
  }
}

template <int kTile, class Source>
void add_gram_of(Context& context, const Source& source, int64_t max_rows, double* scatter,
                 const DeviceErrors* errors) {
  using Shape = GramShape<kTile>;
  const int64_t side = divide_up(source.width, kTile), tiles = side * (side + 1) / 2;
  int64_t splits = divide_up(max_rows, kGramChunk);
  splits = splits * tiles > kGramBlocks ? divide_up(kGramBlocks, tiles) : splits;
  auto* partials = context.workspace<double>(tiles * splits * kTile * kTile);
  launch(gram_tiles<kTile, Source>, tiles * splits, Shape::kThreads, sizeof(typename Shape::Shared),
         context, source, side, splits, partials);
  launch(add_gram_tiles<kTile>, tiles * kTile, kTile, 0, context, partials, side, splits,
         source.width, scatter, errors);
}

// `make(whole)` makes the source; `whole`: all it reads is 16-byte words, and the wide tiles, which
// have no registers to spare for anything else, are used. `most_rows`: a bound on source.rows() that
// the host knows.
template <class Make>
void add_gram(Context& context, Make&& make, bool whole, int64_t width, int64_t max_rows,
              double* scatter, const DeviceErrors* errors) {
  if (width == 0 || max_rows == 0) {
    return;
  }
  if (whole && width > 64) {
    add_gram_of<128>(context, make(std::true_type{}), max_rows, scatter, errors);
  } else {
    add_gram_of<64>(context, make(std::false_type{}), max_rows, scatter, errors);
  }
}

}  // namespace ncfast::cuda
