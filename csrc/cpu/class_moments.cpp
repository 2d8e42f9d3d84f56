#include "../common/moments.h"

#include <atomic>

#include "../common/finite.h"
#include "kernel.h"

namespace ncfast::cpu {
namespace {

constexpr const char* kOp = "class_moments";

// Zeroes what belongs to absent classes; the rest is written by the class's owner.
template <class T>
void clear_absent(const Segments& groups, int64_t classes, int64_t width, int64_t* counts, T* means,
                  T* m2) {
  std::fill_n(counts, classes, int64_t{0});
  for (const Segment& segment : groups.segments) {
    counts[segment.class_id] += segment.end - segment.begin;
  }
  const int64_t block = 64;
  parallel_units((classes + block - 1) / block, [&](const auto& take) {
    for (int64_t unit = take(); unit >= 0; unit = take()) {
      for (int64_t c = unit * block; c < std::min(classes, (unit + 1) * block); ++c) {
        if (counts[c] == 0) {
          std::fill_n(means + c * width, width, T(0));
          m2[c] = T(0);
        }
      }
    }
  });
}

template <class T>
void forward(const Tensor& x, const Tensor& y, const Tensor& counts, const Tensor& means,
             const Tensor& m2) {
  const int64_t classes = means.size(0), width = means.size(1);
  const LabelView labels(y);
  check_labels(kOp, labels, classes);
  const Segments groups(labels, classes, longest_segment(width));
  auto* count = static_cast<int64_t*>(counts.mutable_data_ptr());
  auto* mean = static_cast<T*>(means.mutable_data_ptr());
  auto* spread = static_cast<T*>(m2.mutable_data_ptr());
  prefer_huge_pages(mean, classes * width * static_cast<int64_t>(sizeof(T)));
  clear_absent(groups, classes, width, count, mean, spread);
  std::atomic<bool> nonfinite{false};
  for_each_class_moments(
      RowReader<T>(x), groups, [&](int64_t c) { return mean + c * width; },
      [&](int64_t c, int64_t n, const T* row, double m2_of_class) {
        spread[c] = static_cast<T>(m2_of_class);
        if (may_be_nonfinite(n, row, m2_of_class, width)) {
          nonfinite = true;
        }
      });
  if (nonfinite) {
    check_finite<T>(kOp, x, labels);
  }
}

template <class T>
void backward(const OptionalTensor& grad_means, const OptionalTensor& grad_m2, const Tensor& x,
              const Tensor& y, const Tensor& counts, const Tensor& means, const Tensor& grad_x) {
  const int64_t rows = x.size(0), width = x.size(1), block = 32;
  const LabelView labels(y);
  check_labels("class_moments_backward", labels, means.size(0));
  const RowReader<T> reader(x), mean_reader(means);
  const RowWriter<T> writer(grad_x);
  const auto* count = static_cast<const int64_t*>(counts.const_data_ptr());
  std::optional<RowReader<T>> mean_grad;
  if (grad_means) {
    mean_grad.emplace(*grad_means);
  }
  const auto* m2_grad = grad_m2 ? static_cast<const T*>(grad_m2->const_data_ptr()) : nullptr;
  parallel_units((rows + block - 1) / block, [&](const auto& take) {
    Buffer<T> scratch(width), grad_scratch(width), result(width);
    for (int64_t unit = take(); unit >= 0; unit = take()) {
      for (int64_t i = unit * block; i < std::min(rows, (unit + 1) * block); ++i) {
        if (labels[i] == kIgnoreIndex) {
          writer.zero(i);
          continue;
        }
        const int64_t c = labels[i];
        const T scale = T(1) / static_cast<T>(count[c]);
        const T pull = m2_grad ? T(2) * m2_grad[c] : T(0);
        const T* row = reader.row(i, scratch.get());
        const T* mean = mean_reader.row(c, nullptr);
        T* direct = writer.direct(i);
        T* out = direct ? direct : result.get();
        if (mean_grad) {
          const T* from_mean = mean_grad->row(c, grad_scratch.get());
          for (int64_t d = 0; d < width; ++d) {
            out[d] = from_mean[d] * scale + pull * (row[d] - mean[d]);
          }
        } else {
          for (int64_t d = 0; d < width; ++d) {
            out[d] = pull * (row[d] - mean[d]);
          }
        }
        if (!direct) {
          writer.write(i, out);
        }
      }
    }
  });
}

}  // namespace

void class_moments(Tensor x, Tensor y, Tensor counts, Tensor means, Tensor m2) {
  with_accumulation_type(means, [&](auto type) { forward<decltype(type)>(x, y, counts, means, m2); });
}

void class_moments_backward(OptionalTensor grad_means, OptionalTensor grad_m2, Tensor x, Tensor y,
                            Tensor counts, Tensor means, Tensor grad_x) {
  with_accumulation_type(means, [&](auto type) {
    backward<decltype(type)>(grad_means, grad_m2, x, y, counts, means, grad_x);
  });
}

}  // namespace ncfast::cpu

NCFAST_KERNEL(class_moments)
NCFAST_KERNEL(class_moments_backward)
