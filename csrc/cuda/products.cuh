// A tile of products of rows with rows, 128 x 128, accumulated by eight warps in registers.
#pragma once

#include "index.cuh"
#include "tensor_cores.cuh"

#include <type_traits>

namespace ncfast::cuda {

struct ProductShape {
  static constexpr int kTile = 128, kThreads = 256;
  static constexpr int kWarpRows = 4, kWarpColumns = 4, kAcross = 4;  // warps of 64 x 32, 2 by 4
  static constexpr int kStep = 16, kStride = kStep + 4;      // of float32
  static constexpr int kStep16 = 32, kStride16 = kStep16 + 8;  // of 16-bit values

  struct Floats {
    float left[2][kTile * kStride], right[2][kTile * kStride];
  };
  template <class T>
  struct Sixteen {
    alignas(16) T left[2][kTile * kStride16], right[2][kTile * kStride16];
  };
};
using ProductTile = WarpTile<ProductShape::kWarpRows, ProductShape::kWarpColumns>;

__device__ __forceinline__ int warp_row() {
  return static_cast<int>(threadIdx.x) / kWarp / ProductShape::kAcross * ProductShape::kWarpRows * 16;
}
__device__ __forceinline__ int warp_column() {
  return static_cast<int>(threadIdx.x) / kWarp % ProductShape::kAcross * ProductShape::kWarpColumns * 8;
}

// Products in shared memory, where one small loop serves all of them, with lanes across columns:
// unrolled over the registers that hold them it would be there 64 times.
struct ProductValues {
  float at[ProductShape::kTile][ProductShape::kTile + 4];

  // The memory may be that of the operands.
  __device__ __forceinline__ void put(const ProductTile& tile) {
    __syncthreads();
#pragma unroll
    for (int r = 0; r < ProductShape::kWarpRows; ++r) {
#pragma unroll
      for (int c = 0; c < ProductShape::kWarpColumns; ++c) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          at[warp_row() + ProductTile::row(r, i)][warp_column() + ProductTile::column(c, i)] =
              tile.values[r][c][i];
        }
      }
    }
    __syncthreads();
  }
};

// Visited rows of any dtype, less a center where there is one.
struct AnyRows {
  AnyMatrix matrix;
  RowIndex index;
  const float* center = nullptr;

  struct Fetched {
    Vec8<float> value;
    int exists;  // a bool's padding is copied too, and spilled for sm_100a
  };
  __device__ __forceinline__ int64_t row(int64_t k) const {
    return k < index.count ? index.row(k) : -1;
  }
  __device__ __forceinline__ Fetched fetch(int64_t k, int64_t column) const {
    Fetched result;
    const int64_t r = row(k);
    result.exists = r >= 0;
    if (result.exists) {
      matrix.load(r, column, result.value);
    }
    return result;
  }
  __device__ __forceinline__ void finish(const Fetched& fetched, int64_t column,
                                         float (&out)[kVec8]) const {
    float values[kVec8] = {};
    if (fetched.exists) {
      matrix.unpack(fetched.value, values);
    }
#pragma unroll
    for (int i = 0; i < kVec8; ++i) {
      const bool moved = fetched.exists && center != nullptr && column + i < matrix.width;
      out[i] = moved ? values[i] - center[column + i] : values[i];
    }
  }
};

// Visited rows of 16-bit values that lie in memory as 16-byte words.
template <class T>
struct Rows16 {
  Matrix<T> matrix;
  RowIndex index;

  __device__ __forceinline__ int64_t row(int64_t k) const {
    return k < index.count ? index.row(k) : -1;
  }
  // Null where there is no such row.
  __device__ __forceinline__ const T* address(int64_t k) const {
    const int64_t r = row(k);
    return r < 0 ? nullptr : matrix.at(r, 0);
  }
};

// Shared memory of the products of two sources of a type.
template <class Source>
struct ProductMemory {
  using Type = ProductShape::Floats;
};
template <class T>
struct ProductMemory<Rows16<T>> {
  using Type = ProductShape::Sixteen<T>;
};

// Calls `body` with rows and other rows as what multiplies fastest.
template <class Body>
void with_sources(const AnyRows& rows, const AnyRows& others, Body&& body) {
  const AnyMatrix &a = rows.matrix, &b = others.matrix;
  const bool whole = a.packed && b.packed && a.dtype == b.dtype && a.width % kVec8 == 0 &&
                     rows.center == nullptr && others.center == nullptr;
  const auto narrow = [&](auto type) {
    using T = decltype(type);
    body(Rows16<T>{a.as<T>(), rows.index}, Rows16<T>{b.as<T>(), others.index});
  };
  if (whole && a.dtype == Dtype::bfloat16) {
    narrow(Bfloat16{});
  } else if (whole && a.dtype == Dtype::float16) {
    narrow(Half{});
  } else {
    body(rows, others);
  }
}

template <class Source>
constexpr bool kIsRaw = !std::is_same_v<Source, AnyRows>;

// Which of two launches does the work, as the device decides: that of 16-bit rows as they are where
// there are no more than `limit` exceptions, else that of rows less their center.
struct KernelVariant {
  const int32_t* exceptions = nullptr;  // null: there is one launch
  int64_t limit = 0;

  template <class Source>
  __device__ __forceinline__ bool runs() const {
    return exceptions == nullptr || (*exceptions <= limit) == kIsRaw<Source>;
  }
};

// Calls `body` with rows less their center, if they have one, and also with rows as they are where
// those multiply faster; each time with the variant, which says on the device whether that launch
// does the work.
template <class Body>
void with_either_sources(const AnyRows& rows, const AnyRows& others, const KernelVariant& variant,
                         Body&& body) {
  bool two = false;
  with_sources({rows.matrix, rows.index}, {others.matrix, others.index}, [&](auto left, auto right) {
    if constexpr (kIsRaw<decltype(left)>) {
      two = rows.center != nullptr;
      body(left, right, two ? variant : KernelVariant{});
      if (!two) {
        return;
      }
    }
    body(rows, others, two ? variant : KernelVariant{});
  });
}

// Rows of any type as float32 through 3xTF32. A source: fetch(row, column) that only loads and
// finish(fetched, column, values); rows that do not exist are zeros.
template <class Left, class Right>
__device__ __forceinline__ void multiply_rows(ProductTile& tile, ProductShape::Floats& shared,
                                              const Left& left, int64_t left_row,
                                              const Right& right, int64_t right_row,
                                              int64_t width) {
  constexpr int kStep = ProductShape::kStep, kStride = ProductShape::kStride;
  const int row = static_cast<int>(threadIdx.x) / 2,
            vec_column = static_cast<int>(threadIdx.x) % 2 * kVec8;
  tile.clear();
  auto left_next = left.fetch(left_row + row, vec_column);
  auto right_next = right.fetch(right_row + row, vec_column);
  int buffer = 0;
  __syncthreads();  // the last tile may still be read
#pragma unroll 1
  for (int64_t k = 0; k < width; k += kStep, buffer = 1 - buffer) {
    float values[kVec8];
    left.finish(left_next, k + vec_column, values);
    store_vec8(shared.left[buffer] + row * kStride + vec_column, values);
    right.finish(right_next, k + vec_column, values);
    store_vec8(shared.right[buffer] + row * kStride + vec_column, values);
    __syncthreads();
    const auto load_next = [&] {
      if (k + kStep < width) {
        left_next = left.fetch(left_row + row, k + kStep + vec_column);
        right_next = right.fetch(right_row + row, k + kStep + vec_column);
      }
    };
    if constexpr (kLoadAhead) {
      load_next();
    }
    using View = SharedView<kStride, 1>;
    tile.template multiply<kStep>(View{shared.left[buffer] + warp_row() * kStride},
                                  View{shared.right[buffer] + warp_column() * kStride});
    if constexpr (!kLoadAhead) {
      load_next();
    }
  }
}

// 16-bit rows, whose products are exact: asynchronous copies, two steps in turns.
template <class T>
__device__ __forceinline__ void multiply_rows(ProductTile& tile, ProductShape::Sixteen<T>& shared,
                                              const Rows16<T>& left, int64_t left_row,
                                              const Rows16<T>& right, int64_t right_row,
                                              int64_t width) {
  constexpr int kStep = ProductShape::kStep16, kStride = ProductShape::kStride16;
  constexpr int kVectors = kStep / kVec8, kSpread = ProductShape::kThreads / kVectors;
  constexpr int kCopies = ProductShape::kTile / kSpread;
  const int row = static_cast<int>(threadIdx.x) / kVectors;
  const int vec_column = static_cast<int>(threadIdx.x) % kVectors * kVec8;
  // Found once: in every step they were more than half of its instructions (157 remain, sm_90a).
  const T *from[kCopies], *other[kCopies];
#pragma unroll
  for (int i = 0; i < kCopies; ++i) {
    from[i] = left.address(left_row + row + i * kSpread);
    other[i] = right.address(right_row + row + i * kSpread);
  }
  const int at = row * kStride + vec_column;
  const auto start = [&](int buffer, int64_t k) {
    const bool inside = k + vec_column < width;
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const int to = at + i * kSpread * kStride;
      async_copy_16(shared.left[buffer] + to, from[i] + (inside ? k + vec_column : 0),
                    inside && from[i] != nullptr);
      async_copy_16(shared.right[buffer] + to, other[i] + (inside ? k + vec_column : 0),
                    inside && other[i] != nullptr);
    }
    commit_copies();
  };
  tile.clear();
  __syncthreads();  // the last tile may still be read
  start(0, 0);
  int buffer = 0;
#pragma unroll 1
  for (int64_t k = 0; k < width; k += kStep, buffer = 1 - buffer) {
    if (k + kStep < width) {
      start(1 - buffer, k + kStep);
      wait_for_copies<1>();
    } else {
      wait_for_copies<0>();
    }
    __syncthreads();
    tile.template multiply_16<kStep, kStride>(shared.left[buffer] + warp_row() * kStride,
                                              shared.right[buffer] + warp_column() * kStride);
    __syncthreads();  // before the next copies into this buffer
  }
}

// Looks the rows through, one warp each, where a product is not finite.
static __global__ void find_not_finite_rows(AnyRows rows, const int32_t* nonfinite, ErrorKind error_kind,
                                            DeviceErrors* errors) {
  const int64_t k = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / kWarp;
  const int64_t row = k < rows.index.count && *nonfinite != 0 ? rows.row(k) : -1;
  for (int64_t d = threadIdx.x % kWarp; row >= 0 && d < rows.matrix.width; d += kWarp) {
    if (!is_finite(rows.matrix.value(row, d))) {
      errors->report(error_kind, row * rows.matrix.width + d);
    }
  }
}

}  // namespace ncfast::cuda
