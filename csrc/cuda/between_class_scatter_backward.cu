#include "columns.cuh"
#include "symmetric.cuh"

namespace ncfast::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kChunk = 64;  // rows that one block adds up

// Sums of chunks of weighted, centred rows: eight columns a thread.
__global__ void __launch_bounds__(kThreads)
    sum_chunks(CentredRows rows, int64_t column_blocks, Matrix<float> sums) {
  const int64_t chunk = blockIdx.x / column_blocks;
  const int64_t d = (blockIdx.x % column_blocks * kThreads + threadIdx.x) * kVec8;
  if (d >= sums.width) {
    return;
  }
  float sum[kVec8] = {};
  for (int64_t k = chunk * kChunk; k < (chunk + 1) * kChunk; ++k) {
    float values[kVec8];
    rows.finish(rows.fetch(k, d), d, values);
#pragma unroll
    for (int i = 0; i < kVec8; ++i) {
      sum[i] += values[i];
    }
  }
  write_vec8(sums, chunk, d, sum);
}

}  // namespace

// d/d mean_k = w_k (mean_k - center) (G + G^T); the center's is minus their sum: of the rows first,
// then one product.
void between_class_scatter_backward(Context& context, const double* grad, const Rows& means,
                                    const double* weights, const float* center,
                                    const Integers& index, const Rows& grad_means,
                                    float* grad_center) {
  DeviceErrors* errors = new_errors(context);
  const RowIndex visited = checked_index(context, index, means.rows, errors);
  const int64_t width = means.width;
  const CentredRows rows = {{any_matrix(means), visited},
                            contiguous(const_cast<float*>(center), 1, width),
                            nullptr,
                            0,
                            weights};
  const AnyRows both = symmetric(context, grad, width);
  if (grad_means.data != nullptr) {
    multiply_symmetric(context, rows, both, grad_means);
  }
  if (grad_center != nullptr) {
    const int64_t chunks = divide_up(visited.count, kChunk);
    const int64_t column_blocks = divide_up(width, kThreads * kVec8);
    const auto sums = contiguous(context.workspace<float>(chunks * width), chunks, width);
    const auto total = contiguous(context.workspace<float>(width), 1, width);
    launch(sum_chunks, chunks * column_blocks, kThreads, 0, context, rows, column_blocks, sums);
    write_column_sums(context, sums, total.data);
    multiply_sums(context, total, both, grad_center);
  }
  publish_errors(context, errors, subjects_of_index(visited));
}

NCFAST_KERNEL(between_class_scatter_backward)

}  // namespace ncfast::cuda
