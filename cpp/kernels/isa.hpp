// The words of the kernels: vectors of T (float or double), their masks, and what is done to them.
//
//   Vec<T>   width<T> lanes of the hardware's vector      Mask<T>  one truth value per lane
//   Words    words_width lanes of uint32, for Philox
//
// Kernels are written once in these words and compiled once per instruction set, with
// -DFANIN_ISA=baseline|avx2|avx512|avx512_bf16|neon. isa/<name>.hpp holds the intrinsics, the same
// names in each; this file holds what is the same text everywhere. Nothing here has external
// linkage.
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
// width<double> numbers as doubles.
FANIN_INLINE Vec<double> load_wide(const double* from) { return load(from); }
FANIN_INLINE Vec<double> load_wide(const float* from) {
  typedef float Narrow __attribute__((vector_size(sizeof(Vec<double>) / 2)));
  typedef double Wide __attribute__((vector_size(sizeof(Vec<double>))));
  Narrow narrow;
  __builtin_memcpy(&narrow, from, sizeof narrow);
  return {(decltype(Vec<double>::v))__builtin_convertvector(narrow, Wide)};
}
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

// ---- bfloat16: the upper half of a float32

// A vector of pairs of bfloat16: the even one in the lower half of each word.
struct Pairs {
  Format<float>::Bits v;
};

// The nearest bfloat16, ties to even, in the upper half of each word; zeros below. NaN is kept.
FANIN_INLINE Format<float>::Bits round_to_bf16(Vec<float> x) {
  using Bits = Format<float>::Bits;
  const Bits bits = (Bits)x.v;
  const Vec<float> rounded = {(decltype(x.v))(bits + 0x7fff + ((bits >> 16) & 1))};
  const Vec<float> nan = broadcast(__builtin_nanf(""));
  return (Bits)select(is_nan(x), nan, rounded).v & 0xffff0000;
}
// Both, in order; AVX512_BF16 takes denormals for zero.
template <class T>
FANIN_INLINE void store_bf16(char* to, Vec<T> first, Vec<T> second) {
  if constexpr (has_bf16_products) {
    const auto halves = round_word(first, second);
    __builtin_memcpy(to, &halves, sizeof halves);
  } else {
    typedef uint16_t Halves __attribute__((vector_size(sizeof first / 2)));
    const Halves halves[2] = {__builtin_convertvector(round_to_bf16(first) >> 16, Halves),
                              __builtin_convertvector(round_to_bf16(second) >> 16, Halves)};
    __builtin_memcpy(to, halves, sizeof halves);
  }
}
template <class T>
FANIN_INLINE Pairs pairs_of(Vec<T> even, Vec<T> odd) {
  if constexpr (has_bf16_products) {
    return {(Format<float>::Bits)round_pairs_word(even, odd)};
  } else {
    return {round_to_bf16(even) >> 16 | round_to_bf16(odd)};
  }
}
FANIN_INLINE Pairs load_pairs(const uint32_t* from) {
  Pairs pairs;
  __builtin_memcpy(&pairs, from, sizeof pairs);
  return pairs;
}
FANIN_INLINE void store_pairs(uint32_t* to, Pairs pairs) {
  __builtin_memcpy(to, &pairs, sizeof pairs);
}
FANIN_INLINE Pairs broadcast_pair(uint32_t pair) { return {Format<float>::Bits{} + pair}; }
// sum + a.even * b.even + a.odd * b.odd.
template <class T>
FANIN_INLINE Vec<T> add_products(Vec<T> sum, Pairs a, Pairs b) {
  using Native = decltype(sum.v);
  if constexpr (has_bf16_products) {
    return add_products_word(sum, (decltype(round_pairs_word(sum, sum)))a.v,
                             (decltype(round_pairs_word(sum, sum)))b.v);
  } else {
    sum = fma(Vec<T>{(Native)(a.v << 16)}, Vec<T>{(Native)(b.v << 16)}, sum);
    return fma(Vec<T>{(Native)(a.v & 0xffff0000)}, Vec<T>{(Native)(b.v & 0xffff0000)}, sum);
  }
}

}  // namespace
}  // namespace fanin
