// The one place where a NumPy array becomes a View, and where what would be unsafe is refused.
//
// The friendly checks are in Python; these hold even for a direct call: dtype, dimensions, shape,
// alignment, strides, writeability, overlap.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>

#include "../core/float_mode.hpp"
#include "../core/ops.hpp"
#include "../core/parallel.hpp"
#include "../kernels/dispatch.hpp"

namespace fanin {

namespace py = pybind11;

[[noreturn]] inline void refuse(const char* name, const std::string& expected) {
  throw std::invalid_argument(std::string(name) + ": expected " + expected);
}

template <class T>
bool holds(const py::array& array) {
  return py::isinstance<py::array_t<T>>(array);  // native byte order included
}

template <class T>
constexpr const char* dtype_name() {
  if constexpr (std::is_same_v<T, float>) {
    return "float32";
  } else if constexpr (std::is_same_v<T, double>) {
    return "float64";
  } else if constexpr (std::is_same_v<T, int64_t>) {
    return "int64";
  } else if constexpr (std::is_same_v<T, uint32_t>) {
    return "uint32";
  } else if constexpr (std::is_same_v<T, uint16_t>) {
    return "uint16";
  } else {
    return "bool";
  }
}

// Only what is used has to be aligned: no strides of axes with one element, nothing of empty
// arrays.
template <class T>
void check_elements(const py::array& array, const char* name) {
  if (!holds<T>(array)) {
    refuse(name, std::string("an array of ") + dtype_name<T>() + " in native byte order");
  }
  if (array.size() == 0) {
    return;
  }
  if (reinterpret_cast<std::uintptr_t>(array.data()) % alignof(T) != 0) {
    refuse(name, "aligned memory");
  }
  for (py::ssize_t axis = 0; axis < array.ndim(); ++axis) {
    if (array.shape(axis) > 1 && array.strides(axis) % py::ssize_t(sizeof(T)) != 0) {
      refuse(name, "strides that are multiples of the element size");
    }
  }
}

// Strides of axes with at most one element, and of empty arrays, mean nothing to NumPy: here they
// count as contiguous.
template <class T>
View<const T> matrix(const py::array& array, const char* name) {
  check_elements<T>(array, name);
  if (array.ndim() != 2) {
    refuse(name, "2 dimensions");
  }
  const int64_t rows = array.shape(0), cols = array.shape(1);
  const auto size = py::ssize_t(sizeof(T));
  const bool empty = rows == 0 || cols == 0;
  const int64_t col_stride = cols > 1 && !empty ? array.strides(1) / size : 1;
  const int64_t alone = col_stride == 1 ? cols : 1;  // one row: contiguous whichever way it lies
  const int64_t row_stride = rows > 1 && !empty ? array.strides(0) / size : alone;
  return {static_cast<const T*>(array.data()), rows, cols, row_stride, col_stride};
}

template <class T>
View<const T> matrix(const py::array& array, const char* name, int64_t rows, int64_t cols) {
  const View<const T> view = matrix<T>(array, name);
  if (view.rows != rows || view.cols != cols) {
    refuse(name, "shape (" + std::to_string(rows) + ", " + std::to_string(cols) + ")");
  }
  return view;
}

// A matrix whose rows are contiguous, as everything but products wants it.
template <class T>
View<const T> rows_matrix(const py::array& array, const char* name, int64_t rows, int64_t cols) {
  const View<const T> view = matrix<T>(array, name, rows, cols);
  if (view.col_stride != 1) {
    refuse(name, "contiguous rows");
  }
  return view;
}

template <class T>
View<T> writable(View<const T> view, py::array& array, const char* name) {
  if (!array.writeable()) {
    refuse(name, "a writeable array");
  }
  const int64_t rows = view.row_stride < 0 ? -view.row_stride : view.row_stride;
  const int64_t cols = view.col_stride < 0 ? -view.col_stride : view.col_stride;
  if (view.rows == 0 || view.cols == 0) {
    return {const_cast<T*>(view.data), view.rows, view.cols, view.row_stride, view.col_stride};
  }
  const bool apart = view.rows <= 1 || view.cols <= 1 || rows > cols * (view.cols - 1) ||
                     cols > rows * (view.rows - 1);
  if (!apart || (view.rows > 1 && rows == 0) || (view.cols > 1 && cols == 0)) {
    refuse(name, "elements that do not overlap one another");
  }
  return {const_cast<T*>(view.data), view.rows, view.cols, view.row_stride, view.col_stride};
}

template <class T>
View<T> out_matrix(py::array& array, const char* name, int64_t rows, int64_t cols) {
  return writable(rows_matrix<T>(array, name, rows, cols), array, name);
}

template <class T>
const T* vector(const py::array& array, const char* name, int64_t count) {
  check_elements<T>(array, name);
  if (array.ndim() != 1 || array.shape(0) != count) {
    refuse(name, "shape (" + std::to_string(count) + ",)");
  }
  if (count > 1 && array.strides(0) != py::ssize_t(sizeof(T))) {
    refuse(name, "a contiguous array");
  }
  return static_cast<const T*>(array.data());
}

template <class T>
T* out_vector(py::array& array, const char* name, int64_t count) {
  if (!array.writeable()) {
    refuse(name, "a writeable array");
  }
  return const_cast<T*>(vector<T>(array, name, count));
}

using Optional = std::optional<py::array>;

template <class T>
const T* vector_or_null(const Optional& array, const char* name, int64_t count) {
  return array ? vector<T>(*array, name, count) : nullptr;
}

template <class T>
T* out_vector_or_null(Optional& array, const char* name, int64_t count) {
  return array ? out_vector<T>(*array, name, count) : nullptr;
}

// A matrix in one of the types that `gather` converts from.
struct SourceMatrix {
  const void* data;
  Source source;
  int64_t rows, row_stride, col_stride;
};

inline SourceMatrix source_matrix(const py::array& x, const char* name, int64_t cols) {
  const auto as = [&](auto number, Source source) -> SourceMatrix {
    const auto view = matrix<decltype(number)>(x, name, x.ndim() == 2 ? x.shape(0) : 0, cols);
    return {view.data, source, view.rows, view.row_stride, view.col_stride};
  };
  if (holds<uint8_t>(x)) {
    return as(uint8_t{}, Source::uint8);
  }
  if (holds<float>(x)) {
    return as(float{}, Source::float32);
  }
  if (holds<double>(x)) {
    return as(double{}, Source::float64);
  }
  refuse(name, "an array of uint8, float32 or float64");
}

// One number per column in the type that `gather` computes in, for a result of T; or null.
template <class T>
const void* column_vector(const Optional& array, const char* name, Source source, int64_t cols) {
  return source == Source::float64
             ? static_cast<const void*>(vector_or_null<double>(array, name, cols))
             : vector_or_null<T>(array, name, cols);
}

inline void check_rows_of(const int64_t* rows, int64_t count, int64_t limit) {
  for (int64_t i = 0; i < count; ++i) {
    if (rows[i] < 0 || rows[i] >= limit) {
      refuse("rows", "rows of x");
    }
  }
}

// Throws when the memory from the first to the last element of the two arrays meets.
inline void check_apart(const py::array& out, const py::array& in, const char* name) {
  const auto bounds = [](const py::array& array) {
    auto low = reinterpret_cast<std::intptr_t>(array.data()), high = low;
    for (py::ssize_t axis = 0; axis < array.ndim(); ++axis) {
      if (array.shape(axis) == 0) {
        return std::pair<std::intptr_t, std::intptr_t>{0, 0};
      }
      const std::intptr_t reach = (array.shape(axis) - 1) * array.strides(axis);
      (reach < 0 ? low : high) += reach;
    }
    return std::pair<std::intptr_t, std::intptr_t>{low, high + array.itemsize()};
  };
  const auto a = bounds(out), b = bounds(in);
  if (a.first < b.second && b.first < a.second) {
    refuse(name, "memory that no input shares");
  }
}

// Calls body.operator()<T>() for the array's dtype.
template <class Body>
auto with_dtype(const py::array& array, const char* name, Body&& body) {
  if (holds<float>(array)) {
    return body.template operator()<float>();
  }
  if (holds<double>(array)) {
    return body.template operator()<double>();
  }
  refuse(name, "an array of float32 or float64 in native byte order");
}

inline bool interpreter_is_ending() {
#if PY_VERSION_HEX >= 0x030d0000
  return Py_IsFinalizing();
#else
  return _Py_IsFinalizing();
#endif
}

// The interpreter is released while this lives. When another thread ends the interpreter meanwhile,
// this one waits for the end of the process, as CPython has it from 3.14 on: before, taking the
// interpreter back ended the thread by unwinding its stack, through destructors that may not throw
// (hence noexcept(false)) and that touch objects.
class Released {
 public:
  Released() : ending_(interpreter_is_ending()), state_(PyEval_SaveThread()) {}
  ~Released() noexcept(false) {
    while (!ending_ && interpreter_is_ending()) {
      std::this_thread::sleep_for(std::chrono::seconds(1));
    }
    PyEval_RestoreThread(state_);
  }
  Released(const Released&) = delete;
  Released& operator=(const Released&) = delete;

 private:
  bool ending_;  // by this very thread
  PyThreadState* state_;
};

// Value, gradient, clip, least, most.
using FormArguments = std::array<double, 5>;
inline LossForm form_of(const FormArguments& form) {
  return {form[0], form[1], form[2], form[3], form[4]};
}

// While it lives: the interpreter is released and the floating-point mode is ours.
class Computing {
 public:
  Computing() : context{num_threads(), nullptr, nullptr, nullptr} {}
  Context context;

 private:
  Released released_;
  FloatMode mode_;
};

}  // namespace fanin
