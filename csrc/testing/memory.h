// Atomics, bit casts and asynchronous copies.
#pragma once

#include "emulator.h"

// Blocks run one after another and fibers switch only inside the emulator: plain code is atomic.
template <class T>
NCFAST_UNWATCHED T atomicAdd(T* at, T value) {
  ncfast::emulator::races::atomic(at, sizeof(T), __builtin_return_address(0));
  const T old = *at;
  *at = old + value;
  return old;
}
template <class T>
NCFAST_UNWATCHED T atomicMin(T* at, T value) {
  ncfast::emulator::races::atomic(at, sizeof(T), __builtin_return_address(0));
  const T old = *at;
  *at = value < old ? value : old;
  return old;
}
template <class T>
NCFAST_UNWATCHED T atomicMax(T* at, T value) {
  ncfast::emulator::races::atomic(at, sizeof(T), __builtin_return_address(0));
  const T old = *at;
  *at = value > old ? value : old;
  return old;
}
template <class T>
NCFAST_UNWATCHED T atomicOr(T* at, T value) {
  ncfast::emulator::races::atomic(at, sizeof(T), __builtin_return_address(0));
  const T old = *at;
  *at = old | value;
  return old;
}
template <class T>
NCFAST_UNWATCHED T atomicCAS(T* at, T expected, T value) {
  ncfast::emulator::races::atomic(at, sizeof(T), __builtin_return_address(0));
  const T old = *at;
  *at = old == expected ? value : old;
  return old;
}

inline void __threadfence() {}
inline int __float_as_int(float value) {
  int bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline float __int_as_float(int bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

namespace ncfast::emulator {

// cp.async of 16 bytes, of which the first `given` are copied and the rest are zero. It lands when
// its group is waited for (late), at once (early), or at one of the two by a fixed pattern (mixed).
NCFAST_UNWATCHED inline void async_copy_16(void* to, const void* from, int given) {
  if ((reinterpret_cast<uintptr_t>(to) | (given ? reinterpret_cast<uintptr_t>(from) : 0)) & 15) {
    fail("cp.async: an address is not a multiple of 16 bytes");
  }
  copy_later(to, from, static_cast<size_t>(given), 16, __builtin_return_address(0));
}

}  // namespace ncfast::emulator
