// Asynchronous copies, which land late, early or now and then.
#include "block.h"
#include "races.h"

namespace ncfast::emulator {

void Copy::land() const {
  if (given > 0) {  // a copy of nothing may come from nowhere
    std::memcpy(to, from, given);
  }
  std::memset(static_cast<char*>(to) + given, 0, size - given);
}

void copy_later(void* to, const void* from, size_t given, size_t size, const void* caller) {
  races::copy_issued(to, size, from, given, caller);
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
      races::copy_landed(copy.to, copy.size);
    }
    groups.erase(groups.begin());
  }
}

}  // namespace ncfast::emulator
