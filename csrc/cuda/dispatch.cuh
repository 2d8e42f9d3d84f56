// From a dtype known at run time to a type known to the compiler.
#pragma once

#include "arguments.h"
#include "rows.cuh"

namespace ncfast::cuda {

template <class Body>
void with_type(Dtype dtype, Body&& body) {
  switch (dtype) {
    case Dtype::bfloat16:
      return body(Bfloat16{});
    case Dtype::float16:
      return body(Half{});
    default:
      return body(0.0f);
  }
}

template <class T>
Matrix<T> matrix(const Rows& rows) {
  return Matrix<T>(rows.data, rows.rows, rows.width, rows.row_stride, rows.column_stride);
}

template <class T>
Matrix<T> contiguous(const Table<T>& table) {
  return contiguous(table.data, table.rows, table.width);
}

inline AnyMatrix any_matrix(const Rows& rows) {
  AnyMatrix result;
  with_type(rows.dtype, [&](auto type) { result = matrix<decltype(type)>(rows); });
  return result;
}

}  // namespace ncfast::cuda
