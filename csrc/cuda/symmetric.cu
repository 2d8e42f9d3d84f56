#include "symmetric.cuh"

namespace ncfast::cuda {
namespace {

using Shape = ProductShape;
constexpr int kTile = Shape::kTile, kThreads = Shape::kThreads, kWarps = kThreads / kWarp;

__global__ void add_transpose(const double* grad, int64_t width, float* out) {
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (at < width * width) {
    out[at] = static_cast<float>(grad[at] + grad[at % width * width + at / width]);
  }
}

union ProductsShared {
  Shape::Floats products;
  ProductValues values;
};

// Where the products go: to the row itself, times a sign.
struct Destination {
  AnyMatrix out;
  RowIndex index;
  float sign;
};

template <class Source>
__global__ void __launch_bounds__(kThreads, 1)
    symmetric_products(Source rows, AnyRows symmetric, Destination to, int64_t width_tiles) {
  auto& shared = shared_memory<ProductsShared>();
  const int64_t first = blockIdx.x / width_tiles * kTile;
  const int64_t column = blockIdx.x % width_tiles * kTile;
  ProductTile tile;
  multiply_rows(tile, shared.products, rows, first, symmetric, column, symmetric.matrix.width);
  shared.values.put(tile);
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x) / kWarp; i < kTile && first + i < to.index.count;
       i += kWarps) {
    const int64_t row = to.index.row(first + i);
#pragma unroll 1
    for (int64_t d = threadIdx.x % kWarp; d < kTile; d += kWarp) {
      if (row >= 0 && column + d < to.out.width) {
        to.out.store(row, column + d, to.sign * shared.values.at[i][d]);
      }
    }
  }
}

template <class Source>
void multiply(Context& context, const Source& rows, const AnyRows& symmetric,
              const Destination& to) {
  const int64_t width_tiles = divide_up(to.out.width, kTile);
  launch(symmetric_products<Source>, divide_up(to.index.count, kTile) * width_tiles, kThreads,
         sizeof(ProductsShared), context, rows, symmetric, to, width_tiles);
}

}  // namespace

AnyRows symmetric(Context& context, const double* grad, int64_t width) {
  auto* out = context.workspace<float>(width * width);
  launch(add_transpose, divide_up(width * width, kThreads), kThreads, 0, context, grad, width, out);
  return {contiguous(out, width, width), every_row(width)};
}

void multiply_symmetric(Context& context, const CentredRows& rows, const AnyRows& symmetric,
                        const Rows& out) {
  multiply(context, rows, symmetric, {any_matrix(out), rows.rows.index, 1.0f});
}

void multiply_sums(Context& context, const Matrix<float>& sums, const AnyRows& symmetric,
                   float* out) {
  multiply(context, AnyRows{sums, every_row(sums.rows)}, symmetric,
           {contiguous(out, sums.rows, sums.width), every_row(sums.rows), -1.0f});
}

}  // namespace ncfast::cuda
