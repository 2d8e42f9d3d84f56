#include "logits.cuh"

#include "token_groups.cuh"

namespace ncfast::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kIgnoreIndex = -100;

__global__ void mark_tokens(const int64_t* labels, int64_t stride, int64_t tokens,
                            int64_t vocab_size, int32_t* places, DeviceErrors* errors) {
  const int64_t token = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (token > tokens) {
    return;
  }
  const int64_t label = token < tokens ? labels[token * stride] : kIgnoreIndex;
  const bool counts = label >= 0 && label < vocab_size;
  if (!counts && label != kIgnoreIndex) {
    errors->report(kBadLabel, token);
  }
  places[token] = counts ? 1 : 0;
}

__global__ void list_tokens(const int64_t* labels, int64_t stride, HeadSettings settings,
                            ValidTokens valid) {
  const int64_t token = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (token >= valid.tokens) {
    return;
  }
  if (valid.counts(token)) {
    const int64_t place = valid.places[token];
    const int64_t label = labels[token * stride] - settings.vocab_start;
    valid.rows[place] = token;
    valid.labels[place] =
        label >= 0 && label < settings.classes ? static_cast<int32_t>(label) : -1;
  }
  if (token >= valid.count()) {
    valid.rows[token] = -1;
    valid.labels[token] = -1;
  }
}

__global__ void read_bias(AnyMatrix head_bias, int64_t classes, float* bias) {
  const int64_t j = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (j < classes) {
    bias[j] = head_bias.value(0, j);
  }
}

}  // namespace

ValidTokens list_valid_tokens(Context& context, const Integers& y, const HeadSettings& settings,
                       DeviceErrors* errors) {
  if (y.count > 0x7ffffffe || settings.classes > 0x7ffffffe) {
    throw std::runtime_error("more than 2^31 tokens or classes in one call");
  }
  const ValidTokens valid = {context.workspace<int64_t>(y.count), context.workspace<int32_t>(y.count),
                           context.workspace<int32_t>(y.count + 1), y.count};
  launch(mark_tokens, divide_up(y.count + 1, kThreads), kThreads, 0, context, y.data, y.stride,
         y.count, settings.vocab_size, valid.places, errors);
  exclusive_scan(context, valid.places, y.count + 1);
  launch(list_tokens, divide_up(y.count, kThreads), kThreads, 0, context, y.data, y.stride,
         settings, valid);
  return valid;
}

const float* read_head_bias(Context& context, const Rows& head_bias, int64_t classes) {
  if (head_bias.data == nullptr) {
    return nullptr;
  }
  auto* bias = context.workspace<float>(classes);
  launch(read_bias, divide_up(classes, kThreads), kThreads, 0, context, any_matrix(head_bias),
         classes, bias);
  return bias;
}

}  // namespace ncfast::cuda
