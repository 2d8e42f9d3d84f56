// The most dynamic shared memory that each kernel was launched with. A library for GPUs does not hold
// it, as only launches know it; tests/ops/test_cuda_host_sanitized.py holds it to the budgets.
#pragma once

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>

namespace ncfast::emulator {

// Adds a line "offset of the kernel in this library, bytes", both in base 10, to the file that
// NCFAST_EMULATOR_LAUNCHES names, where the kernel never had as much before.
inline void note_launch(const void* kernel, size_t shared_bytes) {
  static const char* const path = std::getenv("NCFAST_EMULATOR_LAUNCHES");
  static std::mutex mutex;
  static std::map<const void*, size_t> largest;
  if (path == nullptr) {
    return;
  }
  const std::lock_guard<std::mutex> lock(mutex);
  const auto [seen, fresh] = largest.try_emplace(kernel, shared_bytes);
  if (!fresh && seen->second >= shared_bytes) {
    return;
  }
  seen->second = shared_bytes;
  Dl_info library;
  std::FILE* file = std::fopen(path, "a");
  if (file == nullptr || dladdr(kernel, &library) == 0) {
    throw std::runtime_error(std::string("emulator: cannot note a launch in ") + path);
  }
  const auto offset = static_cast<const char*>(kernel) - static_cast<char*>(library.dli_fbase);
  std::fprintf(file, "%td %zu\n", offset, shared_bytes);
  std::fclose(file);
}

}  // namespace ncfast::emulator
