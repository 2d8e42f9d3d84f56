// The class of highest score for each token.
#include "decisions.h"

namespace ncfast::cpu {

void linear_argmax(Tensor x, Tensor head_weight, OptionalTensor head_bias, OptionalTensor index,
                   Tensor classes, Tensor margins) {
  with_accumulation_type(margins, [&](auto type) {
    Scores<decltype(type)> scores("linear_argmax", head_weight, index);
    if (head_bias) {
      scores.add_bias(*head_bias);
    }
    decide("linear_argmax", "head_weight", x, head_weight, scores, classes, margins);
  });
}

}  // namespace ncfast::cpu

NCFAST_KERNEL(linear_argmax)
