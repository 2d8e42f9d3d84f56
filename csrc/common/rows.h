// Reading matrix rows of any floating dtype and stride as contiguous float or double.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "vectors.h"

namespace ncfast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class Stored>
constexpr ScalarType kScalarType =
    std::is_same_v<Stored, double>     ? ScalarType::Double
    : std::is_same_v<Stored, float>    ? ScalarType::Float
    : std::is_same_v<Stored, BFloat16> ? ScalarType::BFloat16
                                       : ScalarType::Half;

// Rows of a block of at most `bytes` where one takes `row_bytes`: 32 at least.
constexpr int64_t kMostBlockRows = 512;
inline int64_t block_rows(int64_t bytes, int64_t row_bytes) {
  return std::clamp<int64_t>(bytes / std::max<int64_t>(row_bytes, 1) / 32 * 32, 32, kMostBlockRows);
}

// One [rows, width] matrix, read row by row as T. Float reads float32, bfloat16 and float16 storage;
// double reads those and float64.
template <class T>
class RowReader {
 public:
  explicit RowReader(const Tensor& matrix)
      : data_(static_cast<const char*>(matrix.const_data_ptr())),
        type_(matrix.scalar_type()),
        element_size_(static_cast<int64_t>(matrix.element_size())),
        rows_(matrix.size(0)),
        width_(matrix.size(1)),
        row_stride_(matrix.stride(0)),
        // One column has no stride worth the name: a contiguous tensor may carry any.
        column_stride_(matrix.size(1) == 1 ? 1 : matrix.stride(1)) {
    const bool narrow =
        type_ == ScalarType::Float || type_ == ScalarType::BFloat16 || type_ == ScalarType::Half;
    STD_TORCH_CHECK(narrow || (std::is_same_v<T, double> && type_ == ScalarType::Double),
                    "ncfast native: rows of this dtype cannot be read at this precision");
  }

  int64_t rows() const { return rows_; }
  int64_t width() const { return width_; }
  bool adjacent() const { return column_stride_ == 1; }
  ScalarType type() const { return type_; }

  // Returns row i as it is stored; only where columns are adjacent and the dtype is Stored.
  template <class Stored>
  const Stored* stored(int64_t i) const {
    return reinterpret_cast<const Stored*>(data_ + i * row_stride_ * element_size_);
  }

  // Returns row i as contiguous T: the stored memory where it already is that, else `scratch`
  // ([width] T), filled.
  const T* row(int64_t i, T* scratch) const {
    if (adjacent() && type_ == kScalarType<T>) {
      return stored<T>(i);
    }
    read(i, scratch);
    return scratch;
  }

  // Writes row i to `out` as T.
  void read(int64_t i, T* out) const {
    switch (type_) {
      case ScalarType::Double:
        return copy(stored<double>(i), out);
      case ScalarType::Float:
        return copy(stored<float>(i), out);
      case ScalarType::BFloat16:
        return copy(stored<BFloat16>(i), out);
      default:
        return copy(stored<Half>(i), out);
    }
  }

  // Asks for the start of a gathered row, which the hardware does not foresee; it does foresee the
  // rest. Prefetching all of a 3 KiB row is 10 % slower, for none of a 1.5 KiB row 35 %.
  void prefetch(int64_t i) const {
    const char* start = stored<char>(i);
    const int64_t bytes = adjacent() ? std::min<int64_t>(1024, width_ * element_size_) : 0;
    for (int64_t byte = 0; byte < bytes; byte += 64) {
      __builtin_prefetch(start + byte, 0, 2);
    }
  }

 private:
  template <class Stored>
  void copy(const Stored* in, T* out) const {
    if constexpr (std::is_same_v<T, double> || !std::is_same_v<Stored, double>) {
      if (adjacent()) {
        return fill_values<T>(
            width_, [&](int64_t d) { return load<T>(in + d); },
            [&](int64_t d) { return static_cast<T>(widen(in[d])); }, out);
      }
      for (int64_t d = 0; d < width_; ++d) {
        out[d] = static_cast<T>(widen(in[d * column_stride_]));
      }
    }
  }

  const char* data_;
  ScalarType type_;
  int64_t element_size_, rows_, width_, row_stride_, column_stride_;
};

// Whether rows can be multiplied where they lie: stored as T, contiguous.
template <class T>
bool in_place(const RowReader<T>& reader) {
  const bool stored = reader.adjacent() && reader.type() == kScalarType<T>;
  return stored && (reader.rows() < 2 || reader.template stored<T>(1) - reader.template stored<T>(0) ==
                                             reader.width());
}

// Calls f with a value of the dtype rows are stored in, or of T where their columns are not adjacent
// and rows must be copied to be read.
template <class T, class F>
void with_stored_type(const RowReader<T>& reader, const F& f) {
  if (!reader.adjacent() || reader.type() == kScalarType<T>) {
    return f(T{});
  }
  if (reader.type() == ScalarType::BFloat16) {
    return f(BFloat16{});
  }
  if (reader.type() == ScalarType::Half) {
    return f(Half{});
  }
  return f(float{});
}

// One contiguous [rows, width] matrix of any floating dtype, written row by row from T, rounded once.
template <class T>
class RowWriter {
 public:
  explicit RowWriter(const Tensor& matrix)
      : data_(static_cast<char*>(matrix.mutable_data_ptr())),
        type_(matrix.scalar_type()),
        width_(matrix.size(1)),
        row_bytes_(width_ * static_cast<int64_t>(matrix.element_size())) {
    STD_TORCH_CHECK(matrix.is_contiguous(), "ncfast native: an output must be contiguous");
  }

  // Returns the stored memory of row i where it holds T, else null: then fill a row and write() it.
  T* direct(int64_t i) const {
    return type_ == kScalarType<T> ? reinterpret_cast<T*>(data_ + i * row_bytes_) : nullptr;
  }

  void write(int64_t i, const T* in) const {
    char* start = data_ + i * row_bytes_;
    switch (type_) {
      case ScalarType::Double:
        return round(reinterpret_cast<double*>(start), in, [](T v) { return static_cast<double>(v); });
      case ScalarType::Float:
        return round(reinterpret_cast<float*>(start), in, [](T v) { return static_cast<float>(v); });
      case ScalarType::BFloat16:
        return round(reinterpret_cast<BFloat16*>(start), in,
                     [](T v) { return to_bfloat16(static_cast<float>(v)); });
      default:
        return round(reinterpret_cast<Half*>(start), in,
                     [](T v) { return to_half(static_cast<float>(v)); });
    }
  }

  void zero(int64_t i) const {
    if (row_bytes_ > 0) {  // memory of no bytes may have no address
      std::memset(data_ + i * row_bytes_, 0, row_bytes_);
    }
  }

 private:
  template <class Stored, class Round>
  void round(Stored* out, const T* in, const Round& rounded) const {
    for (int64_t d = 0; d < width_; ++d) {
      out[d] = rounded(in[d]);
    }
  }

  char* data_;
  ScalarType type_;
  int64_t width_, row_bytes_;
};

inline bool is_double(const Tensor& tensor) { return tensor.scalar_type() == ScalarType::Double; }

// Calls f with a float or a double value according to the accumulation dtype of `tensor`.
template <class F>
void with_accumulation_type(const Tensor& tensor, const F& f) {
  if (is_double(tensor)) {
    f(double{});
  } else {
    f(float{});
  }
}

}  // namespace ncfast
