// One fiber per CUDA thread: a stack of its own, and what it waits for.
#pragma once

#include <cstdint>
#include <vector>

#include "emulator.h"

namespace ncfast::emulator {

constexpr int kMaxThreads = 1024;
constexpr size_t kStackBytes = 64 * 1024, kStackStride = kStackBytes + 4096;

// The stacks of a block, each above a page that may not be touched: an overflow stops at once.
class Stacks {
 public:
  Stacks();
  ~Stacks();
  Stacks(const Stacks&) = delete;
  char* bottom(int i) const;
  // Whether an address is on a stack of the thread that runs a launch.
  static bool hold(const void* address) {
    const char* at = static_cast<const char*>(address);
    return at >= lowest_ && at < lowest_ + kMaxThreads * kStackStride;
  }

 private:
  static constinit thread_local const char* lowest_;
  char* base_;
};

// An asynchronous copy under way.
struct Copy {
  void* to;
  const void* from;
  size_t given, size;

  void land() const;
};

struct Fiber {
  Position position;
  void* stack = nullptr;
  bool done = false;
  const uint64_t* waits_for = nullptr;  // a generation counter ...
  uint64_t seen = 0;                    // ... that must move on from this
  const char* where = "";
  // For the race detector: this lane's clock, and which accesses of each lane are ordered before.
  uint32_t clock = 1, clocks[32] = {};
  std::vector<std::vector<Copy>> groups;  // committed, oldest first; the last is still open
};

// The fiber that runs, or null.
extern constinit thread_local Fiber* fiber;

// Makes a fiber that will run `entry`, which never returns, on a stack.
void prepare(Fiber& f, int i, char* bottom, void (*entry)());

// Runs one fiber until it waits; says whether it could run at all.
bool run(Fiber& f, char* bottom);

// Back to whoever ran this fiber.
void leave_fiber();

// Leaves the fiber until the counter moves on from `old`.
void wait(const uint64_t& generation, uint64_t old, const char* where);

}  // namespace ncfast::emulator
