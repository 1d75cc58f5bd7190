// Inverted dropout: a = mask * scale * h, the mask one bit per element.
//
// An element is dropped when its 16 random bits (random.hpp) are below the threshold; scale is the
// reciprocal of the probability of keeping, so that the expectation of a is h. (Srivastava et al.,
// JMLR 15, 2014.)
#pragma once

#include "blocks.hpp"
#include "random.hpp"

namespace fanin {
namespace {

// The mask bits of one patch, 16 rows at a time; where there are fewer, their column has room.
inline void mask_patch(const Dropout& dropout, Patch patch, View<uint16_t> mask) {
  const auto c0 = uint32_t(dropout.col + patch.c0);
  for (int r = 0; r < patch.rows; r += 16) {
    const uint64_t r8 = uint64_t(dropout.row + patch.r0 + r) / 8;
    dropout_bits(dropout.seed, dropout.step, dropout.layer, r8, c0, dropout.threshold,
                 mask.at(patch.r0 + r, patch.c0 / patch_cols));
  }
}

// mask * scale * h, by the lowest bits.
template <class T>
FANIN_INLINE Vec<T> dropped(Vec<T> h, uint32_t bits, Vec<T> scale) {
  return select(mask_from_bits<T>(bits), h * scale, zero<T>());
}

void dropout_mask(const Context& context, const Dropout& dropout, int64_t rows, int64_t cols,
                  uint16_t* words) {
  const View<uint16_t> mask = mask_in(words, rows, cols);
  for_blocks(context, rows, cols, 0.2, [&](int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
    for (int64_t c = c0; c < c1; c += patch_cols) {
      mask_patch(dropout, {r0, c, int(r1 - r0), int(patch_cols)}, mask);
    }
  });
}

}  // namespace
}  // namespace fanin
