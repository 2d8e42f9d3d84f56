#include "../common/finite.h"
#include "../common/gram.h"
#include "../common/moments.h"
#include "kernel.h"

#include <cmath>
#include <vector>

namespace ncfast::cpu {
namespace {

constexpr const char* kOp = "within_class_scatter";
constexpr int64_t kTileRows = 256;

// Rows whose label is a class, in order.
std::vector<int64_t> valid_rows(const LabelView& labels) {
  std::vector<int64_t> rows;
  rows.reserve(labels.count);
  for (int64_t i = 0; i < labels.count; ++i) {
    if (labels[i] != kIgnoreIndex) {
      rows.push_back(i);
    }
  }
  return rows;
}

template <class T>
void forward(const Tensor& x, const Tensor& y, const Tensor& means, const Tensor& scatter) {
  const int64_t width = x.size(1);
  const LabelView labels(y);
  check_labels(kOp, labels, means.size(0));
  const std::vector<int64_t> rows = valid_rows(labels);
  const RowReader<T> reader(x), mean_reader(means);
  auto* out = static_cast<double*>(scatter.mutable_data_ptr());
  add_gram<T>(
      static_cast<int64_t>(rows.size()), width,
      [&](int64_t r, T* scratch) {
        return GramRow<T>{reader.row(rows[r], scratch), mean_reader.row(labels[rows[r]], nullptr), T(1)};
      },
      out);
  for (int64_t d = 0; d < width; ++d) {
    if (!std::isfinite(out[d * width + d])) {
      check_finite<T>(kOp, x, labels);
      return;
    }
  }
}

// dS/dx_i . G = (x_i - mean) (G + G^T), a tile of rows at a time.
template <class T>
void backward_x(const SymmetricSum<T>& symmetric, const Tensor& x, const Tensor& y, const Tensor& means,
                const Tensor& grad_x) {
  const int64_t rows = x.size(0), width = x.size(1);
  const LabelView labels(y);
  const RowReader<T> reader(x), mean_reader(means);
  const RowWriter<T> writer(grad_x);
  const Library library = library_for<T>(rows * width * width);
  parallel_units((rows + kTileRows - 1) / kTileRows, [&](const auto& take) {
    Buffer<T> residuals(kTileRows * width), products(kTileRows * width);
    for (int64_t unit = take(); unit >= 0; unit = take()) {
      const int64_t begin = unit * kTileRows, count = std::min(kTileRows, rows - begin);
      for (int64_t r = 0; r < count; ++r) {
        T* target = residuals.get() + r * width;
        if (labels[begin + r] == kIgnoreIndex) {
          std::fill_n(target, width, T(0));
          continue;
        }
        const T* row = reader.row(begin + r, target);
        const T* mean = mean_reader.row(labels[begin + r], nullptr);
        for (int64_t d = 0; d < width; ++d) {
          target[d] = row[d] - mean[d];
        }
      }
      const Product<T> found = symmetric.times(library, residuals.get(), count, products.get());
      for (int64_t r = 0; r < count; ++r) {
        writer.write(begin + r, found.data() + r * width);
      }
    }
  });
}

// dS/dmean_c . G = -(sum of the class's residuals) (G + G^T) = -n_c (batch mean - mean_c) (G + G^T).
template <class T>
void backward_means(const SymmetricSum<T>& symmetric, const Tensor& x, const Tensor& y, const Tensor& means,
                    const Tensor& grad_means) {
  const int64_t classes = means.size(0), width = means.size(1);
  const LabelView labels(y);
  const Segments groups(labels, classes, longest_segment(width));
  auto* grad = static_cast<T*>(grad_means.mutable_data_ptr());
  std::vector<int64_t> counts(classes, 0);
  for_each_class_moments(
      RowReader<T>(x), groups, [&](int64_t c) { return grad + c * width; },
      [&](int64_t c, int64_t n, const T*, double) { counts[c] = n; });
  const RowReader<T> mean_reader(means);
  const Library library = library_for<T>(classes * width * width);
  parallel_units((classes + kTileRows - 1) / kTileRows, [&](const auto& take) {
    Buffer<T> sums(kTileRows * width), products(kTileRows * width);
    std::vector<int64_t> tile;
    for (int64_t unit = take(); unit >= 0; unit = take()) {
      tile.clear();
      for (int64_t c = unit * kTileRows; c < std::min(classes, (unit + 1) * kTileRows); ++c) {
        if (counts[c] == 0) {
          std::fill_n(grad + c * width, width, T(0));
          continue;
        }
        T* target = sums.get() + static_cast<int64_t>(tile.size()) * width;
        const T *mean = mean_reader.row(c, nullptr), *batch = grad + c * width;
        for (int64_t d = 0; d < width; ++d) {
          target[d] = static_cast<T>(counts[c]) * (mean[d] - batch[d]);
        }
        tile.push_back(c);
      }
      const int64_t count = static_cast<int64_t>(tile.size());
      if (count == 0) {
        continue;
      }
      const Product<T> found = symmetric.times(library, sums.get(), count, products.get());
      for (int64_t r = 0; r < count; ++r) {
        std::copy_n(found.data() + r * width, width, grad + tile[r] * width);
      }
    }
  });
}

}  // namespace

void within_class_scatter(Tensor x, Tensor y, Tensor means, Tensor scatter) {
  with_accumulation_type(means, [&](auto type) { forward<decltype(type)>(x, y, means, scatter); });
}

void within_class_scatter_backward(Tensor grad, Tensor x, Tensor y, Tensor means,
                                   OptionalTensor grad_x, OptionalTensor grad_means) {
  check_labels("within_class_scatter_backward", LabelView(y), means.size(0));
  with_accumulation_type(means, [&](auto type) {
    using T = decltype(type);
    const SymmetricSum<T> symmetric(grad);
    if (grad_x) {
      backward_x<T>(symmetric, x, y, means, *grad_x);
    }
    if (grad_means) {
      backward_means<T>(symmetric, x, y, means, *grad_means);
    }
  });
}

}  // namespace ncfast::cpu

NCFAST_KERNEL(within_class_scatter)
NCFAST_KERNEL(within_class_scatter_backward)
