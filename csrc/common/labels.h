// Labels sorted by class once: which rows each class owns, cut into segments of bounded length.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "parallel.h"
#include "reject.h"

namespace ncfast {

constexpr int64_t kIgnoreIndex = -100;
constexpr int64_t kUnitRows = 256;  // rows a worker takes at once: enough to look ahead in

struct LabelView {
  const int64_t* data;
  int64_t count, stride;
  explicit LabelView(const torch::stable::Tensor& y)
      : data(static_cast<const int64_t*>(y.const_data_ptr())), count(y.size(0)), stride(y.stride(0)) {}
  int64_t operator[](int64_t i) const { return data[i * stride]; }
};

// Raises when a label is neither a class nor ignored. `op` names the op for the reader.
inline void check_labels(const char* op, const LabelView& y, int64_t classes) {
  for (int64_t i = 0; i < y.count; ++i) {
    if ((y[i] < 0 || y[i] >= classes) && y[i] != kIgnoreIndex) {
      reject(op, "y[", i, "] is ", y[i], "; expected a class in [0, ", classes, ") or ", kIgnoreIndex,
             " for a token to ignore");
    }
  }
}

// A run of rows of one class: order[begin:end].
struct Segment {
  int64_t class_id, begin, end;
  int64_t partial;  // slot in the partial results of a class cut into several segments, or -1
};

// Rows ordered by class (and by position within a class), and the segments that cover them.
struct Segments {
  std::vector<uint32_t> order;    // 4 bytes per token
  std::vector<Segment> segments;  // in class order
  std::vector<int64_t> shared;    // first segment of every class that has more than one
  std::vector<int64_t> units;     // unit u is segments [units[u], units[u + 1]), 256 rows or more
  int64_t partials = 0;

  // `longest` bounds a segment, so that one frequent class (9 % of a Zipf vocabulary) is shared by
  // all threads. Labels must have been checked.
  Segments(const LabelView& y, int64_t classes, int64_t longest) {
    STD_TORCH_CHECK(y.count < (int64_t{1} << 32), "ncfast native: more than 2^32 - 1 tokens in one call");
    Buffer<uint32_t> start(classes + 1);
    std::fill_n(start.get(), classes + 1, 0u);
    int64_t valid = 0;
    for (int64_t i = 0; i < y.count; ++i) {
      if (y[i] != kIgnoreIndex) {
        ++start[y[i] + 1];
        ++valid;
      }
    }
    order.resize(valid);
    for (int64_t c = 0; c < classes; ++c) {
      start[c + 1] += start[c];
    }
    for (int64_t c = 0; c < classes; ++c) {
      add(c, start[c], start[c + 1], longest);
    }
    for (size_t s = 0; s < segments.size(); ++s) {
      if (units.empty() || segments[s].begin - segments[units.back()].begin >= kUnitRows) {
        units.push_back(static_cast<int64_t>(s));
      }
    }
    units.push_back(static_cast<int64_t>(segments.size()));
    for (int64_t i = 0; i < y.count; ++i) {
      if (y[i] != kIgnoreIndex) {
        order[start[y[i]]++] = static_cast<uint32_t>(i);
      }
    }
  }

 private:
  void add(int64_t class_id, int64_t begin, int64_t end, int64_t longest) {
    if (end - begin <= longest) {
      if (begin < end) {
        segments.push_back({class_id, begin, end, -1});
      }
      return;
    }
    shared.push_back(static_cast<int64_t>(segments.size()));
    for (int64_t at = begin; at < end; at += longest) {
      segments.push_back({class_id, at, std::min(at + longest, end), partials++});
    }
  }
};

}  // namespace ncfast
