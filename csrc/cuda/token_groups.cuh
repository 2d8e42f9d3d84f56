// Tokens sorted by class, stably: what every sum over the tokens of a class is cut from.
#pragma once

#include "device_errors.cuh"

namespace ncfast::cuda {

struct TokenGroups {
  int32_t tokens = 0, classes = 0;
  const int32_t* order = nullptr;   // [tokens] token ids, by class, then by position
  const int32_t* labels = nullptr;  // [tokens] their classes; `classes` where ignored, at the end
  const int32_t* begin = nullptr;   // [classes] of a class in `order`; begin == end where absent
  const int32_t* end = nullptr;
};

// Sorts by label; reports a label that is no class and leaves its token out, as if ignored.
TokenGroups group_tokens(Context& context, const int64_t* labels, int64_t label_stride,
                         int64_t tokens, int64_t classes, DeviceErrors* errors);

// values[i] becomes the sum of values[0 .. i - 1].
void exclusive_scan(Context& context, int32_t* values, int64_t count);

}  // namespace ncfast::cuda
