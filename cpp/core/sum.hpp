// Sums of doubles in the canonical order: 16 lanes, then a tree (core/ops.hpp).
#pragma once

#include <cstdint>

namespace fanin {

// Sum of 16 lanes, numbers or vectors, as a tree: 8 + 8, 4 + 4, 2 + 2, 1 + 1. `half` is a constant
// so that no loop is left.
template <int half = 8, class T>
[[gnu::always_inline]] static inline T tree_sum(T (&lane)[16]) {
  for (int l = 0; l < half; ++l) {
    lane[l] = lane[l] + lane[l + half];
  }
  if constexpr (half > 1) {
    return tree_sum<half / 2>(lane);
  }
  return lane[0];
}

static inline double sum_of(const double* x, int64_t n) {
  double lane[16] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int l = 0; l < 16; ++l) {
      lane[l] += x[i + l];
    }
  }
  for (int l = 0; i + l < n; ++l) {
    lane[l] += x[i + l];
  }
  return tree_sum(lane);
}

}  // namespace fanin
