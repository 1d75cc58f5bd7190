// Elementary functions of Vec<float> and Vec<double>: one text for both, on every instruction set.
//
//     exp  expm1_negative  log  log1p_unit  tanh  sigmoid  softplus  erf  normal_cdf  normal
//
// Memory: none. Bits: equal on every instruction set with fma, as only + - * / fma and exact
// operations are used. NaN gives NaN.
//
// The largest error in ulp, the distance of neighbouring numbers at the exact result (denormals
// included): what was found over all 2^32 floats, and over 2 * 10^7 doubles of all exponents and
// around every change of formula, rounded up. The tests hold these bounds.
//
//                         with fma            baseline (fma rounds twice)
//                         float   double      float   double
//     exp                 1.0     1.0         1.0     1.0
//     expm1_negative      0.9     1.3         0.9     1.2
//     log                 0.9     1.0         0.9     1.0
//     log1p_unit          1.0     1.0         1.0     1.0
//     tanh                2.5     2.6         2.5     2.6
//     sigmoid             2.5     2.5         2.5     2.5
//     softplus            1.7     1.7         1.7     1.7
//     erf                 1.2     1.4         1.4     1.6
//     normal_cdf          4.6     4.8         4.7     5.0    (x >= 0: 1.4)
//     density of normal   1.9     2.0         2.0     2.1
//
// tests/make_coefficients.py makes the tables.
#pragma once

#include "isa.hpp"

namespace fanin {
namespace {

// Minimax polynomials, lowest power first; the error is that of the polynomial alone, in 2^-24 or
// 2^-53 of the function it serves.
//     expm1   (e^r - 1 - r) / r^2 in r
//     log     (2 atanh(s) / s - 2) / s^2 in s^2
//     erf     erf(x) / x - 1 in x^2
//     tail    e^(a^2 / 2) Phi(-a) (a + pole) in (a - centre) / (a + pole), for 1 <= a <= end
template <class T>
struct Coefficients;
template <>
struct Coefficients<float> {
  static constexpr float log2e = 0x1.715476p0f;
  static constexpr float ln2_high = 0x1.62e4p-1f;
  static constexpr float ln2_low = 0x1.7f7d1cp-20f;
  // on [-0.3466, 0.3466], error 0.02
  static constexpr float expm1[] = {0x1p-1f,       0x1.555554p-3f,  0x1.55548ep-5f,
                                    0x1.11127p-7f, 0x1.6d8d06p-10f, 0x1.9f08c4p-13f};
  // on [1e-12, 0.0401], error 0.05
  static constexpr float log[] = {0x1.5555b4p-1f, 0x1.992a78p-2f, 0x1.36f0cp-2f};
  // on [1e-12, 1], error 0.04
  static constexpr float erf[] = {0x1.06eba8p-3f, -0x1.81273ep-2f,  0x1.ce2cf8p-4f, -0x1.b7f90ep-6f,
                                  0x1.5405b4p-8f, -0x1.a3f70ep-11f, 0x1.496a5ep-14f};
  static constexpr float tail_end = 0x1.dp3f;
  static constexpr float tail_pole = 0x1.4p1f;
  static constexpr float tail_centre = 0x1.ap1f;
  // on [-0.6429, 0.6618], error 0.30
  static constexpr float tail[] = {0x1.4e00bcp-1f,  -0x1.633a0cp-2f, 0x1.9eb9d4p-4f,
                                   0x1.6c70eep-12f, -0x1.39d14p-7f,  0x1.3e5cb8p-12f,
                                   0x1.55c4p-10f,   0x1.a67a54p-15f, -0x1.80a33ap-13f};
};
template <>
struct Coefficients<double> {
  static constexpr double log2e = 0x1.71547652b82fep0;
  static constexpr double ln2_high = 0x1.62e42fefa38p-1;
  static constexpr double ln2_low = 0x1.ef35793c7673p-45;
  // on [-0.3466, 0.3466], error 0.01
  static constexpr double expm1[] = {0x1p-1,
                                     0x1.555555555555bp-3,
                                     0x1.5555555555503p-5,
                                     0x1.111111110ec5dp-7,
                                     0x1.6c16c16c30475p-10,
                                     0x1.a01a01b37e359p-13,
                                     0x1.a01a013696e58p-16,
                                     0x1.71ddf020dbc93p-19,
                                     0x1.27e5b436e982bp-22,
                                     0x1.af6be7c19c681p-26,
                                     0x1.1e3d43bb5dd57p-29};
  // on [1e-12, 0.0401], error 0.15
  static constexpr double log[] = {0x1.555555555577fp-1, 0x1.99999998ee317p-2, 0x1.249249b3ed9eap-2,
                                   0x1.c71c003ff4858p-3, 0x1.7475116b27e51p-3, 0x1.384f3277cfaa6p-3,
                                   0x1.3ada71e10a247p-3};
  // on [1e-12, 1], error 0.10
  static constexpr double erf[] = {
      0x1.06eba8214db69p-3,  -0x1.812746b0379e7p-2,  0x1.ce2f21a042bddp-4,  -0x1.b82ce3128899bp-6,
      0x1.565bcd0e64ab7p-8,  -0x1.c02db3fed8f6cp-11, 0x1.f9a326bfb7324p-14, -0x1.f4d255e14a37ep-17,
      0x1.b9e64d080df81p-20, -0x1.5f6d6b5501a58p-23, 0x1.fc41174f03fp-27,   -0x1.4e55cdbb56b3p-30,
      0x1.7ecbfde649eb8p-34, -0x1.292903202089ap-38};
  static constexpr double tail_end = 0x1.38p5;
  static constexpr double tail_pole = 0x1.cp1;
  static constexpr double tail_centre = 0x1.3p2;
  // on [-0.8333, 0.8059], error 0.59
  static constexpr double tail[] = {
      0x1.54c5dbdd1fdb7p-1,   -0x1.9f0f79ecda886p-2,  0x1.871e8808528c6p-3,
      -0x1.04d0ecfb3f1f4p-4,  0x1.67b4aedc7d75dp-7,   0x1.8eaa7143b9942p-10,
      -0x1.47183bb8952c7p-10, 0x1.99736ce465ce5p-15,  0x1.0ff1b1cf12c5dp-13,
      -0x1.cf1ef6319ef5ep-17, -0x1.132f4ba4d1b9fp-16, 0x1.ac139b00b8c6bp-20,
      0x1.4e5c1a69069e4p-19,  -0x1.ebddef47a4a1dp-26, -0x1.b519ceb253efap-22,
      -0x1.c3a1813bbafdep-25, 0x1.056c59977f988p-24,  0x1.3bd750a7a308bp-26,
      -0x1.9c3fa738816d3p-28, -0x1.8a3754f8be0c5p-29};
};

// Where results no longer change: exp gives 0 and infinity, expm1 -1, tanh and erf 1.
template <class T>
struct Ends;
template <>
struct Ends<float> {
  static constexpr float exp_zero = -104, exp_infinity = 89, expm1 = -20, tanh = 10, erf = 4;
};
template <>
struct Ends<double> {
  static constexpr double exp_zero = -746, exp_infinity = 710, expm1 = -40, tanh = 20, erf = 6;
};

// c[0] + c[1] x + c[2] x^2 + ... In long ones the powers above the first go in two chains of fma,
// odd and even, which hide each other's latency (double: 10 % faster).
template <class T, int n>
FANIN_INLINE Vec<T> polynomial(Vec<T> x, const T (&c)[n]) {
  if constexpr (n < 10) {
    Vec<T> y = broadcast(c[n - 1]);
#pragma GCC unroll 10
    for (int i = n - 2; i >= 0; --i) {
      y = fma(y, x, broadcast(c[i]));
    }
    return y;
  } else {
    const Vec<T> z = x * x;
    Vec<T> part[2] = {broadcast(c[(n - 1) & ~1]), broadcast(c[(n - 2) | 1])};
#pragma GCC unroll 32
    for (int i = n - 3; i > 0; --i) {
      part[i & 1] = fma(part[i & 1], z, broadcast(c[i]));
    }
    return fma(fma(part[0], x, part[1]), x, broadcast(c[0]));
  }
}

// x = n ln 2 + r with |r| <= ln(2) / 2; returns e^r - 1, to about an ulp of itself. n * ln2_high is
// exact while |n| < 2^8 (float), 2^11 (double).
template <class T>
FANIN_INLINE Vec<T> reduced_expm1(Vec<T> x, Vec<T>& n) {
  using C = Coefficients<T>;
  n = round(x * broadcast(C::log2e));
  const Vec<T> r = fnma(n, broadcast(C::ln2_low), fnma(n, broadcast(C::ln2_high), x));
  return fma(r * r, polynomial(r, C::expm1), r);
}

// e^x = 2^n (1 + p), p = e^r - 1. exp(+-0) = 1, exp(-inf) = 0, exp(inf) = inf; right into
// denormals.
template <class T>
FANIN_INLINE Vec<T> exp(Vec<T> x) {
  using E = Ends<T>;
  const Vec<T> within = max(broadcast(E::exp_zero), min(broadcast(E::exp_infinity), x));
  Vec<T> n;
  const Vec<T> p = reduced_expm1(within, n);
  return scale_near_one(broadcast<T>(1) + p, n);
}

// e^x - 1 = 2^n p + (2^n - 1) for x <= 0, and 0 for x > 0. +-0 gives +-0, denormals themselves,
// -inf gives -1.
template <class T>
FANIN_INLINE Vec<T> expm1_negative(Vec<T> x) {
  const Vec<T> within = max(broadcast(Ends<T>::expm1), min(zero<T>(), x));
  Vec<T> n;
  const Vec<T> p = reduced_expm1(within, n);
  const Vec<T> s = power_of_two(n);
  return copysign(fma(s, p, s - broadcast<T>(1)), within);
}

// E / (E + 2) with E = e^(2|x|) - 1 = 2^n p + (2^n - 1), and the sign of x. +-0 and denormals give
// themselves, +-inf gives +-1.
template <class T>
FANIN_INLINE Vec<T> tanh(Vec<T> x) {
  Vec<T> n;
  const Vec<T> p = reduced_expm1(min(broadcast(2 * Ends<T>::tanh), abs(x) + abs(x)), n);
  const Vec<T> s = power_of_two(n);
  const Vec<T> e = fma(s, p, s - broadcast<T>(1));
  return copysign(e / (e + broadcast<T>(2)), x);
}

// 1 / (1 + e) or, for x < 0, e / (1 + e), with e = exp(-|x|): no overflow, and right into
// denormals. sigmoid(+-0) = 1/2, sigmoid(-inf) = 0, sigmoid(inf) = 1.
template <class T>
FANIN_INLINE Vec<T> sigmoid(Vec<T> x) {
  const Vec<T> e = exp(-abs(x));
  return select(x < zero<T>(), e, broadcast<T>(1)) / (broadcast<T>(1) + e);
}

// log(2^k (1 + f)) for -0.3 < f < 0.5. With s = f / (2 + f) and 2 atanh(s) = 2 s + s R(s^2),
//     log(1 + f) = 2 atanh(s) = f - (f^2 / 2 - s (f^2 / 2 + R)),
// where f is exact and what is subtracted from it is small.
template <class T>
FANIN_INLINE Vec<T> reduced_log(Vec<T> f, Vec<T> k) {
  using C = Coefficients<T>;
  const Vec<T> s = f / (broadcast<T>(2) + f);
  const Vec<T> z = s * s;
  const Vec<T> h = f * (f * broadcast<T>(T(0.5)));
  const Vec<T> low = fma(k, broadcast(C::ln2_low), s * fma(z, polynomial(z, C::log), h));
  return fma(k, broadcast(C::ln2_high), f - (h - low));
}

// log(+-0) = -inf, log(x < 0) = NaN, log(inf) = inf, log(1) = +0; right for denormals.
template <class T>
FANIN_INLINE Vec<T> log(Vec<T> x) {
  const T infinity = T(__builtin_inf());
  Vec<T> mantissa, exponent;
  split(x, mantissa, exponent);
  const Vec<T> finite = reduced_log(mantissa - broadcast<T>(1), exponent);
  const Vec<T> outside =
      select(x == zero<T>(), broadcast(-infinity), broadcast(T(__builtin_nan(""))));
  return select(x > zero<T>(), select(x < broadcast(infinity), finite, x), outside);
}

// log(1 + e) for 0 <= e <= 1: 1 + e is 1 + f or 2 (1 + f), f exact. Denormals give themselves.
template <class T>
FANIN_INLINE Vec<T> log1p_unit(Vec<T> e) {
  const Mask<T> high = e >= broadcast<T>(T(0.5));
  const Vec<T> f = select(high, (e - broadcast<T>(1)) * broadcast<T>(T(0.5)), e);
  return reduced_log(f, select(high, broadcast<T>(1), zero<T>()));
}

// log(1 + e^x) = max(x, 0) + log(1 + e^-|x|). softplus(-inf) = 0, softplus(inf) = inf; right into
// denormals.
template <class T>
FANIN_INLINE Vec<T> softplus(Vec<T> x) {
  return max(x, zero<T>()) + log1p_unit(exp(-abs(x)));
}

// ---- the error function and the normal distribution

// erf(x) for |x| <= 1, as x + x c with |c| < 0.16: the rounding of c counts little. Right for
// denormals.
template <class T>
FANIN_INLINE Vec<T> small_erf(Vec<T> x) {
  return fma(x, polynomial(x * x, Coefficients<T>::erf), x);
}

// What is lost of a * a in its rounded value; for moderate a.
template <class T>
FANIN_INLINE Vec<T> square_low(Vec<T> a, Vec<T> square) {
  if constexpr (has_fma) {
    return fma(a, a, -square);
  } else {  // Dekker: a = high + low, halves whose products are exact
    const Vec<T> c = a * broadcast<T>(sizeof(T) == 4 ? 0x1.002p12 : 0x1.0000002p27);
    const Vec<T> high = c - (c - a), low = a - high;
    return ((high * high - square) + high * low + high * low) + low * low;
  }
}

// e^-(q + q_low) h for tiny q_low and 1/256 < h < 1, q at most 800: one rounding into denormals.
template <class T>
FANIN_INLINE Vec<T> decay(Vec<T> q, Vec<T> q_low, Vec<T> h) {
  Vec<T> n;
  const Vec<T> p = reduced_expm1(-q, n);
  const Vec<T> corrected = fnma(h, q_low, h);
  return scale_near_one(fma(corrected, p, corrected), n);
}

// Phi(-a) for 1 <= a <= tail_end, where a * a / 2 = q + q_low: without q_low the rounding of q
// alone would cost 100 (float) or 750 (double) ulp at the end. For a < 1 the result has no meaning.
template <class T>
FANIN_INLINE Vec<T> normal_tail(Vec<T> a, Vec<T> q, Vec<T> q_low) {
  using C = Coefficients<T>;
  const Vec<T> d = broadcast<T>(1) / (a + broadcast(C::tail_pole));
  const Vec<T> y = (a - broadcast(C::tail_centre)) * d;
  return decay(q, q_low, polynomial(y, C::tail) * d);
}

// 1 - 2 Phi(-sqrt(2) |x|) where |x| >= 1. erf(+-0) = +-0, erf(+-inf) = +-1; right for denormals.
template <class T>
FANIN_INLINE Vec<T> erf(Vec<T> x) {
  const Vec<T> t = min(broadcast(Ends<T>::erf), abs(x));
  const Vec<T> q = t * t;
  const Vec<T> tail = normal_tail(t * broadcast(T(1.4142135623730951)), q, square_low(t, q));
  const Vec<T> large = copysign(fnma(broadcast<T>(2), tail, broadcast<T>(1)), x);
  return select(t < broadcast<T>(1), small_erf(x), large);
}

// Phi(x), the probability that a standard normal variable is below x, and its density there: to a
// few ulp in the left tail too, down to denormals. Phi(-inf) = 0, Phi(inf) = 1, density(+-inf) = 0.
template <class T>
FANIN_INLINE void normal(Vec<T> x, Vec<T>& cdf, Vec<T>& density) {
  const T half = T(0.5);
  const Vec<T> a = min(broadcast(Coefficients<T>::tail_end), abs(x));
  const Vec<T> square = a * a;
  const Vec<T> q = square * broadcast(half), q_low = square_low(a, square) * broadcast(half);
  const Vec<T> tail = normal_tail(a, q, q_low);
  const Vec<T> large = select(x < zero<T>(), tail, broadcast<T>(1) - tail);
  const Vec<T> small =
      fma(small_erf(x * broadcast(T(0.7071067811865476))), broadcast(half), broadcast(half));
  cdf = select(a < broadcast<T>(1), small, large);
  density = decay(q, q_low, broadcast(T(0.3989422804014327)));  // 1 / sqrt(2 pi)
}

template <class T>
FANIN_INLINE Vec<T> normal_cdf(Vec<T> x) {
  Vec<T> cdf, density;
  normal(x, cdf, density);
  return cdf;
}

}  // namespace
}  // namespace fanin
