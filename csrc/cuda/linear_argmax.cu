// The class of highest score for each token.
#include "decisions.cuh"

namespace ncfast::cuda {
namespace {

constexpr int kThreads = ProductShape::kThreads;

// What is added to the score of every visited class: its bias.
__global__ void read_visited_bias(RowIndex index, const float* bias, float* offsets) {
  const int64_t k = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (k < index.count) {
    const int64_t row = index.row(k);
    offsets[k] = row < 0 ? 0.0f : bias[row];
  }
}

}  // namespace

void linear_argmax(Context& context, const Rows& x, const Rows& head_weight, const float* bias,
                   const Integers& index, int64_t* classes, float* margins) {
  DeviceErrors* errors = new_errors(context);
  auto* nonfinite = context.workspace<int32_t>(1);
  const RowIndex visited = checked_index(context, index, head_weight.rows, errors);
  float* offsets = nullptr;
  if (bias != nullptr) {
    offsets = context.workspace<float>(visited.count);
    launch(read_visited_bias, divide_up(visited.count, kThreads), kThreads, 0, context, visited,
           bias, offsets);
  }
  const AnyRows tokens = {any_matrix(x), every_row(x.rows)};
  const AnyRows head = {any_matrix(head_weight), visited};
  decide(context, tokens, head, offsets, nullptr, nonfinite, classes, margins);
  report_values(context, tokens, head, bias, nonfinite, errors);
}

NCFAST_KERNEL(linear_argmax)

}  // namespace ncfast::cuda
