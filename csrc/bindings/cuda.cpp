// Registers the CUDA kernels as torch.ops.ncfast_native_cuda.*, and the same kernels on the host
// emulator as torch.ops.ncfast_native_cuda_host.*: the arguments of ncfast_native's op of that name,
// then the record for findings, the stream, and the number that
// findings name the op by. Stable ABI only, no symbol of a CUDA torch: the
// library loads beside a CPU torch, and its ops then refuse.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstring>
#include <optional>
#include <vector>

#include "../common/refuse.h"
#include "../cuda/ops.h"
#if defined(NCFAST_EMULATOR)
#include "../testing/races.h"
#endif

namespace ncfast::cuda {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

// Checks the devices, makes the tensors' GPU the current one, and lends workspace from torch.
class TorchContext final : public Context {
 public:
  TorchContext(const char* name, const Tensor& like, const Tensor& record, int64_t stream,
               int64_t op)
      : like_(like) {
    check(name, like);
    check(name, record);
    this->op = op;
    this->stream = reinterpret_cast<cudaStream_t>(stream);
    this->record = static_cast<int64_t*>(record.mutable_data_ptr());
#if !defined(NCFAST_EMULATOR)
    guard_.emplace(like.get_device_index());
#endif
  }

#if defined(NCFAST_EMULATOR)
  ~TorchContext() {
    for (const Tensor& memory : kept_) {
      emulator::races::no_workspace(memory.mutable_data_ptr());
    }
  }
#endif

  void* allocate(size_t bytes) override {
    kept_.push_back(
        torch::stable::new_empty(like_, {static_cast<int64_t>(bytes)}, ScalarType::Byte));
    void* memory = kept_.back().mutable_data_ptr();
#if defined(NCFAST_EMULATOR)
    std::memset(memory, 0xff, bytes);  // NaN and -1: what a kernel reads before it was written shows
    emulator::races::workspace(memory, bytes);
#endif
    return memory;
  }

 private:
  Tensor like_;
  std::vector<Tensor> kept_;
#if !defined(NCFAST_EMULATOR)
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
#endif

  static void check(const char* op, const Tensor& tensor) {
#if defined(NCFAST_EMULATOR)
    if (!tensor.is_cpu()) {
      refuse(op, "the host emulator takes CPU tensors only");
    }
#else
    if (!tensor.is_cuda()) {
      int devices = 0;
      const cudaError_t error = cudaGetDeviceCount(&devices);
      refuse(op, "the CUDA kernels take CUDA tensors only (CUDA devices here: ", devices,
             error == cudaSuccess ? "" : "; ", error == cudaSuccess ? "" : cudaGetErrorString(error),
             ")");
    }
#endif
  }
};

Dtype dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return Dtype::float32;
    case ScalarType::BFloat16:
      return Dtype::bfloat16;
    case ScalarType::Half:
      return Dtype::float16;
    default:
      throw std::runtime_error("the CUDA kernels read 16- and 32-bit floats");
  }
}

Rows rows_of(const Tensor& tensor) {
  return {const_cast<void*>(tensor.const_data_ptr()), dtype_of(tensor), tensor.size(0),
          tensor.size(1), tensor.stride(0), tensor.stride(1)};
}
Rows rows_of(const OptionalTensor& tensor) { return tensor ? rows_of(*tensor) : Rows{}; }

Integers integers_of(const Tensor& tensor) {
  return {static_cast<const int64_t*>(tensor.const_data_ptr()), tensor.size(0), tensor.stride(0),
          true};
}

Integers integers_of(const OptionalTensor& tensor) {
  return tensor ? integers_of(*tensor) : Integers{};
}

template <class T>
T* data_of(const Tensor& tensor) {
  return static_cast<T*>(const_cast<void*>(tensor.const_data_ptr()));
}
template <class T>
T* data_of(const OptionalTensor& tensor) {
  return tensor ? data_of<T>(*tensor) : nullptr;
}

void torch_class_moments(Tensor x, Tensor y, Tensor counts, Tensor means, Tensor m2, Tensor record,
                         int64_t stream, int64_t op) {
  TorchContext context("class_moments", x, record, stream, op);
  class_moments(context, rows_of(x), integers_of(y), means.size(0), data_of<int64_t>(counts),
                data_of<float>(means), data_of<float>(m2));
}

void torch_class_moments_backward(OptionalTensor grad_means, OptionalTensor grad_m2, Tensor x,
                                  Tensor y, Tensor counts, Tensor means, Tensor grad_x,
                                  Tensor record, int64_t stream, int64_t op) {
  TorchContext context("class_moments_backward", x, record, stream, op);
  class_moments_backward(context, rows_of(grad_means), data_of<float>(grad_m2), rows_of(x),
                         integers_of(y), means.size(0), data_of<int64_t>(counts),
                         data_of<float>(means), rows_of(grad_x));
}

void torch_accumulate_class_moments_(Tensor counts, Tensor means, Tensor m2, OptionalTensor scatter,
                                     Tensor x, Tensor y, Tensor record, int64_t stream, int64_t op) {
  TorchContext context("accumulate_class_moments_", x, record, stream, op);
  accumulate_class_moments_(context, data_of<int64_t>(counts), data_of<float>(means),
                            data_of<double>(m2), data_of<double>(scatter), rows_of(x),
                            integers_of(y), means.size(0));
}

void torch_within_class_scatter(Tensor x, Tensor y, Tensor means, Tensor scatter, Tensor record,
                                int64_t stream, int64_t op) {
  TorchContext context("within_class_scatter", x, record, stream, op);
  within_class_scatter(context, rows_of(x), integers_of(y), data_of<float>(means), means.size(0),
                       data_of<double>(scatter));
}

void torch_between_class_scatter(Tensor means, OptionalTensor weights, Tensor center,
                                 OptionalTensor index, Tensor scatter, Tensor record,
                                 int64_t stream, int64_t op) {
  TorchContext context("between_class_scatter", means, record, stream, op);
  between_class_scatter(context, rows_of(means), data_of<double>(weights), data_of<float>(center),
                        integers_of(index), data_of<double>(scatter));
}

void torch_within_class_scatter_backward(Tensor grad, Tensor x, Tensor y, Tensor means,
                                         OptionalTensor grad_x, OptionalTensor grad_means,
                                         Tensor record, int64_t stream, int64_t op) {
  TorchContext context("within_class_scatter_backward", x, record, stream, op);
  within_class_scatter_backward(context, data_of<double>(grad), rows_of(x), integers_of(y),
                                data_of<float>(means), means.size(0), rows_of(grad_x),
                                data_of<float>(grad_means));
}

void torch_between_class_scatter_backward(Tensor grad, Tensor means, OptionalTensor weights,
                                          Tensor center, OptionalTensor index,
                                          OptionalTensor grad_means, OptionalTensor grad_center,
                                          Tensor record, int64_t stream, int64_t op) {
  TorchContext context("between_class_scatter_backward", means, record, stream, op);
  between_class_scatter_backward(context, data_of<double>(grad), rows_of(means),
                                 data_of<double>(weights), data_of<float>(center),
                                 integers_of(index), rows_of(grad_means),
                                 data_of<float>(grad_center));
}

void torch_alignment(Tensor head_weight, Tensor points, Tensor center, OptionalTensor index,
                     Tensor cosines, Tensor record, int64_t stream, int64_t op) {
  TorchContext context("alignment", points, record, stream, op);
  alignment(context, rows_of(head_weight), rows_of(points), data_of<float>(center),
            integers_of(index), data_of<float>(cosines));
}

void torch_alignment_backward(Tensor grad, Tensor head_weight, Tensor points, Tensor center,
                              OptionalTensor index, OptionalTensor grad_head_weight,
                              OptionalTensor grad_points, OptionalTensor grad_center, Tensor record,
                              int64_t stream, int64_t op) {
  TorchContext context("alignment_backward", points, record, stream, op);
  alignment_backward(context, data_of<float>(grad), rows_of(head_weight), rows_of(points),
                     data_of<float>(center), integers_of(index), rows_of(grad_head_weight),
                     rows_of(grad_points), data_of<float>(grad_center));
}

void torch_linear_argmax(Tensor x, Tensor head_weight, OptionalTensor head_bias,
                         OptionalTensor index, Tensor classes, Tensor margins, Tensor record,
                         int64_t stream, int64_t op) {
  TorchContext context("linear_argmax", x, record, stream, op);
  linear_argmax(context, rows_of(x), rows_of(head_weight), data_of<float>(head_bias),
                integers_of(index), data_of<int64_t>(classes), data_of<float>(margins));
}

void torch_nearest_center(Tensor x, Tensor means, OptionalTensor index, Tensor classes,
                          Tensor margins, Tensor record, int64_t stream, int64_t op) {
  TorchContext context("nearest_center", x, record, stream, op);
  nearest_center(context, rows_of(x), rows_of(means), integers_of(index),
                 data_of<int64_t>(classes), data_of<float>(margins));
}

PairTerms pair_terms(const char* op, const std::vector<int64_t>& kinds,
                     const std::vector<int64_t>& powers, const double* targets) {
  if (kinds.size() > PairTerms::kMost) {
    refuse(op, "kinds holds ", kinds.size(), "; the CUDA kernels take at most ", PairTerms::kMost,
           " in one call");
  }
  PairTerms terms;
  for (size_t p = 0; p < kinds.size(); ++p) {
    terms.kinds[p] = static_cast<int>(kinds[p]);
    terms.powers[p] = static_cast<int>(powers[p]);
    terms.targets[p] = targets ? static_cast<float>(targets[p]) : 0.0f;
  }
  terms.count = static_cast<int>(kinds.size());
  return terms;
}

void torch_pair_stats(Tensor points, OptionalTensor variances, Tensor center, OptionalTensor index,
                      std::vector<int64_t> kinds, std::vector<int64_t> powers, Tensor targets,
                      OptionalTensor edges, Tensor stats, Tensor histogram, Tensor coincident,
                      Tensor record, int64_t stream, int64_t op) {
  TorchContext context("pair_stats", points, record, stream, op);
  const auto* target = static_cast<const double*>(targets.const_data_ptr());  // on the CPU
  const PairTerms terms = pair_terms("pair_stats", kinds, powers, target);
  pair_stats(context, rows_of(points), data_of<double>(variances), data_of<float>(center),
             integers_of(index), terms, data_of<double>(edges), edges ? edges->size(1) - 1 : 0,
             data_of<double>(stats), data_of<int64_t>(histogram), data_of<int64_t>(coincident));
}

void torch_pair_stats_backward(Tensor grad, Tensor stats, Tensor points,
                               OptionalTensor variances, Tensor center, OptionalTensor index,
                               std::vector<int64_t> kinds, std::vector<int64_t> powers,
                               OptionalTensor grad_points, OptionalTensor grad_variances,
                               OptionalTensor grad_center, Tensor record, int64_t stream,
                               int64_t op) {
  TorchContext context("pair_stats_backward", points, record, stream, op);
  pair_stats_backward(context, data_of<double>(grad), data_of<double>(stats), rows_of(points),
                      data_of<double>(variances), data_of<float>(center), integers_of(index),
                      pair_terms("pair_stats_backward", kinds, powers, nullptr),
                      rows_of(grad_points), data_of<double>(grad_variances),
                      data_of<float>(grad_center));
}

HeadSettings head_settings(const Tensor& head_weight, double softcap, int64_t vocab_start,
                           int64_t vocab_size, double label_smoothing) {
  const int64_t rows = head_weight.size(0), most = vocab_size - vocab_start;
  return {softcap, label_smoothing, vocab_start, vocab_size, rows < most ? rows : most};
}

void torch_linear_cross_entropy(Tensor x, Tensor head_weight, Tensor y, OptionalTensor head_bias,
                                double softcap, int64_t vocab_start, int64_t vocab_size,
                                double label_smoothing, bool check_finite, Tensor nll, Tensor lse,
                                Tensor logits, Tensor record, int64_t stream, int64_t op) {
  TorchContext context("linear_cross_entropy", x, record, stream, op);
  linear_cross_entropy(
      context, rows_of(x), rows_of(head_weight), integers_of(y), rows_of(head_bias),
      head_settings(head_weight, softcap, vocab_start, vocab_size, label_smoothing), check_finite,
      data_of<float>(nll), data_of<float>(lse), data_of<float>(logits), logits.numel());
}

void torch_linear_cross_entropy_backward(
    OptionalTensor grad_nll, OptionalTensor grad_lse, Tensor x, Tensor head_weight, Tensor y,
    OptionalTensor head_bias, Tensor lse, Tensor logits, double softcap, int64_t vocab_start,
    int64_t vocab_size, double label_smoothing, int64_t token_span, int64_t class_span,
    OptionalTensor grad_x, OptionalTensor grad_head_weight, OptionalTensor grad_head_bias,
    Tensor record, int64_t stream, int64_t op) {
  TorchContext context("linear_cross_entropy_backward", x, record, stream, op);
  linear_cross_entropy_backward(
      context,
      {data_of<float>(grad_nll), data_of<float>(grad_lse), data_of<float>(lse),
       data_of<float>(logits), logits.numel()},
      rows_of(x), rows_of(head_weight), integers_of(y), rows_of(head_bias),
      head_settings(head_weight, softcap, vocab_start, vocab_size, label_smoothing), token_span,
      class_span, rows_of(grad_x), rows_of(grad_head_weight), rows_of(grad_head_bias));
}

}  // namespace
}  // namespace ncfast::cuda

#if defined(NCFAST_EMULATOR)
#define NCFAST_LIBRARY ncfast_native_cuda_host
#else
#define NCFAST_LIBRARY ncfast_native_cuda
#endif
#define NCFAST_DEFINE(name, m) STABLE_TORCH_LIBRARY(name, m)  // the name, not the macro's

NCFAST_DEFINE(NCFAST_LIBRARY, m) {
#define KERNEL(name, arguments) \
  m.def(#name "(" arguments ", Tensor(z!) record, int stream, int op) -> ()");
#include "../common/kernels.def"
#undef KERNEL
}

// For every device: what cannot be served is rejected in words, not by a missing kernel.
STABLE_TORCH_LIBRARY_IMPL(NCFAST_LIBRARY, CompositeExplicitAutograd, m) {
#define KERNEL(name, arguments) m.impl(#name, TORCH_BOX(&ncfast::cuda::torch_##name));
#include "../common/kernels.def"
#undef KERNEL
}
