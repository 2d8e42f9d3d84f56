#include "schedule.h"

#include <algorithm>
#include <cstdlib>
#include <random>
#include <stdexcept>
#include <string>

namespace ncfast::emulator {

Schedule Schedule::from_environment() {
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
#if defined(NCFAST_RACES)
  result.landing = Landing::late;  // what is read before its wait is an error by itself
#endif
  return result;
}

std::vector<int64_t> Schedule::permutation(int64_t n, uint64_t salt) const {
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

}  // namespace ncfast::emulator
