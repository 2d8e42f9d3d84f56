// Finding NaN and Inf in features, and saying where.
#pragma once

#include <cmath>
#include <cstdint>

#include "labels.h"
#include "parallel.h"
#include "rows.h"

namespace ncfast {

// Largest exponent field in a row equals the mask exactly when the row holds a NaN or an Inf. The
// integer maximum vectorises; isfinite() does not (4x slower here).
template <class Bits>
bool has_nonfinite(const Bits* row, int64_t n, Bits mask) {
  Bits largest = 0;
  for (int64_t d = 0; d < n; ++d) {
    const Bits exponent = row[d] & mask;
    largest = exponent > largest ? exponent : largest;
  }
  return largest == mask;
}

// Whether row `i` of a matrix whose columns are adjacent holds a NaN or an Inf.
inline bool row_has_nonfinite(const char* start, ScalarType type, int64_t width) {
  switch (type) {
    case ScalarType::Double:
      return has_nonfinite(reinterpret_cast<const int64_t*>(start), width, int64_t{0x7ff0} << 48);
    case ScalarType::Float:
      return has_nonfinite(reinterpret_cast<const int32_t*>(start), width, int32_t{0x7f800000});
    case ScalarType::BFloat16:
      return has_nonfinite(reinterpret_cast<const uint16_t*>(start), width, uint16_t{0x7f80});
    default:
      return has_nonfinite(reinterpret_cast<const uint16_t*>(start), width, uint16_t{0x7c00});
  }
}

// Raises at the first NaN or Inf in a row that is used. Reads x once and nothing else.
template <class T, class Counts>
void check_finite_rows(const char* op, const char* name, const Tensor& x, const Counts& counts) {
  const RowReader<T> reader(x);
  const int64_t rows = x.size(0), width = x.size(1), block = 256;
  const bool adjacent = x.stride(1) == 1;
  const char* data = static_cast<const char*>(x.const_data_ptr());
  const int64_t row_bytes = x.stride(0) * static_cast<int64_t>(x.element_size());
  const ScalarType type = x.scalar_type();
  std::atomic<int64_t> first{rows};
  parallel_units((rows + block - 1) / block, [&](const auto& take) {
    Buffer<T> scratch(width);
    const ScalarType scratch_type = kScalarType<T>;
    for (int64_t unit = take(); unit >= 0; unit = take()) {
      for (int64_t i = unit * block; i < std::min(rows, (unit + 1) * block); ++i) {
        if (!counts(i)) {
          continue;
        }
        const bool bad =
            adjacent ? row_has_nonfinite(data + i * row_bytes, type, width)
                     : row_has_nonfinite(reinterpret_cast<const char*>(reader.row(i, scratch.get())),
                                         scratch_type, width);
        if (bad) {
          int64_t seen = first.load();
          while (i < seen && !first.compare_exchange_weak(seen, i)) {
          }
          break;
        }
      }
    }
  });
  const int64_t i = first.load();
  if (i == rows) {
    return;
  }
  Buffer<T> scratch(width);
  const T* row = reader.row(i, scratch.get());
  int64_t d = 0;
  while (d + 1 < width && std::isfinite(row[d])) {
    ++d;
  }
  reject(op, name, "[", i, ", ", d, "] is ",
         std::isnan(row[d]) ? "nan" : (row[d] > 0 ? "inf" : "-inf"), "; expected finite values");
}

// The same for features, of which those labelled -100 are ignored.
template <class T>
void check_finite(const char* op, const Tensor& x, const LabelView& y) {
  check_finite_rows<T>(op, "x", x, [&](int64_t i) { return y[i] != kIgnoreIndex; });
}

}  // namespace ncfast
