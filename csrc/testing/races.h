// The race detector, the fourth mode of the emulator: kernels compiled with -fsanitize=thread call a
// hook for every access, which races.cpp serves from shadow memory of its own. Nothing in other builds.
//
// Two accesses of a byte by two threads, one of them a write, must be ordered: by a barrier of the
// block, or by __syncwarp between lanes of a warp. Shuffles, votes and mma.sync order nothing, and
// nothing orders two blocks of a launch. Atomics do not race with each other.
#pragma once

#include <cstddef>

#if defined(NCFAST_RACES)
// Of the emulator's own inline code: its accesses are none of the kernel's.
#define NCFAST_UNWATCHED __attribute__((no_sanitize("thread")))
#else
#define NCFAST_UNWATCHED
#endif

namespace ncfast::emulator::races {

#if defined(NCFAST_RACES)

void launch_begins(const void* kernel);
void block_begins();
void warp_synced(unsigned mask);
void atomic(const void* at, size_t size, const void* caller);
void read(const void* at, size_t size, const void* caller);
// A cp.async may write from when it is issued until it is waited for.
void copy_issued(const void* to, size_t size, const void* from, size_t given, const void* caller);
void copy_landed(const void* to, size_t size);
// Workspace that nobody has written, until it is given back.
void workspace(const void* memory, size_t size);
void no_workspace(const void* memory);

#else

inline void launch_begins(const void*) {}
inline void block_begins() {}
inline void warp_synced(unsigned) {}
inline void atomic(const void*, size_t, const void*) {}
inline void read(const void*, size_t, const void*) {}
inline void copy_issued(const void*, size_t, const void*, size_t, const void*) {}
inline void copy_landed(const void*, size_t) {}
inline void workspace(const void*, size_t) {}
inline void no_workspace(const void*) {}

#endif

}  // namespace ncfast::emulator::races
