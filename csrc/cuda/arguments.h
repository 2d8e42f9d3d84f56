// How an op's arguments reach its launcher. The binding reads them as csrc/common/kernels.def declares
// them (csrc/bindings/cuda.cpp); NCFAST_KERNEL(name) hands each on as the type that the launcher of
// that name takes, so that no list of arguments is written but there. Host code; no torch.
#pragma once

#include <type_traits>
#include <utility>
#include <vector>

#include "../common/reject.h"
#include "context.h"

namespace ncfast::cuda {

enum class Dtype { float32, bfloat16, float16, float64, int64, other };

// A matrix as its owner describes it, of 16- or 32-bit floats; strides in elements. No data: none given.
struct Rows {
  void* data = nullptr;
  Dtype dtype = Dtype::float32;
  int64_t rows = 0, width = 0, row_stride = 0, column_stride = 1;
};

struct Integers {
  const int64_t* data = nullptr;
  int64_t count = 0, stride = 1;
  bool given = false;  // an empty tensor has no data, but is not the same as none
};

// A contiguous matrix, or a vector (width 1).
template <class T>
struct Table {
  T* data = nullptr;
  int64_t rows = 0, width = 0;
  int64_t count() const { return rows * width; }
};

// A tensor with at most two dimensions, where one was given, or a value.
struct Argument {
  const char *op = "", *name = "";
  int name_length = 0;
  Rows tensor;
  bool given = false;
  int64_t integer = 0;
  double real = 0;
  std::vector<int64_t> integers;

  template <class... Dtypes>
  void expect(const char* what, Dtypes... dtypes) const {
    if (given && ((tensor.dtype != dtypes) && ...)) {
      reject(op, std::string(name, static_cast<size_t>(name_length)),
             " has another dtype; expected ", what);
    }
  }
};

// As<T>::of: an argument as a launcher's parameter of type T.
template <class T>
struct As;
template <>
struct As<Rows> {
  static Rows of(const Argument& a) {
    a.expect("16- or 32-bit floats", Dtype::float32, Dtype::bfloat16, Dtype::float16);
    return a.tensor;
  }
};
template <>
struct As<Integers> {
  static Integers of(const Argument& a) {
    a.expect("int64", Dtype::int64);
    return {static_cast<const int64_t*>(a.tensor.data), a.tensor.rows, a.tensor.row_stride, a.given};
  }
};
template <class T>
struct As<T*> {  // of a contiguous tensor, or null
  static T* of(const Argument& a) {
    using Value = std::remove_const_t<T>;
    if constexpr (std::is_same_v<Value, float>) {
      a.expect("float32", Dtype::float32);
    } else if constexpr (std::is_same_v<Value, double>) {
      a.expect("float64", Dtype::float64);
    } else {
      static_assert(std::is_same_v<Value, int64_t>);
      a.expect("int64", Dtype::int64);
    }
    return static_cast<T*>(a.tensor.data);
  }
};
template <class T>
struct As<Table<T>> {
  static Table<T> of(const Argument& a) {
    return {As<T*>::of(a), a.tensor.rows, a.tensor.width};
  }
};
template <>
struct As<int64_t> {
  static int64_t of(const Argument& a) { return a.integer; }
};
template <>
struct As<bool> {
  static bool of(const Argument& a) { return a.integer != 0; }
};
template <>
struct As<double> {
  static double of(const Argument& a) { return a.real; }
};
template <>
struct As<std::vector<int64_t>> {
  static const std::vector<int64_t>& of(const Argument& a) { return a.integers; }
};

template <class... Parameters, size_t... places>
void call(void (*launcher)(Context&, Parameters...), Context& context,
          const std::vector<Argument>& arguments, std::index_sequence<places...>) {
  launcher(context, As<std::decay_t<Parameters>>::of(arguments[places])...);
}

// The count is known on both sides: a launcher that takes another one is found by its first call.
template <class... Parameters>
void call(const char* op, void (*launcher)(Context&, Parameters...), Context& context,
          const std::vector<Argument>& arguments) {
  if (arguments.size() != sizeof...(Parameters)) {
    reject(op, "has ", arguments.size(), " arguments; its launcher expected ",
           sizeof...(Parameters));
  }
  call(launcher, context, arguments, std::index_sequence_for<Parameters...>());
}

}  // namespace ncfast::cuda

// Makes a function of this name the kernel of csrc/common/kernels.def.
#define NCFAST_KERNEL(name)                                                       \
  void launch_##name(Context& context, const std::vector<Argument>& arguments) { \
    call(#name, &name, context, arguments);                                      \
  }
