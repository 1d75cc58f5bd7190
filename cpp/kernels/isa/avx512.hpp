// The words on AVX-512 (F, DQ, BW, VL): 16 floats or 8 doubles, masks in their own registers.
#pragma once

// GCC 12's own header draws these warnings where it leaves a register undefined on purpose.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop

namespace fanin {
namespace {

constexpr int registers = 32;  // of vectors
constexpr bool has_fma = true;
constexpr bool has_exponent_words = true;  // scalef, getexp, getmant
#if !defined(__AVX512BF16__)               // avx512_bf16.hpp has them
constexpr bool has_bf16_products = false;
#endif

template <>
struct Vec<float> {
  __m512 v;
};
template <>
struct Vec<double> {
  __m512d v;
};
template <>
struct Mask<float> {
  __mmask16 m;
};
template <>
struct Mask<double> {
  __mmask8 m;
};
struct Words {
  __m512i v;
};
using VecF = Vec<float>;
using VecD = Vec<double>;
using MaskF = Mask<float>;
using MaskD = Mask<double>;

// ---- masks

template <class T>
FANIN_INLINE Mask<T> mask_from_bits(uint32_t lanes) {
  return {static_cast<decltype(Mask<T>::m)>(lanes)};
}
template <class T>
FANIN_INLINE uint32_t bits(Mask<T> a) {
  return a.m;
}
template <class T>
FANIN_INLINE Mask<T> operator&(Mask<T> a, Mask<T> b) {
  return mask_from_bits<T>(uint32_t(a.m) & b.m);
}
template <class T>
FANIN_INLINE Mask<T> operator|(Mask<T> a, Mask<T> b) {
  return mask_from_bits<T>(uint32_t(a.m) | b.m);
}
template <class T>
FANIN_INLINE Mask<T> operator~(Mask<T> a) {
  return mask_from_bits<T>(~uint32_t(a.m));
}

// ---- memory

FANIN_INLINE __mmask16 low16(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
FANIN_INLINE __mmask8 low8(int n) { return static_cast<__mmask8>((1u << n) - 1u); }

FANIN_INLINE VecF load(const float* p) { return {_mm512_loadu_ps(p)}; }
FANIN_INLINE VecD load(const double* p) { return {_mm512_loadu_pd(p)}; }
FANIN_INLINE VecF load_first(const float* p, int n) { return {_mm512_maskz_loadu_ps(low16(n), p)}; }
FANIN_INLINE VecD load_first(const double* p, int n) { return {_mm512_maskz_loadu_pd(low8(n), p)}; }
FANIN_INLINE void store(float* p, VecF x) { _mm512_storeu_ps(p, x.v); }
FANIN_INLINE void store(double* p, VecD x) { _mm512_storeu_pd(p, x.v); }
FANIN_INLINE void store_first(float* p, VecF x, int n) { _mm512_mask_storeu_ps(p, low16(n), x.v); }
FANIN_INLINE void store_first(double* p, VecD x, int n) { _mm512_mask_storeu_pd(p, low8(n), x.v); }
FANIN_INLINE VecF broadcast_lanes(float x) { return {_mm512_set1_ps(x)}; }
FANIN_INLINE VecD broadcast_lanes(double x) { return {_mm512_set1_pd(x)}; }

// ---- arithmetic

FANIN_INLINE VecF fma(VecF a, VecF b, VecF c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
FANIN_INLINE VecD fma(VecD a, VecD b, VecD c) { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }
FANIN_INLINE VecF fnma(VecF a, VecF b, VecF c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
FANIN_INLINE VecD fnma(VecD a, VecD b, VecD c) { return {_mm512_fnmadd_pd(a.v, b.v, c.v)}; }
FANIN_INLINE VecF sqrt(VecF x) { return {_mm512_sqrt_ps(x.v)}; }
FANIN_INLINE VecD sqrt(VecD x) { return {_mm512_sqrt_pd(x.v)}; }
FANIN_INLINE VecF abs(VecF x) { return {_mm512_andnot_ps(_mm512_set1_ps(-0.0f), x.v)}; }
FANIN_INLINE VecD abs(VecD x) { return {_mm512_andnot_pd(_mm512_set1_pd(-0.0), x.v)}; }
FANIN_INLINE VecF copysign(VecF magnitude, VecF sign) {  // 0xca: sign bit ? sign : magnitude
  const __m512i at = _mm512_set1_epi32(INT32_MIN);
  return {_mm512_castsi512_ps(_mm512_ternarylogic_epi32(at, _mm512_castps_si512(sign.v),
                                                        _mm512_castps_si512(magnitude.v), 0xca))};
}
FANIN_INLINE VecD copysign(VecD magnitude, VecD sign) {
  const __m512i at = _mm512_set1_epi64(INT64_MIN);
  return {_mm512_castsi512_pd(_mm512_ternarylogic_epi64(at, _mm512_castpd_si512(sign.v),
                                                        _mm512_castpd_si512(magnitude.v), 0xca))};
}
FANIN_INLINE VecF round(VecF x) { return {_mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT)}; }
FANIN_INLINE VecD round(VecD x) { return {_mm512_roundscale_pd(x.v, _MM_FROUND_TO_NEAREST_INT)}; }
FANIN_INLINE VecF min(VecF a, VecF b) { return {_mm512_min_ps(a.v, b.v)}; }
FANIN_INLINE VecD min(VecD a, VecD b) { return {_mm512_min_pd(a.v, b.v)}; }
FANIN_INLINE VecF max(VecF a, VecF b) { return {_mm512_max_ps(a.v, b.v)}; }
FANIN_INLINE VecD max(VecD a, VecD b) { return {_mm512_max_pd(a.v, b.v)}; }

FANIN_INLINE VecF scale_word(VecF x, VecF n) { return {_mm512_scalef_ps(x.v, n.v)}; }
FANIN_INLINE VecD scale_word(VecD x, VecD n) { return {_mm512_scalef_pd(x.v, n.v)}; }
FANIN_INLINE void split_word(VecF x, VecF& mantissa, VecF& exponent) {
  mantissa.v = _mm512_getmant_ps(x.v, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src);
  exponent.v = _mm512_getexp_ps(x.v);
}
FANIN_INLINE void split_word(VecD x, VecD& mantissa, VecD& exponent) {
  mantissa.v = _mm512_getmant_pd(x.v, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src);
  exponent.v = _mm512_getexp_pd(x.v);
}

// ---- comparison and choice

FANIN_INLINE MaskF operator<(VecF a, VecF b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
FANIN_INLINE MaskD operator<(VecD a, VecD b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_LT_OQ)}; }
FANIN_INLINE MaskF operator<=(VecF a, VecF b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
FANIN_INLINE MaskD operator<=(VecD a, VecD b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_LE_OQ)}; }
FANIN_INLINE MaskF operator==(VecF a, VecF b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
FANIN_INLINE MaskD operator==(VecD a, VecD b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_EQ_OQ)}; }
FANIN_INLINE MaskF is_nan(VecF x) { return {_mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q)}; }
FANIN_INLINE MaskD is_nan(VecD x) { return {_mm512_cmp_pd_mask(x.v, x.v, _CMP_UNORD_Q)}; }
FANIN_INLINE VecF select(MaskF m, VecF a, VecF b) { return {_mm512_mask_blend_ps(m.m, b.v, a.v)}; }
FANIN_INLINE VecD select(MaskD m, VecD a, VecD b) { return {_mm512_mask_blend_pd(m.m, b.v, a.v)}; }

// ---- transpose

FANIN_INLINE void transpose(VecD (&r)[8]) {
  __m512d t[8], u[8];
  for (int i = 0; i < 8; i += 2) {  // pairs of columns
    t[i] = _mm512_unpacklo_pd(r[i].v, r[i + 1].v);
    t[i + 1] = _mm512_unpackhi_pd(r[i].v, r[i + 1].v);
  }
  for (int i = 0; i < 2; ++i) {  // quarters of 128 bits: rows i and i + 2 of each half
    for (int h = 0; h < 2; ++h) {
      const __m512d a = t[4 * h + i], b = t[4 * h + i + 2];
      u[4 * h + i] = _mm512_shuffle_f64x2(a, b, 0x88);
      u[4 * h + i + 2] = _mm512_shuffle_f64x2(a, b, 0xdd);
    }
  }
  for (int i = 0; i < 4; ++i) {  // u[i]: columns c and c + 4 where c = i % 2 + 2 * (i / 2)
    r[i].v = _mm512_shuffle_f64x2(u[i], u[i + 4], 0x88);
    r[i + 4].v = _mm512_shuffle_f64x2(u[i], u[i + 4], 0xdd);
  }
}
FANIN_INLINE void transpose(VecF (&r)[16]) {
  __m512 t[16], u[16];
  for (int i = 0; i < 16; i += 4) {  // 4x4 blocks inside the quarters of 128 bits
    const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(r[i].v, r[i + 1].v));
    const __m512d b = _mm512_castps_pd(_mm512_unpackhi_ps(r[i].v, r[i + 1].v));
    const __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(r[i + 2].v, r[i + 3].v));
    const __m512d d = _mm512_castps_pd(_mm512_unpackhi_ps(r[i + 2].v, r[i + 3].v));
    t[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
    t[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
    t[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
    t[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
  }
  for (int h = 0; h < 16; h += 8) {
    for (int i = 0; i < 4; ++i) {  // even and odd quarters
      u[h + i] = _mm512_shuffle_f32x4(t[h + i], t[h + i + 4], 0x88);
      u[h + i + 4] = _mm512_shuffle_f32x4(t[h + i], t[h + i + 4], 0xdd);
    }
  }
  for (int i = 0; i < 8; ++i) {
    r[i].v = _mm512_shuffle_f32x4(u[i], u[i + 8], 0x88);
    r[i + 8].v = _mm512_shuffle_f32x4(u[i], u[i + 8], 0xdd);
  }
}

// ---- uint32 lanes

FANIN_INLINE Words set_words(uint32_t x) { return {_mm512_set1_epi32(static_cast<int>(x))}; }
FANIN_INLINE Words iota() {
  return {_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)};
}
FANIN_INLINE void store(uint32_t* p, Words a) { _mm512_storeu_si512(p, a.v); }
FANIN_INLINE Words operator+(Words a, Words b) { return {_mm512_add_epi32(a.v, b.v)}; }
FANIN_INLINE Words operator^(Words a, Words b) { return {_mm512_xor_si512(a.v, b.v)}; }
template <int k>
FANIN_INLINE Words shift_left(Words a) {
  return {_mm512_slli_epi32(a.v, k)};
}
// a * b = hi * 2^32 + lo, lane by lane.
FANIN_INLINE void multiply_wide(Words a, uint32_t b, Words& hi, Words& lo) {
  const __m512i factor = _mm512_set1_epi32(static_cast<int>(b));
  const __m512i even = _mm512_mul_epu32(a.v, factor);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(a.v, 32), factor);
  // The lower word of each odd product goes to its upper lane, the upper one of each even product
  // to its lower: 0xa0 and 0xf5 repeat the lower and the upper words of pairs.
  lo.v = _mm512_mask_shuffle_epi32(even, 0xaaaa, odd, _MM_PERM_ENUM(0xa0));
  hi.v = _mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_ENUM(0xf5));
}
FANIN_INLINE uint32_t bits_at_least(Words a, Words b) { return _mm512_cmpge_epu32_mask(a.v, b.v); }

}  // namespace
}  // namespace fanin
