// Walks over the tiles of the upper triangle of a square of tiles, in closed form.
#pragma once

#include "device.h"

namespace ncfast::cuda {

// Tile t of side (side + 1) / 2. Rows of tiles that together are as long as the longest, or one
// longer where the side is even, make a rectangle: the first, the second and the last, and so on.
__device__ __forceinline__ void triangle_tile(int64_t t, int64_t side, int64_t& i, int64_t& j) {
  const int64_t width = side | 1, r = t / width, c = t % width;
  const bool first = c < side - r;
  i = first ? r : side - r - 1 + side % 2;
  j = first ? r + c : c - 1 + side % 2;
}

// The same by squares of tiles, a square after another, so that blocks at work share the rows of a
// few tiles: 132 tiles of one line have 133 panels of rows, 132 of squares of 8 by 8 have 25.
struct TriangleWalk {
  static constexpr int64_t kSquare = NCFAST_SIZE(8, 2);
  // All that a kernel needs is made here: what it had to make it would hold in registers.
  int64_t side, square, squares, places;  // some places have no tile: below the diagonal, or outside

  explicit TriangleWalk(int64_t side)
      : side(side),
        square(side < kSquare ? side : kSquare),
        squares(side > 0 ? divide_up(side, square) : 0),
        places(squares * (squares + 1) / 2 * square * square) {}
  // Whether place t has a tile, and which.
  __device__ __forceinline__ bool tile(int64_t t, int64_t& i, int64_t& j) const {
    triangle_tile(t / square / square, squares, i, j);
    i = i * square + t / square % square;
    j = j * square + t % square;
    return i <= j && j < side;
  }
};

}  // namespace ncfast::cuda
