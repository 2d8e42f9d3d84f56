// Gradients of linear_cross_entropy. The logits are made again, tile by tile, and their gradients
// kept for one panel of tokens and classes at a time, which is multiplied into both gradients.
#include "../common/head_panels.h"
#include "logits.cuh"
#include "panels.cuh"

#include <algorithm>

namespace ncfast::cuda {
namespace {

using Shape = ProductShape;
constexpr int kTile = Shape::kTile, kThreads = Shape::kThreads, kWarps = kThreads / kWarp;
constexpr int kStrips = 8;  // of a panel's tokens, added up side by side for the bias

// d loss/dz = (a p - c - b [label]) (1 - (z / softcap)^2) of a token's logits.
struct TokenDerivative {
  float lse, a, b, c;
  int32_t label;
};

struct Derivatives {
  const float *grad_nll, *grad_lse, *lse;  // gradients from above may be null
  double label_smoothing, per_class;

  __device__ __forceinline__ TokenDerivative of(const ValidTokens& valid, int64_t k) const {
    const int64_t token = k < valid.count() ? valid.rows[k] : -1;
    if (token < 0) {
      return {0, 0, 0, 0, -1};
    }
    const double nll = grad_nll ? grad_nll[token] : 0.0;
    const double both = nll + (grad_lse ? grad_lse[token] : 0.0);
    return {lse[token], static_cast<float>(both),
            static_cast<float>(nll * (1 - label_smoothing)), static_cast<float>(nll * per_class),
            valid.labels[k]};
  }
};

// Where a panel lies among the valid tokens and the classes.
struct PanelPosition {
  int64_t first_token, first_class, class_tiles;
};

template <class Source>
struct FillShared {
  union {
    typename ProductMemory<Source>::Type products;
    ProductValues values;
  };
  TokenDerivative tokens[kTile];
};

template <class Source>
__global__ void __launch_bounds__(kThreads, 1)
    fill_panel(Source x, Source head, LogitEpilogue epilogue, ValidTokens valid, StoredLogits stored,
               Derivatives derivatives, PanelPosition position, Panel panel) {
  auto& shared = shared_memory<FillShared<Source>>();
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row_tile = blockIdx.x / position.class_tiles * kTile;
  const int64_t column_tile = blockIdx.x % position.class_tiles * kTile;
  const int64_t token = position.first_token + row_tile, first = position.first_class + column_tile;
  const int64_t count = valid.count(), columns = stored.columns(count, epilogue.classes);
  if (token >= count) {
    return;
  }
  if (threadIdx.x < kTile) {
    shared.tokens[threadIdx.x] = derivatives.of(valid, token + threadIdx.x);
  }
  const bool given = first < columns;  // whole tiles are
  if (given) {
    __syncthreads();
  } else {
    ProductTile tile;
    multiply_rows(tile, shared.products, x, token, head, first, x.matrix.width);
    shared.values.put(tile);
  }
  const float inverse = epilogue.softcap > 0 ? 1 / epilogue.softcap : 0.0f;
#pragma unroll 1
  for (int row = warp; row < kTile; row += kWarps) {
    const TokenDerivative t = shared.tokens[row];
#pragma unroll
    for (int c = 0; c < kTile / kWarp; ++c) {
      const int within = c * kWarp + lane;
      const int64_t j = first + within;
      float derivative = 0;
      if (token + row < count && j < epilogue.classes) {
        const float z = given ? stored.data[(token + row) * columns + j]
                              : epilogue.logit(shared.values.at[row][within], j);
        derivative = expf(z - t.lse) * t.a - t.c - (j == t.label ? t.b : 0.0f);
        if (epilogue.softcap > 0) {
          const float share = z * inverse;
          derivative *= 1 - share * share;
        }
      }
      panel.data[(row_tile + row) * panel.stride + column_tile + within] = derivative;
    }
  }
}

// The panel's columns added up: strips of tokens, then the strips in order.
__global__ void add_panel_columns(Panel panel, const int32_t* valid, int64_t first, int64_t max_depth,
                                  int64_t classes, bool fresh, double* sums) {
  struct Shared {
    double strips[kStrips][kWarp];
  };
  Shared& shared = shared_memory<Shared>();
  const int lane = threadIdx.x % kWarp, strip = threadIdx.x / kWarp;
  const int64_t column = int64_t{blockIdx.x} * kWarp + lane;
  const int64_t depth = *valid - first < max_depth ? *valid - first : max_depth;
  double sum = 0;
  for (int64_t row = strip; row < depth && column < classes; row += kStrips) {
    sum += panel.data[row * panel.stride + column];
  }
  shared.strips[strip][lane] = sum;
  __syncthreads();
  if (strip == 0 && column < classes) {
    sum = fresh ? 0.0 : sums[column];
    for (int s = 0; s < kStrips; ++s) {
      sum += shared.strips[s][lane];
    }
    sums[column] = sum;
  }
}

// Rounds sums of rows to where they belong, if they are not there, and writes zeros to rows without.
template <class T>
__global__ void finish_rows(Matrix<float> sums, Matrix<T> out, int64_t first, const int32_t* places) {
  const int64_t k = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarp;
  const bool exists = k < sums.rows && sums.data != nullptr && (!places || places[k + 1] > places[k]);
  const bool there = static_cast<const void*>(sums.data) == out.data;
  if (k >= sums.rows || (exists && there)) {
    return;
  }
  for (int64_t d = threadIdx.x % kWarp * kVec8; d < out.width; d += kWarp * kVec8) {
    float values[kVec8] = {};
    if (exists) {
      read_vec8(sums, k, d, values);
    }
    write_vec8(out, first + k, d, values);
  }
}

template <class T>
__global__ void finish_bias(const double* sums, int64_t classes, Matrix<T> out) {
  const int64_t j = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (j < out.width) {
    *out.at(0, j) = from_float<T>(j < classes ? static_cast<float>(sums[j]) : 0.0f);
  }
}

// places: where only some of the rows have sums. sums without data: zeros.
void finish(Context& context, const Matrix<float>& sums, const Rows& out, int64_t first,
            const int32_t* places) {
  with_type(out.dtype, [&](auto type) {
    using T = decltype(type);
    launch(finish_rows<T>, divide_up(sums.rows * kWarp, kThreads), kThreads, 0, context, sums,
           matrix<T>(out), first, places);
  });
}

// Whether sums of a gradient's rows can be kept in its own memory.
bool in_place(const Rows& out) { return out.data && out.dtype == Dtype::float32; }

int64_t whole_tiles(int64_t count) { return divide_up(count, kTile) * kTile; }

struct Job {
  Context& context;
  AnyRows tokens, head;
  LogitEpilogue epilogue;
  ValidTokens valid;
  StoredLogits stored;
  Derivatives derivatives;
  Panel panel;
  int64_t token_span, class_span;
  Rows grad_x, grad_head, grad_bias;
  Matrix<float> token_sums, class_sums;  // class_sums: of the panel's classes
  double* bias_sums;

  void run() {
    for (int64_t first_class = 0; first_class < epilogue.classes; first_class += class_span) {
      const int64_t classes = std::min(class_span, epilogue.classes - first_class);
      for (int64_t token = 0; token < valid.tokens; token += token_span) {
        visit(token, std::min(token_span, valid.tokens - token), first_class, classes);
      }
      if (grad_head.data && !in_place(grad_head) && valid.tokens > 0) {
        Matrix<float> sums = class_sums;
        sums.rows = classes;
        finish(context, sums, grad_head, first_class, nullptr);
      }
    }
    if (grad_x.data) {
      finish(context, token_sums, grad_x, 0, valid.places);
    }
  }

  void visit(int64_t token, int64_t tokens_here, int64_t first_class, int64_t classes) {
    const int64_t class_tiles = divide_up(classes, kTile);
    const int32_t* count = valid.places + valid.tokens;
    with_sources(tokens, head, [&](auto left, auto right) {
      using Source = decltype(left);
      launch(fill_panel<Source>, divide_up(tokens_here, kTile) * class_tiles, kThreads,
             sizeof(FillShared<Source>), context, left, right, epilogue, valid, stored, derivatives,
             PanelPosition{token, first_class, class_tiles}, panel);
    });
    if (grad_x.data) {
      add_panel<false>(context, panel, {head, first_class, classes, nullptr},
                       {token_sums, valid.index(), token, first_class == 0}, tokens_here);
    }
    if (grad_head.data) {
      add_panel<true>(context, panel, {tokens, token, tokens_here, count},
                      {class_sums, every_row(epilogue.classes),
                       in_place(grad_head) ? first_class : 0, token == 0},
                      classes);
    }
    if (grad_bias.data) {
      launch(add_panel_columns, divide_up(classes, kWarp), kStrips * kWarp,
             kStrips * kWarp * sizeof(double), context, panel, count, token, tokens_here, classes,
             token == 0, bias_sums + first_class);
    }
  }
};

}  // namespace

// Gradients that are not given are not computed. Logits' gradients exist for token_span tokens and
// class_span classes at a time; 0 leaves both to panel_of.
void linear_cross_entropy_backward(Context& context, const float* grad_nll, const float* grad_lse,
                                   const Rows& x, const Rows& head_weight, const Integers& y,
                                   const Rows& head_bias, const float* lse,
                                   const Table<float>& logits, double softcap,
                                   int64_t vocab_start, int64_t vocab_size,
                                   double label_smoothing, int64_t token_span, int64_t class_span,
                                   const Rows& grad_x, const Rows& grad_head_weight,
                                   const Rows& grad_head_bias) {
  const HeadSettings settings =
      head_settings(head_weight, softcap, vocab_start, vocab_size, label_smoothing);
  DeviceErrors* errors = new_errors(context);
  const ValidTokens valid = list_valid_tokens(context, y, settings, errors);
  const int64_t classes = settings.classes, width = x.width;
  if (token_span == 0) {
    const bool converted = head_weight.dtype != Dtype::float32 || head_weight.column_stride != 1;
    const HeadPanel panel = panel_of(width, sizeof(float), converted);
    token_span = panel.tokens;
    class_span = panel.classes;
  }
  token_span = whole_tiles(std::min(token_span, std::max<int64_t>(y.count, 1)));
  class_span = whole_tiles(std::min(class_span, classes));
  const double per_class = settings.label_smoothing / static_cast<double>(settings.vocab_size);
  Job job = {context,
             {any_matrix(x), valid.index()},
             {any_matrix(head_weight), every_row(classes)},
             {read_head_bias(context, head_bias, classes), static_cast<float>(settings.softcap),
              classes},
             valid,
             {logits.data, logits.count()},
             {grad_nll, grad_lse, lse, settings.label_smoothing, per_class},
             {context.workspace<float>(token_span * class_span), class_span},
             token_span,
             class_span,
             grad_x,
             grad_head_weight,
             grad_head_bias};
  job.token_sums =
      in_place(grad_x)
          ? matrix<float>(grad_x)
          : contiguous(context.workspace<float>(grad_x.data ? y.count * width : 0), y.count, width);
  job.class_sums =
      in_place(grad_head_weight)
          ? matrix<float>(grad_head_weight)
          : contiguous(context.workspace<float>(grad_head_weight.data ? class_span * width : 0),
                       class_span, width);
  job.bias_sums = context.workspace<double>(grad_head_bias.data && y.count ? classes : 0);
  job.run();
  const int64_t summed = y.count > 0 ? classes : 0;
  if (grad_head_weight.data && summed < grad_head_weight.rows) {
    // Rows that pad the vocabulary.
    const Matrix<float> none = contiguous(static_cast<float*>(nullptr),
                                          grad_head_weight.rows - summed, width);
    finish(context, none, grad_head_weight, summed, nullptr);
  }
  if (grad_head_bias.data) {
    with_type(grad_head_bias.dtype, [&](auto type) {
      using T = decltype(type);
      launch(finish_bias<T>, divide_up(grad_head_bias.width, kThreads), kThreads, 0, context,
             job.bias_sums, summed, matrix<T>(grad_head_bias));
    });
  }
  publish_errors(context, errors,
                   subjects_of_tokens(any_matrix(x), y.data, y.stride, settings.vocab_size));
}

NCFAST_KERNEL(linear_cross_entropy_backward)

}  // namespace ncfast::cuda
