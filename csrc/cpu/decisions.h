// The largest of many scores per token, a tile at a time: what linear_argmax and nearest_center do.
#pragma once

#include "../common/finite.h"
#include "../common/index.h"
#include "../common/parallel.h"
#include "../common/products.h"
#include "../common/rows.h"
#include "kernel.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

namespace ncfast::cpu {

// Rows of a tile: as many as keep a thread's memory at about 6 MiB at any width, 512 up to D=1,024.
// All tiles of classes are alike, the last filled up with zeros: other shapes may add in other orders,
// and equal rows of two tiles have to tie.
template <class T>
struct Tiles {
  int64_t tokens, max_classes, class_tiles, classes;

  Tiles(int64_t width, int64_t all)
      : tokens(block_rows(int64_t{4} << 20, width * int64_t{sizeof(T)})),
        max_classes(block_rows(int64_t{3} << 19, width * int64_t{sizeof(T)})),
        class_tiles((all + max_classes - 1) / max_classes),
        classes(padded_size((all + class_tiles - 1) / std::max<int64_t>(class_tiles, 1))) {}
};

// Best and second-best score so far. Ties go to the lowest id.
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
  void merge(const Best& other) {
    if (other.id >= 0) {
      offer(other.score, other.id);
      second = std::max(second, other.second);
    }
  }
};

// Adds the offsets to a tile's scores of one token and returns the largest. `finite` becomes NaN
// where a score is not: 0 x inf and 0 x NaN are NaN, and stay so when added.
template <class T>
T add_offsets(T* scores, const T* offsets, int64_t span, Vector<T>& finite) {
  Vector<T> lanes = Vector<T>{} - std::numeric_limits<T>::infinity();
  int64_t j = 0;
  for (; j + kLanes<T> <= span; j += kLanes<T>) {
    const Vector<T> next = load<T>(scores + j) + load<T>(offsets + j);
    store<T>(scores + j, next);
    finite += next * T(0);
    lanes = next > lanes ? next : lanes;
  }
  T maximum = lanes[0];
  for (int64_t lane = 1; lane < kLanes<T>; ++lane) {
    maximum = std::max(maximum, lanes[lane]);
  }
  for (; j < span; ++j) {
    scores[j] += offsets[j];
    finite[0] += scores[j] * T(0);
    maximum = std::max(maximum, scores[j]);
  }
  return maximum;
}

// Offers a tile's scores to one token. Most tiles hold nothing above the second best so far and
// are passed over by their maximum alone.
template <class T>
void offer_tile(T* scores, const T* offsets, const RowIndex& rows, int64_t begin, int64_t span,
                Best<T>& best, Vector<T>& finite) {
  const T maximum = add_offsets<T>(scores, offsets, span, finite);
  if (best.id >= 0 && (maximum < best.second || (maximum == best.second && maximum < best.score))) {
    return;
  }
  for (int64_t j = 0; j < span; ++j) {
    if (best.id < 0 || scores[j] >= best.second) {
      best.offer(scores[j], rows[begin + j]);
    }
  }
}

// What scores are made of. For the nearest center, -|x - m|^2/2 and
//     <x - c, m - c> - |m - c|^2/2
// differ by nothing that depends on m, for any c: with c near the means, as where they all lie far
// from 0 to one side, the products are small and their rounding is too.
template <class T>
struct Scores {
  RowIndex rows;
  RowReader<T> head;
  Buffer<T> offsets, center;  // per visited class; per dimension
  bool moved = false;         // the center is not 0

  Scores(const char* op, const Tensor& classes, const OptionalTensor& index)
      : rows(op, index, classes.size(0)),
        head(classes),
        offsets(rows.count),
        center(head.width()) {
    std::fill_n(offsets.get(), rows.count, T(0));
    std::fill_n(center.get(), head.width(), T(0));
  }

  // Rows [begin, begin + count) of those visited, and zeros up to `padded` rows; copied into `packed`
  // only where they do not already lie in memory as T, contiguous.
  const T* operand(int64_t begin, int64_t count, int64_t padded, T* packed) const {
    const int64_t width = head.width();
    if (!moved && rows.data == nullptr && count == padded && in_place(head)) {
      return head.template stored<T>(begin);
    }
    for (int64_t r = 0; r < count; ++r) {
      read_moved(head, rows[begin + r], packed + r * width);
    }
    std::fill_n(packed + count * width, (padded - count) * width, T(0));
    return packed;
  }

  void read_moved(const RowReader<T>& reader, int64_t row, T* out) const {
    reader.read(row, out);
    for (int64_t d = 0; moved && d < reader.width(); ++d) {
      out[d] -= center[d];
    }
  }

  void add_bias(const Tensor& bias) {
    const auto* data = static_cast<const T*>(bias.const_data_ptr());
    for (int64_t k = 0; k < rows.count; ++k) {
      offsets[k] = data[rows[k]];
      if (!std::isfinite(offsets[k])) {
        reject("linear_argmax", "head_bias[", rows[k], "] is ", offsets[k],
               "; expected finite values");
      }
    }
  }

  // The mean of 64 rows, where they are nearer to each other than to 0. Kept to 1/256 of its largest
  // entry, so that small whole numbers less it are exact, and tie where they should.
  void choose_center() {
    const int64_t width = head.width(), step = std::max<int64_t>(1, rows.count / 64);
    Buffer<T> row(width);
    Buffer<double> mean(width);
    std::fill_n(mean.get(), width, 0.0);
    double squares = 0, of_mean = 0, largest = 0, taken = 0;
    for (int64_t k = 0; k < rows.count; k += step, ++taken) {
      head.read(rows[k], row.get());
      for (int64_t d = 0; d < width; ++d) {
        mean[d] += static_cast<double>(row[d]);
        squares += static_cast<double>(row[d]) * static_cast<double>(row[d]);
      }
    }
    for (int64_t d = 0; d < width; ++d) {
      mean[d] /= taken;
      of_mean += mean[d] * mean[d];
      largest = std::max(largest, std::abs(mean[d]));
    }
    moved = of_mean > squares / taken - of_mean;
    const double grid = moved ? std::exp2(std::floor(std::log2(largest)) - 8) : 1;
    for (int64_t d = 0; moved && d < width; ++d) {
      center[d] = static_cast<T>(std::nearbyint(mean[d] / grid) * grid);
    }
  }

  void add_distances() {
    const int64_t width = head.width(), block = 256;
    parallel_units((rows.count + block - 1) / block, [&](const auto& take) {
      Buffer<T> scratch(width);
      for (int64_t unit = take(); unit >= 0; unit = take()) {
        for (int64_t k = unit * block; k < std::min(rows.count, (unit + 1) * block); ++k) {
          const T* row = head.row(rows[k], scratch.get());
          const T* center_data = center.get();
          double square;
          sum_terms<T, 1>(
              width,
              [&](int64_t d, Vector<T>* term) {
                const Vector<T> difference = load<T>(row + d) - load<T>(center_data + d);
                term[0] = difference * difference;
              },
              [&](int64_t d, T* term) { term[0] = (row[d] - center_data[d]) * (row[d] - center_data[d]); },
              &square);
          offsets[k] = static_cast<T>(-square / 2);
        }
      }
    });
  }
};

// Reading x a second time, for the other decision on the same tokens, is 0.01 % of the two at
// N=8,192, V=30,522, D=768: the caller asks for them one after the other.
template <class T>
struct Choice {
  const Scores<T>& scores;
  const RowReader<T> features;
  const Tiles<T> tile;
  int64_t tokens, width, groups;
  const Narrow narrow;
  const Library library;
  std::vector<Best<T>> best;  // per token and group of classes
  std::atomic<bool> finite{true};

  Choice(const Tensor& x, const Scores<T>& of, bool may_narrow)
      : scores(of),
        features(x),
        tile(x.size(1), scores.rows.count),
        tokens(x.size(0)),
        width(x.size(1)),
        // Few tokens are cut by classes too, so that every thread has work: every score is the same
        // bits however they are cut, and the best of the best is the best.
        groups(std::clamp<int64_t>(16 / std::max<int64_t>(token_tiles(), 1), 1, tile.class_tiles)),
        narrow(scores.moved || !may_narrow ? Narrow::widened
                                           : narrow_products(features, scores.head, all())),
        library(library_for<T>(all())),
        best(tokens * groups) {}

  int64_t all() const { return tokens * width * scores.rows.count; }
  int64_t token_tiles() const { return (tokens + tile.tokens - 1) / tile.tokens; }

  void visit() {
    parallel_units(token_tiles() * groups, [&](const auto& take) {
      const bool as_stored = narrow != Narrow::widened;
      Buffer<T> x_tile(as_stored ? 0 : tile.tokens * width);
      Buffer<T> packed(as_stored ? 0 : tile.classes * width);
      Buffer<T> scratch(tile.tokens * padded_columns(tile.classes));
      NarrowTiles tiles(narrow, as_stored ? width : 0, tile.tokens, tile.classes);
      for (int64_t unit = take(); unit >= 0; unit = take()) {
        const int64_t first = unit / groups * tile.tokens, group = unit % groups;
        const int64_t count = std::min(tile.tokens, tokens - first), padded = padded_size(count);
        if (as_stored) {
          tiles.take_rows(features, count, [&](int64_t r) { return first + r; });
        } else {
          for (int64_t r = 0; r < count; ++r) {
            scores.read_moved(features, first + r, x_tile.get() + r * width);
          }
          std::fill_n(x_tile.get() + count * width, (padded - count) * width, T(0));
        }
        Vector<T> zeros = {};
        const int64_t end = (group + 1) * tile.class_tiles / groups;
        for (int64_t t = group * tile.class_tiles / groups; t < end; ++t) {
          const int64_t begin = t * tile.classes;
          const int64_t span = std::min(tile.classes, scores.rows.count - begin);
          const auto offer = [&](T* products, int64_t stride) {
            for (int64_t r = 0; r < count; ++r) {
              offer_tile<T>(products + r * stride, scores.offsets.get() + begin, scores.rows, begin,
                            span, best[(first + r) * groups + group], zeros);
            }
          };
          if constexpr (std::is_same_v<T, float>) {
            if (as_stored) {
              tiles.take_columns(scores.head, span, [&](int64_t c) { return scores.rows[begin + c]; });
              tiles.multiply(scratch.get(), padded_columns(tile.classes));
              offer(scratch.get(), padded_columns(tile.classes));
              continue;
            }
          }
          const Product<T> products(library, x_tile.get(), padded, width,
                                    scores.operand(begin, span, tile.classes, packed.get()),
                                    tile.classes, Layout::rows, scratch.get());
          offer(products.data(), tile.classes);
        }
        if (lane_total<T>(zeros) != 0) {  // NaN
          finite = false;
        }
      }
    });
  }

  // Products of bfloat16 as it is stored take what is below 2^-126 for 0, given or found. That may
  // decide where the best score of a token that is not 0 is next to nothing.
  bool lost_what_is_small() const {
    Buffer<T> row(width);
    for (int64_t i = 0; narrow != Narrow::widened && i < tokens; ++i) {
      if (std::abs(winner(i).score) < T(0x1p-90)) {
        const T* given = features.row(i, row.get());
        if (std::any_of(given, given + width, [](T value) { return value != 0; })) {
          return true;
        }
      }
    }
    return false;
  }

  Best<T> winner(int64_t token) const {
    Best<T> result;
    for (int64_t group = 0; group < groups; ++group) {
      result.merge(best[token * groups + group]);
    }
    return result;
  }
};

template <class T>
void decide(const char* op, const char* name, const Tensor& x, const Tensor& head,
         const Scores<T>& scores, const Tensor& classes, const Tensor& margins) {
  std::optional<Choice<T>> found(std::in_place, x, scores, true);
  found->visit();
  if (found->lost_what_is_small()) {
    found.emplace(x, scores, false);
    found->visit();
  }
  const Choice<T>& choice = *found;
  // Scores show what is not finite; only then is it worth reading everything again to say where.
  if (!choice.finite) {
    check_finite_rows<T>(op, "x", x, [](int64_t) { return true; });
    std::vector<bool> visited(head.size(0), false);
    for (int64_t k = 0; k < scores.rows.count; ++k) {
      visited[scores.rows[k]] = true;
    }
    check_finite_rows<T>(op, name, head, [&](int64_t v) { return visited[v]; });
    reject(op, "scores overflow; expected finite ones: scale x or ", name, " down");
  }
  auto* chosen = static_cast<int64_t*>(classes.mutable_data_ptr());
  auto* margin = static_cast<T*>(margins.mutable_data_ptr());
  for (int64_t i = 0; i < choice.tokens; ++i) {
    const Best<T> winner = choice.winner(i);
    chosen[i] = winner.id;
    margin[i] = winner.score - winner.second;
  }
}

}  // namespace ncfast::cpu
