// The engine: one launch runs its blocks one after another, their fibers by a schedule.
#include "emulator.h"

#include "block.h"
#include "guards.h"
#include "races.h"
#include "sanitizer.h"

namespace ncfast::emulator {

constinit thread_local Block* block = nullptr;

namespace {

constexpr size_t kMaxSharedBytes = 227 * 1024;  // of sm_90 and sm_100; sm_80 has 163 KB

void fiber_main() {
  sanitizer::first_in_fiber();
  (*block->body)();
  if (block->arrived > 0) {
    fail("a thread has left the kernel while others wait in " + std::string(block->barrier));
  }
  for (const auto& group : fiber->groups) {
    if (!group.empty()) {
      fail("a thread has left the kernel without waiting for its cp.async copies");
    }
  }
  fiber->done = true;
  --block->live;
  block->warps[fiber->position.warp].alive &= ~(1u << fiber->position.lane);
  for (;;) {
    leave_fiber();
  }
}

Position position_of(const Block& b, int i) {
  const dim3& n = b.threads;
  const unsigned u = static_cast<unsigned>(i);
  return {{u % n.x, u / n.x % n.y, u / (n.x * n.y)}, b.index, n, b.blocks, i % 32, i / 32};
}

void report_deadlock() {
  int waiting = 0;
  const Fiber* first = nullptr;
  for (const Fiber& f : block->fibers) {
    if (!f.done) {
      ++waiting;
      first = first ? first : &f;
    }
  }
  block->error = "deadlock: " + std::to_string(waiting) + " threads wait for ever, the first of " +
                 "them, of warp " + std::to_string(first->position.warp) + " lane " +
                 std::to_string(first->position.lane) + ", in " + first->where;
}

void run_block(const Stacks& stacks, uint64_t salt) {
  Block& b = *block;
  b.live = b.count;
  b.arrived = b.sum = 0;
  for (Warp& warp : b.warps) {
    warp = Warp{};
  }
  std::memset(b.shared.get(), kUnwritten, b.shared_size + kGuardBytes);
  races::block_begins();
  for (int i = 0; i < b.count; ++i) {
    prepare(b.fibers[i], i, stacks.bottom(i), fiber_main);
    b.fibers[i].position = position_of(b, i);
    b.warps[i / 32].alive |= 1u << (i % 32);
  }
  const auto order = b.schedule.permutation(b.count, salt);
  const auto warp_order = b.schedule.permutation(static_cast<int64_t>(b.warps.size()), salt + 99);
  const auto sweep = [&](int64_t only_warp) {
    bool progress = false;
    for (const int64_t i : order) {
      if (only_warp < 0 || i / 32 == only_warp) {
        progress |= run(b.fibers[i], stacks.bottom(static_cast<int>(i)));
        if (!b.error.empty()) {
          return false;
        }
      }
    }
    return progress;
  };
  while (b.live > 0) {
    bool progress = false;
    if (b.schedule.order != Order::random) {
      progress = sweep(-1);
    } else {
      // Greedy: a warp runs until all its lanes wait. Round robin never lets one warp overtake the
      // others by a whole phase, and so never shows a write that comes too early.
      for (const int64_t warp : warp_order) {
        while (sweep(warp)) {
          progress = true;
        }
      }
    }
    if (!b.error.empty()) {
      return;
    }
    if (!progress) {
      report_deadlock();
      return;
    }
  }
}

}  // namespace

void* shared_bytes() { return block->shared.get(); }

void fail(const std::string& what) {
  if (block->error.empty()) {
    block->error = what;
  }
  for (;;) {
    leave_fiber();
  }
}

void launch(dim3 blocks, dim3 threads, size_t shared_size, const std::function<void()>& body) {
  static thread_local Stacks stacks;
  const int64_t count = int64_t{threads.x} * threads.y * threads.z;
  const int64_t total = int64_t{blocks.x} * blocks.y * blocks.z;
  if (count < 1 || count > kMaxThreads || total < 1 || blocks.y > 65535 || blocks.z > 65535 ||
      shared_size > kMaxSharedBytes) {
    throw std::runtime_error("emulator: a launch of " + std::to_string(total) + " blocks of " +
                             std::to_string(count) + " threads with " +
                             std::to_string(shared_size) + " bytes of shared memory");
  }
  Block b;
  b.schedule = Schedule::from_environment();
  b.blocks = blocks;
  b.threads = threads;
  b.count = static_cast<int>(count);
  b.fibers.resize(count);
  b.warps.resize((count + 31) / 32);
  b.shared.reset(new unsigned char[shared_size + kGuardBytes]);
  b.shared_size = shared_size;
  b.body = &body;
  block = &b;
  for (const int64_t i : b.schedule.permutation(total, 1)) {
    const auto at = static_cast<uint64_t>(i);
    b.index = {static_cast<unsigned>(at % blocks.x),
               static_cast<unsigned>(at / blocks.x % blocks.y),
               static_cast<unsigned>(at / (uint64_t{blocks.x} * blocks.y))};
    run_block(stacks, at * 31 + 7);
    if (b.error.empty() && !guard_is_whole(b.shared.get() + shared_size)) {
      b.error = "a thread has written beyond the " + std::to_string(shared_size) +
                " bytes of shared memory that the launch gives";
    }
    if (!b.error.empty()) {
      break;
    }
  }
  block = nullptr;
  fiber = nullptr;
  position = nullptr;
  if (!b.error.empty()) {
    throw std::runtime_error("emulator: block (" + std::to_string(b.index.x) + ", " +
                             std::to_string(b.index.y) + ", " + std::to_string(b.index.z) +
                             "): " + b.error);
  }
}

}  // namespace ncfast::emulator
