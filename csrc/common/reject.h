// Rejecting values, in words meant for the user.
#pragma once

#include <sstream>
#include <stdexcept>

namespace ncfast {

// Raises "ncfast: OP: ...". ncfast/native.py knows the prefix and turns it into a DataError.
template <class... Parts>
[[noreturn]] void reject(const char* op, const Parts&... parts) {
  std::ostringstream message;
  message << "ncfast: " << op << ": ";
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

}  // namespace ncfast
