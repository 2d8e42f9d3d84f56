// The rows an op visits: all of them, or those an index names.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "reject.h"

namespace ncfast {

struct RowIndex {
  const int64_t* data = nullptr;  // null: row k is k
  int64_t count, stride = 1;

  // Raises unless every entry is a row and none comes twice: gradients of a row visited twice
  // would have to be added across threads.
  RowIndex(const char* op, const std::optional<torch::stable::Tensor>& index, int64_t rows)
      : count(rows) {
    if (!index.has_value()) {
      return;
    }
    data = static_cast<const int64_t*>(index->const_data_ptr());
    count = index->size(0);
    stride = index->stride(0);
    std::vector<bool> seen(rows, false);
    for (int64_t k = 0; k < count; ++k) {
      const int64_t row = data[k * stride];
      if (row < 0 || row >= rows) {
        reject(op, "index[", k, "] is ", row, "; expected a row in [0, ", rows, ")");
      }
      if (seen[row]) {
        reject(op, "index[", k, "] is ", row, " for the second time; expected distinct rows");
      }
      seen[row] = true;
    }
  }
  int64_t operator[](int64_t k) const { return data == nullptr ? k : data[k * stride]; }
};

}  // namespace ncfast
