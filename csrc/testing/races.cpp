// Shadow memory: of every byte the last write and two reads, with who made them and when.
#include "races.h"

#if defined(NCFAST_RACES)

#include <pthread.h>

#include <algorithm>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "block.h"
#include "places.h"

namespace ncfast::emulator::races {
namespace {

enum class Kind { read, write, atomic, issue };

// Barriers passed and clocks may wrap around: 2^20 barriers apart two accesses look like one epoch.
struct Access {
  uint32_t block = 0, barrier : 20 = 0, thread : 10 = 0, atomic : 1 = 0, pending : 1 = 0;
  uint32_t clock = 0;   // of the lane, below; 0: there is no access
  uint32_t place = 0;   // in the library
};
struct Shadow {
  Access write, reads[2];
};

constexpr size_t kPage = 4096;
struct Page {
  uint64_t launch = 0;
  Shadow bytes[kPage];
};

uint64_t launches = 0;
uint32_t block_number = 0;
const void* kernel = nullptr;
uintptr_t main_low = 0, main_high = 0;  // the stack that the arguments of a launch lie on
std::vector<Shadow> shared;
std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
std::map<uintptr_t, std::vector<bool>> fresh;  // workspace: which bytes were written

uint32_t number_of(const uint3& index, const dim3& blocks) {
  return (index.z * blocks.y + index.y) * blocks.x + index.x;
}

// The calling thread's access.
Access now(Kind kind, const void* caller) {
  const Position& at = fiber->position;
  Access result;
  result.block = block_number;
  result.barrier = static_cast<uint32_t>(block->generation);
  result.thread = static_cast<uint32_t>(at.warp * 32 + at.lane);
  result.atomic = kind == Kind::atomic;
  result.pending = kind == Kind::issue;
  result.clock = fiber->clock;
  result.place = places::offset(caller);
  return result;
}

bool ordered(const Access& before, const Access& after) {
  if (before.block != after.block) {
    return false;
  }
  if (before.thread == after.thread) {
    return !before.pending;
  }
  if (before.barrier != after.barrier) {
    return !before.pending;
  }
  return !before.pending && before.thread / 32 == after.thread / 32 &&
         fiber->clocks[before.thread % 32] >= before.clock;
}

// How much a reader adds to what another shows: a later write is ordered after fewer of the two.
int apart(const Access& a, const Access& b) {
  if (a.clock == 0) {
    return -1;
  }
  if (a.block != b.block) {
    return 3;
  }
  if (a.barrier != b.barrier) {
    return -1;
  }
  return a.thread / 32 != b.thread / 32 ? 2 : a.thread != b.thread ? 1 : 0;
}

void remember_read(Shadow& shadow, const Access& access) {
  Access(&reads)[2] = shadow.reads;
  if (apart(reads[0], access) >= apart(reads[1], access)) {
    reads[1] = reads[0];
  }
  reads[0] = access;
}

std::string who(const Access& access) {
  return "thread " + std::to_string(access.thread) + " of block " + std::to_string(access.block);
}

std::string what(const Access& access, bool write) {
  const char* verb = access.pending  ? "being written by cp.async, issued"
                     : access.atomic ? "updated atomically"
                     : write         ? "written"
                                     : "read";
  return std::string(verb) + " at " + places::name(access.place) + " by " + who(access);
}

constexpr size_t kGlobal = ~size_t{0};  // in place of a byte's number in shared memory

// Made where a race is reported alone: it was a fifth of what the detector takes.
std::string memory_at(size_t byte) {
  return byte == kGlobal ? "global memory" : "byte " + std::to_string(byte) + " of shared memory";
}

[[noreturn]] void report(size_t byte, const Access& before, bool wrote, const Access& after,
                         bool writes) {
  const char* why = before.block != after.block ? "nothing orders two blocks of a launch"
                    : before.pending            ? "before its wait"
                                                : "no barrier orders the two";
  fail("race in " + places::kernel_name(kernel) + ": " + memory_at(byte) + " was " + what(before, wrote) +
       " and is " + what(after, writes) + "; " + why);
}

void check(Shadow& shadow, const Access& access, Kind kind, size_t byte) {
  const bool writes = kind != Kind::read;
  if (shadow.write.clock != 0 && !ordered(shadow.write, access) &&
      !(shadow.write.atomic && access.atomic)) {
    report(byte, shadow.write, true, access, writes);
  }
  for (const Access& read : shadow.reads) {
    if (writes && read.clock != 0 && !ordered(read, access)) {
      report(byte, read, false, access, true);
    }
  }
  if (writes) {
    shadow.write = access;
  } else {
    remember_read(shadow, access);
  }
}

Shadow& shadow_of(uintptr_t byte) {
  static uintptr_t last_number = 0;
  static Page* last = nullptr;
  const uintptr_t number = byte / kPage;
  if (last == nullptr || number != last_number) {
    auto& page = pages[number];
    if (page == nullptr) {
      page = std::make_unique<Page>();
    }
    last = page.get();
    last_number = number;
  }
  if (last->launch != launches) {
    std::fill(last->bytes, last->bytes + kPage, Shadow{});
    last->launch = launches;
  }
  return last->bytes[byte % kPage];
}

// Where the byte is in workspace: the flag that says whether it was ever written.
void touch_workspace(uintptr_t byte, const Access& access, Kind kind) {
  auto found = fresh.upper_bound(byte);
  if (found == fresh.begin()) {
    return;
  }
  --found;
  if (byte - found->first >= found->second.size()) {
    return;
  }
  auto written = found->second[byte - found->first];
  if (kind == Kind::write || kind == Kind::issue) {
    written = true;
  } else if (!written) {
    fail("unwritten memory in " + places::kernel_name(kernel) + ": byte " +
         std::to_string(byte - found->first) + " of a workspace of " +
         std::to_string(found->second.size()) + " is " + what(access, false) +
         " and nobody wrote it");
  }
}

void touch(const void* memory, size_t size, Kind kind, const void* caller) {
  if (block == nullptr || fiber == nullptr || Stacks::hold(memory)) {
    return;  // host code, or what a thread keeps for itself
  }
  const auto at = reinterpret_cast<uintptr_t>(memory);
  const auto begin = reinterpret_cast<uintptr_t>(block->shared.get());
  const auto inside = [at](uintptr_t low, uintptr_t high) { return at >= low && at < high; };
  if (inside(begin, begin + block->shared_size)) {
    const Access access = now(kind, caller);
    for (size_t i = 0; i < size && at - begin + i < shared.size(); ++i) {
      Shadow& shadow = shared[at - begin + i];
      if (shadow.write.clock == 0 && (kind == Kind::read || kind == Kind::atomic)) {
        fail("unwritten memory in " + places::kernel_name(kernel) + ": " + memory_at(at - begin + i) + " is " +
             what(access, false) + " and nobody wrote it");
      }
      check(shadow, access, kind, at - begin + i);
    }
    return;
  }
  const auto fibers = reinterpret_cast<uintptr_t>(block->fibers.data());
  if (inside(fibers, fibers + block->fibers.size() * sizeof(Fiber)) ||
      inside(main_low, main_high)) {
    return;
  }
  const Access access = now(kind, caller);
  for (size_t i = 0; i < size; ++i) {
    touch_workspace(at + i, access, kind);
    check(shadow_of(at + i), access, kind, kGlobal);
  }
}

}  // namespace

void launch_begins(const void* of) {
  kernel = of;
  ++launches;
  pthread_attr_t attributes;
  void* low = nullptr;
  size_t size = 0;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &low, &size);
  pthread_attr_destroy(&attributes);
  main_low = reinterpret_cast<uintptr_t>(low);
  main_high = main_low + size;
}

void block_begins() {
  block_number = number_of(block->index, block->blocks);
  shared.assign(block->shared_size, Shadow{});
}

void warp_synced(unsigned mask) {
  uint32_t joint[32] = {};
  Fiber* lanes = &block->fibers[static_cast<size_t>(fiber->position.warp) * 32];
  const auto each = [&](auto&& body) {
    for (int lane = 0; lane < 32; ++lane) {
      if (mask >> lane & 1) {
        body(lanes[lane], lane);
      }
    }
  };
  each([&](Fiber& f, int lane) {
    f.clocks[lane] = f.clock;
    for (int l = 0; l < 32; ++l) {
      joint[l] = std::max(joint[l], f.clocks[l]);
    }
  });
  each([&](Fiber& f, int) {
    std::copy(joint, joint + 32, f.clocks);
    ++f.clock;
  });
}

void atomic(const void* at, size_t size, const void* caller) {
  touch(at, size, Kind::atomic, caller);
}
void read(const void* at, size_t size, const void* caller) { touch(at, size, Kind::read, caller); }

void copy_issued(const void* to, size_t size, const void* from, size_t given, const void* caller) {
  touch(from, given, Kind::read, caller);
  touch(to, size, Kind::issue, caller);
}

void copy_landed(const void* to, size_t size) {
  const auto at = reinterpret_cast<uintptr_t>(to);
  const auto begin = reinterpret_cast<uintptr_t>(block->shared.get());
  for (size_t i = 0; i < size; ++i) {
    Access& write = shared[at - begin + i].write;  // nobody else has touched it since
    const uint32_t place = write.place;
    write = now(Kind::write, nullptr);
    write.place = place;
  }
}

void workspace(const void* memory, size_t size) {
  fresh[reinterpret_cast<uintptr_t>(memory)].assign(size, false);
}
void no_workspace(const void* memory) { fresh.erase(reinterpret_cast<uintptr_t>(memory)); }

}  // namespace ncfast::emulator::races

// What -fsanitize=thread calls. libtsan is not linked: it watches processes, not what a GPU would do.
#define NCFAST_EXPORT extern "C" __attribute__((visibility("hidden")))
#define NCFAST_TOUCH(size, kind)                                                               \
  ncfast::emulator::races::touch(at, size, ncfast::emulator::races::Kind::kind, \
                                 __builtin_return_address(0))
#define NCFAST_HOOKS(n)                                                              \
  NCFAST_EXPORT void __tsan_read##n(void* at) { NCFAST_TOUCH(n, read); }             \
  NCFAST_EXPORT void __tsan_write##n(void* at) { NCFAST_TOUCH(n, write); }           \
  NCFAST_EXPORT void __tsan_unaligned_read##n(void* at) { NCFAST_TOUCH(n, read); }   \
  NCFAST_EXPORT void __tsan_unaligned_write##n(void* at) { NCFAST_TOUCH(n, write); }
NCFAST_HOOKS(1)
NCFAST_HOOKS(2)
NCFAST_HOOKS(4)
NCFAST_HOOKS(8)
NCFAST_HOOKS(16)
NCFAST_EXPORT void __tsan_read_range(void* at, size_t size) { NCFAST_TOUCH(size, read); }
NCFAST_EXPORT void __tsan_write_range(void* at, size_t size) { NCFAST_TOUCH(size, write); }
// Of the guards of static variables in host code.
NCFAST_EXPORT char __tsan_atomic8_load(const volatile char* at, int) {
  return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}
NCFAST_EXPORT void __tsan_init() {}
NCFAST_EXPORT void __tsan_func_entry(void*) {}
NCFAST_EXPORT void __tsan_func_exit() {}
NCFAST_EXPORT void __tsan_vptr_update(void**, void*) {}
NCFAST_EXPORT void __tsan_vptr_read(void**) {}

#endif
