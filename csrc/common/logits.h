// Tiles of a classifier's logits: x W^T + b, soft-capped. Forward and backward of
// linear_cross_entropy compute each tile with the same products, so that a softmax adds up to 1.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "exponentials.h"
#include "head_panels.h"
#include "labels.h"
#include "parallel.h"
#include "products.h"
#include "rows.h"

namespace ncfast {

// The valid tokens, and what their labels are in this shard of the vocabulary.
struct ValidTokens {
  std::vector<int64_t> rows;
  std::vector<int64_t> labels;  // relative to the shard; -1 where its class is not in it

  ValidTokens(const LabelView& y, int64_t vocab_start, int64_t classes) {
    for (int64_t i = 0; i < y.count; ++i) {
      if (y[i] != kIgnoreIndex) {
        const int64_t label = y[i] - vocab_start;
        rows.push_back(i);
        labels.push_back(label >= 0 && label < classes ? label : -1);
      }
    }
  }
  int64_t count() const { return static_cast<int64_t>(rows.size()); }
};

// The classifier's rows that are classes (the rest pad the vocabulary and take no part).
template <class T>
class Head {
 public:
  Head(const Tensor& weight, const std::optional<Tensor>& bias, double softcap, int64_t classes)
      : rows_(weight), softcap_(static_cast<T>(softcap)), classes_(classes) {
    if (bias.has_value()) {
      bias_.resize(weight.size(0));
      RowReader<T>(*bias).read(0, bias_.data());
    }
  }
  int64_t classes() const { return classes_; }
  int64_t width() const { return rows_.width(); }
  bool capped() const { return softcap_ > 0; }
  T softcap() const { return softcap_; }
  const T* bias() const { return bias_.empty() ? nullptr : bias_.data(); }
  const RowReader<T>& rows() const { return rows_; }

  // Rows [begin, begin + span), copied to `scratch` where they cannot be multiplied in place.
  const T* packed(int64_t begin, int64_t span, T* scratch) const {
    if (in_place(rows_)) {
      return rows_.template stored<T>(begin);
    }
    for (int64_t r = 0; r < span; ++r) {
      rows_.read(begin + r, scratch + r * width());
    }
    return scratch;
  }
  // Adds the bias and caps one row of raw products.
  void finish(T* row, int64_t begin, int64_t span) const {
    if (bias() != nullptr) {
      const T* offsets = bias() + begin;
      fill_values<T>(
          span, [&](int64_t j) { return load<T>(row + j) + load<T>(offsets + j); },
          [&](int64_t j) { return row[j] + offsets[j]; }, row);
    }
    if (capped()) {
      const T cap = softcap_, inverse = 1 / softcap_;
      transform<T>(row, span, T(0),
                   [&](Vector<T> raw, int64_t) { return cap * tanh_of(raw * inverse); });
    }
  }

 private:
  RowReader<T> rows_;
  std::vector<T> bias_;
  T softcap_;
  int64_t classes_;
};

// How forward and backward multiply: alike, as they see the same tokens and classes.
template <class T>
struct LogitProducts {
  Library library;
  Narrow narrow;

  LogitProducts(const RowReader<T>& features, const Head<T>& head, const ValidTokens& valid)
      : LogitProducts(features, head, valid.count() * head.classes() * head.width()) {}
  bool as_stored() const { return narrow != Narrow::widened; }
  // A thread's memory for products of rows as they are stored.
  NarrowTiles tiles() const {
    return NarrowTiles(narrow, as_stored() ? width_ : 0, kTokenTile, columns_);
  }

 private:
  LogitProducts(const RowReader<T>& x, const Head<T>& head, int64_t multiplications)
      : library(library_for<T>(multiplications)),
        narrow(narrow_products(x, head.rows(), multiplications)),
        width_(head.width()),
        columns_(std::min(kClassTile, head.classes())) {}

  int64_t width_, columns_;
};

// The raw products of the tokens that `tiles` has taken with classes [begin, begin + span), kClassTile
// apart.
template <class T>
void multiply_stored(NarrowTiles& tiles, const Head<T>& head, int64_t begin, int64_t span, T* out) {
  if constexpr (std::is_same_v<T, float>) {
    tiles.take_columns(head.rows(), span, [&](int64_t c) { return begin + c; });
    tiles.multiply(out, kClassTile);
  }
}

// Logits that the forward pass leaves for the backward pass: [valid tokens, columns] of the first
// classes, whole tiles of them, as many as the memory holds.
template <class T>
struct StoredLogits {
  T* data;
  int64_t columns;

  StoredLogits(T* memory, int64_t values, int64_t tokens, int64_t classes) : data(memory), columns(0) {
    if (tokens > 0) {
      const int64_t fit = values / tokens;
      columns = fit >= classes ? classes : fit / kClassTile * kClassTile;
    }
  }
};

}  // namespace ncfast
