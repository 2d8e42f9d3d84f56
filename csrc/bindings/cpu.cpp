// Names the CPU kernels torch.ops.ncfast_native.*: raw, no autograd, outputs allocated by the caller.
// Each file of csrc/cpu registers its own; ncfast/ops/ puts schema, autograd and dispatch above them.
#include <torch/csrc/stable/library.h>

#include "../common/head_panels.h"
#include "../common/product_choice.h"

#ifndef NCFAST_CPU_CAPABILITY
#error "define NCFAST_CPU_CAPABILITY: setup.py builds every capability as a library of its own"
#endif

STABLE_TORCH_LIBRARY(ncfast_native, m) {
#define KERNEL(name, arguments) m.def(#name "(" arguments ") -> ()");
#include "../common/kernels.def"
#undef KERNEL
}

#define NCFAST_EXPORT extern "C" __attribute__((visibility("default")))

// Read through ctypes by ncfast/native.py.
NCFAST_EXPORT const char* ncfast_build() { return NCFAST_CPU_CAPABILITY; }

// bytes [2]: what linear_cross_entropy and its backward take beside inputs, outputs and gradients.
NCFAST_EXPORT void ncfast_head_workspace(int64_t tokens, int64_t classes, int64_t width,
                                         int64_t element, int64_t converted, int64_t threads,
                                         int64_t* bytes) {
  bytes[0] = ncfast::forward_bytes(tokens, classes, width, element, converted != 0, threads);
  bytes[1] = ncfast::backward_bytes(tokens, classes, width, element, converted != 0, threads);
}

// chosen [2]: whether oneDNN multiplies float32, and how bfloat16 is multiplied (Narrow);
// rates [4]: GFLOP/s of a thread, see ProductChoice.
NCFAST_EXPORT void ncfast_products(int32_t* chosen, double* rates) {
  const ncfast::ProductChoice& choice = ncfast::product_choice();
  chosen[0] = choice.onednn;
  chosen[1] = static_cast<int32_t>(choice.bfloat16);
  std::copy_n(choice.rates, 4, rates);
}
