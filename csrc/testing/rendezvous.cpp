// Where threads meet: barriers of a block, and shuffles and votes of a warp.
#include "block.h"
#include "races.h"

namespace ncfast::emulator {

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
    if (name == "__syncwarp") {  // shuffles and votes order no memory
      races::warp_synced(mask);
    }
    meeting->arrived = 0;
    ++meeting->generation;
  } else {
    wait(meeting->generation, generation, operation);
  }
  return slots;
}

}  // namespace ncfast::emulator
