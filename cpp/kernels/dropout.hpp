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

// The mask bits of one patch, into `bits` (one word a row) and into the mask of the matrix.
inline void mask_patch(const Dropout& dropout, Patch patch, View<uint16_t> mask, uint16_t* bits) {
  for (int r = 0; r < patch.rows;) {
    const uint64_t r8 = uint64_t(dropout.row + patch.r0 + r) / 8;
    const auto c0 = uint32_t(dropout.col + patch.c0);
    if (patch.rows - r > 8) {
      dropout_bits<2>(dropout.seed, dropout.step, dropout.layer, r8, c0, dropout.threshold,
                      bits + r);
      r += 16;
    } else {
      dropout_bits(dropout.seed, dropout.step, dropout.layer, r8, c0, dropout.threshold, bits + r);
      r += 8;
    }
  }
  for (int r = 0; r < patch.rows; ++r) {
    *mask.at(patch.r0 + r, patch.c0 / patch_cols) = bits[r];
  }
}

// a = mask * scale * h for one patch.
template <class T>
void drop_patch(Patch patch, const T* h, int64_t h_row, const uint16_t* bits, T scale, T* a,
                int64_t a_row) {
  for_vectors<T>(patch.cols, [&](int c, int lanes) {
    for (int r = 0; r < patch.rows; ++r) {
      const Vec<T> kept = load_lanes(h + r * h_row + c, lanes) * broadcast(scale);
      const Mask<T> keep = mask_from_bits<T>(uint32_t(bits[r]) >> c);
      store_lanes(a + r * a_row + c, select(keep, kept, zero<T>()), lanes);
    }
  });
}

void dropout_mask(const Context& context, const Dropout& dropout, int64_t rows, int64_t cols,
                  uint16_t* words) {
  const View<uint16_t> mask = rows_of(words, rows, mask_words(cols), mask_words(cols));
  for_blocks(context, rows, cols, 0.2, [&](int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
    alignas(64) uint16_t bits[row_block];
    for (int64_t c = c0; c < c1; c += patch_cols) {
      mask_patch(dropout, {r0, c, int(r1 - r0), int(patch_cols)}, mask, bits);
    }
  });
}

}  // namespace
}  // namespace fanin
