// Names of places in the compiled kernels, for the race detector's messages.
#pragma once

#include <cstdint>
#include <string>

namespace ncfast::emulator::places {

// Of an address in this library.
uint32_t offset(const void* address);

// "csrc/cuda/gram.cuh:104", of the innermost line that is a kernel's and not the emulator's.
std::string name(uint32_t offset);

// "gram_tiles", of a kernel's first address.
std::string kernel_name(const void* kernel);

}  // namespace ncfast::emulator::places
