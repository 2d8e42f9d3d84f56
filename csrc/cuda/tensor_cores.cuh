// mma.sync on tiles in shared memory. float32 goes through the tensor cores as two tf32 values
// each (3xTF32): high high + high low + low high errs by 2^-22 of a product, within the error rule;
// one tf32 product errs by 2^-11.
#pragma once

#include "rows.cuh"

namespace ncfast::cuda {

#if !defined(NCFAST_EMULATOR)

__device__ __forceinline__ uint32_t round_to_tf32(float value) {
  uint32_t bits;
  // Volatile: or the split operands of one half of the columns are kept for the other, and spill.
  asm volatile("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
}
__device__ __forceinline__ void mma_tf32(float (&c)[4], const uint32_t (&a)[4],
                                         const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},"
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma_16(Bfloat16, float (&c)[4], const uint32_t (&a)[4],
                                       const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},"
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void mma_16(Half, float (&c)[4], const uint32_t (&a)[4],
                                       const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},"
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&registers)[4], const void* row) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(address)
               : "memory");
}
// Copies 16 bytes, or writes 16 zeros; `from` must be readable memory only if `given`.
__device__ __forceinline__ void async_copy_16(void* to, const void* from, bool given) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;" ::"r"(address), "l"(from),
               "r"(given ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kGroupsLeftOpen>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroupsLeftOpen) : "memory");
}

#else

inline void mma_16(Bfloat16, float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulator::mma_bfloat16(c, a, b);
}
inline void mma_16(Half, float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulator::mma_half(c, a, b);
}
using emulator::commit_copies;
using emulator::ldmatrix_x4;
inline void async_copy_16(void* to, const void* from, bool given) {
  emulator::async_copy_16(to, from, given ? 16 : 0);
}
template <int kGroupsLeftOpen>
void wait_for_copies() {
  emulator::wait_for_copies(kGroupsLeftOpen);
}

inline uint32_t round_to_tf32(float value) {
  const auto bits = static_cast<uint32_t>(__float_as_int(value));
  if ((bits & 0x7fffffff) > 0x7f800000) {
    return 0x7fffe000;  // NaN: all ones, as which memory starts here, would carry over into zero
  }
  // Half away from zero, in sign and magnitude.
  return (bits + 0x1000) & 0xffffe000;
}
using emulator::mma_tf32;

#endif

// Whether the next step's values are loaded before this one is multiplied. For sm_100a, where ptxas
// pairs float32 registers, they do not fit beside it: 24 bytes spilled.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr bool kLoadAhead = false;
constexpr int kTogether = 1;  // columns of fragments multiplied at once
constexpr int kDepthAtOnce = 8;  // values of k whose fragments are there at once
#else
constexpr bool kLoadAhead = true;
constexpr int kTogether = 2;  // with all four, the operands split in two do not fit the registers
constexpr int kDepthAtOnce = 16;
#endif

struct SplitFloat {
  uint32_t high, low;
  __device__ __forceinline__ explicit SplitFloat(float value) {
    high = round_to_tf32(value);
    low = round_to_tf32(value - __int_as_float(static_cast<int>(high)));
  }
};

// A matrix in shared memory, element (i, k) at data[i * kStride + k * kDepthStride].
template <int kStride, int kDepthStride>
struct SharedView {
  const float* data;
  __device__ __forceinline__ float at(int i, int k) const {
    // Volatile: ptxas otherwise loads a whole step ahead, and spills.
    return const_cast<const volatile float*>(data)[i * kStride + k * kDepthStride];
  }
  __device__ __forceinline__ SharedView from(int k) const { return {data + k * kDepthStride}; }
};

// The accumulators of one warp: kRows x 16 rows by kColumns x 8 columns.
template <int kRows, int kColumns>
struct WarpTile {
  float values[kRows][kColumns][4];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          values[r][c][i] = 0.0f;
        }
      }
    }
  }

  // Row and column of value i of fragment (r, c), for this lane.
  static __device__ __forceinline__ int row(int r, int i) {
    return r * 16 + i / 2 * 8 + static_cast<int>(threadIdx.x % kWarp) / 4;
  }
  static __device__ __forceinline__ int column(int c, int i) {
    return c * 8 + static_cast<int>(threadIdx.x % kWarp) % 4 * 2 + i % 2;
  }

  // Adds a b^T over kDepth values of k. Tensor cores add with truncation, which is a bias where all
  // terms have one sign: they start from zero every kAtOnce values, and what they give is added with
  // rounding. Without it 1,024 squares erred by 3.9e-6 of their sum in the emulator, over the rule.
  template <int kDepth, int kAtOnce = kDepthAtOnce, class A, class B>
  __device__ __forceinline__ void multiply(const A& a, const B& b) {
#pragma unroll 1
    for (int k = 0; k < kDepth; k += kAtOnce) {
      multiply_at_once<kAtOnce>(a.from(k), b.from(k));
    }
  }

  template <int kDepth, class A, class B>
  __device__ __forceinline__ void multiply_at_once(const A& a, const B& b) {
    const int group = static_cast<int>(threadIdx.x % kWarp) / 4;
    const int within = static_cast<int>(threadIdx.x % kWarp) % 4;
#pragma unroll
    for (int first = 0; first < kColumns; first += kTogether) {
      uint32_t b_high[kDepth / 8][kTogether][2], b_low[kDepth / 8][kTogether][2];
#pragma unroll
      for (int k = 0; k < kDepth / 8; ++k) {
#pragma unroll
        for (int c = 0; c < kTogether; ++c) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const SplitFloat split(b.at((first + c) * 8 + group, k * 8 + within + i * 4));
            b_high[k][c][i] = split.high;
            b_low[k][c][i] = split.low;
          }
        }
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const auto a_at = [&](int k, int i) {
          return a.at(r * 16 + group + i % 2 * 8, k * 8 + within + i / 2 * 4);
        };
        // The small products by themselves: what is truncated beside them is small too.
        float sums[kTogether][4] = {};
#pragma unroll
        for (int k = 0; k < kDepth / 8; ++k) {
          uint32_t a_high[4], a_low[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const SplitFloat split(a_at(k, i));
            a_high[i] = split.high;
            a_low[i] = split.low;
          }
#pragma unroll
          for (int c = 0; c < kTogether; ++c) {
            mma_tf32(sums[c], a_low, b_high[k][c]);
            mma_tf32(sums[c], a_high, b_low[k][c]);
          }
        }
        add(r, first, sums);
#pragma unroll
        for (int k = 0; k < kDepth / 8; ++k) {
          uint32_t a_high[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            a_high[i] = round_to_tf32(a_at(k, i));
          }
#pragma unroll
          for (int c = 0; c < kTogether; ++c) {
            mma_tf32(sums[c], a_high, b_high[k][c]);
          }
        }
        add(r, first, sums);
      }
    }
  }

  // Adds fragments to columns first and on of row r, and clears them.
  __device__ __forceinline__ void add(int r, int first, float (&sums)[kTogether][4]) {
#pragma unroll
    for (int c = 0; c < kTogether; ++c) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        values[r][first + c][i] += sums[c][i];
        sums[c][i] = 0.0f;
      }
    }
  }

  // The same for 16-bit values, whose products are exact: a and b point at this warp's first row,
  // rows kStride apart, k adjacent.
  template <int kDepth, int kStride, class T>
  __device__ __forceinline__ void multiply_16(const T* a, const T* b) {
    static_assert(kColumns % 2 == 0, "ldmatrix brings two fragments of b at once");
    const int lane = static_cast<int>(threadIdx.x % kWarp);
    uint32_t b_words[kDepth / 16][kColumns][2];
#pragma unroll
    for (int k = 0; k < kDepth / 16; ++k) {
#pragma unroll
      for (int c = 0; c < kColumns; c += 2) {
        uint32_t words[4];
        ldmatrix_x4(words, b + (c * 8 + lane % 8 + lane / 16 * 8) * kStride + k * 16 +
                               lane / 8 % 2 * 8);
        b_words[k][c][0] = words[0];
        b_words[k][c][1] = words[1];
        b_words[k][c + 1][0] = words[2];
        b_words[k][c + 1][1] = words[3];
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float sums[kColumns][4] = {};
#pragma unroll
      for (int k = 0; k < kDepth / 16; ++k) {
        uint32_t words[4];
        ldmatrix_x4(words, a + (r * 16 + lane % 16) * kStride + k * 16 + lane / 16 * 8);
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          mma_16(T{}, sums[c], words, b_words[k][c]);
        }
      }
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          values[r][c][i] += sums[c][i];
        }
      }
    }
  }
};

}  // namespace ncfast::cuda
