// The words on AVX-512 with BF16: those of AVX-512, and instructions for pairs of bfloat16.
#pragma once

#include "avx512.hpp"

namespace fanin {
namespace {

constexpr bool has_bf16_products = true;

// 32 bfloat16, in order.
FANIN_INLINE __m512i round_word(VecF first, VecF second) {
  return (__m512i)_mm512_cvtne2ps_pbh(second.v, first.v);
}
FANIN_INLINE __m512i round_pairs_word(VecF even, VecF odd) {
  const __m512i places = _mm512_add_epi32(_mm512_mullo_epi32(set_words(0x00010001).v, iota().v),
                                          _mm512_set1_epi32(16 << 16));  // 16 + i above, i below
  return _mm512_permutexvar_epi16(places, round_word(even, odd));
}
FANIN_INLINE VecF add_products_word(VecF sum, __m512i a, __m512i b) {
  return {_mm512_dpbf16_ps(sum.v, (__m512bh)a, (__m512bh)b)};
}

}  // namespace
}  // namespace fanin
