// The CPU kernels, one file each. All write into tensors their caller allocated; all raise before
// they write when a label, an index or a feature is unusable.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

namespace ncfast::cpu {

using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

void class_moments(Tensor x, Tensor y, Tensor counts, Tensor means, Tensor m2);
void class_moments_backward(OptionalTensor grad_means, OptionalTensor grad_m2, Tensor x, Tensor y,
                            Tensor counts, Tensor means, Tensor grad_x);
void accumulate_class_moments_(Tensor counts, Tensor means, Tensor m2, OptionalTensor scatter,
                               Tensor x, Tensor y);
void within_class_scatter(Tensor x, Tensor y, Tensor means, Tensor scatter);
void within_class_scatter_backward(Tensor grad, Tensor x, Tensor y, Tensor means,
                                   OptionalTensor grad_x, OptionalTensor grad_means);
void between_class_scatter(Tensor means, OptionalTensor weights, Tensor center,
                           OptionalTensor index, Tensor scatter);
void between_class_scatter_backward(Tensor grad, Tensor means, OptionalTensor weights, Tensor center,
                                    OptionalTensor index, OptionalTensor grad_means,
                                    OptionalTensor grad_center);
void alignment(Tensor head_weight, Tensor points, Tensor center, OptionalTensor index,
               Tensor cosines);
void alignment_backward(Tensor grad_cosines, Tensor head_weight, Tensor points, Tensor center,
                        OptionalTensor index, OptionalTensor grad_head_weight,
                        OptionalTensor grad_points, OptionalTensor grad_center);

void pair_stats(Tensor points, OptionalTensor variances, Tensor center, OptionalTensor index,
                std::vector<int64_t> kinds, std::vector<int64_t> powers, Tensor targets,
                OptionalTensor edges, Tensor stats, Tensor histogram, Tensor coincident);
void pair_stats_backward(Tensor grad, Tensor points, OptionalTensor variances, Tensor center,
                         OptionalTensor index, std::vector<int64_t> kinds,
                         std::vector<int64_t> powers, OptionalTensor grad_points,
                         OptionalTensor grad_variances, OptionalTensor grad_center);
void linear_argmax(Tensor x, Tensor head_weight, OptionalTensor head_bias, OptionalTensor index,
                   Tensor classes, Tensor margins);
void nearest_center(Tensor x, Tensor means, OptionalTensor index, Tensor classes, Tensor margins);

// `logits` takes as many of them as it has room for; see csrc/common/logits.h. Bias: [1, V].
// Without `check_finite`, NaN and Inf of x go through to its tokens' outputs, as in plain torch.
void linear_cross_entropy(Tensor x, Tensor head_weight, Tensor y, OptionalTensor head_bias,
                          double softcap, int64_t vocab_start, int64_t vocab_size,
                          double label_smoothing, bool check_finite, Tensor nll, Tensor lse,
                          Tensor logits);
void linear_cross_entropy_backward(OptionalTensor grad_nll, OptionalTensor grad_lse, Tensor x,
                                   Tensor head_weight, Tensor y, OptionalTensor head_bias,
                                   Tensor lse, Tensor logits, double softcap, int64_t vocab_start,
                                   int64_t vocab_size, double label_smoothing, int64_t token_span,
                                   int64_t class_span, OptionalTensor grad_x,
                                   OptionalTensor grad_head_weight, OptionalTensor grad_head_bias);

}  // namespace ncfast::cpu
