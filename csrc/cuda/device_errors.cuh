// What kernels find wrong with values, without the host waiting for them: the first place of each
// kind by an integer minimum, published once into a record that ncfast/native_cuda.py reads.
#pragma once

#include "rows.cuh"

namespace ncfast::cuda {

using Place = unsigned long long;
constexpr Place kNowhere = ~Place{0};

// In the order they are looked for. Mirrored by ncfast/native_cuda.py.
enum Finding {
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
constexpr int kFindings = 9;

struct Findings {
  Place first[kFindings];

  __device__ __forceinline__ void report(Finding finding, int64_t place) {
    atomicMin(&first[finding], static_cast<Place>(place));
  }
  __device__ __forceinline__ bool any() const {
    for (int i = 0; i < kFindings; ++i) {
      if (first[i] != kNowhere) {
        return true;
      }
    }
    return false;
  }
};

// Mirrored by ncfast/native_cuda.py: what a record tells.
struct Record {
  int64_t finding;  // 1 + Finding; 0: nothing is wrong
  int64_t op, row, column, limit;
  double value;
};

static __global__ void clear_findings(Findings* findings) {
  if (threadIdx.x < kFindings) {
    findings->first[threadIdx.x] = kNowhere;
  }
}

static __global__ void clear_suspect(int32_t* suspect) { *suspect = 0; }

inline Findings* new_findings(Context& context) {
  auto* findings = context.workspace<Findings>(1);
  launch(clear_findings, 1, kWarp, 0, context, findings);
  return findings;
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
static __global__ void publish(const Findings* findings, Record* record, int64_t op,
                               Subjects subjects) {
  if (threadIdx.x != 0 || record->finding != 0 || !findings->any()) {
    return;
  }
  int kind = 0;
  while (findings->first[kind] == kNowhere) {
    ++kind;
  }
  if (kind == kBadIndex && findings->first[kDoubleIndex] < findings->first[kBadIndex]) {
    kind = kDoubleIndex;
  }
  const auto place = static_cast<int64_t>(findings->first[kind]);
  Record found = {kind + 1, op, place, 0, subjects.limit, 0.0};
  if (kind == kNotFinite) {
    found.row = place / subjects.features.width;
    found.column = place % subjects.features.width;
    // A kernel may name the octet only.
    while (is_finite(subjects.features.value(found.row, found.column)) &&
           found.column + 1 < subjects.features.width) {
      ++found.column;
    }
    found.value = static_cast<double>(subjects.features.value(found.row, found.column));
  } else if (kind == kNotFiniteOther) {
    found.row = place / subjects.others.width;
    found.column = place % subjects.others.width;
    found.value = static_cast<double>(subjects.others.value(found.row, found.column));
  } else if (kind == kNotFiniteBias) {
    found.value = static_cast<double>(subjects.bias[place]);
  } else if (kind == kBadEdges) {
    const double* edges = subjects.edges + place * (subjects.bins + 1);
    found.value = edges[0];
    __builtin_memcpy(&found.column, edges + subjects.bins, sizeof found.column);
  } else if (kind == kOverflow) {
    found.column = 0;
  } else if (kind == kBadWeight) {
    found.value = subjects.weights[place];
  } else {
    // As bits: a label does not fit a double.
    found.column = subjects.labels[place * subjects.label_stride];
  }
  *record = found;
}

inline void publish_findings(Context& context, const Findings* findings,
                             const Subjects& subjects) {
  launch(publish, 1, kWarp, 0, context, findings, reinterpret_cast<Record*>(context.record),
         context.op, subjects);
}

}  // namespace ncfast::cuda
