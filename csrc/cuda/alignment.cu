#include "columns.cuh"
#include "dispatch.cuh"
#include "index.cuh"

namespace ncfast::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kInFlight = 2;      // vectors of eight of each row loaded before they are used
constexpr int kCenterRows = 64;   // rows whose gradient to the center one block adds up

// Within these, squares have not overflowed, lost no digits that matter, and have inverses.
constexpr float kMinSquare = 1e-20f, kMaxSquare = 1e20f;

// A head row and a centred point, both times powers of two: a cosine depends on no scale, but squares
// overflow. A zero vector has no direction: cosine 0, gradient 0.
struct Angle {
  float product, head_square, point_square;
  float head_scale, point_scale;
  __device__ __forceinline__ bool in_range() const {
    return head_square >= kMinSquare && head_square <= kMaxSquare &&
           point_square >= kMinSquare && point_square <= kMaxSquare;
  }
  __device__ __forceinline__ bool defined() const { return head_square > 0 && point_square > 0; }
  __device__ __forceinline__ float norms() const {
    return sqrtf(head_square) * sqrtf(point_square);
  }
  // The product of a zero vector is 0, or NaN where the other is not finite: it stays.
  __device__ __forceinline__ float cosine() const { return defined() ? product / norms() : product; }
};

// The power of two that brings a row's largest value near 1, or 1 for zeros and what is not finite.
__device__ __forceinline__ float unit_scale(float largest) {
  if (!(largest > 0) || !is_finite(largest)) {
    return 1.0f;
  }
  const int exponent = __float_as_int(largest) >> 23;  // 0 to 254, biased by 127
  return __int_as_float((254 - (exponent < 253 ? (exponent > 1 ? exponent : 1) : 253)) << 23);
}

// Products of a head row and a centred point whose squares do not fit, in units of each row's largest
// value. Few rows come here: a column at a time, so that it costs the others no registers.
template <class W, class P>
__device__ __forceinline__ Angle rescaled_angle(const Matrix<W>& head, const Matrix<P>& points,
                                                const Matrix<float>& center, int64_t row) {
  float head_max = 0, point_max = 0;
#pragma unroll 1
  for (int64_t d = threadIdx.x % kWarp; d < points.width; d += kWarp) {
    const float w = fabsf(to_float(*head.at(row, d)));
    const float q = fabsf(to_float(*points.at(row, d)) - *center.at(0, d));
    head_max = w > head_max ? w : head_max;
    point_max = q > point_max ? q : point_max;
  }
  Angle sums = {0, 0, 0, unit_scale(warp_max(head_max)), unit_scale(warp_max(point_max))};
#pragma unroll 1
  for (int64_t d = threadIdx.x % kWarp; d < points.width; d += kWarp) {
    const float w = to_float(*head.at(row, d)) * sums.head_scale;
    const float q = (to_float(*points.at(row, d)) - *center.at(0, d)) * sums.point_scale;
    sums.product += w * q;
    sums.head_square += w * w;
    sums.point_square += q * q;
  }
  sums.product = warp_sum(sums.product);
  sums.head_square = warp_sum(sums.head_square);
  sums.point_square = warp_sum(sums.point_square);
  return sums;
}

// Their products, on every lane of the warp that reads them.
template <class W, class P>
__device__ Angle angle_of(const Matrix<W>& head, const Matrix<P>& points, const Matrix<float>& center,
                          int64_t row) {
  Angle sums = {0, 0, 0, 1, 1};
  constexpr int64_t kStep = kWarp * kVec8;
  for (int64_t d = threadIdx.x % kWarp * kVec8; d < points.width; d += kInFlight * kStep) {
    Vec8<W> head_vectors[kInFlight];
    Vec8<P> point_vectors[kInFlight];
    Vec8<float> center_vectors[kInFlight];
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      head_vectors[u].load(head, row, d + u * kStep);
      point_vectors[u].load(points, row, d + u * kStep);
      center_vectors[u].load(center, 0, d + u * kStep);
    }
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      float w[kVec8], q[kVec8], center_values[kVec8];
      head_vectors[u].unpack(w);
      point_vectors[u].unpack(q);
      center_vectors[u].unpack(center_values);
#pragma unroll
      for (int i = 0; i < kVec8; ++i) {
        q[i] -= center_values[i];
        sums.product += w[i] * q[i];
        sums.head_square += w[i] * w[i];
        sums.point_square += q[i] * q[i];
      }
    }
  }
  sums.product = warp_sum(sums.product);
  sums.head_square = warp_sum(sums.head_square);
  sums.point_square = warp_sum(sums.point_square);
  return sums.in_range() ? sums : rescaled_angle(head, points, center, row);
}

template <class W, class P>
__global__ void __launch_bounds__(kThreads)
    cosines_of_rows(Matrix<W> head, Matrix<P> points, Matrix<float> center, RowIndex index,
                    float* cosines, int32_t* nonfinite) {
  const int64_t k = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarp;
  if (k >= index.count) {
    return;
  }
  const int64_t row = index.row(k);
  const float cosine = row < 0 ? 0.0f : angle_of(head, points, center, row).cosine();
  if (threadIdx.x % kWarp == 0) {
    cosines[k] = cosine;
    if (!is_finite(cosine)) {
      atomicOr(nonfinite, 1);
    }
  }
}

// Looks the inputs through, one warp per visited row, where a cosine was not finite.
__global__ void find_not_finite_pairs(AnyMatrix head, AnyMatrix points, const float* center,
                                      RowIndex index, const int32_t* nonfinite, DeviceErrors* errors) {
  const int64_t k = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarp;
  const int64_t row = k < index.count && *nonfinite != 0 ? index.row(k) : -1;
  for (int64_t d = threadIdx.x % kWarp; row >= 0 && d < points.width; d += kWarp) {
    const float point = points.value(row, d);
    if (!is_finite(head.value(row, d))) {
      errors->report(kNotFiniteOther, row * points.width + d);
    }
    if (!is_finite(point)) {
      errors->report(kNotFinite, row * points.width + d);
    }
    if (!is_finite(center[d])) {
      errors->report(kNotFiniteBias, d);
    }
    if (!is_finite(point - center[d])) {
      errors->report(kOverflow, row);
    }
  }
}

// d cos/dw = cross q - along_head w and d cos/dp = cross w - along_point q, times the gradient and
// the scale of the row it is of; w and q are scaled too.
struct Coefficients {
  float cross, along_head, along_point, head_scale, point_scale;
};

// One warp per visited row.
template <class W, class P>
__global__ void __launch_bounds__(kThreads)
    gradients_of_rows(const float* grad, Matrix<W> head, Matrix<P> points, Matrix<float> center,
                      RowIndex index, Matrix<W> grad_head, Matrix<P> grad_points, Coefficients* coefficients) {
  const int64_t k = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarp;
  if (k >= index.count) {
    return;
  }
  const int64_t row = index.row(k);
  Coefficients factor = {0, 0, 0, 1, 1};
  if (row >= 0) {
    const Angle angle = angle_of(head, points, center, row);
    if (angle.defined()) {
      const float along = grad[k] * angle.cosine();
      factor = {grad[k] / angle.norms(), along / angle.head_square, along / angle.point_square,
               angle.head_scale, angle.point_scale};
    }
  }
  if (threadIdx.x % kWarp == 0) {
    coefficients[k] = factor;
  }
  if (row < 0 || (!grad_head.data && !grad_points.data)) {
    return;
  }
  for (int64_t d = threadIdx.x % kWarp * kVec8; d < points.width; d += kWarp * kVec8) {
    float w[kVec8], q[kVec8], center_values[kVec8], by_head[kVec8], by_point[kVec8];
    read_vec8(head, row, d, w);
    read_vec8(points, row, d, q);
    read_vec8(center, 0, d, center_values);
#pragma unroll
    for (int i = 0; i < kVec8; ++i) {
      w[i] *= factor.head_scale;
      q[i] = (q[i] - center_values[i]) * factor.point_scale;
      by_head[i] = factor.head_scale * (factor.cross * q[i] - factor.along_head * w[i]);
      by_point[i] = factor.point_scale * (factor.cross * w[i] - factor.along_point * q[i]);
    }
    if (grad_head.data) {
      write_vec8(grad_head, row, d, by_head);
    }
    if (grad_points.data) {
      write_vec8(grad_points, row, d, by_point);
    }
  }
}

// Minus the sum of the gradients to the points, before they are rounded: every block adds up
// kCenterRows rows of some columns, and the sums of the blocks are added in order.
template <class W, class P>
__global__ void __launch_bounds__(kThreads)
    center_sums(Matrix<W> head, Matrix<P> points, Matrix<float> center, RowIndex index,
                const Coefficients* coefficients, int64_t column_blocks, Matrix<float> sums) {
  const int64_t chunk = blockIdx.x / column_blocks;
  const int64_t d = (blockIdx.x % column_blocks * kThreads + threadIdx.x) * kVec8;
  if (d >= points.width) {
    return;
  }
  float center_values[kVec8], sum[kVec8] = {};
  read_vec8(center, 0, d, center_values);
  const int64_t begin = chunk * kCenterRows;
  const int64_t end = begin + kCenterRows < index.count ? begin + kCenterRows : index.count;
#pragma unroll 4
  for (int64_t k = begin; k < end; ++k) {
    const int64_t row = index.row(k);
    if (row < 0) {
      continue;
    }
    const Coefficients factor = coefficients[k];
    float w[kVec8], q[kVec8];
    read_vec8(head, row, d, w);
    read_vec8(points, row, d, q);
#pragma unroll
    for (int i = 0; i < kVec8; ++i) {
      const float across = factor.cross * (w[i] * factor.head_scale);
      const float along = factor.along_point * ((q[i] - center_values[i]) * factor.point_scale);
      sum[i] -= factor.point_scale * (across - along);
    }
  }
  write_vec8(sums, chunk, d, sum);
}

Matrix<float> as_row(const float* center, int64_t width) {
  return contiguous(const_cast<float*>(center), 1, width);
}

}  // namespace

void alignment(Context& context, const Rows& head_weight, const Rows& points, const float* center,
               const Integers& index, float* cosines) {
  DeviceErrors* errors = new_errors(context);
  const RowIndex visited = checked_index(context, index, points.rows, errors);
  const int64_t blocks = divide_up(visited.count * kWarp, kThreads);
  auto* nonfinite = context.workspace<int32_t>(1);
  launch(clear_flag, 1, 1, 0, context, nonfinite);
  with_type(head_weight.dtype, [&](auto w) {
    with_type(points.dtype, [&](auto p) {
      using W = decltype(w);
      using P = decltype(p);
      launch(cosines_of_rows<W, P>, blocks, kThreads, 0, context, matrix<W>(head_weight),
             matrix<P>(points), as_row(center, points.width), visited, cosines, nonfinite);
    });
  });
  Subjects subjects = subjects_of_index(visited);
  subjects.features = any_matrix(points);
  subjects.others = any_matrix(head_weight);
  subjects.bias = center;
  launch(find_not_finite_pairs, blocks, kThreads, 0, context, subjects.others, subjects.features,
         center, visited, nonfinite, errors);
  publish_errors(context, errors, subjects);
}

void alignment_backward(Context& context, const float* grad, const Rows& head_weight,
                        const Rows& points, const float* center, const Integers& index,
                        const Rows& grad_head_weight, const Rows& grad_points,
                        float* grad_center) {
  DeviceErrors* errors = new_errors(context);
  const RowIndex visited = checked_index(context, index, points.rows, errors);
  auto* coefficients = context.workspace<Coefficients>(visited.count);
  const Matrix<float> center_values = as_row(center, points.width);
  with_type(head_weight.dtype, [&](auto w) {
    with_type(points.dtype, [&](auto p) {
      using W = decltype(w);
      using P = decltype(p);
      const auto head = matrix<W>(head_weight);
      const auto point = matrix<P>(points);
      launch(gradients_of_rows<W, P>, divide_up(visited.count * kWarp, kThreads), kThreads, 0,
             context, grad, head, point, center_values, visited, matrix<W>(grad_head_weight),
             matrix<P>(grad_points), coefficients);
      if (grad_center == nullptr) {
        return;
      }
      const int64_t chunks = divide_up(visited.count, kCenterRows);
      const int64_t column_blocks = divide_up(points.width, kThreads * kVec8);
      const auto sums =
          contiguous(context.workspace<float>(chunks * points.width), chunks, points.width);
      launch(center_sums<W, P>, chunks * column_blocks, kThreads, 0, context, head, point, center_values,
             visited, coefficients, column_blocks, sums);
      write_column_sums(context, sums, grad_center);
    });
  });
  publish_errors(context, errors, subjects_of_index(visited));
}

NCFAST_KERNEL(alignment)
NCFAST_KERNEL(alignment_backward)

}  // namespace ncfast::cuda
