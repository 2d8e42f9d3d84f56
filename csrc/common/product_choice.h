// Which of this CPU's libraries multiply: measured once per process, at the first product worth it.
//
// Each takes the same tile five times, by turns, on one thread, by that thread's own clock: beside
// other work the times stay what they are. Libraries that are nearly as fast must not be chosen by
// chance, for each adds in an order of its own: within a seventh the usual one is taken.
#pragma once

#include <algorithm>
#include <chrono>
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
  // GFLOP/s a thread of torch.mm, oneDNN, pairs of AVX512_BF16, MKL's bfloat16; 0 where there is none.
  double rates[4] = {};
};

class ProductRates {
 public:
  ProductRates()
      : a_(height * depth),
        b_(across * depth),
        out_(height * across),
        stored_(across * depth),
        reader_(stored_view()) {
    // Values whose products and sums are no special case of any multiplier.
    for (int64_t i = 0; i < across * depth; ++i) {
      b_[i] = static_cast<float>(i % 251 + 1) / 64;
      // Sums of these are rounded otherwise in another order.
      const auto hash = static_cast<uint32_t>(i) * 2654435761u;
      stored_[i].bits =
          static_cast<uint16_t>(hash >> 31 << 15 | (120 + (hash >> 20) % 8) << 7 | (hash >> 8) % 128);
    }
    std::copy_n(b_.get(), height * depth, a_.get());
  }

  ProductChoice choose() {
    ProductChoice choice;
    std::fill_n(seconds_, 4, std::numeric_limits<double>::infinity());
    // One warms up. In a region of threads a library uses one thread, as in the kernels.
    torch::stable::parallel_for(0, torch::stable::get_num_threads(), 1, [&](int64_t begin, int64_t) {
      for (int round = -1; begin == 0 && round < 5; ++round) {
        time_each(round >= 0);
      }
    });
    for (int i = 0; i < 4; ++i) {
      choice.rates[i] = 2e-9 * height * across * depth / seconds_[i];
    }
    const auto [mm, onednn, pairs, mkl] = choice.rates;
    choice.onednn = asked("NCFAST_CPU_PRODUCTS", "onednn", "mm",
                          onednn > 0 && (usually_onednn() ? onednn * kClearly > mm
                                                          : onednn > mm * kClearly));
    const double wide = choice.onednn ? onednn : mm;
    const std::string narrow = value_of("NCFAST_CPU_BFLOAT16");
    if (narrow == "widened") {
      return choice;
    }
    if (mkl > 0 && (narrow == "mkl" || (narrow.empty() && mkl > std::max(pairs, wide) * kClearly))) {
      choice.bfloat16 = Narrow::mkl;
    } else if (pairs > 0 && (narrow == "pairs" || (narrow.empty() && pairs > wide * kClearly))) {
      choice.bfloat16 = Narrow::dot_pairs;
    }
    return choice;
  }

 private:
  // A tile of the loss: large enough that starting a product is no part of it.
  static constexpr int64_t height = 128, across = 256, depth = 512;
  static constexpr double kClearly = 1.15;

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
      try {
        time_one(1, counts, [&] {
          onednn_product(a, matrix_view(b_.get(), across, depth, depth, int64_t{1}));
        });
      } catch (const std::exception&) {  // a torch whose function is there, and oneDNN is not
        has_onednn_ = false;
      }
    }
    if (can_dot_pairs()) {
      time_one(2, counts, [&] { multiply_narrow(Narrow::dot_pairs); });
    }
    if (has_mkl_ && !counts) {
      has_mkl_ = finds_ties(Narrow::mkl);
    }
    if (has_mkl_) {
      time_one(3, counts, [&] { multiply_narrow(Narrow::mkl); });
    }
  }

  // Whether equal columns have equal products wherever they stand in a tile. Which kernels MKL has on a
  // CPU with AMX is not known here, and ties are decided by this.
  bool finds_ties(Narrow how) {
    for (const int64_t width : {depth, depth / 2 + 77}) {
      for (const int64_t rows : {height, height / 4}) {
        NarrowTiles tiles(how, width, rows, across);
        tiles.take_rows(reader_, rows, [](int64_t r) { return r; });
        tiles.take_columns(reader_, across, [](int64_t) { return int64_t{0}; });
        tiles.multiply(out_.get(), across);
        for (int64_t i = 0; i < rows * across; ++i) {
          if (out_[i] != out_[i / across * across]) {
            return false;
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

  torch::stable::Tensor stored_view() const {
    const int64_t sizes[2] = {across, depth}, strides[2] = {depth, 1};
    return torch::stable::from_blob(stored_.get(), {sizes, 2}, {strides, 2},
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
