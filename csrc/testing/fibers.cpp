#include "fibers.h"

#include <sys/mman.h>

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

constexpr size_t kPage = kStackStride - kStackBytes;

constinit thread_local void* main_stack = nullptr;

}  // namespace

constinit thread_local Fiber* fiber = nullptr;
constinit thread_local const Position* position = nullptr;
constinit thread_local const char* Stacks::lowest_ = nullptr;

Stacks::Stacks() {
  void* memory = mmap(nullptr, kMaxThreads * kStackStride, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    throw std::runtime_error("emulator: no memory for stacks");
  }
  base_ = static_cast<char*>(memory);
  lowest_ = base_;
  for (int i = 0; i < kMaxThreads; ++i) {
    mprotect(base_ + i * kStackStride, kPage, PROT_NONE);
  }
}

Stacks::~Stacks() {
  sanitizer::forget(base_, kMaxThreads * kStackStride);
  munmap(base_, kMaxThreads * kStackStride);
}

char* Stacks::bottom(int i) const { return base_ + i * kStackStride + kPage; }

void leave_fiber() {
  Fiber* self = fiber;
  sanitizer::leave(self->done);
  ncfast_emulator_switch(&self->stack, main_stack);
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

void prepare(Fiber& f, int i, char* bottom, void (*entry)()) {
  f = Fiber{};
  sanitizer::forget(bottom, kStackBytes);
  // Stacks start at different cache sets; else they evict one another.
  auto top = (reinterpret_cast<uintptr_t>(bottom) + kStackBytes) & ~uintptr_t{15};
  auto** word = reinterpret_cast<void**>(top - (i & 63) * 448);
  *--word = nullptr;  // the ABI wants the stack 8 bytes off a multiple of 16 at entry
  *--word = reinterpret_cast<void*>(entry);
  for (int saved = 0; saved < 6; ++saved) {
    *--word = nullptr;
  }
  f.stack = word;
}

bool run(Fiber& f, char* bottom) {
  if (f.done || (f.waits_for != nullptr && *f.waits_for == f.seen)) {
    return false;
  }
  fiber = &f;
  position = &f.position;
  sanitizer::enter(bottom, kStackBytes);
  ncfast_emulator_switch(&main_stack, f.stack);
  sanitizer::back_in_main();
  return true;
}

}  // namespace ncfast::emulator
