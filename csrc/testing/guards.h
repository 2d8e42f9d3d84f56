// Bytes behind a piece of memory that no kernel may write. None under AddressSanitizer, which sees
// reads as well where memory is of the exact size.
#pragma once

#include <array>
#include <cstddef>
#include <cstring>

namespace ncfast::emulator {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kGuardBytes = 0;
#else
constexpr size_t kGuardBytes = 1024;
#endif
constexpr int kUnwritten = 0xff;  // of every byte: NaN and -1, so that what was never written shows

// Whether the guard behind memory that ends here is as it was made.
inline bool guard_is_whole(const void* end) {
  static const std::array<unsigned char, kGuardBytes + 1> untouched = [] {
    std::array<unsigned char, kGuardBytes + 1> bytes;
    bytes.fill(kUnwritten);
    return bytes;
  }();
  return std::memcmp(end, untouched.data(), kGuardBytes) == 0;
}

}  // namespace ncfast::emulator
