// Inverted dropout: which elements are kept, from the same bits of Philox as on the CPU.
//
// Block (c, r / 8) has 16 random bits for each of 8 rows of column c: row i of them takes the low
// half of word i for i < 4, the high half of word i - 4 from there. An element is dropped when its
// bits are below the threshold (kernels/random.hpp).
#pragma once

#include "random.cuh"

namespace fanin::cuda {

// What of a Dropout is the same for all elements.
struct DropoutKey {
  uint32_t threshold, c2, c3, k0, k1;
};

// The step is `state`'s, where there is one.
__device__ __forceinline__ DropoutKey key_of(const Dropout& dropout, const StepState* state) {
  const uint64_t step = state != nullptr ? state->step : dropout.step;
  return {dropout.threshold, philox_c2(step, dropout.layer, stream_dropout), uint32_t(step),
          uint32_t(dropout.seed), uint32_t(dropout.seed >> 32)};
}

// Bit i is set where row 8 r8 + i of column c of the layer is kept.
__device__ __forceinline__ uint32_t kept_rows(const DropoutKey& key, uint32_t c, uint32_t r8) {
  const PhiloxBlock random = philox(c, r8, key.c2, key.c3, key.k0, key.k1);
  uint32_t kept = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    kept |= uint32_t((random.w[i] & 0xFFFF) >= key.threshold) << i;
    kept |= uint32_t((random.w[i] >> 16) >= key.threshold) << (i + 4);
  }
  return kept;
}

// Of `columns` columns from c on: bit 8 j + i is set where row i of column c + j is kept. Two
// chains of Philox at a time hide each other's latency; more would take many registers.
template <int columns>
__device__ __forceinline__ uint64_t kept_patch(const DropoutKey& key, uint32_t c, uint32_t r8) {
  uint64_t kept = 0;
#pragma unroll 2
  for (int j = 0; j < columns; ++j) {
    kept |= uint64_t(kept_rows(key, c + uint32_t(j), r8)) << (8 * j);
  }
  return kept;
}

// Writes the mask of 8 rows, from `r` on, of which those of the mask are written. The lanes of a
// warp hold a kept_patch of `columns` columns each, side by side, and 16 / columns lanes that
// follow one another a word of the mask: all lanes must come. `c` is the lane's first column.
template <int columns>
__device__ __forceinline__ void store_mask(uint64_t kept, View<uint16_t> mask, int64_t r,
                                           int64_t c) {
  constexpr int lanes = 16 / columns;
  const int lane = int(c % 16) / columns;
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {  // rows 2 pair and 2 pair + 1, in the halves of a word
    uint32_t words = 0;
#pragma unroll
    for (int j = 0; j < columns; ++j) {
      const uint32_t two = uint32_t(kept >> (8 * j + 2 * pair));
      words |= ((two & 1) | (two >> 1 & 1) << 16) << j;
    }
    words <<= lane * columns;
#pragma unroll
    for (int away = 1; away < lanes; away *= 2) {
      words |= __shfl_xor_sync(all_lanes, words, away);
    }
    if (lane == pair % lanes && c / 16 < mask.cols) {
      if (r + 2 * pair < mask.rows) {
        *mask.at(r + 2 * pair, c / 16) = uint16_t(words);
      }
      if (r + 2 * pair + 1 < mask.rows) {
        *mask.at(r + 2 * pair + 1, c / 16) = uint16_t(words >> 16);
      }
    }
  }
}

}  // namespace fanin::cuda
