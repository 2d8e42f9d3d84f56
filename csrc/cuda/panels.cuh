// A panel: weights of some rows for other rows, made tile by tile of products, then multiplied into
// sums of rows that one block owns each. So nothing is added across blocks, and the panel is all the
// memory that is taken.
#pragma once

#include "dispatch.cuh"
#include "products.cuh"

namespace ncfast::cuda {

struct Panel {
  float* data;
  int64_t stride;  // a multiple of the tile's side, as is the number of rows
};

// Sums of rows in float32: row i of a panel adds to the row that `index` names at first + i.
struct RowSums {
  Matrix<float> sums;
  RowIndex index;
  int64_t first;
  bool fresh;  // writes, where it would add
};

// What is multiplied: rows first .. first + depth, of which there may be fewer.
struct PanelRows {
  AnyRows rows;
  int64_t first, depth;
  const int32_t* count;  // how many rows there are, known on the device; or null
};

struct PanelShape : ProductShape {
  static constexpr int kDepthStride = kTile + 8;
  struct Operands {
    union {
      float across[2][kTile * kStride];
      float down[2][kStep][kDepthStride];
    };
    float right[2][kStep][kDepthStride];
  };
  union Memory {
    Operands operands;
    ProductValues values;
  };
};

// sums += P R, or P^T R where kTransposed: then the panel's columns are the rows of the sums.
template <bool kTransposed>
__global__ void __launch_bounds__(PanelShape::kThreads, 1)
    add_panel_products(Panel panel, PanelRows right, RowSums out, int64_t width_tiles) {
  using Shape = PanelShape;
  constexpr int kTile = Shape::kTile, kStep = Shape::kStep;
  auto& memory = shared_memory<Shape::Memory>();
  auto& shared = memory.operands;
  const int64_t row_tile = blockIdx.x / width_tiles * kTile;
  const int64_t column = blockIdx.x % width_tiles * kTile;
  int64_t depth = right.depth;
  if (right.count != nullptr && *right.count - right.first < depth) {
    depth = *right.count - right.first;
  }
  const auto out_row = [&](int64_t i) {
    const int64_t k = out.first + i;
    return k < out.index.count ? out.index.row(k) : -1;
  };
  if (out_row(row_tile) < 0 || (depth <= 0 && !out.fresh)) {
    return;  // rows that do not exist come last
  }
  const int thread = static_cast<int>(threadIdx.x);
  const int step_row = thread / (kTile / kVec8), step_column = thread % (kTile / kVec8) * kVec8;
  const int row = kTransposed ? step_row : thread / 2;
  const int vec_column = kTransposed ? step_column : thread % 2 * kVec8;
  const float* left = panel.data + (kTransposed ? row * panel.stride + row_tile + vec_column
                                                : (row_tile + row) * panel.stride + vec_column);
  const int64_t left_step = kTransposed ? kStep * panel.stride : kStep;
  Vec8<float> left_next;
  AnyRows::Fetched right_next;
  const auto load = [&](int64_t k) {
    left_next.words[0] = reinterpret_cast<const uint4*>(left)[0];
    left_next.words[1] = reinterpret_cast<const uint4*>(left)[1];
    left += left_step;
    right_next = right.rows.fetch(right.first + k + step_row, column + step_column);
  };
  ProductTile tile;
  tile.clear();
  if (depth > 0) {
    load(0);
  }
  int buffer = 0;
#pragma unroll 1
  for (int64_t k = 0; k < depth; k += kStep, buffer = 1 - buffer) {
    float values[kVec8];
    left_next.unpack(values);
    store_vec8(kTransposed ? shared.down[buffer][row] + vec_column
                            : shared.across[buffer] + row * Shape::kStride + vec_column,
                values);
    right.rows.finish(right_next, column + step_column, values);
    store_vec8(shared.right[buffer][step_row] + step_column, values);
    __syncthreads();
    if (kLoadAhead && k + kStep < depth) {
      load(k + kStep);
    }
    using Down = SharedView<1, Shape::kDepthStride>;
    const Down other = {&shared.right[buffer][0][warp_column()]};
    if constexpr (kTransposed) {
      tile.template multiply<kStep, 8>(Down{&shared.down[buffer][0][warp_row()]}, other);
    } else {
      using Across = SharedView<Shape::kStride, 1>;
      // Eight at once: with sixteen, 16 bytes are spilled for sm_80 and sm_90a.
      tile.template multiply<kStep, 8>(
          Across{shared.across[buffer] + warp_row() * Shape::kStride}, other);
    }
    if (!kLoadAhead && k + kStep < depth) {
      load(k + kStep);
    }
  }
  memory.values.put(tile);
#pragma unroll 1
  for (int i = thread / kWarp; i < kTile; i += Shape::kThreads / kWarp) {
    const int64_t to = out_row(row_tile + i);
#pragma unroll
    for (int c = thread % kWarp; c < kTile; c += kWarp) {
      if (to >= 0 && column + c < out.sums.width) {
        float* at = out.sums.at(to, column + c);
        *at = out.fresh ? memory.values.at[i][c] : *at + memory.values.at[i][c];
      }
    }
  }
}

template <bool kTransposed>
void add_panel(Context& context, const Panel& panel, const PanelRows& rows, const RowSums& out,
               int64_t out_count) {
  constexpr int kTile = PanelShape::kTile;
  const int64_t width_tiles = divide_up(out.sums.width, kTile);
  launch(add_panel_products<kTransposed>, divide_up(out_count, kTile) * width_tiles,
         PanelShape::kThreads, sizeof(PanelShape::Memory), context, panel, rows, out, width_tiles);
}

}  // namespace ncfast::cuda
