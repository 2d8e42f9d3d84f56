#include "../common/logits.h"
#include "kernel.h"

#include <algorithm>
#include <cmath>

namespace ncfast::cpu {
namespace {

constexpr int64_t kPackBlock = 64;     // rows a thread copies or rounds at a time
constexpr int64_t kGradientRows = 256;  // of the tokens' or the classes' gradient, per unit

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A gradient of rows, summed in T: in its own memory where that holds T, else beside it.
template <class T>
class RowSums {
 public:
  RowSums(const OptionalTensor& out, int64_t scratch_rows) : scratch_(requested(out) * scratch_rows) {
    if (out.has_value()) {
      writer_.emplace(*out);
      width_ = out->size(1);
      direct_ = kScalarType<T> == out->scalar_type();
    }
  }
  bool requested() const { return writer_.has_value(); }
  bool direct() const { return direct_; }
  // Row `row` of the gradient, which is row `slot` of the scratch.
  T* row(int64_t row, int64_t slot) const {
    return direct_ ? writer_->direct(row) : scratch_.get() + slot * width_;
  }
  void round(int64_t row, int64_t slot) const {
    if (!direct_) {
      writer_->write(row, scratch_.get() + slot * width_);
    }
  }
  void zero(int64_t row) const { writer_->zero(row); }

 private:
  static int64_t requested(const OptionalTensor& out) {
    return out.has_value() && kScalarType<T> != out->scalar_type() ? out->size(1) : 0;
  }
  Buffer<T> scratch_;
  std::optional<RowWriter<T>> writer_;
  int64_t width_ = 0;
  bool direct_ = false;
};

struct Settings {
  double label_smoothing;
  int64_t vocab_size;
  HeadPanel panel;
};

// One panel at a time: the gradient of its logits is made tile by tile,
// and stored once by tokens and once by classes; then it is multiplied into the tokens' and the
// classes' gradients, each row of which one unit owns. So nothing is added across threads, and the
// two panels are all the memory that is taken.
template <class T>
class Backward {
 public:
  Backward(const Head<T>& head, const RowReader<T>& features, const ValidTokens& valid,
           const StoredLogits<T>& stored, const T* grad_nll, const T* grad_lse, const T* lse,
           const OptionalTensor& grad_x, const OptionalTensor& grad_head, T* grad_bias,
           const Settings& settings)
      : head_(head),
        features_(features),
        valid_(valid),
        stored_(stored),
        grad_nll_(grad_nll),
        grad_lse_(grad_lse),
        lse_(lse),
        settings_(settings),
        token_span_(std::min(settings.panel.tokens, std::max<int64_t>(valid.count(), 1))),
        class_span_(std::min(settings.panel.classes, head.classes())),
        products_(features, head, valid),
        by_rows_(padded_tokens(token_span_) * class_span_),
        by_columns_(padded_tokens(token_span_) * class_span_),
        x_(padded_tokens(token_span_) * head.width()),
        w_(in_place(head.rows()) ? 0 : class_span_ * head.width()),
        by_token_(grad_x, valid.count()),
        by_class_(grad_head, class_span_),
        grad_bias_(grad_bias),
        bias_sums_(grad_bias ? class_span_ : 0) {}

  void run() {
    for (class_begin_ = 0; class_begin_ < head_.classes(); class_begin_ += class_span_) {
      class_count_ = std::min(class_span_, head_.classes() - class_begin_);
      std::fill(bias_sums_.begin(), bias_sums_.end(), 0.0);
      for (token_begin_ = 0; token_begin_ < valid_.count(); token_begin_ += token_span_) {
        token_count_ = std::min(token_span_, valid_.count() - token_begin_);
        token_rows_ = padded_tokens(token_count_);
        pack();
        fill_panel();
        multiply_panel();
      }
      finish_classes();
    }
    if (by_token_.requested() && !by_token_.direct()) {
      each_block(valid_.count(), [&](int64_t k) { by_token_.round(valid_.rows[k], k); });
    }
  }

 private:
  template <class F>
  static void each_block(int64_t rows, const F& f) {
    parallel_units(ceil_div(rows, kPackBlock), [&](const auto& take) {
      for (int64_t unit = take(); unit >= 0; unit = take()) {
        for (int64_t r = unit * kPackBlock; r < std::min(rows, (unit + 1) * kPackBlock); ++r) {
          f(r);
        }
      }
    });
  }

  const T* head_rows(int64_t begin) const {
    return in_place(head_.rows()) ? head_.rows().template stored<T>(begin)
                                  : w_.get() + (begin - class_begin_) * head_.width();
  }

  void pack() {
    const int64_t width = head_.width();
    if (token_begin_ == 0 && !in_place(head_.rows())) {
      each_block(class_count_, [&](int64_t c) {
        head_.rows().read(class_begin_ + c, w_.get() + c * width);
      });
    }
    if (class_begin_ == 0 || valid_.count() > token_span_) {
      each_block(token_count_, [&](int64_t k) {
        features_.read(valid_.rows[token_begin_ + k], x_.get() + k * width);
      });
      std::fill_n(x_.get() + token_count_ * width, (token_rows_ - token_count_) * width, T(0));
    }
  }

  // Gradients of the panel's logits.
  void fill_panel() {
    std::fill_n(by_rows_.get() + token_count_ * class_count_,
                (token_rows_ - token_count_) * class_count_, T(0));
    const int64_t down = ceil_div(token_count_, kTokenTile), across = ceil_div(class_count_, kClassTile);
    parallel_units(down * across, [&](const auto& take) {
      Buffer<T> scratch(kTokenTile * kClassTile);
      NarrowTiles tiles = products_.tiles();
      for (int64_t unit = take(); unit >= 0; unit = take()) {
        fill_tile(unit % down * kTokenTile, unit / down * kClassTile, tiles, scratch.get());
      }
    });
  }

  void fill_tile(int64_t token, int64_t column, NarrowTiles& tiles, T* scratch) {
    const int64_t count = std::min(kTokenTile, token_count_ - token), width = head_.width();
    const int64_t begin = class_begin_ + column, span = std::min(kClassTile, class_count_ - column);
    if (begin + span <= stored_.columns) {
      for (int64_t r = 0; r < count; ++r) {
        std::memcpy(scratch + r * span,
                    stored_.data + (token_begin_ + token + r) * stored_.columns + begin,
                    span * sizeof(T));
      }
      return place_tile(scratch, span, token, count, column, span);
    }
    if (products_.as_stored()) {
      tiles.take_rows(features_, count,
                      [&](int64_t r) { return valid_.rows[token_begin_ + token + r]; });
      multiply_stored(tiles, head_, begin, span, scratch);
      return finish_tile(scratch, kClassTile, token, count, column, span);
    }
    const Product<T> logits(products_.library, x_.get() + token * width, padded_tokens(count), width,
                            head_rows(begin), span, Layout::rows, scratch);
    finish_tile(logits.data(), span, token, count, column, span);
  }

  // Turns a tile of raw products into gradients; its rows lie `stride` apart.
  void finish_tile(T* tile, int64_t stride, int64_t token, int64_t count, int64_t column,
                   int64_t span) {
    for (int64_t r = 0; r < count; ++r) {
      head_.finish(tile + r * stride, class_begin_ + column, span);
    }
    place_tile(tile, stride, token, count, column, span);
  }

  // Turns a tile of logits into their gradients, in both panels.
  void place_tile(T* tile, int64_t stride, int64_t token, int64_t count, int64_t column,
                  int64_t span) {
    for (int64_t r = 0; r < count; ++r) {
      differentiate(tile + r * stride, token_begin_ + token + r, class_begin_ + column, span);
      std::memcpy(by_rows_.get() + (token + r) * class_count_ + column, tile + r * stride,
                  span * sizeof(T));
    }
    constexpr int64_t block = 16;  // values of a cache line
    for (int64_t r = 0; r < count; r += block) {
      const int64_t rows = std::min(block, count - r);
      for (int64_t c = 0; c < span; ++c) {
        T* out = by_columns_.get() + (column + c) * token_rows_ + token + r;
        const T* in = tile + r * stride + c;
        for (int64_t k = 0; k < rows; ++k) {
          out[k] = in[k * stride];
        }
      }
    }
    for (int64_t c = 0; token + count == token_count_ && c < span; ++c) {
      T* row = by_columns_.get() + (column + c) * token_rows_;
      std::fill(row + token_count_, row + token_rows_, T(0));
    }
  }

  // (a p - c) with b less at the label.
  void differentiate(T* row, int64_t k, int64_t begin, int64_t span) const {
    const int64_t i = valid_.rows[k];
    const double nll = grad_nll_ ? static_cast<double>(grad_nll_[i]) : 0.0;
    const T a = static_cast<T>(nll + (grad_lse_ ? static_cast<double>(grad_lse_[i]) : 0.0));
    const T c = static_cast<T>(nll * settings_.label_smoothing /
                               static_cast<double>(settings_.vocab_size));
    const T lse = lse_[i];
    const int64_t label = valid_.labels[k] - begin;
    const bool here = valid_.labels[k] >= 0 && label >= 0 && label < span;
    T derivative = 1;
    if (head_.capped()) {
      const T inverse = 1 / head_.softcap();
      derivative = here ? 1 - row[label] * inverse * (row[label] * inverse) : T(1);
      transform<T>(row, span, T(0), [&](Vector<T> z, int64_t) {
        const Vector<T> share = z * inverse;
        return exp_of(z - lse) * a * (T(1) - share * share);
      });
    } else {
      transform<T>(row, span, T(0),
                   [&](Vector<T> z, int64_t) { return exp_of(z - lse) * a - c; });
    }
    if (here) {
      row[label] -= static_cast<T>(nll * (1 - settings_.label_smoothing)) * derivative;
    }
  }

  void multiply_panel() {
    const bool classes = by_class_.requested() || grad_bias_ != nullptr;
    const int64_t for_tokens = by_token_.requested() ? ceil_div(token_count_, kGradientRows) : 0;
    const int64_t for_classes = classes ? ceil_div(class_count_, kGradientRows) : 0;
    parallel_units(for_tokens + for_classes, [&](const auto& take) {
      Buffer<T> scratch(kGradientRows * head_.width());
      for (int64_t unit = take(); unit >= 0; unit = take()) {
        if (unit < for_tokens) {
          add_tokens(unit * kGradientRows, scratch.get());
        } else {
          add_classes((unit - for_tokens) * kGradientRows, scratch.get());
        }
      }
    });
  }

  // Adds a row, or puts it there the first time.
  static void add(const T* in, int64_t columns, bool fresh, T* out) {
    if (fresh) {
      std::copy_n(in, columns, out);  // which takes no bytes from nowhere, as memcpy may not
      return;
    }
    fill_values<T>(
        columns, [&](int64_t d) { return load<T>(out + d) + load<T>(in + d); },
        [&](int64_t d) { return out[d] + in[d]; }, out);
  }

  void add_tokens(int64_t token, T* scratch) {
    const int64_t count = std::min(kGradientRows, token_count_ - token), width = head_.width();
    const Product<T> sums(products_.library, by_rows_.get() + token * class_count_,
                          padded_tokens(count), class_count_, head_rows(class_begin_), width,
                          Layout::columns, scratch);
    for (int64_t r = 0; r < count; ++r) {
      const int64_t k = token_begin_ + token + r;
      add(sums.data() + r * width, width, class_begin_ == 0, by_token_.row(valid_.rows[k], k));
    }
  }

  void add_classes(int64_t column, T* scratch) {
    const int64_t count = std::min(kGradientRows, class_count_ - column), width = head_.width();
    const T* panel = by_columns_.get() + column * token_rows_;
    for (int64_t c = 0; grad_bias_ != nullptr && c < count; ++c) {
      const T* row = panel + c * token_rows_;
      double sum;
      sum_terms<T, 1>(
          token_count_, [&](int64_t k, Vector<T>* term) { term[0] = load<T>(row + k); },
          [&](int64_t k, T* term) { term[0] = row[k]; }, &sum);
      bias_sums_[column + c] += sum;
    }
    if (!by_class_.requested()) {
      return;
    }
    const Product<T> sums(products_.library, panel, count, token_rows_, x_.get(), width,
                          Layout::columns, scratch);
    for (int64_t c = 0; c < count; ++c) {
      add(sums.data() + c * width, width, token_begin_ == 0,
          by_class_.row(class_begin_ + column + c, column + c));
    }
  }

  void finish_classes() {
    if (by_class_.requested() && !by_class_.direct()) {
      each_block(class_count_, [&](int64_t c) { by_class_.round(class_begin_ + c, c); });
    }
    for (int64_t c = 0; grad_bias_ != nullptr && c < class_count_; ++c) {
      grad_bias_[class_begin_ + c] = static_cast<T>(bias_sums_[c]);
    }
  }

  const Head<T>& head_;
  const RowReader<T>& features_;
  const ValidTokens& valid_;
  const StoredLogits<T>& stored_;
  const T *grad_nll_, *grad_lse_, *lse_;
  const Settings settings_;
  const int64_t token_span_, class_span_;
  const LogitProducts<T> products_;
  Buffer<T> by_rows_, by_columns_, x_, w_;
  RowSums<T> by_token_, by_class_;
  T* grad_bias_;
  std::vector<double> bias_sums_;
  int64_t class_begin_ = 0, class_count_ = 0, token_begin_ = 0, token_count_ = 0;
  int64_t token_rows_ = 0;  // token_count_ and the rows of zeros that pad it
};

template <class T>
const T* values_of(const OptionalTensor& tensor) {
  return tensor.has_value() ? static_cast<const T*>(tensor->const_data_ptr()) : nullptr;
}

template <class T>
void run(const OptionalTensor& grad_nll, const OptionalTensor& grad_lse, const Tensor& x,
         const Tensor& head_weight, const Tensor& y, const OptionalTensor& head_bias,
         const Tensor& lse, const Tensor& logits, double softcap, int64_t vocab_start,
         const Settings& settings, const OptionalTensor& grad_x, const OptionalTensor& grad_head,
         const OptionalTensor& grad_bias) {
  const LabelView labels(y);
  check_labels("linear_cross_entropy", labels, settings.vocab_size);
  const int64_t rows = head_weight.size(0);
  const int64_t classes = std::min(rows, settings.vocab_size - vocab_start);
  const Head<T> head(head_weight, head_bias, softcap, classes);
  const RowReader<T> features(x);
  const ValidTokens valid(labels, vocab_start, classes);
  const StoredLogits<T> stored(const_cast<T*>(values_of<T>(logits)), logits.numel(), valid.count(),
                               classes);
  // What no product reaches: ignored tokens, rows that pad the vocabulary.
  for (int64_t i = 0; grad_x && i < y.size(0); ++i) {
    if (labels[i] == kIgnoreIndex) {
      RowWriter<T>(*grad_x).zero(i);
    }
  }
  const int64_t untouched = valid.count() ? classes : 0;
  for (int64_t c = untouched; grad_head && c < rows; ++c) {
    RowWriter<T>(*grad_head).zero(c);
  }
  Buffer<T> bias(grad_bias ? rows : 0);
  std::fill_n(bias.get(), grad_bias ? rows : 0, T(0));
  if (valid.count()) {
    Backward<T>(head, features, valid, stored, values_of<T>(grad_nll), values_of<T>(grad_lse),
                values_of<T>(OptionalTensor(lse)), grad_x, grad_head,
                grad_bias ? bias.get() : nullptr, settings)
        .run();
  }
  if (grad_bias) {
    RowWriter<T>(*grad_bias).write(0, bias.get());
  }
}

}  // namespace

// token_span and class_span: of a panel; 0 leaves both to panel_of.
void linear_cross_entropy_backward(OptionalTensor grad_nll, OptionalTensor grad_lse, Tensor x,
                                   Tensor head_weight, Tensor y, OptionalTensor head_bias,
                                   Tensor lse, Tensor logits, double softcap, int64_t vocab_start,
                                   int64_t vocab_size, double label_smoothing, int64_t token_span,
                                   int64_t class_span, OptionalTensor grad_x,
                                   OptionalTensor grad_head_weight, OptionalTensor grad_head_bias) {
  with_accumulation_type(lse, [&](auto type) {
    using T = decltype(type);
    const bool converted =
        head_weight.scalar_type() != kScalarType<T> || head_weight.stride(1) != 1;
    const HeadPanel panel = token_span > 0 ? HeadPanel{token_span, class_span}
                                       : panel_of(x.size(1), sizeof(T), converted);
    run<T>(grad_nll, grad_lse, x, head_weight, y, head_bias, lse, logits, softcap, vocab_start,
           {label_smoothing, vocab_size, panel}, grad_x, grad_head_weight, grad_head_bias);
  });
}

}  // namespace ncfast::cpu

NCFAST_KERNEL(linear_cross_entropy_backward)
