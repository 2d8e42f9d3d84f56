// Which of this CPU's libraries multiply: measured once per process, at the first product worth it.
//
// Each takes the same tile five times, by turns, on one thread, by that thread's own clock: beside
// other work the times stay what they are. Libraries that are nearly as fast must not be chosen by
// chance, for each adds in an order of its own: within a seventh the usual one is taken. What a library
// rounds on a CPU that was never here is not known: one that loses digits or ties is not chosen.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <limits>
#include <string>
#include <vector>
#if defined(__linux__)
#include <time.h>
#endif

#include "bfloat16_products.h"
#include "blas.h"
#include "head_panels.h"
#include "parallel.h"

extern "C" AOTITorchError aoti_torch_cpu__linear_pointwise(AtenTensorHandle, AtenTensorHandle,
                                                           AtenTensorHandle*, const char*,
                                                           const double**, int64_t, const char**,
                                                           AtenTensorHandle*) __attribute__((weak));

namespace ncfast {

// Multiplications (of a product, or of a whole call) from which a choice is worth its milliseconds.
constexpr int64_t kWorthChoosing = int64_t{1} << 21;

// a b^T in memory of its own.
inline torch::stable::Tensor onednn_product(const torch::stable::Tensor& a,
                                            const torch::stable::Tensor& b) {
  AtenTensorHandle out = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_cpu__linear_pointwise(a.get(), b.get(), nullptr, "none", nullptr,
                                                          0, nullptr, &out));
  return torch::stable::Tensor(out);
}

struct ProductChoice {
  bool onednn = false;
  Narrow bfloat16 = Narrow::widened;
  // GFLOP/s a thread of torch.mm, oneDNN, pairs of AVX512_BF16, MKL's bfloat16; 0 where there is none,
  // or none whose numbers are right.
  double rates[4] = {};
};

class ProductRates {
 public:
  ProductRates()
      : a_(height * depth),
        b_(across * depth),
        out_(height * across),
        stored_(across * depth),
        reader_(stored_view(stored_.get(), across, depth)) {
    // Values whose products and sums are no special case of any multiplier.
    for (int64_t i = 0; i < across * depth; ++i) {
      b_[i] = static_cast<float>(i % 251 + 1) / 64;
    }
    fill_stored(stored_.get(), across * depth);
  }

  ProductChoice choose() {
    ProductChoice choice;
    std::fill_n(seconds_, 4, std::numeric_limits<double>::infinity());
    as_kernels_do([&] {
      has_onednn_ = has_onednn_ && keeps_digits();
      std::copy_n(b_.get(), height * depth, a_.get());
      for (int round = -1; round < 5; ++round) {  // one warms up
        time_each(round >= 0);
      }
    });
    for (int i = 0; i < 4; ++i) {
      choice.rates[i] = 2e-9 * height * across * depth / seconds_[i];
    }
    const auto [mm, onednn, pairs, mkl] = choice.rates;
    choice.onednn = onednn > 0 && asked("NCFAST_CPU_PRODUCTS", "onednn", "mm",
                                        usually_onednn() ? onednn * kClearly > mm
                                                         : onednn > mm * kClearly);
    const double wide = choice.onednn ? onednn : mm;
    const std::string narrow = value_of("NCFAST_CPU_BFLOAT16");
    if (narrow == "widened") {
      return choice;
    }
    if (mkl > 0 && (narrow == "mkl" || (narrow.empty() && mkl > std::max(pairs, wide) * kClearly))) {
      bool ties = false;
      as_kernels_do([&] { ties = finds_ties(Narrow::mkl); });
      if (ties) {
        choice.bfloat16 = Narrow::mkl;
        return choice;
      }
      choice.rates[3] = 0;
    }
    if (pairs > 0 && (narrow == "pairs" || (narrow.empty() && pairs > wide * kClearly))) {
      choice.bfloat16 = Narrow::dot_pairs;
    }
    return choice;
  }

 private:
  // A tile of the loss: large enough that starting a product is no part of it.
  static constexpr int64_t height = 128, across = 256, depth = 512;
  static constexpr double kClearly = 1.15;

  // In a region of threads a library uses one thread.
  template <class F>
  static void as_kernels_do(const F& f) {
    torch::stable::parallel_for(0, torch::stable::get_num_threads(), 1, [&](int64_t begin, int64_t) {
      if (begin == 0) {
        f();
      }
    });
  }

  static bool usually_onednn() {
#if defined(__x86_64__) && defined(__GNUC__)
    return __builtin_cpu_is("amd") && __builtin_cpu_supports("avx512f");
#else
    return false;
#endif
  }

  static std::string value_of(const char* variable) {
    const char* value = std::getenv(variable);
    return value == nullptr ? "" : value;
  }
  static bool asked(const char* variable, const char* yes, const char* no, bool otherwise) {
    const std::string value = value_of(variable);
    return value == yes || (value != no && otherwise);
  }

  static double now() {
#if defined(__linux__)
    timespec at;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &at);
    return static_cast<double>(at.tv_sec) + 1e-9 * static_cast<double>(at.tv_nsec);
#else
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
#endif
  }

  template <class F>
  void time_one(int i, bool counts, const F& multiply) {
    const auto begun = std::chrono::steady_clock::now();
    const double start = now();
    multiply();
    double taken = now() - start;
    if (!(taken > 0)) {  // a thread's clock of whole ticks
      taken = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
    }
    if (counts) {
      seconds_[i] = std::min(seconds_[i], taken);
    }
  }

  void time_each(bool counts) {
    const auto a = matrix_view(a_.get(), height, depth, depth, int64_t{1});
    time_one(0, counts, [&] {
      multiply(a, matrix_view(b_.get(), depth, across, int64_t{1}, depth),
               matrix_view(out_.get(), height, across, across, int64_t{1}));
    });
    if (has_onednn_) {
      time_one(1, counts, [&] {
        onednn_product(a, matrix_view(b_.get(), across, depth, depth, int64_t{1}));
      });
    }
    if (can_dot_pairs()) {
      time_one(2, counts, [&] { multiply_narrow(Narrow::dot_pairs); });
    }
    if (has_mkl_) {
      time_one(3, counts, [&] { multiply_narrow(Narrow::mkl); });
    }
  }

  // Whether oneDNN keeps float32's digits. With AMX it may leave 8 bits of 24, where the environment
  // (ONEDNN_DEFAULT_FPMATH_MODE) or torch's settings let it.
  bool keeps_digits() const {
    constexpr int64_t rows = 32, columns = 64;
    const float *a = a_.get(), *b = a + rows * depth;
    for (int64_t i = 0; i < (rows + columns) * depth; ++i) {
      const float value = 1 + static_cast<float>(hash(i) >> 9) * 0x1p-23f;  // all digits
      a_[i] = hash(i) % 2 == 0 ? value : -value;
    }
    try {
      const auto found = onednn_product(matrix_view(a, rows, depth, depth, int64_t{1}),
                                        matrix_view(b, columns, depth, depth, int64_t{1}));
      const auto* product = static_cast<const float*>(found.const_data_ptr());
      for (int64_t i = 0; i < rows * columns; ++i) {
        double sum = 0, magnitude = 0;
        for (int64_t d = 0; d < depth; ++d) {
          const double term = static_cast<double>(a[i / columns * depth + d]) *
                              static_cast<double>(b[i % columns * depth + d]);
          sum += term;
          magnitude += std::abs(term);
        }
        // Ten times what float32 errs by, a tenth of what 11 bits of it do.
        if (!(std::abs(static_cast<double>(product[i]) - sum) <= 2e-6 * magnitude)) {
          return false;
        }
      }
    } catch (const std::exception&) {  // a torch whose function is there, and oneDNN is not
      return false;
    }
    return true;
  }

  // Whether equal columns have equal products wherever they stand in a tile. Which kernels MKL has on a
  // CPU with AMX is not known here, and ties are decided by this: on tiles as ops have them, whose
  // columns are any multiple of 64 up to the largest and whose rows are multiples of 32.
  static bool finds_ties(Narrow how) {
    constexpr int64_t max_width = 2048, most = std::max(kMostBlockRows, kClassTile);
    Buffer<BFloat16> stored(most * max_width);
    fill_stored(stored.get(), most * max_width);
    Buffer<float> out(most * most);
    for (const int64_t width : {int64_t{32}, int64_t{333}, int64_t{768}, max_width}) {
      const RowReader<float> reader(stored_view(stored.get(), most, width));
      for (const int64_t rows : {int64_t{32}, most}) {
        for (int64_t columns = kPanelColumns; columns <= most; columns += kPanelColumns) {
          NarrowTiles tiles(how, width, rows, columns);
          tiles.take_rows(reader, rows, [](int64_t r) { return r; });
          tiles.take_columns(reader, columns, [](int64_t) { return int64_t{0}; });
          tiles.multiply(out.get(), columns);
          for (int64_t i = 0; i < rows * columns; ++i) {
            if (out[i] != out[i / columns * columns]) {
              return false;
            }
          }
        }
      }
    }
    return true;
  }

  void multiply_narrow(Narrow how) {
    NarrowTiles tiles(how, depth, height, across);
    tiles.take_rows(reader_, height, [](int64_t r) { return r; });
    tiles.take_columns(reader_, across, [](int64_t c) { return c; });
    tiles.multiply(out_.get(), across);
  }

  static uint32_t hash(int64_t i) {
    uint32_t bits = static_cast<uint32_t>(i) * 2654435761u;
    bits = (bits ^ bits >> 16) * 2246822507u;
    return bits ^ bits >> 13;
  }

  // Values whose sums are rounded otherwise in another order.
  static void fill_stored(BFloat16* values, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      const uint32_t bits = hash(i);
      values[i].bits =
          static_cast<uint16_t>(bits >> 31 << 15 | (120 + (bits >> 20) % 8) << 7 | (bits >> 8) % 128);
    }
  }

  static torch::stable::Tensor stored_view(BFloat16* data, int64_t rows, int64_t width) {
    const int64_t sizes[2] = {rows, width}, strides[2] = {width, 1};
    return torch::stable::from_blob(data, {sizes, 2}, {strides, 2},
                                    torch::stable::Device(torch::headeronly::DeviceType::CPU),
                                    ScalarType::BFloat16);
  }

  Buffer<float> a_, b_, out_;
  Buffer<BFloat16> stored_;
  RowReader<float> reader_;
  double seconds_[4];
  bool has_onednn_ = aoti_torch_cpu__linear_pointwise != nullptr;
  bool has_mkl_ = cblas_gemm_bf16bf16f32 != nullptr;
};

inline const ProductChoice& product_choice() {
  static const ProductChoice choice = ProductRates().choose();
  return choice;
}

// Whether rows of a and b are multiplied as they are stored: this many products of bfloat16.
template <class T>
Narrow narrow_products(const RowReader<T>& a, const RowReader<T>& b, int64_t products) {
  const auto stored = [](const RowReader<T>& rows) {
    return rows.adjacent() && rows.type() == ScalarType::BFloat16;
  };
  const bool both = std::is_same_v<T, float> && stored(a) && stored(b);
  return both && products >= kWorthChoosing ? product_choice().bfloat16 : Narrow::widened;
}

}  // namespace ncfast
