// The one place where an array on a CUDA device becomes a View, and where what would be unsafe is
// refused; what arrays.hpp is for NumPy's. Arrays come from any library that speaks DLPack, and go
// back that way; nothing is copied.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <memory>
#include <string>
#include <vector>

#include "../cuda/device.hpp"
#include "arrays.hpp"

namespace fanin::cuda {

// Types of elements; the names are NumPy's, and ml_dtypes' bfloat16.
enum class Type : int {
  float32,
  float64,
  bfloat16,
  float16,
  int64,
  int32,
  int16,
  int8,
  uint64,
  uint32,
  uint16,
  uint8,
  boolean,
};
constexpr int type_count = 13;
const char* name_of(Type type);
int64_t bytes_of(Type type);
Type type_of(const std::string& name);  // throws when there is none

template <class T>
constexpr Type type_for() {
  if constexpr (std::is_same_v<T, float>) {
    return Type::float32;
  } else if constexpr (std::is_same_v<T, double>) {
    return Type::float64;
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return Type::bfloat16;
  } else if constexpr (std::is_same_v<T, __half>) {
    return Type::float16;
  } else if constexpr (std::is_same_v<T, int64_t>) {
    return Type::int64;
  } else if constexpr (std::is_same_v<T, int32_t>) {
    return Type::int32;
  } else if constexpr (std::is_same_v<T, int16_t>) {
    return Type::int16;
  } else if constexpr (std::is_same_v<T, int8_t>) {
    return Type::int8;
  } else if constexpr (std::is_same_v<T, uint32_t>) {
    return Type::uint32;
  } else if constexpr (std::is_same_v<T, uint64_t>) {
    return Type::uint64;
  } else if constexpr (std::is_same_v<T, uint16_t>) {
    return Type::uint16;
  } else if constexpr (std::is_same_v<T, uint8_t>) {
    return Type::uint8;
  } else {
    static_assert(std::is_same_v<T, bool>);
    return Type::boolean;
  }
}

// Whose memory it is: another library's, held through DLPack, or ours.
class Owner;

struct Array {
  void* data;
  std::vector<int64_t> shape, strides;  // in elements
  Type type;
  int device;
  bool read_only;
  std::shared_ptr<Owner> owner;

  int64_t size() const {
    int64_t count = 1;
    for (const int64_t n : shape) {
      count *= n;
    }
    return count;
  }
  int ndim() const { return int(shape.size()); }
  bool contiguous() const;  // row after row
  // The same memory in another shape, of a contiguous array; a vector as (n, 1); a matrix with its
  // axes exchanged.
  Array reshaped(std::vector<int64_t> to) const;
  Array as_column() const;
  Array transposed() const;
};

// Contiguous, of ours, with anything in it; its memory belongs to `stream`, which must outlive it.
Array empty(std::vector<int64_t> shape, Type type, void* stream);

// What `object.__dlpack__` gives, ready for what is queued on `stream` from now on.
Array from_dlpack(py::handle object, const char* name, void* stream);

// The capsule for another library, which will use it on its `stream` (DLPack's numbers, or None).
py::object to_dlpack(const Array& array, void* home, const py::object& stream, bool versioned);

// ---- checks --------------------------------------------------------------------------------

inline std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  }
  return text + (shape.size() == 1 ? ",)" : ")");
}

template <class T>
void check_elements(const Array& array, const char* name) {
  if (array.type != type_for<T>()) {
    refuse(name,
           std::string("an array of ") + name_of(type_for<T>()) + ", got " + name_of(array.type));
  }
  if (reinterpret_cast<std::uintptr_t>(array.data) % sizeof(T) != 0) {
    refuse(name, "aligned memory");
  }
  if (array.device != current_device()) {
    refuse(name, "an array on CUDA device " + std::to_string(current_device()) + " like the first");
  }
}

template <class T>
View<const T> matrix(const Array& array, const char* name) {
  check_elements<T>(array, name);
  if (array.ndim() != 2) {
    refuse(name, "2 dimensions");
  }
  const int64_t rows = array.shape[0], cols = array.shape[1];
  const bool empty = rows == 0 || cols == 0;
  const int64_t col_stride = cols > 1 && !empty ? array.strides[1] : 1;
  const int64_t alone = col_stride == 1 ? cols : 1;  // one row: contiguous whichever way it lies
  const int64_t row_stride = rows > 1 && !empty ? array.strides[0] : alone;
  return {static_cast<const T*>(array.data), rows, cols, row_stride, col_stride};
}

template <class T>
View<const T> matrix(const Array& array, const char* name, int64_t rows, int64_t cols) {
  const View<const T> view = matrix<T>(array, name);
  if (view.rows != rows || view.cols != cols) {
    refuse(name, "shape " + shape_text({rows, cols}) + ", got " + shape_text(array.shape));
  }
  return view;
}

template <class T>
View<const T> rows_matrix(const Array& array, const char* name, int64_t rows, int64_t cols) {
  const View<const T> view = matrix<T>(array, name, rows, cols);
  if (view.col_stride != 1) {
    refuse(name, "contiguous rows");
  }
  return view;
}

template <class T>
View<T> writable(View<const T> view, const Array& array, const char* name) {
  if (array.read_only) {
    refuse(name, "a writeable array");
  }
  const View<T> out{const_cast<T*>(view.data), view.rows, view.cols, view.row_stride,
                    view.col_stride};
  if (view.rows == 0 || view.cols == 0) {
    return out;
  }
  const bool by_rows =
      (view.cols <= 1 || view.col_stride == 1) && (view.rows <= 1 || view.row_stride >= view.cols);
  const bool by_cols =
      (view.rows <= 1 || view.row_stride == 1) && (view.cols <= 1 || view.col_stride >= view.rows);
  if (!by_rows && !by_cols) {
    refuse(name, "contiguous rows or columns, and no element twice");
  }
  return out;
}

template <class T>
View<T> out_matrix(const Array& array, const char* name, int64_t rows, int64_t cols) {
  return writable(rows_matrix<T>(array, name, rows, cols), array, name);
}

template <class T>
const T* vector(const Array& array, const char* name, int64_t count) {
  check_elements<T>(array, name);
  if (array.ndim() != 1 || array.shape[0] != count) {
    refuse(name, "shape " + shape_text({count}) + ", got " + shape_text(array.shape));
  }
  if (count > 1 && array.strides[0] != 1) {
    refuse(name, "a contiguous array");
  }
  return static_cast<const T*>(array.data);
}

template <class T>
T* out_vector(const Array& array, const char* name, int64_t count) {
  if (array.read_only) {
    refuse(name, "a writeable array");
  }
  return const_cast<T*>(vector<T>(array, name, count));
}

template <class T>
const T* vector_or_null(const Array* array, const char* name, int64_t count) {
  return array != nullptr ? vector<T>(*array, name, count) : nullptr;
}

template <class T>
T* out_vector_or_null(const Array* array, const char* name, int64_t count) {
  return array != nullptr ? out_vector<T>(*array, name, count) : nullptr;
}

// Throws when the memory from the first to the last element of the two arrays meets.
void check_apart(const Array& out, const Array& in, const char* name);

// Calls body.operator()<T>() for the array's type, on its device.
template <class Body>
auto with_dtype(const Array& array, const char* name, Body&& body) {
  const OnDevice device(array.device);
  switch (array.type) {
    case Type::float32:
      return body.template operator()<float>();
    case Type::float64:
      return body.template operator()<double>();
    case Type::bfloat16:
      return body.template operator()<__nv_bfloat16>();
    case Type::float16:
      return body.template operator()<__half>();
    default:
      refuse(name, std::string("an array of float32, float64, bfloat16 or float16, got ") +
                       name_of(array.type));
  }
}

void bind_array(py::module_& module);

}  // namespace fanin::cuda
