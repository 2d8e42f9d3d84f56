// Registers the CUDA kernels as torch.ops.ncfast_native_cuda.*, and the same kernels on the host
// emulator as torch.ops.ncfast_native_cuda_host.*: the arguments of ncfast_native's op of that name,
// then the record for device-side errors, the stream, and the number that errors name the op by.
// Stable ABI only, no symbol of a CUDA torch: the library loads beside a CPU torch, and its ops then
// raise.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "../cuda/arguments.h"
#if defined(NCFAST_EMULATOR)
#include "../testing/guards.h"
#include "../testing/races.h"
#endif

namespace ncfast::cuda {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

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
#if defined(NCFAST_EMULATOR)
    constexpr size_t guard = emulator::kGuardBytes;
#else
    constexpr size_t guard = 0;
#endif
    kept_.push_back(
        torch::stable::new_empty(like_, {static_cast<int64_t>(bytes + guard)}, ScalarType::Byte));
    void* memory = kept_.back().mutable_data_ptr();
#if defined(NCFAST_EMULATOR)
    std::memset(memory, emulator::kUnwritten, bytes + guard);
    emulator::races::workspace(memory, bytes);
#endif
    return memory;
  }

#if defined(NCFAST_EMULATOR)
  // Raises where a kernel has written behind a piece of workspace.
  void require_guards(const char* op) const {
    for (const Tensor& memory : kept_) {
      const int64_t bytes = memory.size(0) - static_cast<int64_t>(emulator::kGuardBytes);
      if (!emulator::guard_is_whole(static_cast<const char*>(memory.const_data_ptr()) + bytes)) {
        throw std::runtime_error(std::string("emulator: ") + op + ": a kernel has written beyond " +
                                 std::to_string(bytes) + " bytes of workspace");
      }
    }
  }
#endif

 private:
  Tensor like_;
  std::vector<Tensor> kept_;
#if !defined(NCFAST_EMULATOR)
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
#endif

  static void check(const char* op, const Tensor& tensor) {
#if defined(NCFAST_EMULATOR)
    if (!tensor.is_cpu()) {
      reject(op, "the host emulator takes CPU tensors only");
    }
#else
    if (!tensor.is_cuda()) {
      int devices = 0;
      const cudaError_t error = cudaGetDeviceCount(&devices);
      reject(op, "the CUDA kernels take CUDA tensors only (CUDA devices here: ", devices,
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
    case ScalarType::Double:
      return Dtype::float64;
    case ScalarType::Long:
      return Dtype::int64;
    default:
      return Dtype::other;
  }
}

Rows rows_of(const Tensor& tensor) {
  const bool matrix = tensor.dim() == 2;
  return {const_cast<void*>(tensor.const_data_ptr()), dtype_of(tensor), tensor.size(0),
          matrix ? tensor.size(1) : 1, tensor.stride(0), matrix ? tensor.stride(1) : 1};
}

// An argument as a schema declares it.
struct Declared {
  std::string_view type, name;
};

// Reads "Tensor(a!)? scatter, int[] kinds".
std::vector<Declared> declared(std::string_view schema) {
  std::vector<Declared> result;
  while (!schema.empty()) {
    const size_t comma = schema.find(", ");
    const std::string_view one = schema.substr(0, comma);
    const size_t space = one.find(' ');
    result.push_back({one.substr(0, space), one.substr(space + 1)});
    schema.remove_prefix(comma == schema.npos ? schema.size() : comma + 2);
  }
  return result;
}

// The arguments of a call, and what keeps their memory.
struct Arguments {
  std::vector<Argument> values;
  std::vector<Tensor> tensors;

  Arguments(const char* op, const std::vector<Declared>& schema, StableIValue* stack) {
    using torch::stable::detail::to;
    for (const Declared& d : schema) {
      Argument& value = values.emplace_back();
      value.op = op;
      value.name = d.name.data();
      value.name_length = static_cast<int>(d.name.size());
      const StableIValue given = stack[values.size() - 1];
      if (d.type == "int[]") {
        value.integers = to<std::vector<int64_t>>(given);
      } else if (d.type == "int") {
        value.integer = to<int64_t>(given);
      } else if (d.type == "bool") {
        value.integer = to<bool>(given);
      } else if (d.type == "float") {
        value.real = to<double>(given);
      } else if (d.type.back() != '?') {
        take(value, to<Tensor>(given));
      } else if (auto tensor = to<std::optional<Tensor>>(given)) {
        take(value, *tensor);
      }
    }
  }

 private:
  void take(Argument& value, const Tensor& tensor) {
    tensors.push_back(tensor);
    value.tensor = rows_of(tensor);
    value.given = true;
  }
};

using Launcher = void(Context&, const std::vector<Argument>&);

void run(const char* name, const std::vector<Declared>& schema, Launcher* launcher,
         StableIValue* stack) {
  using torch::stable::detail::to;
  const Arguments given(name, schema, stack);
  stack += schema.size();
  const auto record = to<Tensor>(stack[0]);
  TorchContext context(name, given.tensors.front(), record, to<int64_t>(stack[1]),
                       to<int64_t>(stack[2]));
  launcher(context, given.values);
#if defined(NCFAST_EMULATOR)
  context.require_guards(name);
#endif
}

}  // namespace

#define KERNEL(name, arguments)                                      \
  Launcher launch_##name; /* NCFAST_KERNEL, csrc/cuda/arguments.h */ \
  static void boxed_##name(StableIValue* stack, uint64_t, uint64_t) { \
    static const std::vector<Declared> schema = declared(arguments);  \
    run(#name, schema, launch_##name, stack);                         \
  }
#include "../common/kernels.def"
#undef KERNEL

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
#define KERNEL(name, arguments) m.impl(#name, ncfast::cuda::boxed_##name);
#include "../common/kernels.def"
#undef KERNEL
}
