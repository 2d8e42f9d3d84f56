// Reading matrix rows of any floating dtype and stride as contiguous float or double.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <cstring>
#include <type_traits>
#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace ncfast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline float from_bfloat16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

// Rounds to nearest even; NaN stays NaN.
inline uint16_t to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    return 0x7fc0;
  }
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

inline void widen_half(const uint16_t* in, int64_t n, float* out) {
  int64_t d = 0;
#if defined(__F16C__)
  for (; d + 8 <= n; d += 8) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + d));
    _mm256_storeu_ps(out + d, _mm256_cvtph_ps(half));
  }
#endif
  for (; d < n; ++d) {
    out[d] = torch::headeronly::detail::fp16_ieee_to_fp32_value(in[d]);
  }
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
        column_stride_(matrix.stride(1)) {
    const bool narrow =
        type_ == ScalarType::Float || type_ == ScalarType::BFloat16 || type_ == ScalarType::Half;
    STD_TORCH_CHECK(narrow || (std::is_same_v<T, double> && type_ == ScalarType::Double),
                    "ncfast native: rows of this dtype cannot be read at this precision");
  }

  int64_t rows() const { return rows_; }
  int64_t width() const { return width_; }
  // Whether `row` returns the stored memory itself and ignores its scratch argument.
  bool direct() const {
    return column_stride_ == 1 &&
           type_ == (std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float);
  }

  // Returns row i as contiguous T: the stored memory where it already is that, else `scratch`
  // ([width] T), filled.
  const T* row(int64_t i, T* scratch) const {
    const char* start = data_ + i * row_stride_ * element_size_;
    if (direct()) {
      return reinterpret_cast<const T*>(start);
    }
    copy(start, scratch);
    return scratch;
  }

  // Writes row i to `out` as T.
  void read(int64_t i, T* out) const {
    const char* start = data_ + i * row_stride_ * element_size_;
    if (direct()) {
      std::memcpy(out, start, width_ * sizeof(T));
    } else {
      copy(start, out);
    }
  }

  // A gathered row is a 0.5-16 KiB burst the hardware does not foresee: ask for it early.
  void prefetch(int64_t i) const {
    if (column_stride_ != 1) {
      return;
    }
    const char* start = data_ + i * row_stride_ * element_size_;
    for (int64_t byte = 0; byte < width_ * element_size_; byte += 64) {
      __builtin_prefetch(start + byte, 0, 2);
    }
  }

 private:
  void copy(const char* start, T* out) const {
    switch (type_) {
      case ScalarType::Double:
        return copy_strided(reinterpret_cast<const double*>(start), out, [](double v) { return v; });
      case ScalarType::Float:
        return copy_strided(reinterpret_cast<const float*>(start), out, [](float v) { return v; });
      case ScalarType::BFloat16:
        return copy_strided(reinterpret_cast<const uint16_t*>(start), out, from_bfloat16);
      default:
        return copy_half(reinterpret_cast<const uint16_t*>(start), out);
    }
  }

  template <class Stored, class Widen>
  void copy_strided(const Stored* in, T* out, const Widen& widen) const {
    if (column_stride_ == 1) {  // apart, so that it vectorises
      for (int64_t d = 0; d < width_; ++d) {
        out[d] = static_cast<T>(widen(in[d]));
      }
      return;
    }
    for (int64_t d = 0; d < width_; ++d) {
      out[d] = static_cast<T>(widen(in[d * column_stride_]));
    }
  }

  void copy_half(const uint16_t* in, T* out) const {
    if constexpr (std::is_same_v<T, float>) {
      if (column_stride_ == 1) {
        return widen_half(in, width_, out);
      }
    }
    copy_strided(in, out, torch::headeronly::detail::fp16_ieee_to_fp32_value);
  }

  const char* data_;
  ScalarType type_;
  int64_t element_size_, rows_, width_, row_stride_, column_stride_;
};

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
    const auto own = std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;
    return type_ == own ? reinterpret_cast<T*>(data_ + i * row_bytes_) : nullptr;
  }

  void write(int64_t i, const T* in) const {
    char* start = data_ + i * row_bytes_;
    switch (type_) {
      case ScalarType::Double:
        return store(reinterpret_cast<double*>(start), in, [](T v) { return static_cast<double>(v); });
      case ScalarType::Float:
        return store(reinterpret_cast<float*>(start), in, [](T v) { return static_cast<float>(v); });
      case ScalarType::BFloat16:
        return store(reinterpret_cast<uint16_t*>(start), in,
                     [](T v) { return to_bfloat16(static_cast<float>(v)); });
      default:
        return store(reinterpret_cast<uint16_t*>(start), in, [](T v) {
          return torch::headeronly::detail::fp16_ieee_from_fp32_value(static_cast<float>(v));
        });
    }
  }

  void zero(int64_t i) const { std::memset(data_ + i * row_bytes_, 0, row_bytes_); }

 private:
  template <class Stored, class Round>
  void store(Stored* out, const T* in, const Round& round) const {
    for (int64_t d = 0; d < width_; ++d) {
      out[d] = round(in[d]);
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
