// Activations a = f(z) and their derivatives, on vectors.
//
//     identity    z                        1
//     relu        max(0, z)                a > 0 ? 1 : 0
//     leaky_relu  z > 0 ? z : 0.01 z       a > 0 ? 1 : 0.01
//     elu         z > 0 ? z : e^z - 1      a > 0 ? 1 : a + 1
//     selu        l z, l m (e^z - 1)       a > 0 ? l : a + l m
//     tanh        tanh(z)                  (1 - a) (1 + a)
//     sigmoid     s(z) = 1 / (1 + e^-z)    a (1 - a)
//     softplus    log(1 + e^z)             1 - e^-a
//     gelu        z Phi(z)                 Phi(z) + z phi(z)
//     gelu_tanh   z s(u(z))                s + z s (1 - s) u',  u = sqrt(8 / pi) (z + 0.044715 z^3)
//     silu        z s(z)                   s + z s (1 - s)
//
// The derivative is had from a where that is possible, from z in the last three (needs_z).
// Memory: none; one vector in, one out. NaN gives NaN, also in derivatives (identity: 1). At -inf
// the last three give -0, the limit, and derivatives at +-inf are their limits; relu(-0) is -0.
#pragma once

#include "../core/ops.hpp"
#include "isa.hpp"
#include "math.hpp"

namespace fanin {
namespace {

// Klambauer et al., arXiv:1706.02515: mean 0 and variance 1 are a fixed point.
constexpr double selu_lambda = 1.0507009873554805, selu_alpha = 1.6732632423543772;
constexpr double leaky_slope = 0.01;
// Hendrycks and Gimpel, arXiv:1606.08415: sqrt(2 / pi) (z + 0.044715 z^3), twice, for the sigmoid.
constexpr double gelu_linear = 1.5957691216057308, gelu_cubic = 0.044715 * gelu_linear;

// s = sigmoid(x) and slope = s (1 - s), both to a few ulp on either side.
template <class T>
FANIN_INLINE void logistic(Vec<T> x, Vec<T>& s, Vec<T>& slope) {
  const Vec<T> e = exp(-abs(x));
  const Vec<T> large = broadcast<T>(1) / (broadcast<T>(1) + e), small = e * large;
  s = select(x < zero<T>(), small, large);
  slope = small * large;
}

// x moved into [-bound, bound]; NaN kept.
template <class T>
FANIN_INLINE Vec<T> within(Vec<T> x, T bound) {
  return min(broadcast(bound), max(broadcast(-bound), x));
}

template <Activation K, class T>
FANIN_INLINE Vec<T> activate(Vec<T> z) {
  using A = Activation;
  const Vec<T> bounded = max(broadcast<T>(-1000), z);  // so that -inf * 0 is not NaN
  if constexpr (K == A::identity) {
    return z;
  } else if constexpr (K == A::relu) {
    return max(zero<T>(), z);  // in this order: NaN stays
  } else if constexpr (K == A::leaky_relu) {
    return max(z, z * broadcast(T(leaky_slope)));
  } else if constexpr (K == A::elu) {
    return select(z > zero<T>(), z, expm1_negative(z));
  } else if constexpr (K == A::selu) {
    return select(z > zero<T>(), z * broadcast(T(selu_lambda)),
                  expm1_negative(z) * broadcast(T(selu_lambda * selu_alpha)));
  } else if constexpr (K == A::tanh) {
    return tanh(z);
  } else if constexpr (K == A::sigmoid) {
    return sigmoid(z);
  } else if constexpr (K == A::softplus) {
    return softplus(z);
  } else if constexpr (K == A::gelu) {
    return bounded * normal_cdf(z);
  } else if constexpr (K == A::gelu_tanh) {
    const Vec<T> slope = fma(z * z, broadcast(T(gelu_cubic)), broadcast(T(gelu_linear)));
    return bounded * sigmoid(z * slope);
  } else {
    static_assert(K == A::silu);
    return bounded * sigmoid(z);
  }
}

// f' from a = f(z), or from z where needs_z(K).
template <Activation K, class T>
FANIN_INLINE Vec<T> derivative(Vec<T> a) {
  using A = Activation;
  const Vec<T> one = broadcast<T>(1);
  const Mask<T> positive = a > zero<T>();
  if constexpr (K == A::identity) {
    return one;
  } else if constexpr (K == A::relu) {
    return select(is_nan(a), a, select(positive, one, zero<T>()));
  } else if constexpr (K == A::leaky_relu) {
    return select(is_nan(a), a, select(positive, one, broadcast(T(leaky_slope))));
  } else if constexpr (K == A::elu) {
    return select(positive, one, a + one);
  } else if constexpr (K == A::selu) {
    return select(positive, broadcast(T(selu_lambda)), a + broadcast(T(selu_lambda * selu_alpha)));
  } else if constexpr (K == A::tanh) {
    return (one - a) * (one + a);
  } else if constexpr (K == A::sigmoid) {
    return a * (one - a);
  } else if constexpr (K == A::softplus) {
    return -expm1_negative(-a);
  } else if constexpr (K == A::gelu) {
    const Vec<T> z = within(a, T(40));  // beyond: 0 and 1
    Vec<T> cdf, density;
    normal(z, cdf, density);
    return fma(z, density, cdf);
  } else if constexpr (K == A::gelu_tanh) {
    const Vec<T> z = within(a, T(24));
    const Vec<T> square = z * z, linear = broadcast(T(gelu_linear));
    Vec<T> s, slope;
    logistic(z * fma(square, broadcast(T(gelu_cubic)), linear), s, slope);
    return fma(z * fma(square, broadcast(T(3 * gelu_cubic)), linear), slope, s);
  } else {
    static_assert(K == A::silu);
    const Vec<T> z = within(a, T(750));
    Vec<T> s, slope;
    logistic(z, s, slope);
    return fma(z, slope, s);
  }
}

}  // namespace
}  // namespace fanin
