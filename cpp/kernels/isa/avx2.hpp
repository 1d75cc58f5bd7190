// The words on AVX2 with FMA: 8 floats or 4 doubles, masks as lanes of ones.
#pragma once

#include <immintrin.h>

namespace fanin {
namespace {

constexpr int registers = 16;  // of vectors
constexpr bool has_fma = true;
constexpr bool has_exponent_words = false;
constexpr bool has_bf16_products = false;

template <>
struct Vec<float> {
  __m256 v;
};
template <>
struct Vec<double> {
  __m256d v;
};
template <>
struct Mask<float> {
  __m256 m;
};
template <>
struct Mask<double> {
  __m256d m;
};
struct Words {
  __m256i v;
};
using VecF = Vec<float>;
using VecD = Vec<double>;
using MaskF = Mask<float>;
using MaskD = Mask<double>;

// ---- masks

template <class T>
FANIN_INLINE Mask<T> mask_from_bits(uint32_t lanes) {
  if constexpr (sizeof(T) == 4) {
    const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i on = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(lanes)), lane);
    return {_mm256_castsi256_ps(_mm256_cmpeq_epi32(on, lane))};
  } else {
    const __m256i lane = _mm256_setr_epi64x(1, 2, 4, 8);
    const __m256i on = _mm256_and_si256(_mm256_set1_epi64x(lanes), lane);
    return {_mm256_castsi256_pd(_mm256_cmpeq_epi64(on, lane))};
  }
}
FANIN_INLINE uint32_t bits(MaskF a) { return static_cast<uint32_t>(_mm256_movemask_ps(a.m)); }
FANIN_INLINE uint32_t bits(MaskD a) { return static_cast<uint32_t>(_mm256_movemask_pd(a.m)); }
FANIN_INLINE MaskF operator&(MaskF a, MaskF b) { return {_mm256_and_ps(a.m, b.m)}; }
FANIN_INLINE MaskD operator&(MaskD a, MaskD b) { return {_mm256_and_pd(a.m, b.m)}; }
FANIN_INLINE MaskF operator|(MaskF a, MaskF b) { return {_mm256_or_ps(a.m, b.m)}; }
FANIN_INLINE MaskD operator|(MaskD a, MaskD b) { return {_mm256_or_pd(a.m, b.m)}; }
FANIN_INLINE MaskF operator~(MaskF a) {
  return {_mm256_xor_ps(a.m, _mm256_castsi256_ps(_mm256_set1_epi32(-1)))};
}
FANIN_INLINE MaskD operator~(MaskD a) {
  return {_mm256_xor_pd(a.m, _mm256_castsi256_pd(_mm256_set1_epi32(-1)))};
}

// ---- memory

FANIN_INLINE __m256i low8(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
FANIN_INLINE __m256i low4(int n) {
  return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
}
FANIN_INLINE VecF load(const float* p) { return {_mm256_loadu_ps(p)}; }
FANIN_INLINE VecD load(const double* p) { return {_mm256_loadu_pd(p)}; }
FANIN_INLINE VecF load_first(const float* p, int n) { return {_mm256_maskload_ps(p, low8(n))}; }
FANIN_INLINE VecD load_first(const double* p, int n) { return {_mm256_maskload_pd(p, low4(n))}; }
FANIN_INLINE void store(float* p, VecF x) { _mm256_storeu_ps(p, x.v); }
FANIN_INLINE void store(double* p, VecD x) { _mm256_storeu_pd(p, x.v); }
FANIN_INLINE void store_first(float* p, VecF x, int n) { _mm256_maskstore_ps(p, low8(n), x.v); }
FANIN_INLINE void store_first(double* p, VecD x, int n) { _mm256_maskstore_pd(p, low4(n), x.v); }
FANIN_INLINE VecF broadcast_lanes(float x) { return {_mm256_set1_ps(x)}; }
FANIN_INLINE VecD broadcast_lanes(double x) { return {_mm256_set1_pd(x)}; }

// ---- arithmetic

FANIN_INLINE VecF fma(VecF a, VecF b, VecF c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
FANIN_INLINE VecD fma(VecD a, VecD b, VecD c) { return {_mm256_fmadd_pd(a.v, b.v, c.v)}; }
FANIN_INLINE VecF fnma(VecF a, VecF b, VecF c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }
FANIN_INLINE VecD fnma(VecD a, VecD b, VecD c) { return {_mm256_fnmadd_pd(a.v, b.v, c.v)}; }
FANIN_INLINE VecF sqrt(VecF x) { return {_mm256_sqrt_ps(x.v)}; }
FANIN_INLINE VecD sqrt(VecD x) { return {_mm256_sqrt_pd(x.v)}; }
FANIN_INLINE VecF abs(VecF x) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), x.v)}; }
FANIN_INLINE VecD abs(VecD x) { return {_mm256_andnot_pd(_mm256_set1_pd(-0.0), x.v)}; }
FANIN_INLINE VecF copysign(VecF magnitude, VecF sign) {
  return {_mm256_or_ps(abs(magnitude).v, _mm256_and_ps(_mm256_set1_ps(-0.0f), sign.v))};
}
FANIN_INLINE VecD copysign(VecD magnitude, VecD sign) {
  return {_mm256_or_pd(abs(magnitude).v, _mm256_and_pd(_mm256_set1_pd(-0.0), sign.v))};
}
FANIN_INLINE VecF round(VecF x) { return {_mm256_round_ps(x.v, _MM_FROUND_TO_NEAREST_INT)}; }
FANIN_INLINE VecD round(VecD x) { return {_mm256_round_pd(x.v, _MM_FROUND_TO_NEAREST_INT)}; }
FANIN_INLINE VecF min(VecF a, VecF b) { return {_mm256_min_ps(a.v, b.v)}; }
FANIN_INLINE VecD min(VecD a, VecD b) { return {_mm256_min_pd(a.v, b.v)}; }
FANIN_INLINE VecF max(VecF a, VecF b) { return {_mm256_max_ps(a.v, b.v)}; }
FANIN_INLINE VecD max(VecD a, VecD b) { return {_mm256_max_pd(a.v, b.v)}; }

// ---- comparison and choice

FANIN_INLINE MaskF operator<(VecF a, VecF b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
FANIN_INLINE MaskD operator<(VecD a, VecD b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_LT_OQ)}; }
FANIN_INLINE MaskF operator<=(VecF a, VecF b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)}; }
FANIN_INLINE MaskD operator<=(VecD a, VecD b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_LE_OQ)}; }
FANIN_INLINE MaskF operator==(VecF a, VecF b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)}; }
FANIN_INLINE MaskD operator==(VecD a, VecD b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_EQ_OQ)}; }
FANIN_INLINE MaskF is_nan(VecF x) { return {_mm256_cmp_ps(x.v, x.v, _CMP_UNORD_Q)}; }
FANIN_INLINE MaskD is_nan(VecD x) { return {_mm256_cmp_pd(x.v, x.v, _CMP_UNORD_Q)}; }
FANIN_INLINE VecF select(MaskF m, VecF a, VecF b) { return {_mm256_blendv_ps(b.v, a.v, m.m)}; }
FANIN_INLINE VecD select(MaskD m, VecD a, VecD b) { return {_mm256_blendv_pd(b.v, a.v, m.m)}; }

// ---- transpose

FANIN_INLINE void transpose(VecD (&r)[4]) {
  const __m256d a = _mm256_unpacklo_pd(r[0].v, r[1].v), b = _mm256_unpackhi_pd(r[0].v, r[1].v);
  const __m256d c = _mm256_unpacklo_pd(r[2].v, r[3].v), d = _mm256_unpackhi_pd(r[2].v, r[3].v);
  r[0].v = _mm256_permute2f128_pd(a, c, 0x20);
  r[1].v = _mm256_permute2f128_pd(b, d, 0x20);
  r[2].v = _mm256_permute2f128_pd(a, c, 0x31);
  r[3].v = _mm256_permute2f128_pd(b, d, 0x31);
}
FANIN_INLINE void transpose(VecF (&r)[8]) {
  __m256 t[8];
  for (int i = 0; i < 8; i += 4) {  // 4x4 blocks inside the halves of 128 bits
    const __m256 a = _mm256_unpacklo_ps(r[i].v, r[i + 1].v);
    const __m256 b = _mm256_unpackhi_ps(r[i].v, r[i + 1].v);
    const __m256 c = _mm256_unpacklo_ps(r[i + 2].v, r[i + 3].v);
    const __m256 d = _mm256_unpackhi_ps(r[i + 2].v, r[i + 3].v);
    t[i] = _mm256_shuffle_ps(a, c, 0x44);
    t[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
    t[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
    t[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    r[i].v = _mm256_permute2f128_ps(t[i], t[i + 4], 0x20);
    r[i + 4].v = _mm256_permute2f128_ps(t[i], t[i + 4], 0x31);
  }
}

// ---- uint32 lanes

FANIN_INLINE Words set_words(uint32_t x) { return {_mm256_set1_epi32(static_cast<int>(x))}; }
FANIN_INLINE Words iota() { return {_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)}; }
FANIN_INLINE void store(uint32_t* p, Words a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.v);
}
FANIN_INLINE Words operator+(Words a, Words b) { return {_mm256_add_epi32(a.v, b.v)}; }
FANIN_INLINE Words operator^(Words a, Words b) { return {_mm256_xor_si256(a.v, b.v)}; }
template <int k>
FANIN_INLINE Words shift_left(Words a) {
  return {_mm256_slli_epi32(a.v, k)};
}
// a * b = hi * 2^32 + lo, lane by lane.
FANIN_INLINE void multiply_wide(Words a, uint32_t b, Words& hi, Words& lo) {
  const __m256i factor = _mm256_set1_epi32(static_cast<int>(b));
  const __m256i even = _mm256_mul_epu32(a.v, factor);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(a.v, 32), factor);
  lo.v = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
  hi.v = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
}
FANIN_INLINE uint32_t bits_at_least(Words a, Words b) {
  const __m256i at_least = _mm256_cmpeq_epi32(_mm256_max_epu32(a.v, b.v), a.v);
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(at_least)));
}

}  // namespace
}  // namespace fanin
