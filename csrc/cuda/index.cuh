// The rows an op visits: all of them, or those an index names, each once.
#pragma once

#include "device_errors.cuh"
#include "arguments.h"

namespace ncfast::cuda {

struct RowIndex {
  const int64_t* data = nullptr;
  int64_t count = 0, stride = 1, rows = 0;
  bool given = false;  // else row k is k

  // The row that is k-th, or -1 where the index names none.
  __device__ __forceinline__ int64_t row(int64_t k) const {
    if (!given) {
      return k;
    }
    const int64_t row = data[k * stride];
    return row >= 0 && row < rows ? row : -1;
  }
};

inline RowIndex every_row(int64_t rows) { return {nullptr, rows, 1, rows, false}; }

static __global__ void clear_owners(int32_t* owners, int64_t rows) {
  const int64_t row = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (row < rows) {
    owners[row] = 0x7fffffff;
  }
}

// Every row belongs to the first entry that names it.
static __global__ void own_rows(RowIndex index, int32_t* owners, DeviceErrors* errors) {
  const int64_t k = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (k >= index.count) {
    return;
  }
  const int64_t row = index.row(k);
  if (row < 0) {
    errors->report(kBadIndex, k);
  } else {
    atomicMin(&owners[row], static_cast<int32_t>(k));
  }
}

static __global__ void find_doubles(RowIndex index, const int32_t* owners, DeviceErrors* errors) {
  const int64_t k = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (k < index.count) {
    const int64_t row = index.row(k);
    if (row >= 0 && owners[row] != k) {
      errors->report(kDoubleIndex, k);
    }
  }
}

// Reports entries that are no row or come twice; 4 bytes of workspace per row.
inline RowIndex checked_index(Context& context, const Integers& index, int64_t rows,
                              DeviceErrors* errors) {
  constexpr int kThreads = 256;
  if (!index.given) {
    return every_row(rows);
  }
  const RowIndex result = {index.data, index.count, index.stride, rows, true};
  if (index.count > 0x7ffffffe) {
    throw std::runtime_error("an index of more than 2^31 rows");
  }
  auto* owners = context.workspace<int32_t>(rows);
  launch(clear_owners, divide_up(rows, kThreads), kThreads, 0, context, owners, rows);
  launch(own_rows, divide_up(index.count, kThreads), kThreads, 0, context, result, owners,
         errors);
  launch(find_doubles, divide_up(index.count, kThreads), kThreads, 0, context, result, owners,
         errors);
  return result;
}

inline Subjects subjects_of_index(const RowIndex& index) {
  Subjects subjects;
  subjects.labels = index.data;
  subjects.label_stride = index.stride;
  subjects.limit = index.rows;
  return subjects;
}

}  // namespace ncfast::cuda
