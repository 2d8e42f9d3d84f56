#include "dispatch.cuh"
#include "gram.cuh"

namespace ncfast::cuda {
namespace {

// Tokens about the mean of their class; an ignored token is a row of zeros.
template <class T, bool kWhole>
struct Residuals {
  Matrix<T> x;
  const int64_t* labels;
  int64_t label_stride, classes;
  Matrix<float> means;
  int64_t width;
  DeviceErrors* errors;

  struct Fetched {
    Vec8<T> value;
    Vec8<float> mean;
    bool counts;
  };

  __device__ __forceinline__ int64_t rows() const { return x.rows; }

  __device__ __forceinline__ Fetched fetch(int64_t row, int64_t column) const {
    Fetched result;
    const int64_t label = row < x.rows ? labels[row * label_stride] : -100;
    result.counts = label >= 0 && label < classes;
    if (result.counts) {
      result.value.template load<kWhole>(x, row, column);
      result.mean.template load<kWhole>(means, label, column);
    } else if (label != -100 && column == 0) {
      errors->report(kBadLabel, row);
    }
    return result;
  }

  __device__ __forceinline__ void finish(const Fetched& fetched, int64_t row, int64_t column,
                                         bool first_reader, float (&out)[kVec8]) const {
#pragma unroll
    for (int i = 0; i < kVec8; ++i) {
      out[i] = 0.0f;
    }
    if (!fetched.counts) {
      return;
    }
    float mean[kVec8];
    fetched.value.unpack(out);
    fetched.mean.unpack(mean);
    bool finite = true;
#pragma unroll
    for (int i = 0; i < kVec8; ++i) {
      finite = finite && is_finite(out[i]);
    }
    if (first_reader && !finite) {
      errors->report(kNotFinite, row * width + column);
    }
#pragma unroll
    for (int i = 0; i < kVec8; ++i) {
      out[i] -= mean[i];
    }
  }
};

}  // namespace

void within_class_scatter(Context& context, const Rows& x, const Integers& y,
                          const Table<float>& means, double* scatter) {
  const int64_t classes = means.rows;
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    DeviceErrors* errors = new_errors(context);
    const auto features = matrix<T>(x);
    const auto centers = contiguous(means);
    add_gram(
        context,
        [&](auto whole) {
          return Residuals<T, whole>{features, y.data, y.stride, classes, centers, x.width, errors};
        },
        features.whole() && centers.whole(), x.width, y.count, scatter, errors);
    publish_errors(context, errors,
                     subjects_of_tokens(features, y.data, y.stride, classes));
  });
}

NCFAST_KERNEL(within_class_scatter)

}  // namespace ncfast::cuda
