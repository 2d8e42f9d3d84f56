// Mean and sum of squared deviations of groups of rows, by blocks merged with Chan's formula.
#pragma once

#include <algorithm>
#include <cstdint>

#include "labels.h"
#include "rows.h"
#include "vectors.h"

namespace ncfast {

// Rows visited twice (sum, then squared deviations) while they are still in the L2 cache:
// 32 rows of 768 floats are 96 KiB.
constexpr int64_t kBlockRows = 32;

// Merges (other_count, other_mean, other_m2) into (count, mean, m2):
// mean += d * n_b / n,  m2 += m2_b + |d|^2 * n_a * n_b / n,  d = mean_b - mean_a.
template <class T, class M2>
void merge_moments(int64_t count, T* mean, M2& m2, int64_t other_count, const T* other_mean,
                   double other_m2, int64_t width) {
  const double total = static_cast<double>(count) + static_cast<double>(other_count);
  const T share = static_cast<T>(static_cast<double>(other_count) / total);
  const double gap = lane_sum<T>(width, [&](int64_t d) {
    const T difference = other_mean[d] - mean[d];
    mean[d] += difference * share;
    return difference * difference;
  });
  m2 = static_cast<M2>(static_cast<double>(m2) + other_m2 +
                       gap * (static_cast<double>(count) * static_cast<double>(other_count) / total));
}

// Scratch of one worker: a block of widened rows, their sum and their pointers.
template <class T>
struct MomentScratch {
  Buffer<T> rows, sum;
  const T* pointers[kBlockRows];
  explicit MomentScratch(int64_t width) : rows(kBlockRows * width), sum(width) {}
};

// Writes the mean of x[order[0:n]] to `mean` ([width]) and returns its sum of squared deviations.
template <class T>
double block_moments(const RowReader<T>& x, const uint32_t* order, int64_t n, T* mean,
                     MomentScratch<T>& scratch) {
  const int64_t width = x.width();
  for (int64_t r = 0; r < n; ++r) {
    scratch.pointers[r] = x.row(order[r], scratch.rows.get() + r * width);
  }
  const T* const* row = scratch.pointers;
  const T scale = T(1) / static_cast<T>(n);
  std::copy_n(row[0], width, mean);
  int64_t r = 1;
  for (; r + 3 <= n; r += 3) {
    const T *a = row[r], *b = row[r + 1], *c = row[r + 2];
    for (int64_t d = 0; d < width; ++d) {
      mean[d] += (a[d] + b[d]) + c[d];
    }
  }
  for (; r < n; ++r) {
    const T* a = row[r];
    for (int64_t d = 0; d < width; ++d) {
      mean[d] += a[d];
    }
  }
  for (int64_t d = 0; d < width; ++d) {
    mean[d] *= scale;
  }
  double m2 = 0;
  for (int64_t i = 0; i < n; ++i) {
    m2 += squared_distance(row[i], mean, width);
  }
  return m2;
}

// Writes the mean of x[order[0:n]] to `mean` and returns the sum of squared distances to it.
template <class T>
double segment_moments(const RowReader<T>& x, const uint32_t* order, int64_t n, T* mean,
                       MomentScratch<T>& scratch) {
  if (n == 1) {
    x.read(order[0], mean);
    return 0;
  }
  double m2 = block_moments(x, order, std::min(n, kBlockRows), mean, scratch);
  for (int64_t done = kBlockRows; done < n; done += kBlockRows) {
    const int64_t count = std::min(kBlockRows, n - done);
    const double block_m2 = block_moments(x, order + done, count, scratch.sum.get(), scratch);
    merge_moments(done, mean, m2, count, scratch.sum.get(), block_m2, x.width());
  }
  return m2;
}

// Calls finish(class_id, count, mean, m2) once per class that occurs, from the thread that owns
// it. Long classes are cut into segments whose partial moments are merged in order.
// `mean` points to memory of finish's choice: place(class_id) returns it, or null for scratch.
template <class T, class Place, class Finish>
void for_each_class_moments(const RowReader<T>& x, const Segments& groups, const Place& place,
                            const Finish& finish) {
  const int64_t width = x.width();
  const int64_t units = static_cast<int64_t>(groups.segments.size());
  const int64_t grab = 8;  // segments a worker takes at once
  Buffer<T> partial_means(groups.partials * width);
  std::vector<double> partial_m2(groups.partials);
  parallel_units((units + grab - 1) / grab, [&](const auto& take) {
    MomentScratch<T> scratch(width);
    Buffer<T> local(width);
    for (int64_t unit = take(); unit >= 0; unit = take()) {
      for (int64_t s = unit * grab; s < std::min(units, (unit + 1) * grab); ++s) {
        const Segment& segment = groups.segments[s];
        const int64_t n = segment.end - segment.begin;
        const uint32_t* order = groups.order.data() + segment.begin;
        if (s + 1 < units) {
          const Segment& next = groups.segments[s + 1];
          for (int64_t r = next.begin; r < std::min(next.end, next.begin + 2); ++r) {
            x.prefetch(groups.order[r]);
          }
        }
        if (segment.partial >= 0) {
          partial_m2[segment.partial] = segment_moments(
              x, order, n, partial_means.get() + segment.partial * width, scratch);
          continue;
        }
        T* mean = place(segment.class_id);
        mean = mean ? mean : local.get();
        const double m2 = segment_moments(x, order, n, mean, scratch);
        finish(segment.class_id, n, mean, m2);
      }
    }
  });
  parallel_units(static_cast<int64_t>(groups.shared.size()), [&](const auto& take) {
    for (int64_t unit = take(); unit >= 0; unit = take()) {
      int64_t s = groups.shared[unit];
      const int64_t class_id = groups.segments[s].class_id;
      int64_t count = groups.segments[s].end - groups.segments[s].begin;
      T* mean = partial_means.get() + groups.segments[s].partial * width;
      double m2 = partial_m2[groups.segments[s].partial];
      for (++s; s < units && groups.segments[s].class_id == class_id; ++s) {
        const Segment& segment = groups.segments[s];
        merge_moments(count, mean, m2, segment.end - segment.begin,
                      partial_means.get() + segment.partial * width, partial_m2[segment.partial],
                      width);
        count += segment.end - segment.begin;
      }
      T* target = place(class_id);
      if (target != nullptr) {
        std::copy_n(mean, width, target);
        mean = target;
      }
      finish(class_id, count, mean, m2);
    }
  });
}

// Longest run of rows one worker handles alone. Partial means then take at most 4 bytes per token.
inline int64_t longest_segment(int64_t width) { return std::max<int64_t>(512, width); }

}  // namespace ncfast
