// The words on SSE2, which every x86-64 has: 4 floats or 2 doubles, masks as lanes of ones.
// No fused multiply-add: fma(a, b, c) rounds twice here, so results are outside the promise of
// equal bits.
#pragma once

#include <emmintrin.h>

namespace fanin {
namespace {

constexpr int registers = 16;  // of vectors
constexpr bool has_fma = false;
constexpr bool has_exponent_words = false;
constexpr bool has_bf16_products = false;

template <>
struct Vec<float> {
  __m128 v;
};
template <>
struct Vec<double> {
  __m128d v;
};
template <>
struct Mask<float> {
  __m128 m;
};
template <>
struct Mask<double> {
  __m128d m;
};
struct Words {
  __m128i v;
};
using VecF = Vec<float>;
using VecD = Vec<double>;
using MaskF = Mask<float>;
using MaskD = Mask<double>;

// ---- masks

template <class T>
FANIN_INLINE Mask<T> mask_from_bits(uint32_t lanes) {
  const bool single = sizeof(T) == 4;
  const __m128i lane = single ? _mm_setr_epi32(1, 2, 4, 8) : _mm_setr_epi32(1, 1, 2, 2);
  const __m128i on = _mm_and_si128(_mm_set1_epi32(static_cast<int>(lanes)), lane);
  return {(decltype(Mask<T>::m))_mm_cmpeq_epi32(on, lane)};
}
FANIN_INLINE uint32_t bits(MaskF a) { return static_cast<uint32_t>(_mm_movemask_ps(a.m)); }
FANIN_INLINE uint32_t bits(MaskD a) { return static_cast<uint32_t>(_mm_movemask_pd(a.m)); }
FANIN_INLINE MaskF operator&(MaskF a, MaskF b) { return {_mm_and_ps(a.m, b.m)}; }
FANIN_INLINE MaskD operator&(MaskD a, MaskD b) { return {_mm_and_pd(a.m, b.m)}; }
FANIN_INLINE MaskF operator|(MaskF a, MaskF b) { return {_mm_or_ps(a.m, b.m)}; }
FANIN_INLINE MaskD operator|(MaskD a, MaskD b) { return {_mm_or_pd(a.m, b.m)}; }
FANIN_INLINE MaskF operator~(MaskF a) {
  return {_mm_xor_ps(a.m, _mm_castsi128_ps(_mm_set1_epi32(-1)))};
}
FANIN_INLINE MaskD operator~(MaskD a) {
  return {_mm_xor_pd(a.m, _mm_castsi128_pd(_mm_set1_epi32(-1)))};
}

// ---- memory

FANIN_INLINE VecF load(const float* p) { return {_mm_loadu_ps(p)}; }
FANIN_INLINE VecD load(const double* p) { return {_mm_loadu_pd(p)}; }
FANIN_INLINE VecF load_first(const float* p, int n) {
  return {_mm_setr_ps(n > 0 ? p[0] : 0, n > 1 ? p[1] : 0, n > 2 ? p[2] : 0, n > 3 ? p[3] : 0)};
}
FANIN_INLINE VecD load_first(const double* p, int n) {
  return {_mm_setr_pd(n > 0 ? p[0] : 0, n > 1 ? p[1] : 0)};
}
FANIN_INLINE void store(float* p, VecF x) { _mm_storeu_ps(p, x.v); }
FANIN_INLINE void store(double* p, VecD x) { _mm_storeu_pd(p, x.v); }
FANIN_INLINE void store_first(float* p, VecF x, int n) {
  if (n > 0) p[0] = x.v[0];
  if (n > 1) p[1] = x.v[1];
  if (n > 2) p[2] = x.v[2];
  if (n > 3) p[3] = x.v[3];
}
FANIN_INLINE void store_first(double* p, VecD x, int n) {
  if (n > 0) p[0] = x.v[0];
  if (n > 1) p[1] = x.v[1];
}
FANIN_INLINE VecF broadcast_lanes(float x) { return {_mm_set1_ps(x)}; }
FANIN_INLINE VecD broadcast_lanes(double x) { return {_mm_set1_pd(x)}; }

// ---- arithmetic

FANIN_INLINE VecF fma(VecF a, VecF b, VecF c) { return {_mm_add_ps(_mm_mul_ps(a.v, b.v), c.v)}; }
FANIN_INLINE VecD fma(VecD a, VecD b, VecD c) { return {_mm_add_pd(_mm_mul_pd(a.v, b.v), c.v)}; }
FANIN_INLINE VecF fnma(VecF a, VecF b, VecF c) { return {_mm_sub_ps(c.v, _mm_mul_ps(a.v, b.v))}; }
FANIN_INLINE VecD fnma(VecD a, VecD b, VecD c) { return {_mm_sub_pd(c.v, _mm_mul_pd(a.v, b.v))}; }
FANIN_INLINE VecF sqrt(VecF x) { return {_mm_sqrt_ps(x.v)}; }
FANIN_INLINE VecD sqrt(VecD x) { return {_mm_sqrt_pd(x.v)}; }
FANIN_INLINE VecF abs(VecF x) { return {_mm_andnot_ps(_mm_set1_ps(-0.0f), x.v)}; }
FANIN_INLINE VecD abs(VecD x) { return {_mm_andnot_pd(_mm_set1_pd(-0.0), x.v)}; }
FANIN_INLINE VecF copysign(VecF magnitude, VecF sign) {
  return {_mm_or_ps(abs(magnitude).v, _mm_and_ps(_mm_set1_ps(-0.0f), sign.v))};
}
FANIN_INLINE VecD copysign(VecD magnitude, VecD sign) {
  return {_mm_or_pd(abs(magnitude).v, _mm_and_pd(_mm_set1_pd(-0.0), sign.v))};
}
FANIN_INLINE VecF min(VecF a, VecF b) { return {_mm_min_ps(a.v, b.v)}; }
FANIN_INLINE VecD min(VecD a, VecD b) { return {_mm_min_pd(a.v, b.v)}; }
FANIN_INLINE VecF max(VecF a, VecF b) { return {_mm_max_ps(a.v, b.v)}; }
FANIN_INLINE VecD max(VecD a, VecD b) { return {_mm_max_pd(a.v, b.v)}; }

// ---- comparison and choice

FANIN_INLINE MaskF operator<(VecF a, VecF b) { return {_mm_cmplt_ps(a.v, b.v)}; }
FANIN_INLINE MaskD operator<(VecD a, VecD b) { return {_mm_cmplt_pd(a.v, b.v)}; }
FANIN_INLINE MaskF operator<=(VecF a, VecF b) { return {_mm_cmple_ps(a.v, b.v)}; }
FANIN_INLINE MaskD operator<=(VecD a, VecD b) { return {_mm_cmple_pd(a.v, b.v)}; }
FANIN_INLINE MaskF operator==(VecF a, VecF b) { return {_mm_cmpeq_ps(a.v, b.v)}; }
FANIN_INLINE MaskD operator==(VecD a, VecD b) { return {_mm_cmpeq_pd(a.v, b.v)}; }
FANIN_INLINE MaskF is_nan(VecF x) { return {_mm_cmpunord_ps(x.v, x.v)}; }
FANIN_INLINE MaskD is_nan(VecD x) { return {_mm_cmpunord_pd(x.v, x.v)}; }
FANIN_INLINE VecF select(MaskF m, VecF a, VecF b) {
  return {_mm_or_ps(_mm_and_ps(m.m, a.v), _mm_andnot_ps(m.m, b.v))};
}
FANIN_INLINE VecD select(MaskD m, VecD a, VecD b) {
  return {_mm_or_pd(_mm_and_pd(m.m, a.v), _mm_andnot_pd(m.m, b.v))};
}

// No rounding instruction: adding 2^23 (2^52) leaves no bit below one; larger numbers are integers
// already.
FANIN_INLINE VecF round(VecF x) {
  const VecF big = {_mm_set1_ps(0x1p23f)};
  const VecF near = {_mm_sub_ps(_mm_add_ps(abs(x).v, big.v), big.v)};
  return select(abs(x) < big, copysign(near, x), x);
}
FANIN_INLINE VecD round(VecD x) {
  const VecD big = {_mm_set1_pd(0x1p52)};
  const VecD near = {_mm_sub_pd(_mm_add_pd(abs(x).v, big.v), big.v)};
  return select(abs(x) < big, copysign(near, x), x);
}

// ---- transpose

FANIN_INLINE void transpose(VecD (&r)[2]) {
  const __m128d a = r[0].v, b = r[1].v;
  r[0].v = _mm_unpacklo_pd(a, b);
  r[1].v = _mm_unpackhi_pd(a, b);
}
FANIN_INLINE void transpose(VecF (&r)[4]) { _MM_TRANSPOSE4_PS(r[0].v, r[1].v, r[2].v, r[3].v); }

// ---- uint32 lanes

FANIN_INLINE Words set_words(uint32_t x) { return {_mm_set1_epi32(static_cast<int>(x))}; }
FANIN_INLINE Words iota() { return {_mm_setr_epi32(0, 1, 2, 3)}; }
FANIN_INLINE void store(uint32_t* p, Words a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), a.v);
}
FANIN_INLINE Words operator+(Words a, Words b) { return {_mm_add_epi32(a.v, b.v)}; }
FANIN_INLINE Words operator^(Words a, Words b) { return {_mm_xor_si128(a.v, b.v)}; }
template <int k>
FANIN_INLINE Words shift_left(Words a) {
  return {_mm_slli_epi32(a.v, k)};
}
// a * b = hi * 2^32 + lo, lane by lane.
FANIN_INLINE void multiply_wide(Words a, uint32_t b, Words& hi, Words& lo) {
  const __m128i factor = _mm_set1_epi32(static_cast<int>(b));
  const __m128 even = _mm_castsi128_ps(_mm_mul_epu32(a.v, factor));  // lo0 hi0 lo2 hi2
  const __m128 odd = _mm_castsi128_ps(_mm_mul_epu32(_mm_srli_epi64(a.v, 32), factor));
  const __m128i low = _mm_castps_si128(_mm_shuffle_ps(even, odd, 0x88));   // lo0 lo2 lo1 lo3
  const __m128i high = _mm_castps_si128(_mm_shuffle_ps(even, odd, 0xdd));  // hi0 hi2 hi1 hi3
  lo.v = _mm_shuffle_epi32(low, 0xd8);
  hi.v = _mm_shuffle_epi32(high, 0xd8);
}
FANIN_INLINE uint32_t bits_at_least(Words a, Words b) {  // signed compare, both shifted by 2^31
  const __m128i half = _mm_set1_epi32(INT32_MIN);
  const __m128i less = _mm_cmplt_epi32(_mm_xor_si128(a.v, half), _mm_xor_si128(b.v, half));
  return static_cast<uint32_t>(_mm_movemask_ps(_mm_castsi128_ps(less))) ^ 15;
}

}  // namespace
}  // namespace fanin
