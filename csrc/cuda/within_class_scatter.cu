#include "dispatch.cuh"
#include "gram.cuh"

namespace ncfast::cuda {
namespace {

// Tokens about the mean of their class; a token that does not count is a row of zeros.
template <class T>
struct Residuals {
  Matrix<T> x;
  const int64_t* labels;
  int64_t label_stride, classes;
  Matrix<float> means;
  int64_t width;
  Findings* findings;

  struct Fetched {
    Octet<T> value;
    Octet<float> mean;
    bool counts;
  };

  __device__ __forceinline__ int64_t rows() const { return x.rows; }

  __device__ __forceinline__ Fetched fetch(int64_t row, int64_t column) const {
    Fetched result;
    const int64_t label = row < x.rows ? labels[row * label_stride] : -100;
    result.counts = label >= 0 && label < classes;
    if (result.counts) {
      result.value.load(x, row, column);
      result.mean.load(means, label, column);
    } else if (label != -100 && column == 0) {
      findings->report(kBadLabel, row);
    }
    return result;
  }

  __device__ __forceinline__ void finish(const Fetched& fetched, int64_t row, int64_t column,
                                         bool first_reader, float (&out)[kOctet]) const {
#pragma unroll
    for (int i = 0; i < kOctet; ++i) {
      out[i] = 0.0f;
    }
    if (!fetched.counts) {
      return;
    }
    float mean[kOctet];
    fetched.value.unpack(out);
    fetched.mean.unpack(mean);
#pragma unroll
    for (int i = 0; i < kOctet; ++i) {
      if (first_reader && !is_finite(out[i])) {
        findings->report(kNotFinite, row * width + column + i);
      }
      out[i] -= mean[i];
    }
  }
};

}  // namespace

void within_class_scatter(Context& context, const Rows& x, const Integers& y, const float* means,
                          int64_t classes, double* scatter) {
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    Findings* findings = new_findings(context);
    const Residuals<T> source = {matrix<T>(x), y.data, y.stride, classes,
                                 contiguous(const_cast<float*>(means), classes, x.width), x.width,
                                 findings};
    add_gram(context, source, y.count, scatter, findings);
    publish_findings(context, findings, kWithinClassScatter,
                     subjects_of_tokens(source.x, y.data, y.stride, classes));
  });
}

}  // namespace ncfast::cuda
