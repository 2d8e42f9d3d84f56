#include "../common/blas.h"
#include "../common/finite.h"
#include "../common/index.h"
#include "../common/parallel.h"
#include "../common/rows.h"
#include "ops.h"

#include <algorithm>
#include <limits>

namespace ncfast::cpu {
namespace {

constexpr int64_t kTokenTile = 256;
constexpr int64_t kClassTile = 512;

// Best and second-best score of one token so far. Ties go to the lowest id.
template <class T>
struct Best {
  T score = -std::numeric_limits<T>::infinity(), second = -std::numeric_limits<T>::infinity();
  int64_t id = -1;

  void offer(T candidate, int64_t candidate_id) {
    if (candidate > score || id < 0) {
      second = score;
      score = candidate;
      id = candidate_id;
      return;
    }
    second = std::max(second, candidate);
    if (candidate == score) {
      id = std::min(id, candidate_id);
    }
  }
};

template <class T>
T largest(const T* values, int64_t n) {
  T most = -std::numeric_limits<T>::infinity();
  Vector<T> lanes = Vector<T>{} + most;
  int64_t j = 0;
  for (; j + kLanes<T> <= n; j += kLanes<T>) {
    const Vector<T> next = load<T>(values + j);
    lanes = next > lanes ? next : lanes;
  }
  for (; j < n; ++j) {
    most = std::max(most, values[j]);
  }
  for (int64_t lane = 0; lane < kLanes<T>; ++lane) {
    most = std::max(most, lanes[lane]);
  }
  return most;
}

// Copies rows [begin, begin + count) of those visited, less the center where there is one.
template <class T>
void pack_rows(const RowReader<T>& reader, const RowIndex* index, const T* center, int64_t begin,
               int64_t count, T* out) {
  const int64_t width = reader.width();
  for (int64_t r = 0; r < count; ++r) {
    T* row = out + r * width;
    reader.read(index ? (*index)[begin + r] : begin + r, row);
    for (int64_t d = 0; center != nullptr && d < width; ++d) {
      row[d] -= center[d];
    }
  }
}

// What is added to every score: the head's bias, or -|m|^2/2 for the nearest center.
template <class T>
void class_offsets(const T* bias, bool nearest, const RowIndex& rows, int64_t begin, int64_t count,
                   int64_t width, const T* packed, T* out) {
  for (int64_t r = 0; r < count; ++r) {
    out[r] = bias ? bias[rows[begin + r]] : T(0);
    if (nearest) {
      const T* row = packed + r * width;
      double square;
      sum_terms<T, 1>(
          width, [&](int64_t d, Vector<T>* t) { t[0] = load<T>(row + d) * load<T>(row + d); },
          [&](int64_t d, T* t) { t[0] = row[d] * row[d]; }, &square);
      out[r] = static_cast<T>(-square / 2);
    }
  }
}

// Offers a tile's scores to one token. Most tiles hold nothing above the second best so far and
// are passed over by their maximum alone.
template <class T>
void fold(T* scores, const T* offsets, const RowIndex& rows, int64_t begin, int64_t span,
          Best<T>& best) {
  fill_terms<T>(
      span, [&](int64_t j) { return load<T>(scores + j) + load<T>(offsets + j); },
      [&](int64_t j) { return scores[j] + offsets[j]; }, scores);
  const T most = largest(scores, span);
  if (best.id >= 0 && (most < best.second || (most == best.second && most < best.score))) {
    return;
  }
  for (int64_t j = 0; j < span; ++j) {
    if (best.id < 0 || scores[j] >= best.second) {
      best.offer(scores[j], rows[begin + j]);
    }
  }
}

template <class T>
void run(const Tensor& x, const Tensor& head_weight, const OptionalTensor& head_bias,
         const OptionalTensor& center, const OptionalTensor& index, const Tensor& classes,
         const Tensor& margins) {
  const char* op = center ? "nearest_center" : "linear_argmax";
  const int64_t tokens = x.size(0), width = x.size(1);
  const RowIndex rows(op, index, head_weight.size(0));
  const RowReader<T> features(x), head(head_weight);
  check_finite_rows<T>(op, "x", x, [](int64_t) { return true; });
  const T* origin = center ? static_cast<const T*>(center->const_data_ptr()) : nullptr;
  const T* bias = head_bias ? static_cast<const T*>(head_bias->const_data_ptr()) : nullptr;
  auto* chosen = static_cast<int64_t*>(classes.mutable_data_ptr());
  auto* margin = static_cast<T*>(margins.mutable_data_ptr());
  parallel_units((tokens + kTokenTile - 1) / kTokenTile, [&](const auto& take) {
    Buffer<T> x_tile(kTokenTile * width), head_tile(kClassTile * width);
    Buffer<T> scores(kTokenTile * kClassTile), offsets(kClassTile);
    for (int64_t unit = take(); unit >= 0; unit = take()) {
      const int64_t first = unit * kTokenTile, count = std::min(kTokenTile, tokens - first);
      pack_rows<T>(features, nullptr, origin, first, count, x_tile.get());
      std::vector<Best<T>> best(count);
      for (int64_t begin = 0; begin < rows.count; begin += kClassTile) {
        const int64_t span = std::min(kClassTile, rows.count - begin);
        pack_rows<T>(head, &rows, origin, begin, span, head_tile.get());
        class_offsets(bias, center.has_value(), rows, begin, span, width, head_tile.get(),
                      offsets.get());
        multiply(matrix_view(x_tile.get(), count, width, width, int64_t{1}),
                 matrix_view(head_tile.get(), width, span, int64_t{1}, width),
                 matrix_view(scores.get(), count, span, kClassTile, int64_t{1}));
        for (int64_t r = 0; r < count; ++r) {
          fold(scores.get() + r * kClassTile, offsets.get(), rows, begin, span, best[r]);
        }
      }
      for (int64_t r = 0; r < count; ++r) {
        chosen[first + r] = best[r].id;
        margin[first + r] = best[r].score - best[r].second;
      }
    }
  });
}

}  // namespace

void linear_argmax(Tensor x, Tensor head_weight, OptionalTensor head_bias, OptionalTensor center,
                   OptionalTensor index, Tensor classes, Tensor margins) {
  with_accumulation_type(margins, [&](auto type) {
    run<decltype(type)>(x, head_weight, head_bias, center, index, classes, margins);
  });
}

}  // namespace ncfast::cpu
