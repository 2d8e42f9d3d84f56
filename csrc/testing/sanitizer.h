// Tells AddressSanitizer which stack is in use; nothing in other builds.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace ncfast::emulator::sanitizer {

#if defined(__SANITIZE_ADDRESS__)

inline thread_local void* main_fake = nullptr;
inline thread_local void* fiber_fake = nullptr;
inline thread_local const void* main_bottom = nullptr;
inline thread_local size_t main_size = 0;

inline void forget(void* memory, size_t size) { __asan_unpoison_memory_region(memory, size); }
inline void enter(const void* bottom, size_t size) {
  __sanitizer_start_switch_fiber(&main_fake, bottom, size);
}
inline void back_in_main() { __sanitizer_finish_switch_fiber(main_fake, nullptr, nullptr); }
inline void first_in_fiber() {
  __sanitizer_finish_switch_fiber(nullptr, &main_bottom, &main_size);
}
inline void leave(bool for_good) {
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fiber_fake, main_bottom, main_size);
}
inline void back_in_fiber() {
  // Fake stacks (detect_stack_use_after_return) are off in our runs: one variable serves all fibers.
  __sanitizer_finish_switch_fiber(fiber_fake, &main_bottom, &main_size);
}

#else

inline void forget(void*, size_t) {}
inline void enter(const void*, size_t) {}
inline void back_in_main() {}
inline void first_in_fiber() {}
inline void leave(bool) {}
inline void back_in_fiber() {}

#endif

}  // namespace ncfast::emulator::sanitizer
