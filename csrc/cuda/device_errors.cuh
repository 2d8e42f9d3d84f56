// Device-side errors: what kernels find wrong with values, without the host waiting for them. The
// first position of each kind by an integer minimum, published into a record that
// ncfast/native_cuda.py reads.
#pragma once

#include "rows.cuh"

namespace ncfast::cuda {

using Position = unsigned long long;
constexpr Position kNowhere = ~Position{0};

// In the order they are looked for. Mirrored by ncfast/native_cuda.py.
enum ErrorKind {
  kBadLabel = 0,
  kBadIndex = 1,
  kDoubleIndex = 2,
  kBadWeight = 3,
  kNotFinite = 4,       // in the features
  kNotFiniteOther = 5,  // in the op's other matrix
  kNotFiniteBias = 6,  // or center
  kBadEdges = 7,
  kOverflow = 8,  // of results, where the values they are made of are finite
};
constexpr int kErrorKinds = 9;

struct DeviceErrors {
  Position first[kErrorKinds];

  __device__ __forceinline__ void report(ErrorKind error_kind, int64_t position) {
    atomicMin(&first[error_kind], static_cast<Position>(position));
  }
  __device__ __forceinline__ bool any() const {
    for (int i = 0; i < kErrorKinds; ++i) {
      if (first[i] != kNowhere) {
        return true;
      }
    }
    return false;
  }
};

// Mirrored by ncfast/native_cuda.py: what a record holds.
struct Record {
  int64_t error_kind;  // 1 + ErrorKind; 0: nothing is wrong
  int64_t op, row, column, limit;
  double value;
};

static __global__ void clear_errors(DeviceErrors* errors) {
  if (threadIdx.x < kErrorKinds) {
    errors->first[threadIdx.x] = kNowhere;
  }
}

static __global__ void clear_flag(int32_t* nonfinite) { *nonfinite = 0; }

inline DeviceErrors* new_errors(Context& context) {
  auto* errors = context.workspace<DeviceErrors>(1);
  launch(clear_errors, 1, kWarp, 0, context, errors);
  return errors;
}

// Where values stand that may be found wrong; null where an op has none of the kind.
struct Subjects {
  const int64_t* labels = nullptr;  // or an index
  int64_t label_stride = 1, limit = 0;
  const double* weights = nullptr;
  AnyMatrix features, others;
  const float* bias = nullptr;
  const double* edges = nullptr;
  int64_t bins = 0;
};

inline Subjects subjects_of_tokens(const AnyMatrix& x, const int64_t* labels, int64_t label_stride,
                                   int64_t classes) {
  Subjects subjects;
  subjects.labels = labels;
  subjects.label_stride = label_stride;
  subjects.limit = classes;
  subjects.features = x;
  return subjects;
}

// The first op to find something keeps the record until the host has read it.
static __global__ void publish(const DeviceErrors* errors, Record* record, int64_t op,
                               Subjects subjects) {
  if (threadIdx.x != 0 || record->error_kind != 0 || !errors->any()) {
    return;
  }
  int kind = 0;
  while (errors->first[kind] == kNowhere) {
    ++kind;
  }
  if (kind == kBadIndex && errors->first[kDoubleIndex] < errors->first[kBadIndex]) {
    kind = kDoubleIndex;
  }
  const auto position = static_cast<int64_t>(errors->first[kind]);
  Record found = {kind + 1, op, position, 0, subjects.limit, 0.0};
  if (kind == kNotFinite) {
    found.row = position / subjects.features.width;
    found.column = position % subjects.features.width;
    // A kernel may name the first of eight values only.
    while (is_finite(subjects.features.value(found.row, found.column)) &&
           found.column + 1 < subjects.features.width) {
      ++found.column;
    }
    found.value = static_cast<double>(subjects.features.value(found.row, found.column));
  } else if (kind == kNotFiniteOther) {
    found.row = position / subjects.others.width;
    found.column = position % subjects.others.width;
    found.value = static_cast<double>(subjects.others.value(found.row, found.column));
  } else if (kind == kNotFiniteBias) {
    found.value = static_cast<double>(subjects.bias[position]);
  } else if (kind == kBadEdges) {
    const double* edges = subjects.edges + position * (subjects.bins + 1);
    found.value = edges[0];
    __builtin_memcpy(&found.column, edges + subjects.bins, sizeof found.column);
  } else if (kind == kOverflow) {
    found.column = 0;
  } else if (kind == kBadWeight) {
    found.value = subjects.weights[position];
  } else {
    // As bits: a label does not fit a double.
    found.column = subjects.labels[position * subjects.label_stride];
  }
  *record = found;
}

inline void publish_errors(Context& context, const DeviceErrors* errors,
                             const Subjects& subjects) {
  launch(publish, 1, kWarp, 0, context, errors, reinterpret_cast<Record*>(context.record),
         context.op, subjects);
}

}  // namespace ncfast::cuda
