// Shuffles and votes of a warp, with the meaning the CUDA programming guide gives them.
#pragma once

#include "emulator.h"

inline void __syncwarp(unsigned mask = ~0u) {
  const char nothing = 0;
  ncfast::emulator::exchange(mask, &nothing, 1, "__syncwarp");
}

namespace ncfast::emulator {

// The value of lane `source`, or the caller's own where the source is outside its segment.
template <class T>
NCFAST_UNWATCHED T shuffle(unsigned mask, T value, int source, bool inside, const char* operation) {
  const Slots& slots = exchange(mask, &value, sizeof(T), operation);
  if (!inside) {
    return value;
  }
  if (!(mask >> source & 1)) {
    fail(std::string(operation) + ": reads a lane that is not in the mask");
  }
  return slots.get<T>(source);
}

}  // namespace ncfast::emulator

template <class T>
NCFAST_UNWATCHED T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int lane = ncfast::emulator::here().lane;
  const int from = lane / width * width + (source & (width - 1));
  return ncfast::emulator::shuffle(mask, value, from, true, "__shfl_sync");
}
template <class T>
NCFAST_UNWATCHED T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const int lane = ncfast::emulator::here().lane, from = lane ^ bits;
  return ncfast::emulator::shuffle(mask, value, from, from / width <= lane / width,
                                   "__shfl_xor_sync");
}
template <class T>
NCFAST_UNWATCHED T __shfl_down_sync(unsigned mask, T value, int by, int width = 32) {
  const int lane = ncfast::emulator::here().lane, from = lane + by;
  return ncfast::emulator::shuffle(mask, value, from, from / width == lane / width,
                                   "__shfl_down_sync");
}
template <class T>
NCFAST_UNWATCHED T __shfl_up_sync(unsigned mask, T value, int by, int width = 32) {
  const int lane = ncfast::emulator::here().lane, from = lane - by;
  return ncfast::emulator::shuffle(mask, value, from, from >= lane / width * width,
                                   "__shfl_up_sync");
}

NCFAST_UNWATCHED inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const char vote = predicate != 0;
  const auto& slots = ncfast::emulator::exchange(mask, &vote, 1, "__ballot_sync");
  unsigned result = 0;
  for (int lane = 0; lane < 32; ++lane) {
    if (mask >> lane & 1) {
      result |= static_cast<unsigned>(slots.get<char>(lane)) << lane;
    }
  }
  return result;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
