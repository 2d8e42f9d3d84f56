// The CUDA kernels' launchers, one file each: pointers, sizes, strides and a stream. No torch.
#pragma once

#include "context.h"

namespace ncfast::cuda {

enum class Dtype { float32, bfloat16, float16 };

// A matrix as its owner describes it; strides in elements.
struct Rows {
  void* data = nullptr;
  Dtype dtype = Dtype::float32;
  int64_t rows = 0, width = 0, row_stride = 0, column_stride = 1;
};

struct Integers {
  const int64_t* data = nullptr;
  int64_t count = 0, stride = 1;
  bool given = false;  // an empty tensor has no data, but is not the same as none
};

void class_moments(Context& context, const Rows& x, const Integers& y, int64_t classes,
                   int64_t* counts, float* means, float* m2);

// grad_means and grad_m2 may be null (data).
void class_moments_backward(Context& context, const Rows& grad_means, const float* grad_m2,
                            const Rows& x, const Integers& y, int64_t classes,
                            const int64_t* counts, const float* means, const Rows& grad_x);

void accumulate_class_moments_(Context& context, int64_t* counts, float* means, double* m2,
                               double* scatter, const Rows& x, const Integers& y, int64_t classes);

// scatter grows by the sum.
void within_class_scatter(Context& context, const Rows& x, const Integers& y, const float* means,
                          int64_t classes, double* scatter);
void between_class_scatter(Context& context, const Rows& means, const double* weights,
                           const float* center, const Integers& index, double* scatter);
// A gradient whose data is null is not wanted.
void within_class_scatter_backward(Context& context, const double* grad, const Rows& x,
                                   const Integers& y, const float* means, int64_t classes,
                                   const Rows& grad_x, float* grad_means);
void between_class_scatter_backward(Context& context, const double* grad, const Rows& means,
                                    const double* weights, const float* center,
                                    const Integers& index, const Rows& grad_means,
                                    float* grad_center);

// Without an index: every row, in order.
void alignment(Context& context, const Rows& head_weight, const Rows& points, const float* center,
               const Integers& index, float* cosines);
// A gradient whose data is null is not wanted.
void alignment_backward(Context& context, const float* grad, const Rows& head_weight,
                        const Rows& points, const float* center, const Integers& index,
                        const Rows& grad_head_weight, const Rows& grad_points, float* grad_center);

// bias may be null.
void linear_argmax(Context& context, const Rows& x, const Rows& head_weight, const float* bias,
                   const Integers& index, int64_t* classes, float* margins);
void nearest_center(Context& context, const Rows& x, const Rows& means, const Integers& index,
                    int64_t* classes, float* margins);

// The shard of a classifier: its first `classes` rows are classes, from vocab_start on.
struct HeadSettings {
  double softcap = 0, label_smoothing = 0;
  int64_t vocab_start = 0, vocab_size = 0, classes = 0;
};

// head_bias [1, V] may be null (data). logits [stored_values]: filled with as many as fit.
void linear_cross_entropy(Context& context, const Rows& x, const Rows& head_weight,
                          const Integers& y, const Rows& head_bias, const HeadSettings& settings,
                          bool check_finite, float* nll, float* lse, float* logits,
                          int64_t stored_values);

// What the backward pass is given of the forward pass, and from above (or null).
struct HeadUpstream {
  const float *grad_nll = nullptr, *grad_lse = nullptr, *lse = nullptr, *logits = nullptr;
  int64_t stored_values = 0;
};
// A gradient whose data is null is not wanted; grad_head_bias is [1, V]. Logits' gradients exist for
// token_span tokens and class_span classes at a time; 0 leaves both to panel_of.
void linear_cross_entropy_backward(Context& context, const HeadUpstream& upstream, const Rows& x,
                                   const Rows& head_weight, const Integers& y,
                                   const Rows& head_bias, const HeadSettings& settings,
                                   int64_t token_span, int64_t class_span, const Rows& grad_x,
                                   const Rows& grad_head_weight, const Rows& grad_head_bias);

// What pair_stats asks of every pair; kinds are numbered as KINDS of ncfast/reference/pair_stats.py.
struct PairTerms {
  static constexpr int kMost = 8;
  int count = 0;
  int kinds[kMost] = {}, powers[kMost] = {};
  float targets[kMost] = {};
};

// stats [terms, 6], histogram [terms, bins], coincident [terms]; edges [terms, bins + 1] or null.
void pair_stats(Context& context, const Rows& points, const double* variances, const float* center,
                const Integers& index, const PairTerms& terms, const double* edges, int64_t bins,
                double* stats, int64_t* histogram, int64_t* coincident);

// grad and stats, of the forward pass, [terms, 6]; a gradient that is null (data) is not wanted.
void pair_stats_backward(Context& context, const double* grad, const double* stats,
                         const Rows& points, const double* variances, const float* center,
                         const Integers& index, const PairTerms& terms, const Rows& grad_points,
                         double* grad_variances, float* grad_center);

}  // namespace ncfast::cuda
