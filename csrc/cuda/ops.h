// The CUDA kernels' launchers, one file each: pointers, sizes, strides and a stream. No torch.
#pragma once

#include "device.h"

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
};

// Numbers of the ops in a record of findings. Mirrored by ncfast/native_cuda.py.
enum Op : int64_t {
  kClassMoments = 0,
  kClassMomentsBackward = 1,
  kAccumulateClassMoments = 2,
  kWithinClassScatter = 3,
  kWithinClassScatterBackward = 4,
  kBetweenClassScatter = 5,
  kBetweenClassScatterBackward = 6,
  kAlignment = 7,
  kAlignmentBackward = 8,
  kPairStats = 9,
  kLinearArgmax = 10,
  kNearestCenter = 11,
};

void class_moments(Context& context, const Rows& x, const Integers& y, int64_t classes,
                   int64_t* counts, float* means, float* m2);

// grad_means and grad_m2 may be null (data).
void class_moments_backward(Context& context, const Rows& grad_means, const float* grad_m2,
                            const Rows& x, const Integers& y, int64_t classes,
                            const int64_t* counts, const float* means, const Rows& grad_x);

}  // namespace ncfast::cuda
