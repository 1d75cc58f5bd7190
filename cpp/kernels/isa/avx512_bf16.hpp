// The words on AVX-512 with BF16: those of AVX-512, and instructions for pairs of bfloat16.
#pragma once

#include "avx512.hpp"

namespace fanin {
namespace {

constexpr bool has_bf16_products = true;

FANIN_INLINE __m512i round_pairs_word(VecF even, VecF odd) {
  const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(even.v));
  const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(odd.v));
  return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}
FANIN_INLINE VecF add_products_word(VecF sum, __m512i a, __m512i b) {
  return {_mm512_dpbf16_ps(sum.v, (__m512bh)a, (__m512bh)b)};
}

}  // namespace
}  // namespace fanin
