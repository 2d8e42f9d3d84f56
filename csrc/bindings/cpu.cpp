// Registers the CPU kernels as torch.ops.ncfast_native.*: raw, no autograd, outputs allocated by the
// caller. ncfast/ops/ puts schema, autograd and dispatch above them.
#include <torch/csrc/stable/library.h>

#include "../cpu/ops.h"

#ifndef NCFAST_CPU_CAPABILITY
#error "define NCFAST_CPU_CAPABILITY: setup.py builds every capability as a library of its own"
#endif

STABLE_TORCH_LIBRARY(ncfast_native, m) {
  m.def("class_moments(Tensor x, Tensor y, Tensor(a!) counts, Tensor(b!) means, Tensor(c!) m2) -> ()");
  m.def(
      "class_moments_backward(Tensor? grad_means, Tensor? grad_m2, Tensor x, Tensor y, Tensor counts, "
      "Tensor means, Tensor(a!) grad_x) -> ()");
  m.def(
      "accumulate_class_moments_(Tensor(a!) counts, Tensor(b!) means, Tensor(c!) m2, "
      "Tensor(d!)? scatter, Tensor x, Tensor y) -> ()");
  m.def("within_class_scatter(Tensor x, Tensor y, Tensor means, Tensor(a!) scatter) -> ()");
  m.def(
      "within_class_scatter_backward(Tensor grad, Tensor x, Tensor y, Tensor means, "
      "Tensor(a!)? grad_x, Tensor(b!)? grad_means) -> ()");
  m.def(
      "between_class_scatter(Tensor means, Tensor? weights, Tensor center, Tensor? index, "
      "Tensor(a!) scatter) -> ()");
  m.def(
      "between_class_scatter_backward(Tensor grad, Tensor means, Tensor? weights, Tensor center, "
      "Tensor? index, Tensor(a!)? grad_means, Tensor(b!)? grad_center) -> ()");
  m.def(
      "alignment(Tensor head_weight, Tensor points, Tensor center, Tensor? index, "
      "Tensor(a!) cosines) -> ()");
  m.def(
      "alignment_backward(Tensor grad_cosines, Tensor head_weight, Tensor points, Tensor center, "
      "Tensor? index, Tensor(a!)? grad_head_weight, Tensor(b!)? grad_points, "
      "Tensor(c!)? grad_center) -> ()");
  m.def(
      "pair_stats(Tensor points, Tensor? variances, Tensor center, Tensor? index, int[] kinds, "
      "int[] powers, Tensor targets, Tensor? edges, Tensor(a!) stats, Tensor(b!) histogram, "
      "Tensor(c!) coincident) -> ()");
  m.def(
      "pair_stats_backward(Tensor grad, Tensor points, Tensor? variances, Tensor center, "
      "Tensor? index, int[] kinds, int[] powers, Tensor(a!)? grad_points, "
      "Tensor(b!)? grad_variances, Tensor(c!)? grad_center) -> ()");
  m.def(
      "linear_argmax(Tensor x, Tensor head_weight, Tensor? head_bias, Tensor? index, "
      "Tensor(a!) classes, Tensor(b!) margins) -> ()");
  m.def(
      "nearest_center(Tensor x, Tensor means, Tensor? index, Tensor(a!) classes, "
      "Tensor(b!) margins) -> ()");
  m.def(
      "linear_cross_entropy(Tensor x, Tensor head_weight, Tensor y, Tensor? head_bias, "
      "float softcap, int vocab_start, int vocab_size, float label_smoothing, bool check_finite, "
      "Tensor(a!) nll, Tensor(b!) lse, Tensor(c!) logits) -> ()");
  m.def(
      "linear_cross_entropy_backward(Tensor? grad_nll, Tensor? grad_lse, Tensor x, "
      "Tensor head_weight, Tensor y, Tensor? head_bias, Tensor lse, Tensor logits, float softcap, "
      "int vocab_start, int vocab_size, float label_smoothing, int token_span, int class_span, "
      "Tensor(a!)? grad_x, Tensor(b!)? grad_head_weight, Tensor(c!)? grad_head_bias) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(ncfast_native, CPU, m) {
  m.impl("class_moments", TORCH_BOX(&ncfast::cpu::class_moments));
  m.impl("class_moments_backward", TORCH_BOX(&ncfast::cpu::class_moments_backward));
  m.impl("accumulate_class_moments_", TORCH_BOX(&ncfast::cpu::accumulate_class_moments_));
  m.impl("within_class_scatter", TORCH_BOX(&ncfast::cpu::within_class_scatter));
  m.impl("within_class_scatter_backward", TORCH_BOX(&ncfast::cpu::within_class_scatter_backward));
  m.impl("between_class_scatter", TORCH_BOX(&ncfast::cpu::between_class_scatter));
  m.impl("between_class_scatter_backward", TORCH_BOX(&ncfast::cpu::between_class_scatter_backward));
  m.impl("alignment", TORCH_BOX(&ncfast::cpu::alignment));
  m.impl("alignment_backward", TORCH_BOX(&ncfast::cpu::alignment_backward));
  m.impl("pair_stats", TORCH_BOX(&ncfast::cpu::pair_stats));
  m.impl("pair_stats_backward", TORCH_BOX(&ncfast::cpu::pair_stats_backward));
  m.impl("linear_argmax", TORCH_BOX(&ncfast::cpu::linear_argmax));
  m.impl("nearest_center", TORCH_BOX(&ncfast::cpu::nearest_center));
  m.impl("linear_cross_entropy", TORCH_BOX(&ncfast::cpu::linear_cross_entropy));
  m.impl("linear_cross_entropy_backward", TORCH_BOX(&ncfast::cpu::linear_cross_entropy_backward));
}

// Read through ctypes by ncfast/native.py.
extern "C" __attribute__((visibility("default"))) const char* ncfast_build() {
  return NCFAST_CPU_CAPABILITY;
}
