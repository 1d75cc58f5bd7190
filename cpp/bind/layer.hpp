// What a layer's functions take besides arrays, on the CPU and on CUDA devices alike.
#pragma once

#include <tuple>

#include "../core/ops.hpp"
#include "arrays.hpp"

namespace fanin {

inline Activation activation_of(int kind) {
  if (kind < 0 || kind >= activation_count) {
    refuse("activation", "a number of an activation");
  }
  return Activation(kind);
}

// (threshold, seed, step, layer)
using DropoutArguments = std::tuple<uint32_t, uint64_t, uint64_t, uint32_t>;

inline Dropout dropout_of(const DropoutArguments& arguments) {
  const auto [threshold, seed, step, layer] = arguments;
  if (threshold > 65535) {
    refuse("threshold", "a number in [0, 65536)");
  }
  return {threshold, seed, step, layer};
}

// `data`, from out_vector or vector, as a matrix of contiguous rows.
template <class T>
View<T> as_matrix(T* data, int64_t rows, int64_t cols) {
  return rows_of(data, rows, cols, cols);
}

}  // namespace fanin
