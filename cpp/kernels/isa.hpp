// The words of the kernels: vectors of T (float or double), their masks, and what is done to them.
//
//   Vec<T>   width<T> lanes of the hardware's vector      Mask<T>  one truth value per lane
//   Words    words_width lanes of uint32, for Philox
//
// Kernels are written once in these words and compiled once per instruction set, with
// -DFANIN_ISA=baseline|avx2|avx512|neon. isa/<name>.hpp holds the intrinsics, the same names in
// each; this file holds what is the same text everywhere. Nothing here has external linkage.
//
// The same lanes give the same bits on every instruction set with fused multiply-add (has_fma).
#pragma once

#include <stdint.h>

#define FANIN_INLINE static inline __attribute__((always_inline))
#define FANIN_STRING_(text) #text
#define FANIN_STRING(text) FANIN_STRING_(text)

namespace fanin {
namespace {

template <class T>
struct Vec;  // { native v; }
template <class T>
struct Mask;   // { native m; }
struct Words;  // { native v; }

constexpr const char* isa_name = FANIN_STRING(FANIN_ISA);

}  // namespace
}  // namespace fanin

// A space here would become part of the file's name.
// clang-format off
#include FANIN_STRING(isa/FANIN_ISA.hpp)
// clang-format on

namespace fanin {
namespace {

template <class T>
constexpr int width = sizeof(Vec<T>) / sizeof(T);
constexpr int words_width = width<float>;

// ---- the same on every instruction set

template <class T>
FANIN_INLINE Vec<T> broadcast(T x) {
  return broadcast_lanes(x);
}
template <class T>
FANIN_INLINE Vec<T> zero() {
  return broadcast<T>(0);
}
template <class T>
FANIN_INLINE Vec<T> operator+(Vec<T> a, Vec<T> b) {
  return {a.v + b.v};
}
template <class T>
FANIN_INLINE Vec<T> operator-(Vec<T> a, Vec<T> b) {
  return {a.v - b.v};
}
template <class T>
FANIN_INLINE Vec<T> operator*(Vec<T> a, Vec<T> b) {
  return {a.v * b.v};
}
template <class T>
FANIN_INLINE Vec<T> operator/(Vec<T> a, Vec<T> b) {
  return {a.v / b.v};
}
template <class T>
FANIN_INLINE Vec<T> operator-(Vec<T> a) {
  return {-a.v};
}
template <class T>
FANIN_INLINE Mask<T> operator>(Vec<T> a, Vec<T> b) {
  return b < a;
}
template <class T>
FANIN_INLINE Mask<T> operator>=(Vec<T> a, Vec<T> b) {
  return b <= a;
}
template <class T>
FANIN_INLINE bool any(Mask<T> m) {
  return bits(m) != 0;
}
// Brings a cache line; to be written, it is taken from other cores' caches as well.
FANIN_INLINE void prefetch(const void* line) { __builtin_prefetch(line); }
FANIN_INLINE void prefetch_to_write(const void* line) { __builtin_prefetch(line, 1); }
// The mask of the first n lanes, 0 <= n <= width<T>.
template <class T>
FANIN_INLINE Mask<T> first(int n) {
  return mask_from_bits<T>((1u << n) - 1u);
}

// ---- exponents

// The format of T, and the lanes as unsigned integers.

template <class T>
struct Format;
template <>
struct Format<float> {
  typedef uint32_t Bits __attribute__((vector_size(sizeof(Vec<float>))));
  static constexpr int fraction = 23, bias = 127;
  static constexpr float magic = 0x1.8p23f;          // added, leaves an integer in the low bits
  static constexpr float smallest = 0x1p-126f;       // smallest normal
  static constexpr float grow = 0x1p23f;             // makes a denormal normal
  static constexpr uint32_t half_root = 0x3f3504f3;  // sqrt(1/2)
};
template <>
struct Format<double> {
  typedef uint64_t Bits __attribute__((vector_size(sizeof(Vec<double>))));
  static constexpr int fraction = 52, bias = 1023;
  static constexpr double magic = 0x1.8p52;
  static constexpr double smallest = 0x1p-1022;
  static constexpr double grow = 0x1p52;
  static constexpr uint64_t half_root = 0x3fe6a09e667f3bcd;
};

// 2^n, n an integer-valued Vec where 2^n is normal: -126..127 (float), -1022..1023 (double).
template <class T>
FANIN_INLINE Vec<T> power_of_two(Vec<T> n) {
  using F = Format<T>;
  const auto biased = (typename F::Bits)(n + broadcast<T>(F::magic + F::bias)).v;
  return {(decltype(n.v))(biased << F::fraction)};
}

// x * 2^n with one rounding, n an integer-valued Vec, |n| <= 220 (float), 2000 (double), |x| in
// [2^-16, 4]: right into denormals, overflow to infinity, NaN kept. The first multiplication is
// exact, or makes zero of what the second would.
template <class T>
FANIN_INLINE Vec<T> scale_near_one(Vec<T> x, Vec<T> n) {
  if constexpr (has_exponent_words) {
    return scale_word(x, n);
  } else {
    const Vec<T> half = round(n * broadcast<T>(T(0.5)));
    return x * power_of_two(half) * power_of_two(n - half);
  }
}

// x = mantissa * 2^exponent, mantissa in [sqrt(1/2), sqrt(2)), for positive finite x, denormals
// too. For other x both are some number or NaN, of no meaning.
template <class T>
FANIN_INLINE void split(Vec<T> x, Vec<T>& mantissa, Vec<T>& exponent) {
  using F = Format<T>;
  using Bits = typename F::Bits;
  if constexpr (has_exponent_words) {
    split_word(x, mantissa, exponent);  // mantissa in [1, 2)
    const Mask<T> high = mantissa >= broadcast<T>(T(1.4142135623730951));
    mantissa = select(high, mantissa * broadcast<T>(T(0.5)), mantissa);
    exponent = select(high, exponent + broadcast<T>(1), exponent);
  } else {
    const Mask<T> denormal = x < broadcast<T>(F::smallest);
    const Vec<T> normal = select(denormal, x * broadcast<T>(F::grow), x);
    const Vec<T> grown = select(denormal, broadcast<T>(F::fraction), zero<T>());
    const Bits shape = (Bits)normal.v;
    const Bits one = (Bits)broadcast<T>(1).v;
    const Bits power = (shape - F::half_root + one) >> F::fraction;  // exponent + bias
    mantissa = {(decltype(x.v))(shape - (power << F::fraction) + one)};
    const Bits magic = (Bits)broadcast<T>(F::magic).v;
    exponent = Vec<T>{(decltype(x.v))(power + magic)} - broadcast<T>(F::magic + F::bias) - grown;
  }
}

}  // namespace
}  // namespace fanin
