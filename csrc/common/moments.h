// Mean and sum of squared deviations of groups of rows, in one visit of each row.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "labels.h"
#include "rows.h"
#include "vectors.h"

namespace ncfast {

// Rows prefetched, then reduced, together.
constexpr int64_t kBlockRows = 32;
constexpr int64_t kRowsAhead = 12;

// Merges (other_count, other_mean, other_m2) into (count, mean, m2):
// mean += d * n_b / n,  m2 += m2_b + |d|^2 * n_a * n_b / n,  d = mean_b - mean_a.
template <class T>
void merge_moments(int64_t count, T* mean, double& m2, int64_t other_count, const T* other_mean,
                   double other_m2, int64_t width) {
  const double total = static_cast<double>(count) + static_cast<double>(other_count);
  const T share = static_cast<T>(static_cast<double>(other_count) / total);
  double squared_distance;
  sum_terms<T, 1>(
      width,
      [&](int64_t d, Vector<T>* term) {
        const Vector<T> own = load<T>(mean + d), difference = load<T>(other_mean + d) - own;
        store<T>(mean + d, own + difference * share);
        term[0] = difference * difference;
      },
      [&](int64_t d, T* term) {
        const T difference = other_mean[d] - mean[d];
        mean[d] += difference * share;
        term[0] = difference * difference;
      },
      &squared_distance);
  m2 += other_m2 +
        squared_distance * (static_cast<double>(count) * static_cast<double>(other_count) / total);
}

// Prefetches rows ahead of their use. Rows are gathered, so each begins with a cache and a TLB miss;
// kept one block ahead and spread over the arithmetic, the misses overlap with it.
template <class T>
class Prefetcher {
 public:
  explicit Prefetcher(const RowReader<T>& x) : x_(x) {}
  void start(const uint32_t* begin, const uint32_t* end) {
    next_ = begin;
    end_ = end;
    advance(kRowsAhead);
  }
  void advance(int64_t rows) {
    for (; rows > 0 && next_ < end_; --rows, ++next_) {
      x_.prefetch(*next_);
    }
  }

 private:
  const RowReader<T>& x_;
  const uint32_t *next_ = nullptr, *end_ = nullptr;
};

// Adds the deviations of R rows from `pivot` to `sum` ([width]); returns the sum of their squares.
template <int64_t R, class T, class Stored>
double add_deviations(const Stored* const* row, int64_t width, const T* pivot, T* sum) {
  double squares;
  sum_terms<T, 1>(
      width,
      [&](int64_t d, Vector<T>* term) {
        const Vector<T> pivot_value = load<T>(pivot + d);
        Vector<T> total = load<T>(sum + d), square = {};
        for (int64_t r = 0; r < R; ++r) {
          const Vector<T> difference = load<T>(row[r] + d) - pivot_value;
          total += difference;
          square += difference * difference;
        }
        store<T>(sum + d, total);
        term[0] = square;
      },
      [&](int64_t d, T* term) {
        term[0] = T(0);
        for (int64_t r = 0; r < R; ++r) {
          const T difference = static_cast<T>(widen(row[r][d])) - pivot[d];
          sum[d] += difference;
          term[0] += difference * difference;
        }
      },
      &squares);
  return squares;
}

// Adds a block of rows to running (count, mean, m2) in one visit, measuring from the running mean p:
// with s = sum (x - p) and q = sum |x - p|^2,  mean = p + s/n,  m2 += q - |s|^2/n.
// Returns whether the subtraction kept its digits; if not, only `mean` is updated.
template <class T, class Stored>
bool add_block(const Stored* const* row, int64_t rows, int64_t width, int64_t& count, T* mean,
               double& m2, T* sum, bool accept, Prefetcher<T>& ahead) {
  std::fill_n(sum, width, T(0));
  double squares = 0;
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    ahead.advance(4);
    squares += add_deviations<4>(row + r, width, mean, sum);
  }
  for (; r < rows; ++r) {
    ahead.advance(1);
    squares += add_deviations<1>(row + r, width, mean, sum);
  }
  const double total = static_cast<double>(count + rows);
  const T share = static_cast<T>(1 / total);
  double squared_distance;
  sum_terms<T, 1>(
      width,
      [&](int64_t d, Vector<T>* term) {
        const Vector<T> s = load<T>(sum + d);
        store<T>(mean + d, load<T>(mean + d) + s * share);
        term[0] = s * s;
      },
      [&](int64_t d, T* term) {
        mean[d] += sum[d] * share;
        term[0] = sum[d] * sum[d];
      },
      &squared_distance);
  // Typically half of q is taken away from a first block (its p is one of its rows), little later.
  if (!accept && squared_distance / total > 0.9 * (m2 + squares)) {
    return false;
  }
  // Squares that overflow make inf - inf; the spread is then infinite, as when summed plainly.
  const double rise = squares - squared_distance / total;
  m2 += std::isfinite(rise) ? rise : std::numeric_limits<double>::infinity();
  count += rows;
  return true;
}

// Scratch of one worker: widened rows of a block (only for rows that must be copied) and the sum.
template <class T>
struct MomentScratch {
  Buffer<T> rows, sum;
  Prefetcher<T> ahead;
  explicit MomentScratch(const RowReader<T>& x)
      : rows(x.adjacent() ? 0 : kBlockRows * x.width()), sum(x.width()), ahead(x) {}
};

// Writes the mean of x[order[0:n]] to `mean` and returns the sum of squared distances to it.
template <class T, class Stored>
double segment_moments(const RowReader<T>& x, const uint32_t* order, int64_t n, T* mean,
                       MomentScratch<T>& scratch) {
  x.read(order[0], mean);
  if (n == 1) {
    scratch.ahead.advance(1);
    return 0;
  }
  double m2 = 0;
  int64_t count = 0;
  const Stored* rows[kBlockRows];
  while (count < n) {
    const int64_t block = std::min(kBlockRows, n - count);
    for (int64_t r = 0; r < block; ++r) {
      if constexpr (std::is_same_v<T, Stored>) {
        rows[r] = x.row(order[count + r], scratch.rows.get() + (x.adjacent() ? 0 : r * x.width()));
      } else {
        rows[r] = x.template stored<Stored>(order[count + r]);
      }
    }
    // A first row that is an outlier costs a second visit, about the mean that is known by then.
    // Later blocks need none: their running mean rests on at least as many rows.
    for (bool again = false;
         !add_block(rows, block, x.width(), count, mean, m2, scratch.sum.get(), again, scratch.ahead);
         again = true) {
    }
  }
  return m2;
}

// Calls finish(class_id, count, mean, m2) once per class that occurs, from the thread that owns
// it. Long classes are cut into segments whose partial moments are merged in order.
// `mean` points to memory of finish's choice: place(class_id) returns it, or null for scratch.
template <class T, class Stored, class Place, class Finish>
void for_each_class_moments_stored(const RowReader<T>& x, const Segments& groups,
                                   const Place& place, const Finish& finish) {
  const int64_t width = x.width();
  const int64_t all = static_cast<int64_t>(groups.segments.size());
  Buffer<T> partial_means(groups.partials * width);
  std::vector<double> partial_m2(groups.partials);
  parallel_units(static_cast<int64_t>(groups.units.size()) - 1, [&](const auto& take) {
    MomentScratch<T> scratch(x);
    Buffer<T> local(width);
    for (int64_t unit = take(); unit >= 0; unit = take()) {
      const int64_t first = groups.units[unit], last = groups.units[unit + 1] - 1;
      scratch.ahead.start(groups.order.data() + groups.segments[first].begin,
                          groups.order.data() + groups.segments[last].end);
      for (int64_t s = first; s <= last; ++s) {
        const Segment& segment = groups.segments[s];
        const int64_t n = segment.end - segment.begin;
        const uint32_t* order = groups.order.data() + segment.begin;
        const bool whole = segment.partial < 0;
        T* mean = whole ? place(segment.class_id) : partial_means.get() + segment.partial * width;
        mean = mean ? mean : local.get();
        const double m2 = segment_moments<T, Stored>(x, order, n, mean, scratch);
        if (whole) {
          finish(segment.class_id, n, mean, m2);
        } else {
          partial_m2[segment.partial] = m2;
        }
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
      for (++s; s < all && groups.segments[s].class_id == class_id; ++s) {
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

template <class T, class Place, class Finish>
void for_each_class_moments(const RowReader<T>& x, const Segments& groups, const Place& place,
                            const Finish& finish) {
  with_stored_type(x, [&](auto stored) {
    for_each_class_moments_stored<T, decltype(stored)>(x, groups, place, finish);
  });
}

// Whether the moments of a class show that one of its features may be NaN or Inf. A class of one
// has no spread to show it. Finite features may look nonfinite (squares overflow), never the reverse.
template <class T>
bool may_be_nonfinite(int64_t n, const T* mean, double m2, int64_t width) {
  double square = m2;
  if (n == 1) {
    sum_terms<T, 1>(
        width, [&](int64_t d, Vector<T>* term) { term[0] = load<T>(mean + d) * load<T>(mean + d); },
        [&](int64_t d, T* term) { term[0] = mean[d] * mean[d]; }, &square);
  }
  return !std::isfinite(square);
}

// Longest run of rows one worker handles alone. Partial means then take at most 4 bytes per token.
inline int64_t longest_segment(int64_t width) { return std::max<int64_t>(512, width); }

}  // namespace ncfast
