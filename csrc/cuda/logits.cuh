// Logits of a classifier, in tiles: x W^T + b, soft-capped. Forward and backward of
// linear_cross_entropy make each with the same products, so that a softmax adds up to 1.
#pragma once

#include "dispatch.cuh"
#include "products.cuh"

namespace ncfast::cuda {

// The valid tokens, in order, and how many they are: a number the host does not wait for.
struct ValidTokens {
  int64_t* rows = nullptr;     // their ids, then -1
  int32_t* labels = nullptr;   // relative to the shard; -1 where the class is in another
  int32_t* places = nullptr;   // [tokens + 1] of every token among the valid ones
  int64_t tokens = 0;          // all

  __device__ __forceinline__ int64_t count() const { return places[tokens]; }
  __device__ __forceinline__ bool counts(int64_t token) const {
    return places[token + 1] > places[token];
  }
  RowIndex index() const { return {rows, tokens, 1, tokens, true}; }
};

// The shard of a classifier: its first `classes` rows are classes, from vocab_start on.
struct HeadSettings {
  double softcap = 0, label_smoothing = 0;
  int64_t vocab_start = 0, vocab_size = 0, classes = 0;
};

inline HeadSettings head_settings(const Rows& head_weight, double softcap, int64_t vocab_start,
                                  int64_t vocab_size, double label_smoothing) {
  const int64_t rows = head_weight.rows, max_classes = vocab_size - vocab_start;
  return {softcap, label_smoothing, vocab_start, vocab_size, rows < max_classes ? rows : max_classes};
}

// Lists the valid tokens; reports a label that is no class and leaves its token out.
ValidTokens list_valid_tokens(Context& context, const Integers& y, const HeadSettings& settings,
                       DeviceErrors* errors);

// Logits that the forward pass leaves for the backward pass: [valid tokens, columns] of the first
// classes, whole tiles of 512 as in every backend, as many as the memory holds.
struct StoredLogits {
  static constexpr int64_t kColumns = 512;
  float* data = nullptr;
  int64_t values = 0;

  __device__ __forceinline__ int64_t columns(int64_t tokens, int64_t classes) const {
    const int64_t fit = tokens > 0 ? values / tokens : 0;
    return fit >= classes ? classes : fit / kColumns * kColumns;
  }
};

// What turns products into logits.
struct LogitEpilogue {
  const float* bias = nullptr;  // or null
  float softcap = 0;            // 0: none
  int64_t classes = 0;

  __device__ __forceinline__ float logit(float product, int64_t j) const {
    const float z = bias != nullptr ? product + bias[j] : product;
    return softcap > 0 ? softcap * tanhf(z / softcap) : z;
  }
};

// The bias as float32, or null.
const float* read_head_bias(Context& context, const Rows& head_bias, int64_t classes);

}  // namespace ncfast::cuda
