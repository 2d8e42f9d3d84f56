#include "../common/finite.h"
#include "../common/gram.h"
#include "../common/moments.h"
#include "kernel.h"

#include <atomic>
#include <cmath>
#include <vector>

namespace ncfast::cpu {
namespace {

constexpr const char* kOp = "accumulate_class_moments_";
constexpr int64_t kKeptBytes = int64_t{48} << 20;  // batch means kept between the two steps

template <class T>
struct State {
  int64_t* counts;
  T* means;
  double* m2;
  int64_t classes, width;

  State(const Tensor& counts, const Tensor& means, const Tensor& m2)
      : counts(static_cast<int64_t*>(counts.mutable_data_ptr())),
        means(static_cast<T*>(means.mutable_data_ptr())),
        m2(static_cast<double*>(m2.mutable_data_ptr())),
        classes(means.size(0)),
        width(means.size(1)) {}

  void prefetch(int64_t c) const {
    const char* row = reinterpret_cast<const char*>(means + c * width);
    for (int64_t byte = 0; byte < width * static_cast<int64_t>(sizeof(T)); byte += 64) {
      __builtin_prefetch(row + byte, 1, 2);
    }
  }

  void merge(int64_t c, int64_t n, const T* mean, double m2_of_batch) const {
    T* own = means + c * width;
    if (counts[c] == 0) {
      if (own != mean) {
        std::copy_n(mean, width, own);
      }
      m2[c] = m2_of_batch;
    } else {
      merge_moments(counts[c], own, m2[c], n, mean, m2_of_batch, width);
    }
    counts[c] += n;
  }
};

// A view of consecutive rows of x or y.
Tensor rows_of(Tensor& tensor, int64_t begin, int64_t count) {
  return torch::stable::narrow(tensor, 0, begin, count);
}

// Moments alone, in two steps so that a NaN is found before any state changes: reduce every class,
// keeping the batch means of those worth keeping, then merge. Reading all of x first to look for
// NaN would cost more than the bound of the whole op (9.8 of 8.5 ms at N=65,536, D=768, 2 threads).
template <class T>
void accumulate(const State<T>& state, const Tensor& x, const LabelView& labels) {
  const int64_t width = state.width;
  const Segments groups(labels, state.classes, longest_segment(width));
  const RowReader<T> reader(x);
  // First segments of the classes; long classes first, they are the dearest to reduce again.
  std::vector<int64_t> heads(groups.shared);
  for (size_t s = 0; s < groups.segments.size(); ++s) {
    if (groups.segments[s].partial < 0) {
      heads.push_back(static_cast<int64_t>(s));
    }
  }
  const int64_t row_bytes = std::max<int64_t>(width, 1) * static_cast<int64_t>(sizeof(T));
  const int64_t max_rows = kKeptBytes / row_bytes;
  std::vector<int32_t> slot_of_class(state.classes, -1);
  int32_t kept = 0;
  for (const int64_t s : heads) {
    const Segment& segment = groups.segments[s];
    // A class of one token is read again instead: that costs what keeping it would.
    if (segment.end - segment.begin > 1 && kept < max_rows) {
      slot_of_class[segment.class_id] = kept++;
    }
  }
  Buffer<T> means(kept * width);
  std::vector<double> m2(kept);
  std::vector<int64_t> counts(kept);
  std::atomic<bool> nonfinite{false};
  const auto place = [&](int64_t c) {
    return slot_of_class[c] < 0 ? nullptr : means.get() + slot_of_class[c] * width;
  };
  for_each_class_moments(reader, groups, place, [&](int64_t c, int64_t n, const T* mean, double spread) {
    if (may_be_nonfinite(n, mean, spread, width)) {
      nonfinite = true;
    }
    if (slot_of_class[c] >= 0) {
      counts[slot_of_class[c]] = n;
      m2[slot_of_class[c]] = spread;
    }
  });
  if (nonfinite) {
    check_finite<T>(kOp, x, labels);
  }
  const int64_t block = 16, units = static_cast<int64_t>(heads.size());
  parallel_units((units + block - 1) / block, [&](const auto& take) {
    MomentScratch<T> scratch(reader);
    Buffer<T> local(width);
    for (int64_t unit = take(); unit >= 0; unit = take()) {
      for (int64_t u = unit * block; u < std::min(units, (unit + 1) * block); ++u) {
        const Segment& segment = groups.segments[heads[u]];
        const int64_t c = segment.class_id, slot = slot_of_class[c];
        if (u + 4 < units) {
          const Segment& soon = groups.segments[heads[u + 4]];
          state.prefetch(soon.class_id);
          if (slot_of_class[soon.class_id] < 0) {
            reader.prefetch(groups.order[soon.begin]);
          }
        }
        if (slot >= 0) {
          state.merge(c, counts[slot], means.get() + slot * width, m2[slot]);
          continue;
        }
        int64_t end = segment.end;
        for (size_t s = heads[u] + 1; s < groups.segments.size() && groups.segments[s].class_id == c; ++s) {
          end = groups.segments[s].end;
        }
        const int64_t n = end - segment.begin;
        const uint32_t* order = groups.order.data() + segment.begin;
        double spread = 0;
        with_stored_type(reader, [&](auto stored) {
          spread = segment_moments<T, decltype(stored)>(reader, order, n, local.get(), scratch);
        });
        state.merge(c, n, local.get(), spread);
      }
    }
  });
}

// Moments and the pooled scatter. The scatter needs both the batch's and the running means of every
// class in the batch, so the batch means are kept: at most one row per token of this slice.
template <class T>
void accumulate_with_scatter(const State<T>& state, const Tensor& x, const LabelView& labels,
                             double* scatter) {
  const int64_t width = state.width;
  const Segments groups(labels, state.classes, longest_segment(width));
  const RowReader<T> reader(x);
  std::vector<int64_t> classes;
  for (const Segment& segment : groups.segments) {
    if (classes.empty() || classes.back() != segment.class_id) {
      classes.push_back(segment.class_id);
    }
  }
  const int64_t present = static_cast<int64_t>(classes.size());
  const int64_t tokens = static_cast<int64_t>(groups.order.size());
  Buffer<int32_t> slot_of_class(state.classes);
  for (int64_t slot = 0; slot < present; ++slot) {
    slot_of_class[classes[slot]] = static_cast<int32_t>(slot);
  }
  Buffer<T> means(present * width);
  std::vector<int64_t> counts(present);
  std::vector<double> m2(present);
  for_each_class_moments(
      reader, groups, [&](int64_t c) { return means.get() + slot_of_class[c] * width; },
      [&](int64_t c, int64_t n, const T*, double m2_of_class) {
        counts[slot_of_class[c]] = n;
        m2[slot_of_class[c]] = m2_of_class;
      });
  // Rows of R: every token about its batch mean, then sqrt(n_a n_b / n) (batch - running) per class.
  add_gram<T>(
      tokens + present, width,
      [&](int64_t r, T* scratch) {
        if (r < tokens) {
          const uint32_t i = groups.order[r];
          return GramRow<T>{reader.row(i, scratch), means.get() + slot_of_class[labels[i]] * width, T(1)};
        }
        const int64_t slot = r - tokens, c = classes[slot];
        const double before = static_cast<double>(state.counts[c]);
        const double added = static_cast<double>(counts[slot]);
        const T scale = static_cast<T>(std::sqrt(before * added / (before + added)));
        return GramRow<T>{means.get() + slot * width, state.means + c * width, scale};
      },
      scatter);
  const int64_t block = 16;
  parallel_units((present + block - 1) / block, [&](const auto& take) {
    for (int64_t unit = take(); unit >= 0; unit = take()) {
      for (int64_t slot = unit * block; slot < std::min(present, (unit + 1) * block); ++slot) {
        state.merge(classes[slot], counts[slot], means.get() + slot * width, m2[slot]);
      }
    }
  });
}

int64_t distinct(const LabelView& labels, int64_t classes) {
  std::vector<bool> seen(classes, false);
  int64_t count = 0;
  for (int64_t i = 0; i < labels.count; ++i) {
    if (labels[i] != kIgnoreIndex && !seen[labels[i]]) {
      seen[labels[i]] = true;
      ++count;
    }
  }
  return count;
}

template <class T>
void run(const Tensor& counts, const Tensor& means, const Tensor& m2, const OptionalTensor& scatter,
         Tensor x, Tensor y) {
  const State<T> state(counts, means, m2);
  check_labels(kOp, LabelView(y), state.classes);
  if (!scatter.has_value()) {
    accumulate(state, x, LabelView(y));
    return;
  }
  check_finite<T>(kOp, x, LabelView(y));  // cheap beside N D^2, and slices merge one by one
  // One slice where the means of its classes fit: every further slice meets its classes anew, and
  // each class adds a row to the Gram. Merging slice by slice is the same sum.
  const int64_t row_bytes = std::max<int64_t>(state.width, 1) * static_cast<int64_t>(sizeof(T));
  const int64_t max_rows = std::max<int64_t>(1024, kKeptBytes / row_bytes);
  const int64_t slice = distinct(LabelView(y), state.classes) <= max_rows ? x.size(0) : max_rows;
  for (int64_t begin = 0; begin < x.size(0); begin += slice) {
    const int64_t count = std::min(slice, x.size(0) - begin);
    const Tensor labels = rows_of(y, begin, count);
    accumulate_with_scatter(state, rows_of(x, begin, count), LabelView(labels),
                            static_cast<double*>(scatter->mutable_data_ptr()));
  }
}

}  // namespace

void accumulate_class_moments_(Tensor counts, Tensor means, Tensor m2, OptionalTensor scatter,
                               Tensor x, Tensor y) {
  with_accumulation_type(means, [&](auto type) {
    run<decltype(type)>(counts, means, m2, scatter, x, y);
  });
}

}  // namespace ncfast::cpu

NCFAST_KERNEL(accumulate_class_moments_)
