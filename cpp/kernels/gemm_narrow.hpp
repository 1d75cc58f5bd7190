// out = x @ w where w has few columns, as of a layer with one output: x (m, k) with contiguous
// rows, w (k, n) with any strides, out (m, n) with contiguous rows.
//
// Columns of out would fill a small part of a vector, so lanes are rows: squares of W x W elements
// of x are turned in registers. The sums are those of gemm.hpp.
#pragma once

#include "blocks.hpp"

namespace fanin {
namespace {

// Columns with which that is less work: to turn a square takes log2(W) instructions for each k,
// more than short vectors have to gain.
template <class T>
constexpr int most_narrow = width<T> >= 8 ? width<T> / 4 : 0;

// The product for `rows` rows from r0 on, W at most.
template <class T, int N>
void narrow_rows(View<const T> x, View<const T> w, View<T> out, int64_t r0, int rows) {
  constexpr int W = width<T>;
  Vec<T> total[W];  // of N columns
#pragma GCC unroll 16
  for (int c = 0; c < W; ++c) {
    total[c] = zero<T>();
  }
  for (int64_t k0 = 0; k0 < x.cols; k0 += product_block) {
    const int64_t k1 = k0 + product_block < x.cols ? k0 + product_block : x.cols;
    Vec<T> sum[N];
#pragma GCC unroll 16
    for (int c = 0; c < N; ++c) {
      sum[c] = zero<T>();
    }
    const auto add_product = [&](Vec<T> x_column, int64_t k) __attribute__((always_inline)) {
#pragma GCC unroll 16
      for (int c = 0; c < N; ++c) {
        sum[c] = fma(x_column, broadcast(*w.at(k, c)), sum[c]);
      }
    };
    int64_t k = k0;
    for (; rows == W && k + W <= k1; k += W) {
      Vec<T> square[W];
#pragma GCC unroll 16
      for (int r = 0; r < W; ++r) {
        square[r] = load(x.at(r0 + r, k));
      }
      transpose(square);
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) {
        add_product(square[i], k + i);
      }
    }
    for (; k < k1; k += W) {
      const int depth = int(k1 - k < W ? k1 - k : W);
      Vec<T> square[W];
      for (int r = 0; r < W; ++r) {
        square[r] = r < rows ? load_first(x.at(r0 + r, k), depth) : zero<T>();
      }
      transpose(square);
      for (int i = 0; i < depth; ++i) {
        add_product(square[i], k + i);
      }
    }
#pragma GCC unroll 16
    for (int c = 0; c < N; ++c) {
      total[c] = k0 == 0 ? sum[c] : total[c] + sum[c];
    }
  }
  transpose(total);
  for (int r = 0; r < rows; ++r) {
    store_first(out.at(r0 + r, 0), total[r], N);
  }
}

template <class T, int N = 1>
void narrow_product(View<const T> x, View<const T> w, View<T> out) {
  if constexpr (N <= most_narrow<T>) {
    if (w.cols > N) {
      narrow_product<T, N + 1>(x, w, out);
      return;
    }
    for (int64_t r = 0; r < x.rows; r += width<T>) {
      narrow_rows<T, N>(x, w, out, r, int(x.rows - r < width<T> ? x.rows - r : width<T>));
    }
  }
}

}  // namespace
}  // namespace fanin
