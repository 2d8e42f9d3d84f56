#include "../common/gram.h"
#include "../common/index.h"
#include "../common/rows.h"
#include "kernel.h"

#include <cmath>
#include <vector>

namespace ncfast::cpu {
namespace {

constexpr const char* kOp = "between_class_scatter";
constexpr int64_t kTileRows = 256;

const double* checked_weights(const OptionalTensor& weights) {
  if (!weights) {
    return nullptr;
  }
  const auto* data = static_cast<const double*>(weights->const_data_ptr());
  for (int64_t k = 0; k < weights->size(0); ++k) {
    if (!(data[k] >= 0) || !std::isfinite(data[k])) {
      reject(kOp, "weights[", k, "] is ", std::isnan(data[k]) ? std::abs(data[k]) : data[k],
             "; expected a finite weight of at least 0");
    }
  }
  return data;
}

template <class T>
void forward(const Tensor& means, const OptionalTensor& weights, const Tensor& center,
             const OptionalTensor& index, const Tensor& scatter) {
  const int64_t width = means.size(1);
  const RowIndex rows(kOp, index, means.size(0));
  const double* weight = checked_weights(weights);
  const RowReader<T> reader(means);
  const auto* center_data = static_cast<const T*>(center.const_data_ptr());
  add_gram<T>(
      rows.count, width,
      [&](int64_t k, T* scratch) {
        const T scale = weight ? static_cast<T>(std::sqrt(weight[k])) : T(1);
        return GramRow<T>{reader.row(rows[k], scratch), center_data, scale};
      },
      static_cast<double*>(scatter.mutable_data_ptr()));
}

// dS/dmean_k . G = w_k (mean_k - center) (G + G^T); the center takes minus the sum over k.
template <class T>
void backward(const Tensor& grad, const Tensor& means, const OptionalTensor& weights,
              const Tensor& center, const OptionalTensor& index, const OptionalTensor& grad_means,
              const OptionalTensor& grad_center) {
  const int64_t width = means.size(1);
  const RowIndex rows(kOp, index, means.size(0));
  const double* weight = checked_weights(weights);
  const RowReader<T> reader(means);
  const auto* center_data = static_cast<const T*>(center.const_data_ptr());
  const SymmetricSum<T> symmetric(grad);
  const Library library = library_for<T>(rows.count * width * width);
  const int64_t tiles = (rows.count + kTileRows - 1) / kTileRows;
  Buffer<double> sums(tiles * width);
  parallel_units(tiles, [&](const auto& take) {
    Buffer<T> residuals(kTileRows * width), products(kTileRows * width);
    for (int64_t unit = take(); unit >= 0; unit = take()) {
      const int64_t begin = unit * kTileRows, count = std::min(kTileRows, rows.count - begin);
      double* sum = sums.get() + unit * width;
      std::fill_n(sum, width, 0.0);
      for (int64_t r = 0; r < count; ++r) {
        T* target = residuals.get() + r * width;
        const T* row = reader.row(rows[begin + r], target);
        const T scale = weight ? static_cast<T>(weight[begin + r]) : T(1);
        for (int64_t d = 0; d < width; ++d) {
          target[d] = scale * (row[d] - center_data[d]);
          sum[d] += static_cast<double>(target[d]);
        }
      }
      if (!grad_means) {
        continue;
      }
      const Product<T> found = symmetric.times(library, residuals.get(), count, products.get());
      const RowWriter<T> writer(*grad_means);
      for (int64_t r = 0; r < count; ++r) {
        writer.write(rows[begin + r], found.data() + r * width);
      }
    }
  });
  if (!grad_center) {
    return;
  }
  Buffer<T> total(width);
  for (int64_t d = 0; d < width; ++d) {
    double sum = 0;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      sum -= sums[tile * width + d];
    }
    total[d] = static_cast<T>(sum);
  }
  multiply(matrix_view(total.get(), int64_t{1}, width, width, int64_t{1}), symmetric.view(),
           matrix_view(static_cast<const T*>(grad_center->const_data_ptr()), int64_t{1}, width, width,
                       int64_t{1}));
}

}  // namespace

void between_class_scatter(Tensor means, OptionalTensor weights, Tensor center,
                           OptionalTensor index, Tensor scatter) {
  with_accumulation_type(center, [&](auto type) {
    forward<decltype(type)>(means, weights, center, index, scatter);
  });
}

void between_class_scatter_backward(Tensor grad, Tensor means, OptionalTensor weights, Tensor center,
                                    OptionalTensor index, OptionalTensor grad_means,
                                    OptionalTensor grad_center) {
  with_accumulation_type(center, [&](auto type) {
    backward<decltype(type)>(grad, means, weights, center, index, grad_means, grad_center);
  });
}

}  // namespace ncfast::cpu

NCFAST_KERNEL(between_class_scatter)
NCFAST_KERNEL(between_class_scatter_backward)
