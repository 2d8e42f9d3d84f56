// In which order blocks and fibers run, and when asynchronous copies land.
#pragma once

#include <cstdint>
#include <vector>

namespace ncfast::emulator {

enum class Order { forward, reverse, random };
enum class Landing { late, early, mixed };

struct Schedule {
  Order order = Order::forward;
  uint64_t seed = 0;
  Landing landing = Landing::late;

  // By NCFAST_EMULATOR_SCHEDULE and NCFAST_EMULATOR_COPIES (emulator.h).
  static Schedule from_environment();

  // 0 .. n - 1 in the order they run; `salt` makes random ones differ.
  std::vector<int64_t> permutation(int64_t n, uint64_t salt) const;
};

}  // namespace ncfast::emulator
