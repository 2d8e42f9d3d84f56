// ldmatrix and mma.sync, by the fragment layouts of the PTX manual ("Matrix Fragments for ...").
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

// c += a b for m16n8k16, 16-bit values packed in pairs along k.
void mma_bfloat16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
void mma_half(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
// c += a b for m16n8k8 in tf32.
void mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

}  // namespace ncfast::emulator
