// A matrix that somebody else owns: a pointer, two sizes and two strides.
//
// Strides count elements and may be zero or negative, so a transposed, reversed, sliced or
// broadcast NumPy array is one of these without a copy. Members are always inlined: an object
// compiled for one instruction set must not export a function that others might be linked to.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#pragma nv_diag_suppress 554  // a view of constants has no use for the conversion to one
#endif

namespace fanin {

// Rows [r0, r1) and columns [c0, c1) of a matrix.
struct Block {
  int64_t r0, r1, c0, c1;
};

template <class T>
struct View {
  T* data;
  int64_t rows, cols;
  int64_t row_stride, col_stride;

  [[gnu::always_inline]] constexpr T* at(int64_t row, int64_t col) const {
    return data + row * row_stride + col * col_stride;
  }
  // A part of it. No memory at all stays none.
  [[gnu::always_inline]] constexpr View block(Block b) const {
    return {data != nullptr ? at(b.r0, b.c0) : nullptr, b.r1 - b.r0, b.c1 - b.c0, row_stride,
            col_stride};
  }
  [[gnu::always_inline]] constexpr View row_range(int64_t r0, int64_t r1) const {
    return block({r0, r1, 0, cols});
  }
  [[gnu::always_inline]] constexpr View col_range(int64_t c0, int64_t c1) const {
    return block({0, rows, c0, c1});
  }
  [[gnu::always_inline]] constexpr View transposed() const {
    return {data, cols, rows, col_stride, row_stride};
  }
  [[gnu::always_inline]] constexpr operator View<const T>() const {
    return {data, rows, cols, row_stride, col_stride};
  }
};

// Rows that lie one after the other, `stride` elements apart, each contiguous.
template <class T>
static constexpr View<T> rows_of(T* data, int64_t rows, int64_t cols, int64_t stride) {
  return {data, rows, cols, stride, 1};
}

}  // namespace fanin
