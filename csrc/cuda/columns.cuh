// The sum of rows of partial sums: the last step of a gradient that all rows share.
#pragma once

#include "dispatch.cuh"

namespace ncfast::cuda {

constexpr int kColumnThreads = 256;  // a column each

static __global__ void add_partial_rows(Matrix<float> sums, Matrix<float> more, float* out) {
  const int64_t d = int64_t{blockIdx.x} * kColumnThreads + threadIdx.x;
  if (d >= sums.width) {
    return;
  }
  double total = 0;
  for (int64_t row = 0; row < sums.rows; ++row) {
    total += *sums.at(row, d);
  }
  for (int64_t row = 0; row < more.rows; ++row) {
    total += *more.at(row, d);
  }
  out[d] = static_cast<float>(total);
}

// Writes the sum of all rows of `sums`, then of `more`, added in float64 and in their order.
inline void write_column_sums(const Context& context, const Matrix<float>& sums, float* out,
                              const Matrix<float>& more = {}) {
  launch(add_partial_rows, divide_up(sums.width, kColumnThreads), kColumnThreads, 0, context, sums,
         more, out);
}

}  // namespace ncfast::cuda
