// The nearest class mean for each token: the largest of products less half of squares.
#include "decisions.h"

namespace ncfast::cpu {

void nearest_center(Tensor x, Tensor means, OptionalTensor index, Tensor classes, Tensor margins) {
  with_accumulation_type(margins, [&](auto type) {
    Scores<decltype(type)> scores("nearest_center", means, index);
    scores.choose_center();
    scores.add_distances();
    decide("nearest_center", "means", x, means, scores, classes, margins);
  });
}

}  // namespace ncfast::cpu

NCFAST_KERNEL(nearest_center)
