// What every file of CPU kernels needs: the types of their arguments, and their registration. Kernels
// write into tensors their caller allocated, and raise before they write when a label, an index or a
// feature is unusable.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

namespace ncfast::cpu {

using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

}  // namespace ncfast::cpu

// Makes a function of this name the kernel of csrc/common/kernels.def.
#define NCFAST_KERNEL(name)                         \
  STABLE_TORCH_LIBRARY_IMPL(ncfast_native, CPU, m) { \
    m.impl(#name, TORCH_BOX(&ncfast::cpu::name));   \
  }
