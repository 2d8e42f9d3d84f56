#include "../common/finite.h"
#include "../common/logits.h"
#include "kernel.h"

#include <cmath>

namespace ncfast::cpu {
namespace {

constexpr const char* kOp = "linear_cross_entropy";

// log-sum-exp of what it was given so far, as largest + ln(sum).
struct LogSumExp {
  double maximum = -std::numeric_limits<double>::infinity(), sum = 0;

  void add(double other_maximum, double other_sum) {
    if (other_maximum > maximum) {
      sum = sum > 0 ? sum * std::exp(maximum - other_maximum) : 0.0;
      maximum = other_maximum;
    }
    if (other_sum > 0 || std::isnan(other_sum)) {
      sum += other_sum * std::exp(other_maximum - maximum);
    }
  }
};

// Adds the logits of one row of a tile.
template <class T>
void fold(const T* row, int64_t span, LogSumExp& total) {
  const T maximum = std::max(largest(row, span), static_cast<T>(total.maximum));
  if (std::isinf(maximum) && maximum < 0) {
    // Every class is excluded by a bias of -inf. NaN compares with nothing and is told apart here.
    for (int64_t j = 0; j < span; ++j) {
      if (std::isnan(row[j])) {
        total.sum = row[j];
      }
    }
    return;
  }
  double sum;
  sum_terms<T, 1>(
      span,
      [&](int64_t j, Vector<T>* term) { term[0] = exp_of(load<T>(row + j) - maximum); },
      [&](int64_t j, T* term) { term[0] = std::exp(row[j] - maximum); }, &sum);
  total.add(maximum, sum);
}

// Sum of the rows of all classes: what label smoothing needs of them.
template <class T>
std::vector<double> sum_rows(const Head<T>& head) {
  const int64_t width = head.width(), block = 512, blocks = (head.classes() + block - 1) / block;
  std::vector<double> partial(blocks * width, 0.0), total(width, 0.0);
  parallel_units(blocks, [&](const auto& take) {
    Buffer<T> scratch(width);
    for (int64_t unit = take(); unit >= 0; unit = take()) {
      double* sums = partial.data() + unit * width;
      for (int64_t c = unit * block; c < std::min(head.classes(), (unit + 1) * block); ++c) {
        const T* row = head.rows().row(c, scratch.get());
        for (int64_t d = 0; d < width; ++d) {
          sums[d] += static_cast<double>(row[d]);
        }
      }
    }
  });
  for (int64_t unit = 0; unit < blocks; ++unit) {
    for (int64_t d = 0; d < width; ++d) {
      total[d] += partial[unit * width + d];
    }
  }
  return total;
}

// What every unit of the forward pass reads and writes. A unit is a token tile and a group of
// classes.
template <class T>
struct Forward {
  const Head<T>& head;
  const RowReader<T>& features;
  const ValidTokens& valid;
  const StoredLogits<T>& stored;
  const LogitProducts<T> products;
  int64_t blocks, groups, group_span;
  std::vector<LogSumExp> partial;  // [valid tokens, groups]
  std::vector<double> targets;     // the logit of the label, 0 where it is in another shard

  Forward(const Head<T>& head, const RowReader<T>& features, const ValidTokens& valid,
          const StoredLogits<T>& stored)
      : head(head),
        features(features),
        valid(valid),
        stored(stored),
        products(features, head, valid) {
    blocks = (valid.count() + kTokenTile - 1) / kTokenTile;
    const int64_t tiles = (head.classes() + kClassTile - 1) / kClassTile;
    groups = class_groups(valid.count(), head.classes());
    group_span = (tiles + groups - 1) / groups * kClassTile;
    partial.resize(valid.count() * groups);
    targets.assign(valid.count(), 0.0);
  }

  void run() {
    const int64_t width = head.width();
    parallel_units(blocks * groups, [&](const auto& take) {
      const bool as_stored = products.as_stored();
      Buffer<T> x(as_stored ? 0 : kTokenTile * width);
      Buffer<T> scratch(as_stored || in_place(head.rows()) ? 0 : kClassTile * width);
      Buffer<T> tile(kTokenTile * kClassTile);
      NarrowTiles tiles = products.tiles();
      for (int64_t unit = take(); unit >= 0; unit = take()) {
        const int64_t first = unit / groups * kTokenTile, group = unit % groups;
        const int64_t count = std::min(kTokenTile, valid.count() - first);
        const int64_t padded = padded_tokens(count);
        if (as_stored) {
          tiles.take_rows(features, count, [&](int64_t r) { return valid.rows[first + r]; });
        } else {
          for (int64_t r = 0; r < count; ++r) {
            features.read(valid.rows[first + r], x.get() + r * width);
          }
          std::fill_n(x.get() + count * width, (padded - count) * width, T(0));
        }
        const int64_t end = std::min(head.classes(), (group + 1) * group_span);
        for (int64_t begin = group * group_span; begin < end; begin += kClassTile) {
          const int64_t span = std::min(kClassTile, head.classes() - begin);
          if (as_stored) {
            multiply_stored(tiles, head, begin, span, tile.get());
            visit_rows(first, count, group, tile.get(), kClassTile, begin, span);
            continue;
          }
          const Product<T> logits(products.library, x.get(), padded, width,
                                  head.packed(begin, span, scratch.get()), span, Layout::rows,
                                  tile.get());
          visit_rows(first, count, group, logits.data(), span, begin, span);
        }
      }
    });
  }

  void visit_rows(int64_t first, int64_t count, int64_t group, T* rows, int64_t stride,
                  int64_t begin, int64_t span) {
    for (int64_t r = 0; r < count; ++r) {
      visit(first + r, group, rows + r * stride, begin, span);
    }
  }

  void visit(int64_t token, int64_t group, T* row, int64_t begin, int64_t span) {
    head.finish(row, begin, span);
    fold(row, span, partial[token * groups + group]);
    if (begin + span <= stored.columns) {
      std::memcpy(stored.data + token * stored.columns + begin, row, span * sizeof(T));
    }
    const int64_t label = valid.labels[token] - begin;
    if (valid.labels[token] >= 0 && label >= 0 && label < span) {
      targets[token] = static_cast<double>(row[label]);
    }
  }
};

template <class T>
void run(const Tensor& x, const Tensor& head_weight, const Tensor& y,
         const OptionalTensor& head_bias, double softcap, int64_t vocab_start, int64_t vocab_size,
         double label_smoothing, bool finite_only, const Tensor& nll, const Tensor& lse,
         const Tensor& logits) {
  const LabelView labels(y);
  check_labels(kOp, labels, vocab_size);
  if (finite_only) {
    check_finite<T>(kOp, x, labels);
  }
  const int64_t classes = std::min(head_weight.size(0), vocab_size - vocab_start);
  const Head<T> head(head_weight, head_bias, softcap, classes);
  const RowReader<T> features(x);
  const ValidTokens valid(labels, vocab_start, classes);
  auto* memory = static_cast<T*>(logits.mutable_data_ptr());
  const StoredLogits<T> stored(memory, logits.numel(), valid.count(), classes);
  std::fill_n(memory + valid.count() * stored.columns,
              logits.numel() - valid.count() * stored.columns, T(0));
  Forward<T> forward(head, features, valid, stored);
  forward.run();
  auto* out = static_cast<T*>(nll.mutable_data_ptr());
  auto* total = static_cast<T*>(lse.mutable_data_ptr());
  std::fill_n(out, y.size(0), T(0));
  std::fill_n(total, y.size(0), T(0));
  std::vector<double> rows_sum;
  double bias_sum = 0;
  if (label_smoothing > 0) {
    rows_sum = sum_rows(head);
    for (int64_t c = 0; head.bias() != nullptr && c < classes; ++c) {
      bias_sum += static_cast<double>(head.bias()[c]);
    }
  }
  Buffer<T> row(head.width());
  for (int64_t k = 0; k < valid.count(); ++k) {
    LogSumExp sum;
    for (int64_t group = 0; group < forward.groups; ++group) {
      const LogSumExp& part = forward.partial[k * forward.groups + group];
      sum.add(part.maximum, part.sum);
    }
    double target = (1 - label_smoothing) * forward.targets[k];
    if (label_smoothing > 0) {
      double all = bias_sum;
      const T* values = features.row(valid.rows[k], row.get());
      for (int64_t d = 0; d < head.width(); ++d) {
        all += static_cast<double>(values[d]) * rows_sum[d];
      }
      target += label_smoothing / static_cast<double>(vocab_size) * all;
    }
    const double log_sum = std::log(sum.sum);
    total[valid.rows[k]] = static_cast<T>(sum.maximum + log_sum);
    out[valid.rows[k]] = static_cast<T>((sum.maximum - target) + log_sum);
  }
}

}  // namespace

// `logits` takes as many of them as it has room for; see csrc/common/logits.h. Bias: [1, V].
// Without `check_finite`, NaN and Inf of x go through to its tokens' outputs, as in plain torch.
void linear_cross_entropy(Tensor x, Tensor head_weight, Tensor y, OptionalTensor head_bias,
                          double softcap, int64_t vocab_start, int64_t vocab_size,
                          double label_smoothing, bool check_finite, Tensor nll, Tensor lse,
                          Tensor logits) {
  with_accumulation_type(nll, [&](auto type) {
    run<decltype(type)>(x, head_weight, y, head_bias, softcap, vocab_start, vocab_size,
                        label_smoothing, check_finite, nll, lse, logits);
  });
}

}  // namespace ncfast::cpu

NCFAST_KERNEL(linear_cross_entropy)
