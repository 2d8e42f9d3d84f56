// Where threads meet: barriers of a block, and shuffles and votes of a warp.
#include "block.h"
#include "races.h"

namespace ncfast::emulator {

int block_barrier(int value, const char* where) {
  Block& b = *block;
  if (b.live < b.count) {
    fail("a thread waits in " + std::string(where) + " after others have left the kernel");
  }
  if (b.arrived > 0 && b.barrier != where && std::strcmp(b.barrier, where) != 0) {
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
  if (!(mask >> lane & 1)) {
    fail(std::string(operation) + ": the calling lane is not in its own mask");
  }
  if (mask & ~warp.alive) {
    fail(std::string(operation) +
         ": the mask names a lane that does not exist or has left the kernel");
  }
  WarpRendezvous* rendezvous = nullptr;
  for (const auto& known : warp.rendezvous_points) {
    if (known->mask == mask) {
      rendezvous = known.get();
    }
  }
  if (rendezvous == nullptr) {
    warp.rendezvous_points.push_back(std::make_unique<WarpRendezvous>());
    rendezvous = warp.rendezvous_points.back().get();
    rendezvous->mask = mask;
  }
  if (rendezvous->arrived != 0 && rendezvous->operation != operation &&
      std::strcmp(rendezvous->operation, operation) != 0) {
    fail("divergence: lanes of one mask meet in " + std::string(rendezvous->operation) + " and in " +
         operation);
  }
  const uint64_t generation = rendezvous->generation;
  Slots& slots = rendezvous->slots[generation & 1];
  rendezvous->operation = operation;
  std::memcpy(slots.bytes[lane], value, size);
  rendezvous->arrived |= 1u << lane;
  if (rendezvous->arrived == mask) {
    if (std::strcmp(operation, "__syncwarp") == 0) {  // shuffles and votes order no memory
      races::warp_synced(mask);
    }
    rendezvous->arrived = 0;
    ++rendezvous->generation;
  } else {
    wait(rendezvous->generation, generation, operation);
  }
  return slots;
}

}  // namespace ncfast::emulator
