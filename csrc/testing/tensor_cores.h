// ldmatrix and mma.sync by the fragment layouts of the PTX manual ("Matrix Fragments for ...").
#pragma once

#include "emulator.h"

namespace ncfast::emulator {

inline float from_bfloat16(uint32_t bits) {
  return __int_as_float(static_cast<int>((bits & 0xffff) << 16));
}
inline float from_half(uint32_t bits) {
  const uint16_t narrow = static_cast<uint16_t>(bits);
  _Float16 value;
  std::memcpy(&value, &narrow, sizeof value);
  return static_cast<float>(value);
}
// Tensor cores read 19 bits of a tf32 operand: a kernel that forgot to round shows here.
inline float from_tf32(uint32_t bits) { return __int_as_float(static_cast<int>(bits & 0xffffe000)); }

// Tensor cores keep products exactly and drop what does not fit the float32 they return: towards
// zero, not to nearest (Fasi, Higham, Mikaitis, Pranesh 2021). A sum that only holds with rounding
// to nearest shows here.
inline float truncate(double sum) {
  const float nearest = static_cast<float>(sum);
  if (std::fabs(static_cast<double>(nearest)) <= std::fabs(sum) || !std::isfinite(nearest)) {
    return nearest;
  }
  return std::nextafter(nearest, 0.0f);
}

// Lane l gives the address of a row of 8 16-bit values; register m holds matrix m, row l / 4.
NCFAST_UNWATCHED inline void ldmatrix_x4(uint32_t (&registers)[4], const void* row) {
  if (reinterpret_cast<uintptr_t>(row) & 15) {
    fail("ldmatrix: a row is not at a multiple of 16 bytes");
  }
  const Slots& slots = exchange(~0u, &row, sizeof row, "ldmatrix");
  const int lane = here().lane;
  for (int m = 0; m < 4; ++m) {
    const auto* from = slots.get<const char*>(m * 8 + lane / 4);
    races::read(from + lane % 4 * 4, 4, __builtin_return_address(0));
    std::memcpy(&registers[m], from + lane % 4 * 4, 4);
  }
}

struct Fragments {
  uint32_t a[4], b[2];
};

// c += a b for m16n8k16, 16-bit values packed in pairs along k.
template <class Read>
NCFAST_UNWATCHED void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Read read,
                  const char* operation) {
  const Fragments own = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  const Slots& slots = exchange(~0u, &own, sizeof own, operation);
  const int group = here().lane / 4, within = here().lane % 4;
  for (int i = 0; i < 4; ++i) {
    const int upper = i / 2, column = within * 2 + i % 2;
    double sum = c[i];
    for (int k = 0; k < 16; ++k) {
      const int pair = k % 8 / 2, half = k / 8, shift = k % 2 * 16;
      const auto left = slots.get<Fragments>(group * 4 + pair).a[half * 2 + upper];
      const auto right = slots.get<Fragments>(column * 4 + pair).b[half];
      sum += static_cast<double>(read(left >> shift)) * read(right >> shift);
    }
    c[i] = truncate(sum);
  }
}

NCFAST_UNWATCHED inline void mma_bfloat16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  mma_m16n8k16(c, a, b, from_bfloat16, "mma.m16n8k16.bf16");
}
NCFAST_UNWATCHED inline void mma_half(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  mma_m16n8k16(c, a, b, from_half, "mma.m16n8k16.f16");
}

// c += a b for m16n8k8 in tf32.
NCFAST_UNWATCHED inline void mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const Fragments own = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  const Slots& slots = exchange(~0u, &own, sizeof own, "mma.m16n8k8.tf32");
  const int group = here().lane / 4, within = here().lane % 4;
  for (int i = 0; i < 4; ++i) {
    const int upper = i / 2, column = within * 2 + i % 2;
    double sum = c[i];
    for (int k = 0; k < 8; ++k) {
      const auto left = slots.get<Fragments>(group * 4 + k % 4).a[k / 4 * 2 + upper];
      const auto right = slots.get<Fragments>(column * 4 + k % 4).b[k / 4];
      sum += static_cast<double>(from_tf32(left)) * from_tf32(right);
    }
    c[i] = truncate(sum);
  }
}

}  // namespace ncfast::emulator
