// Rows of 16- or 32-bit floats, read eight columns at a time with 16-byte loads.
#pragma once

#include "device.h"
#include "arguments.h"

namespace ncfast::cuda {

struct Bfloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(Bfloat16 value) {
  return __int_as_float(static_cast<int>(static_cast<uint32_t>(value.bits) << 16));
}
__device__ __forceinline__ float to_float(Half value) {
#if !defined(NCFAST_EMULATOR)
  return __half2float(__ushort_as_half(value.bits));
#else
  return emulator::from_half(value.bits);
#endif
}

// Rounded to nearest, ties to even.
template <class T>
__device__ __forceinline__ T from_float(float value);
template <>
__device__ __forceinline__ float from_float<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ Bfloat16 from_float<Bfloat16>(float value) {
#if !defined(NCFAST_EMULATOR)
  return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
#else
  const auto bits = static_cast<uint32_t>(__float_as_int(value));
  if ((bits & 0x7fffffff) > 0x7f800000) {
    return {0x7fff};
  }
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
#endif
}
template <>
__device__ __forceinline__ Half from_float<Half>(float value) {
#if !defined(NCFAST_EMULATOR)
  return {__half_as_ushort(__float2half_rn(value))};
#else
  const auto narrow = static_cast<_Float16>(value);
  Half result;
  __builtin_memcpy(&result, &narrow, sizeof result);
  return result;
#endif
}

__device__ __forceinline__ bool is_finite(float value) {
  return (__float_as_int(value) & 0x7f800000) != 0x7f800000;
}

// A matrix in memory, strides in elements. `packed`: eight columns from a multiple of eight may be
// read as 16-byte words.
template <class T>
struct Matrix {
  T* data = nullptr;
  int64_t rows = 0, width = 0, row_stride = 0, column_stride = 1;
  bool packed = false;

  Matrix() = default;
  Matrix(void* data, int64_t rows, int64_t width, int64_t row_stride, int64_t column_stride)
      : data(static_cast<T*>(data)),
        rows(rows),
        width(width),
        row_stride(row_stride),
        column_stride(column_stride),
        packed((column_stride == 1 || width == 1) &&
               reinterpret_cast<uintptr_t>(data) % 16 == 0 &&
               row_stride * static_cast<int64_t>(sizeof(T)) % 16 == 0) {}
  // Nothing but 16-byte words: the width is a multiple of eight as well.
  bool whole() const { return packed && width % 8 == 0; }
  __device__ __forceinline__ T* at(int64_t row, int64_t column) const {
    return data + row * row_stride + column * column_stride;
  }
};

template <class T>
Matrix<T> contiguous(T* data, int64_t rows, int64_t width) {
  return Matrix<T>(data, rows, width, width, 1);
}

constexpr int kVec8 = 8;

// Volatile: else eight addresses are held at once, beside all that a kernel of products keeps.
__device__ __forceinline__ float read_alone(const float* at) {
  return *const_cast<const volatile float*>(at);
}
template <class T>
__device__ __forceinline__ T read_alone(const T* at) {
  return {*const_cast<const volatile uint16_t*>(&at->bits)};
}

// Eight neighbouring values as stored in memory: load several, then unpack them.
template <class T>
struct Vec8 {
  uint4 words[sizeof(T) * kVec8 / 16];

  // Columns past the width read as zero. kWhole: the matrix is `whole`, and the slow path, whose
  // addresses take registers where several are in flight, is left out.
  template <bool kWhole = false>
  __device__ __forceinline__ void load(const Matrix<T>& m, int64_t row, int64_t column) {
    if constexpr (kWhole) {
      const auto* from = reinterpret_cast<const uint4*>(m.at(row, column));
#pragma unroll
      for (size_t i = 0; i < sizeof(words) / 16; ++i) {
        words[i] = column < m.width ? from[i] : uint4{0, 0, 0, 0};
      }
      return;
    }
    if (m.packed && column + kVec8 <= m.width) {
      const auto* from = reinterpret_cast<const uint4*>(m.at(row, column));
#pragma unroll
      for (size_t i = 0; i < sizeof(words) / 16; ++i) {
        words[i] = from[i];
      }
      return;
    }
    T values[kVec8];
#pragma unroll
    for (int i = 0; i < kVec8; ++i) {
      values[i] = column + i < m.width ? read_alone(m.at(row, column + i)) : T{};
    }
    __builtin_memcpy(words, values, sizeof(words));
  }

  __device__ __forceinline__ void unpack(float (&out)[kVec8]) const {
    T values[kVec8];
    __builtin_memcpy(values, words, sizeof(words));
#pragma unroll
    for (int i = 0; i < kVec8; ++i) {
      out[i] = to_float(values[i]);
    }
  }

  __device__ __forceinline__ void pack(const float (&in)[kVec8]) {
    T values[kVec8];
#pragma unroll
    for (int i = 0; i < kVec8; ++i) {
      values[i] = from_float<T>(in[i]);
    }
    __builtin_memcpy(words, values, sizeof(words));
  }

  __device__ __forceinline__ void store(const Matrix<T>& m, int64_t row, int64_t column) const {
    if (m.packed && column + kVec8 <= m.width) {
      auto* to = reinterpret_cast<uint4*>(m.at(row, column));
#pragma unroll
      for (size_t i = 0; i < sizeof(words) / 16; ++i) {
        to[i] = words[i];
      }
      return;
    }
    T values[kVec8];
    __builtin_memcpy(values, words, sizeof(words));
#pragma unroll
    for (int i = 0; i < kVec8; ++i) {
      if (column + i < m.width) {
        *m.at(row, column + i) = values[i];
      }
    }
  }
};

template <class T>
constexpr Dtype kDtype = Dtype::float32;
template <>
inline constexpr Dtype kDtype<Bfloat16> = Dtype::bfloat16;
template <>
inline constexpr Dtype kDtype<Half> = Dtype::float16;

// A matrix whose dtype is looked at where it is read, by all threads alike: one kernel instead of
// one for every pair of dtypes, where what follows a read hides the choice.
struct AnyMatrix {
  void* data = nullptr;
  Dtype dtype = Dtype::float32;
  int64_t rows = 0, width = 0, row_stride = 0, column_stride = 1;
  bool packed = false;

  AnyMatrix() = default;
  template <class T>
  AnyMatrix(const Matrix<T>& m)
      : data(m.data),
        dtype(kDtype<T>),
        rows(m.rows),
        width(m.width),
        row_stride(m.row_stride),
        column_stride(m.column_stride),
        packed(m.packed) {}

  template <class T>
  __device__ __forceinline__ Matrix<T> as() const {
    Matrix<T> m;
    m.data = static_cast<T*>(data);
    m.rows = rows;
    m.width = width;
    m.row_stride = row_stride;
    m.column_stride = column_stride;
    m.packed = packed;
    return m;
  }
  __device__ __forceinline__ float value(int64_t row, int64_t column) const {
    const int64_t at = row * row_stride + column * column_stride;
    switch (dtype) {
      case Dtype::bfloat16:
        return to_float(static_cast<const Bfloat16*>(data)[at]);
      case Dtype::float16:
        return to_float(static_cast<const Half*>(data)[at]);
      default:
        return static_cast<const float*>(data)[at];
    }
  }
  __device__ __forceinline__ void store(int64_t row, int64_t column, float value) const {
    const int64_t at = row * row_stride + column * column_stride;
    switch (dtype) {
      case Dtype::bfloat16:
        static_cast<Bfloat16*>(data)[at] = from_float<Bfloat16>(value);
        break;
      case Dtype::float16:
        static_cast<Half*>(data)[at] = from_float<Half>(value);
        break;
      default:
        static_cast<float*>(data)[at] = value;
    }
  }
  __device__ __forceinline__ void load(int64_t row, int64_t column, Vec8<float>& out) const {
    if (dtype == Dtype::float32) {
      out.load(as<float>(), row, column);
    } else {
      Vec8<Bfloat16> narrow;  // or the bits of the other
      narrow.load(as<Bfloat16>(), row, column);
      out.words[0] = narrow.words[0];
    }
  }
  __device__ __forceinline__ void unpack(const Vec8<float>& vec8, float (&out)[kVec8]) const {
    if (dtype == Dtype::float32) {
      vec8.unpack(out);
    } else if (dtype == Dtype::bfloat16) {
      Vec8<Bfloat16>{{vec8.words[0]}}.unpack(out);
    } else {
      Vec8<Half>{{vec8.words[0]}}.unpack(out);
    }
  }
};

template <class T>
__device__ __forceinline__ void read_vec8(const Matrix<T>& m, int64_t row, int64_t column,
                                           float (&out)[kVec8]) {
  Vec8<T> vec8;
  vec8.load(m, row, column);
  vec8.unpack(out);
}
__device__ __forceinline__ void read_vec8(const AnyMatrix& m, int64_t row, int64_t column,
                                           float (&out)[kVec8]) {
  Vec8<float> vec8;
  m.load(row, column, vec8);
  m.unpack(vec8, out);
}
template <class T>
__device__ __forceinline__ void write_vec8(const Matrix<T>& m, int64_t row, int64_t column,
                                            const float (&in)[kVec8]) {
  Vec8<T> vec8;
  vec8.pack(in);
  vec8.store(m, row, column);
}

// Eight values to shared memory, as two 16-byte words.
__device__ __forceinline__ void store_vec8(float* to, const float (&values)[kVec8]) {
  reinterpret_cast<float4*>(to)[0] = make_float4(values[0], values[1], values[2], values[3]);
  reinterpret_cast<float4*>(to)[1] = make_float4(values[4], values[5], values[6], values[7]);
}

}  // namespace ncfast::cuda
