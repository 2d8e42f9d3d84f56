// How much of a head's logits the kernels of linear_cross_entropy work on at a time, and the memory
// that takes.
#pragma once

#include <algorithm>
#include <cstdint>

namespace ncfast {

constexpr int64_t kTokenTile = 256;
constexpr int64_t kClassTile = 512;  // a tile of 512 KiB in float, half of an L2 cache

// Tokens of a product, with rows of zeros up to a multiple of 32. A masked LM predicts another number
// of tokens each step, and oneDNN keeps up to 1,024 kernels, one a shape: training a BERT-tiny grew by
// 300 MiB in 400 steps before this.
inline int64_t padded_tokens(int64_t tokens) { return (tokens + 31) / 32 * 32; }

// The groups of classes of a token tile: with few tokens more of them, so that all threads have work.
inline int64_t class_groups(int64_t tokens, int64_t classes) {
  const int64_t blocks = (tokens + kTokenTile - 1) / kTokenTile;
  const int64_t tiles = (classes + kClassTile - 1) / kClassTile;
  return std::min(tiles, std::max<int64_t>(1, 32 / std::max<int64_t>(blocks, 1)));
}

// The part of the logits whose gradients exist at a time.
struct HeadPanel {
  int64_t tokens, classes;
};

// What the backward pass may take for two panels and for rows it must convert, which is where the
// head's rows must be copied to be multiplied and their gradient rounded. Products are added once per
// panel: longer ones gain under 2 %.
inline HeadPanel panel_of(int64_t width, int64_t element, bool converted) {
  constexpr int64_t bytes = int64_t{40} << 20, longest = 4096;
  const int64_t tokens = width <= 4096 ? 1024 : 256;
  const int64_t values = bytes / element - tokens * width;
  const int64_t classes = values / (2 * tokens + 2 * converted * width) / kClassTile * kClassTile;
  return {tokens, std::max(kClassTile, std::min(longest, classes))};
}

inline int64_t forward_bytes(int64_t tokens, int64_t classes, int64_t width, int64_t element,
                             bool converted, int64_t threads) {
  const int64_t packed = kTokenTile + kClassTile * converted;
  return threads * element * (packed * width + 2 * kTokenTile * kClassTile) + 24 * tokens +
         16 * tokens * class_groups(tokens, classes) + element * classes;
}

inline int64_t backward_bytes(int64_t tokens, int64_t classes, int64_t width, int64_t element,
                              bool converted, int64_t threads) {
  const HeadPanel largest_panel = panel_of(width, element, converted);
  const int64_t rows = padded_tokens(std::min(largest_panel.tokens, tokens));
  const int64_t columns = std::min(largest_panel.classes, classes);
  // A product may lie in memory of its own beside the scratch for it; bfloat16 is multiplied from
  // copies.
  return threads * element * 2 * kTokenTile * std::max(kClassTile, width) +
         converted * threads * 2 * (kTokenTile + kClassTile) * (width + 1) +
         element * rows * (2 * columns + width) + converted * element * width * (2 * columns + tokens) +
         16 * tokens + 2 * element * classes;
}

}  // namespace ncfast
