// The largest of many scores per token: what linear_argmax and nearest_center do.
#pragma once

#include "dispatch.cuh"
#include "index.cuh"
#include "products.cuh"

namespace ncfast::cuda {

// `moved`: whether rows are less their center, known on the device; null: they have none.
void decide(Context& context, const AnyRows& x, const AnyRows& head, const float* offsets,
            const int32_t* moved, int32_t* nonfinite, int64_t* classes, float* margins);

// Looks for what made a score not finite, where one was, and publishes what was found.
void report_values(Context& context, const AnyRows& x, const AnyRows& head, const float* bias,
                   const int32_t* nonfinite, DeviceErrors* errors);

}  // namespace ncfast::cuda
