// The block that runs: its fibers, its shared memory, and where its threads meet.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "fibers.h"
#include "schedule.h"

namespace ncfast::emulator {

// One meeting point per set of lanes that meet.
struct WarpRendezvous {
  unsigned mask = 0, arrived = 0;
  const char* operation = "";
  uint64_t generation = 0;
  Slots slots[2];  // a fast lane may already fill the next while a slow one still reads
};

struct Warp {
  unsigned alive = 0;
  std::vector<std::unique_ptr<WarpRendezvous>> rendezvous_points;
};

struct Block {
  Schedule schedule;
  dim3 blocks, threads;
  uint3 index = {};
  int count = 0, live = 0;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::unique_ptr<unsigned char[]> shared;  // and the bytes of guards.h behind it
  size_t shared_size = 0;
  const std::function<void()>* body = nullptr;
  std::string error;
  // The block barrier.
  uint64_t generation = 0;
  int arrived = 0, sum = 0, result = 0;
  const char* barrier = nullptr;
  uint64_t copies = 0;
};

// The block that runs, or null.
extern constinit thread_local Block* block;

}  // namespace ncfast::emulator
