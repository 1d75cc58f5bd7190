// The words on AArch64 NEON, which every 64-bit ARM has: 4 floats or 2 doubles, masks as lanes of
// ones.
#pragma once

#include <arm_neon.h>

namespace fanin {
namespace {

constexpr int registers = 32;  // of vectors
constexpr bool has_fma = true;
constexpr bool has_exponent_words = false;
constexpr bool has_bf16_products = false;

template <>
struct Vec<float> {
  float32x4_t v;
};
template <>
struct Vec<double> {
  float64x2_t v;
};
template <>
struct Mask<float> {
  uint32x4_t m;
};
template <>
struct Mask<double> {
  uint64x2_t m;
};
struct Words {
  uint32x4_t v;
};
using VecF = Vec<float>;
using VecD = Vec<double>;
using MaskF = Mask<float>;
using MaskD = Mask<double>;

// ---- masks

template <class T>
FANIN_INLINE Mask<T> mask_from_bits(uint32_t lanes) {
  if constexpr (sizeof(T) == 4) {
    return {vtstq_u32(vdupq_n_u32(lanes), uint32x4_t{1, 2, 4, 8})};
  } else {
    return {vtstq_u64(vdupq_n_u64(lanes), uint64x2_t{1, 2})};
  }
}
FANIN_INLINE uint32_t bits(MaskF a) { return vaddvq_u32(vandq_u32(a.m, uint32x4_t{1, 2, 4, 8})); }
FANIN_INLINE uint32_t bits(MaskD a) {
  return static_cast<uint32_t>(vaddvq_u64(vandq_u64(a.m, uint64x2_t{1, 2})));
}
FANIN_INLINE MaskF operator&(MaskF a, MaskF b) { return {vandq_u32(a.m, b.m)}; }
FANIN_INLINE MaskD operator&(MaskD a, MaskD b) { return {vandq_u64(a.m, b.m)}; }
FANIN_INLINE MaskF operator|(MaskF a, MaskF b) { return {vorrq_u32(a.m, b.m)}; }
FANIN_INLINE MaskD operator|(MaskD a, MaskD b) { return {vorrq_u64(a.m, b.m)}; }
FANIN_INLINE MaskF operator~(MaskF a) { return {vmvnq_u32(a.m)}; }
FANIN_INLINE MaskD operator~(MaskD a) { return {veorq_u64(a.m, vdupq_n_u64(UINT64_MAX))}; }

// ---- memory

FANIN_INLINE VecF load(const float* p) { return {vld1q_f32(p)}; }
FANIN_INLINE VecD load(const double* p) { return {vld1q_f64(p)}; }
FANIN_INLINE VecF load_first(const float* p, int n) {
  return {float32x4_t{n > 0 ? p[0] : 0, n > 1 ? p[1] : 0, n > 2 ? p[2] : 0, n > 3 ? p[3] : 0}};
}
FANIN_INLINE VecD load_first(const double* p, int n) {
  return {float64x2_t{n > 0 ? p[0] : 0, n > 1 ? p[1] : 0}};
}
FANIN_INLINE void store(float* p, VecF x) { vst1q_f32(p, x.v); }
FANIN_INLINE void store(double* p, VecD x) { vst1q_f64(p, x.v); }
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
FANIN_INLINE VecF broadcast_lanes(float x) { return {vdupq_n_f32(x)}; }
FANIN_INLINE VecD broadcast_lanes(double x) { return {vdupq_n_f64(x)}; }

// ---- comparison and choice

FANIN_INLINE MaskF operator<(VecF a, VecF b) { return {vcltq_f32(a.v, b.v)}; }
FANIN_INLINE MaskD operator<(VecD a, VecD b) { return {vcltq_f64(a.v, b.v)}; }
FANIN_INLINE MaskF operator<=(VecF a, VecF b) { return {vcleq_f32(a.v, b.v)}; }
FANIN_INLINE MaskD operator<=(VecD a, VecD b) { return {vcleq_f64(a.v, b.v)}; }
FANIN_INLINE MaskF operator==(VecF a, VecF b) { return {vceqq_f32(a.v, b.v)}; }
FANIN_INLINE MaskD operator==(VecD a, VecD b) { return {vceqq_f64(a.v, b.v)}; }
FANIN_INLINE MaskF is_nan(VecF x) { return ~(x == x); }
FANIN_INLINE MaskD is_nan(VecD x) { return ~(x == x); }
FANIN_INLINE VecF select(MaskF m, VecF a, VecF b) { return {vbslq_f32(m.m, a.v, b.v)}; }
FANIN_INLINE VecD select(MaskD m, VecD a, VecD b) { return {vbslq_f64(m.m, a.v, b.v)}; }

// ---- arithmetic

FANIN_INLINE VecF fma(VecF a, VecF b, VecF c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
FANIN_INLINE VecD fma(VecD a, VecD b, VecD c) { return {vfmaq_f64(c.v, a.v, b.v)}; }
FANIN_INLINE VecF fnma(VecF a, VecF b, VecF c) { return {vfmsq_f32(c.v, a.v, b.v)}; }
FANIN_INLINE VecD fnma(VecD a, VecD b, VecD c) { return {vfmsq_f64(c.v, a.v, b.v)}; }
FANIN_INLINE VecF sqrt(VecF x) { return {vsqrtq_f32(x.v)}; }
FANIN_INLINE VecD sqrt(VecD x) { return {vsqrtq_f64(x.v)}; }
FANIN_INLINE VecF abs(VecF x) { return {vabsq_f32(x.v)}; }
FANIN_INLINE VecD abs(VecD x) { return {vabsq_f64(x.v)}; }
FANIN_INLINE VecF copysign(VecF magnitude, VecF sign) {
  return {vbslq_f32(vdupq_n_u32(0x80000000), sign.v, magnitude.v)};
}
FANIN_INLINE VecD copysign(VecD magnitude, VecD sign) {
  return {vbslq_f64(vdupq_n_u64(0x8000000000000000), sign.v, magnitude.v)};
}
FANIN_INLINE VecF round(VecF x) { return {vrndnq_f32(x.v)}; }
FANIN_INLINE VecD round(VecD x) { return {vrndnq_f64(x.v)}; }
// Not vminq, vmaxq: those return NaN when either operand is one.
FANIN_INLINE VecF min(VecF a, VecF b) { return select(a < b, a, b); }
FANIN_INLINE VecD min(VecD a, VecD b) { return select(a < b, a, b); }
FANIN_INLINE VecF max(VecF a, VecF b) { return select(b < a, a, b); }
FANIN_INLINE VecD max(VecD a, VecD b) { return select(b < a, a, b); }

// ---- transpose

FANIN_INLINE void transpose(VecD (&r)[2]) {
  const float64x2_t a = r[0].v, b = r[1].v;
  r[0].v = vzip1q_f64(a, b);
  r[1].v = vzip2q_f64(a, b);
}
FANIN_INLINE void transpose(VecF (&r)[4]) {
  const float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(r[0].v, r[1].v));
  const float64x2_t b = vreinterpretq_f64_f32(vtrn2q_f32(r[0].v, r[1].v));
  const float64x2_t c = vreinterpretq_f64_f32(vtrn1q_f32(r[2].v, r[3].v));
  const float64x2_t d = vreinterpretq_f64_f32(vtrn2q_f32(r[2].v, r[3].v));
  r[0].v = vreinterpretq_f32_f64(vzip1q_f64(a, c));
  r[1].v = vreinterpretq_f32_f64(vzip1q_f64(b, d));
  r[2].v = vreinterpretq_f32_f64(vzip2q_f64(a, c));
  r[3].v = vreinterpretq_f32_f64(vzip2q_f64(b, d));
}

// ---- uint32 lanes

FANIN_INLINE Words set_words(uint32_t x) { return {vdupq_n_u32(x)}; }
FANIN_INLINE Words iota() { return {uint32x4_t{0, 1, 2, 3}}; }
FANIN_INLINE void store(uint32_t* p, Words a) { vst1q_u32(p, a.v); }
FANIN_INLINE Words operator+(Words a, Words b) { return {vaddq_u32(a.v, b.v)}; }
FANIN_INLINE Words operator^(Words a, Words b) { return {veorq_u32(a.v, b.v)}; }
template <int k>
FANIN_INLINE Words shift_left(Words a) {
  return {vshlq_n_u32(a.v, k)};
}
// a * b = hi * 2^32 + lo, lane by lane.
FANIN_INLINE void multiply_wide(Words a, uint32_t b, Words& hi, Words& lo) {
  const uint32x4_t low = vreinterpretq_u32_u64(vmull_n_u32(vget_low_u32(a.v), b));
  const uint32x4_t high = vreinterpretq_u32_u64(vmull_high_n_u32(a.v, b));
  lo.v = vuzp1q_u32(low, high);
  hi.v = vuzp2q_u32(low, high);
}
FANIN_INLINE uint32_t bits_at_least(Words a, Words b) {
  return vaddvq_u32(vandq_u32(vcgeq_u32(a.v, b.v), uint32x4_t{1, 2, 4, 8}));
}

}  // namespace
}  // namespace fanin
