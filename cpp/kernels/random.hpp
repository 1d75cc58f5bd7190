// Philox4x32-10 on vectors: words_width blocks at once. Counter, key and streams: core/random.hpp.
//
//     dropout_bits    which elements of a patch of 16 rows x 16 columns are kept
//     random_words    64-bit words, for initialisation and shuffling
//     philox_blocks   bare blocks, for tests
//
// Integers only: the same bits on every instruction set. Memory: each writes its output, no more.
#pragma once

#include "../core/ops.hpp"
#include "../core/random.hpp"
#include "isa.hpp"

namespace fanin {
namespace {

// Vectors of blocks in step with one another: a round is a chain of dependent operations, and two
// chains hide each other's latency (ns per element of a mask, Zen 5, with one and with two chains:
// AVX-512 0.16 and 0.08, AVX2 0.42 and 0.24, SSE2 0.84 and 0.56).
template <int vectors>
FANIN_INLINE void philox(Words (&c)[vectors][4], uint32_t key0, uint32_t key1) {
  Words k0 = set_words(key0), k1 = set_words(key1);
#pragma GCC unroll 10
  for (int i = 0; i < philox_rounds; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      Words hi0, lo0, hi1, lo1;
      multiply_wide(c[v][0], philox_multiply[0], hi0, lo0);
      multiply_wide(c[v][2], philox_multiply[1], hi1, lo1);
      c[v][0] = hi1 ^ c[v][1] ^ k0;
      c[v][1] = lo1;
      c[v][2] = hi0 ^ c[v][3] ^ k1;
      c[v][3] = lo0;
    }
    k0 = k0 + set_words(philox_weyl[0]);
    k1 = k1 + set_words(philox_weyl[1]);
  }
}

// A patch of 16 rows x 16 columns: rows 8 r8 and on, columns c0 and on, c0 a multiple of 16. Bit c
// of out[i] is set where element (8 r8 + i, c0 + c) is kept. Block (c0 + c, r8 + p) has 16
// random bits for each of 8 rows, 8 p and on: the first four take the low halves of its words, the
// other four the high halves. An element is dropped when its bits are below the threshold (0: none
// is; 65535: all are but one in 65536).
inline void dropout_bits(uint64_t seed, uint64_t step, uint32_t layer, uint64_t r8, uint32_t c0,
                         uint32_t threshold, uint16_t* out) {
  constexpr int vectors = 16 / words_width;  // of blocks, for 8 rows
  constexpr int together = 2;
  const Words limit = set_words(threshold << 16);
  uint32_t kept[16] = {};
  for (int first = 0; first < 2 * vectors; first += together) {
    Words w[together][4];
    for (int v = 0; v < together; ++v) {
      const int p = (first + v) / vectors, c = (first + v) % vectors * words_width;
      w[v][0] = set_words(c0 + uint32_t(c)) + iota();
      w[v][1] = set_words(uint32_t(r8) + uint32_t(p));
      w[v][2] = set_words(philox_c2(step, layer, stream_dropout));
      w[v][3] = set_words(uint32_t(step));
    }
    philox(w, uint32_t(seed), uint32_t(seed >> 32));
    for (int v = 0; v < together; ++v) {
      const int p = (first + v) / vectors, c = (first + v) % vectors * words_width;
      for (int j = 0; j < 4; ++j) {
        // compared as the high half of a word; the other half does not change the answer
        kept[8 * p + j] |= bits_at_least(shift_left<16>(w[v][j]), limit) << c;
        kept[8 * p + j + 4] |= bits_at_least(w[v][j], limit) << c;
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    out[i] = uint16_t(kept[i]);
  }
}

// out[i][j] = word j of block i of words_width, whose counters differ in c0: first, first + 1, ...
FANIN_INLINE void philox_rows(const uint32_t counter[4], uint32_t k0, uint32_t k1,
                              uint32_t (&out)[words_width][4]) {
  uint32_t word[4][words_width];
  Words w[1][4] = {{set_words(counter[0]) + iota(), set_words(counter[1]), set_words(counter[2]),
                    set_words(counter[3])}};
  philox(w, k0, k1);
  for (int j = 0; j < 4; ++j) {
    store(word[j], w[0][j]);
  }
  for (int i = 0; i < words_width; ++i) {
    for (int j = 0; j < 4; ++j) {
      out[i][j] = word[j][i];
    }
  }
}

// out (count, 4): the blocks of counters c, c + (1, 0, 0, 0), ...; the first word wraps.
inline void philox_blocks(const uint32_t counter[4], const uint32_t key[2], int64_t count,
                          uint32_t* out) {
  uint32_t rows[words_width][4];
  for (int64_t first = 0; first < count; first += words_width) {
    const uint32_t c[4] = {counter[0] + uint32_t(first), counter[1], counter[2], counter[3]};
    philox_rows(c, key[0], key[1], rows);
    for (int i = 0; i < words_width && first + i < count; ++i) {
      for (int j = 0; j < 4; ++j) {
        out[4 * (first + i) + j] = rows[i][j];
      }
    }
  }
}

// out (count): the words start ... start + count - 1 of (seed, step, layer) in a stream.
inline void random_words(const Context&, uint64_t seed, uint64_t step, uint32_t layer,
                         uint32_t stream, int64_t start, int64_t count, uint64_t* out) {
  uint32_t rows[words_width][4];
  const int64_t end = start + count;
  // Vectors begin at multiples of their width: c0 then does not overflow within one.
  constexpr int per_vector = 2 * words_width;
  for (int64_t e = start / per_vector * per_vector; e < end; e += per_vector) {
    const uint64_t place = uint64_t(e) / 2;
    const uint32_t c[4] = {uint32_t(place), uint32_t(place >> 32), philox_c2(step, layer, stream),
                           uint32_t(step)};
    philox_rows(c, uint32_t(seed), uint32_t(seed >> 32), rows);
    for (int i = 0; i < per_vector; ++i) {
      if (e + i >= start && e + i < end) {
        const uint32_t* w = rows[i / 2] + 2 * (i % 2);
        out[e + i - start] = w[0] | uint64_t(w[1]) << 32;
      }
    }
  }
}

}  // namespace
}  // namespace fanin
