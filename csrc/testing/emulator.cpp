// The engine: fibers, barriers and schedules. One launch runs its blocks one after another.
#include "emulator.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "sanitizer.h"

#if !defined(__x86_64__) || !defined(__linux__)
#error "the emulator switches stacks in x86-64 assembly on Linux"
#endif

// Saves the callee-saved registers and the stack pointer, and takes up another stack.
extern "C" void ncfast_emulator_switch(void** save, void* load);
asm(R"(
.text
.globl ncfast_emulator_switch
.hidden ncfast_emulator_switch
.type ncfast_emulator_switch,@function
ncfast_emulator_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
.size ncfast_emulator_switch,.-ncfast_emulator_switch
)");

namespace ncfast::emulator {
namespace {

constexpr int kMostThreads = 1024;
constexpr size_t kMostSharedBytes = 227 * 1024;  // of sm_90 and sm_100; sm_80 has 163 KB
constexpr size_t kPage = 4096, kStackBytes = 64 * 1024, kStackStride = kStackBytes + kPage;

// The stacks of a block, each above a page that may not be touched: an overflow stops at once.
class Stacks {
 public:
  Stacks() {
    void* memory = mmap(nullptr, kMostThreads * kStackStride, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
      throw std::runtime_error("emulator: no memory for stacks");
    }
    base_ = static_cast<char*>(memory);
    for (int i = 0; i < kMostThreads; ++i) {
      mprotect(base_ + i * kStackStride, kPage, PROT_NONE);
    }
  }
  ~Stacks() {
    sanitizer::forget(base_, kMostThreads * kStackStride);
    munmap(base_, kMostThreads * kStackStride);
  }
  Stacks(const Stacks&) = delete;
  char* bottom(int i) const { return base_ + i * kStackStride + kPage; }

 private:
  char* base_;
};

struct Copy {
  void* to;
  const void* from;
  size_t given, size;

  void land() const {
    if (given > 0) {  // a copy of nothing may come from nowhere
      std::memcpy(to, from, given);
    }
    std::memset(static_cast<char*>(to) + given, 0, size - given);
  }
};

struct Fiber {
  Position position;
  void* stack = nullptr;
  bool done = false;
  const uint64_t* waits_for = nullptr;  // a generation counter ...
  uint64_t seen = 0;                    // ... that must move on from this
  const char* where = "";
  std::vector<std::vector<Copy>> groups;  // committed, oldest first; the last is still open
};

// One meeting point per set of lanes that meet.
struct WarpMeeting {
  unsigned mask = 0, arrived = 0;
  const char* operation = "";
  uint64_t generation = 0;
  Slots slots[2];  // a fast lane may already fill the next while a slow one still reads
};

struct Warp {
  unsigned alive = 0;
  std::vector<std::unique_ptr<WarpMeeting>> meetings;
};

enum class Order { forward, reverse, random };
enum class Landing { late, early, mixed };

struct Schedule {
  Order order = Order::forward;
  uint64_t seed = 0;
  Landing landing = Landing::late;

  static Schedule from_environment() {
    Schedule result;
    const char* order = std::getenv("NCFAST_EMULATOR_SCHEDULE");
    const std::string name = order ? order : "forward";
    if (name == "reverse") {
      result.order = Order::reverse;
    } else if (name.rfind("random:", 0) == 0) {
      result.order = Order::random;
      result.seed = std::strtoull(name.c_str() + 7, nullptr, 10);
    } else if (name != "forward") {
      throw std::runtime_error("emulator: NCFAST_EMULATOR_SCHEDULE is '" + name +
                               "'; expected forward, reverse or random:SEED");
    }
    const char* landing = std::getenv("NCFAST_EMULATOR_COPIES");
    const std::string when = landing ? landing : "late";
    if (when == "early") {
      result.landing = Landing::early;
    } else if (when == "mixed") {
      result.landing = Landing::mixed;
    } else if (when != "late") {
      throw std::runtime_error("emulator: NCFAST_EMULATOR_COPIES is '" + when +
                               "'; expected late, early or mixed");
    }
    return result;
  }

  std::vector<int64_t> permutation(int64_t n, uint64_t salt) const {
    std::vector<int64_t> result(n);
    for (int64_t i = 0; i < n; ++i) {
      result[i] = order == Order::reverse ? n - 1 - i : i;
    }
    if (order == Order::random) {
      std::mt19937_64 generator(seed * 7919 + salt);
      std::shuffle(result.begin(), result.end(), generator);
    }
    return result;
  }
};

struct Block {
  Schedule schedule;
  dim3 blocks, threads;
  uint3 index = {};
  int count = 0, live = 0;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::unique_ptr<unsigned char[]> shared;  // of the exact size, so that AddressSanitizer sees it
  size_t shared_size = 0;
  const std::function<void()>* body = nullptr;
  std::string error;
  void* main_stack = nullptr;
  // The block barrier.
  uint64_t generation = 0;
  int arrived = 0, sum = 0, result = 0;
  const char* barrier = nullptr;
  uint64_t copies = 0;
};

thread_local Block* block = nullptr;
thread_local Fiber* fiber = nullptr;

void leave_fiber() {
  Fiber* self = fiber;
  sanitizer::leave(self->done);
  ncfast_emulator_switch(&self->stack, block->main_stack);
  sanitizer::back_in_fiber();
}

void wait(const uint64_t& generation, uint64_t old, const char* where) {
  fiber->waits_for = &generation;
  fiber->seen = old;
  fiber->where = where;
  while (generation == old) {
    leave_fiber();
  }
  fiber->waits_for = nullptr;
}

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

void prepare(Fiber& f, int i, char* bottom) {
  const dim3& n = block->threads;
  const unsigned u = static_cast<unsigned>(i);
  f = Fiber{};
  f.position = {{u % n.x, u / n.x % n.y, u / (n.x * n.y)}, block->index, n, block->blocks, i % 32,
                i / 32};
  sanitizer::forget(bottom, kStackBytes);
  // Stacks start at different cache sets; else they evict one another.
  auto top = (reinterpret_cast<uintptr_t>(bottom) + kStackBytes) & ~uintptr_t{15};
  auto** word = reinterpret_cast<void**>(top - (i & 63) * 448);
  *--word = nullptr;  // the ABI wants the stack 8 bytes off a multiple of 16 at entry
  *--word = reinterpret_cast<void*>(&fiber_main);
  for (int saved = 0; saved < 6; ++saved) {
    *--word = nullptr;
  }
  f.stack = word;
}

// Runs one fiber until it waits; says whether it could run at all.
bool run(Fiber& f, char* bottom) {
  if (f.done || (f.waits_for != nullptr && *f.waits_for == f.seen)) {
    return false;
  }
  fiber = &f;
  sanitizer::enter(bottom, kStackBytes);
  ncfast_emulator_switch(&block->main_stack, f.stack);
  sanitizer::back_in_main();
  return true;
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
  std::memset(b.shared.get(), 0xff, b.shared_size);
  for (int i = 0; i < b.count; ++i) {
    prepare(b.fibers[i], i, stacks.bottom(i));
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

const Position& here() { return fiber->position; }

void* shared_bytes() { return block->shared.get(); }

void fail(const std::string& what) {
  if (block->error.empty()) {
    block->error = what;
  }
  for (;;) {
    leave_fiber();
  }
}

int block_barrier(int value, const char* where) {
  Block& b = *block;
  if (b.live < b.count) {
    fail("a thread waits in " + std::string(where) + " after others have left the kernel");
  }
  if (b.arrived > 0 && std::strcmp(b.barrier, where) != 0) {
    fail("divergence: threads of one block meet in " + std::string(b.barrier) + " and in " + where);
  }
  b.barrier = where;
  b.sum += value;
  if (++b.arrived == b.count) {
    b.result = b.sum;
    b.arrived = b.sum = 0;
    ++b.generation;
  } else {
    wait(b.generation, b.generation, where);
  }
  return b.result;
}

const Slots& exchange(unsigned mask, const void* value, size_t size, const char* operation) {
  const int lane = fiber->position.lane, warp_id = fiber->position.warp;
  Warp& warp = block->warps[warp_id];
  const std::string name = operation;
  if (!(mask >> lane & 1)) {
    fail(name + ": the calling lane is not in its own mask");
  }
  if (mask & ~warp.alive) {
    fail(name + ": the mask names a lane that does not exist or has left the kernel");
  }
  WarpMeeting* meeting = nullptr;
  for (const auto& known : warp.meetings) {
    if (known->mask == mask) {
      meeting = known.get();
    }
  }
  if (meeting == nullptr) {
    warp.meetings.push_back(std::make_unique<WarpMeeting>());
    meeting = warp.meetings.back().get();
    meeting->mask = mask;
  }
  if (meeting->arrived != 0 && std::strcmp(meeting->operation, operation) != 0) {
    fail("divergence: lanes of one mask meet in " + std::string(meeting->operation) + " and in " +
         name);
  }
  const uint64_t generation = meeting->generation;
  Slots& slots = meeting->slots[generation & 1];
  meeting->operation = operation;
  std::memcpy(slots.bytes[lane], value, size);
  meeting->arrived |= 1u << lane;
  if (meeting->arrived == mask) {
    meeting->arrived = 0;
    ++meeting->generation;
  } else {
    wait(meeting->generation, generation, operation);
  }
  return slots;
}

void copy_later(void* to, const void* from, size_t given, size_t size) {
  const Copy copy = {to, from, given, size};
  const Landing landing = block->schedule.landing;
  const bool odd = (block->copies++ * 2654435761u >> 13) & 1;
  if (landing == Landing::early || (landing == Landing::mixed && odd)) {
    copy.land();
    return;
  }
  if (fiber->groups.empty()) {
    fiber->groups.emplace_back();
  }
  fiber->groups.back().push_back(copy);
}

void commit_copies() {
  if (fiber->groups.empty()) {
    fiber->groups.emplace_back();
  }
  fiber->groups.emplace_back();
}

void wait_for_copies(int groups_left_open) {
  auto& groups = fiber->groups;
  while (static_cast<int>(groups.size()) - 1 > groups_left_open) {
    for (const Copy& copy : groups.front()) {
      copy.land();
    }
    groups.erase(groups.begin());
  }
}

void launch(dim3 blocks, dim3 threads, size_t shared_size, const std::function<void()>& body) {
  static thread_local Stacks stacks;
  const int64_t count = int64_t{threads.x} * threads.y * threads.z;
  const int64_t total = int64_t{blocks.x} * blocks.y * blocks.z;
  if (count < 1 || count > kMostThreads || total < 1 || blocks.y > 65535 || blocks.z > 65535 ||
      shared_size > kMostSharedBytes) {
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
  b.shared.reset(new unsigned char[shared_size]);
  b.shared_size = shared_size;
  b.body = &body;
  block = &b;
  for (const int64_t i : b.schedule.permutation(total, 1)) {
    const auto at = static_cast<uint64_t>(i);
    b.index = {static_cast<unsigned>(at % blocks.x),
               static_cast<unsigned>(at / blocks.x % blocks.y),
               static_cast<unsigned>(at / (uint64_t{blocks.x} * blocks.y))};
    run_block(stacks, at * 31 + 7);
    if (!b.error.empty()) {
      break;
    }
  }
  block = nullptr;
  fiber = nullptr;
  if (!b.error.empty()) {
    throw std::runtime_error("emulator: block (" + std::to_string(b.index.x) + ", " +
                             std::to_string(b.index.y) + ", " + std::to_string(b.index.z) +
                             "): " + b.error);
  }
}

}  // namespace ncfast::emulator
