// mma.sync. Not inline: kernels are compiled in a hurry, and this is where most of their time goes.
#include "tensor_cores.h"

namespace ncfast::emulator {
namespace {

// Tensor cores keep products exactly and drop what does not fit the float32 they return: towards
// zero, not to nearest (Fasi, Higham, Mikaitis, Pranesh 2021). A sum that only holds with rounding
// to nearest shows here.
float truncate(double sum) {
  const float nearest = static_cast<float>(sum);
  if (std::fabs(static_cast<double>(nearest)) <= std::fabs(sum) || !std::isfinite(nearest)) {
    return nearest;
  }
  return __int_as_float(__float_as_int(nearest) - 1);  // it is not zero: its neighbour towards zero
}

// Words 0 to 3 of a lane are those of its a, 4 and 5 those of its b.
const Slots& exchange_fragments(const uint32_t (&a)[4], const uint32_t (&b)[2], const char* operation) {
  const uint32_t own[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  return exchange(~0u, own, sizeof own, operation);
}
uint32_t word(const Slots& slots, int lane, int i) {
  uint32_t value;
  std::memcpy(&value, slots.bytes[lane] + i * sizeof value, sizeof value);
  return value;
}

// Adds up `depth` products for each of the four values this lane holds; left(k, i) and right(k, i)
// are those of its two rows and its two columns.
template <class Left, class Right>
void add_products(float (&c)[4], int depth, Left left, Right right) {
  double sums[4] = {c[0], c[1], c[2], c[3]};
  for (int k = 0; k < depth; ++k) {
    const double rows[2] = {left(k, 0), left(k, 1)}, columns[2] = {right(k, 0), right(k, 1)};
    for (int i = 0; i < 4; ++i) {
      sums[i] += rows[i / 2] * columns[i % 2];
    }
  }
  for (int i = 0; i < 4; ++i) {
    c[i] = truncate(sums[i]);
  }
}

template <class Read>
void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Read read,
                  const char* operation) {
  const Slots& slots = exchange_fragments(a, b, operation);
  const int group = here().lane / 4, within = here().lane % 4;
  const auto value = [&](int line, int k, int i) {  // two of them are packed in a word
    return read(word(slots, line * 4 + k % 8 / 2, i) >> k % 2 * 16);
  };
  add_products(
      c, 16, [&](int k, int i) { return value(group, k, k / 8 * 2 + i); },
      [&](int k, int i) { return value(within * 2 + i, k, 4 + k / 8); });
}

}  // namespace

void mma_bfloat16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  mma_m16n8k16(c, a, b, from_bfloat16, "mma.m16n8k16.bf16");
}
void mma_half(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  mma_m16n8k16(c, a, b, from_half, "mma.m16n8k16.f16");
}

void mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const Slots& slots = exchange_fragments(a, b, "mma.m16n8k8.tf32");
  const int group = here().lane / 4, within = here().lane % 4;
  const auto value = [&](int line, int k, int i) {
    return from_tf32(word(slots, line * 4 + k % 4, i));
  };
  add_products(
      c, 8, [&](int k, int i) { return value(group, k, k / 4 * 2 + i); },
      [&](int k, int i) { return value(within * 2 + i, k, 4 + k / 4); });
}

}  // namespace ncfast::emulator
