// Activations a = f(z) and their derivatives, of one value; the formulas are those of
// kernels/activation.hpp, which has the table and the sources.
//
// The derivative is had from a where that is possible, from z where needs_z. NaN gives NaN, also in
// derivatives (identity: 1); at infinities they give their limits. Fast: math.cuh.
#pragma once

#include "launch.cuh"
#include "math.cuh"

namespace fanin::cuda {

constexpr double selu_lambda = 1.0507009873554805, selu_alpha = 1.6732632423543772;
constexpr double leaky_slope = 0.01;
constexpr double gelu_linear = 1.5957691216057308, gelu_cubic = 0.044715 * gelu_linear;

// x moved into [-bound, bound]; NaN kept.
template <class S>
__device__ __forceinline__ S within(S x, S bound) {
  return x > bound ? bound : x < -bound ? -bound : x;
}

template <Activation K, bool Fast, class S>
__device__ __forceinline__ S activate(S z) {
  using A = Activation;
  const S bounded = z < S(-1000) ? S(-1000) : z;  // so that -inf * 0 is not NaN
  if constexpr (K == A::identity) {
    return z;
  } else if constexpr (K == A::relu) {
    return z < 0 ? S(0) : z;
  } else if constexpr (K == A::leaky_relu) {
    return z < 0 ? z * S(leaky_slope) : z;
  } else if constexpr (K == A::elu) {
    return z > 0 ? z : expm1_negative<Fast>(z);
  } else if constexpr (K == A::selu) {
    return z > 0 ? z * S(selu_lambda) : expm1_negative<Fast>(z) * S(selu_lambda * selu_alpha);
  } else if constexpr (K == A::tanh) {
    return hyperbolic_tangent<Fast>(z);
  } else if constexpr (K == A::sigmoid) {
    return sigmoid<Fast>(z);
  } else if constexpr (K == A::softplus) {
    return softplus<Fast>(z);
  } else if constexpr (K == A::gelu) {
    return bounded * normal_cdf<Fast>(bounded);
  } else if constexpr (K == A::gelu_tanh) {
    return bounded * sigmoid<Fast>(bounded * (bounded * bounded * S(gelu_cubic) + S(gelu_linear)));
  } else {
    static_assert(K == A::silu);
    return bounded * sigmoid<Fast>(bounded);
  }
}

// f' from a = f(z), or from z where needs_z(K).
template <Activation K, bool Fast, class S>
__device__ __forceinline__ S derivative(S a) {
  using A = Activation;
  if constexpr (K == A::identity) {
    return S(1);
  } else if constexpr (K == A::relu) {
    return a != a ? a : a > 0 ? S(1) : S(0);
  } else if constexpr (K == A::leaky_relu) {
    return a != a ? a : a > 0 ? S(1) : S(leaky_slope);
  } else if constexpr (K == A::elu) {
    return a > 0 ? S(1) : a + 1;
  } else if constexpr (K == A::selu) {
    return a > 0 ? S(selu_lambda) : a + S(selu_lambda * selu_alpha);
  } else if constexpr (K == A::tanh) {
    return (1 - a) * (1 + a);
  } else if constexpr (K == A::sigmoid) {
    return a * (1 - a);
  } else if constexpr (K == A::softplus) {
    return a != a ? a : -expm1_negative<Fast>(-a);
  } else if constexpr (K == A::gelu) {
    const S z = within(a, S(40));  // beyond: 0 and 1
    return z * normal_density<Fast>(z) + normal_cdf<Fast>(z);
  } else if constexpr (K == A::gelu_tanh) {
    const S z = within(a, S(24));
    const S square = z * z;
    S s, slope;
    logistic<Fast>(z * (square * S(gelu_cubic) + S(gelu_linear)), s, slope);
    return z * (square * S(3 * gelu_cubic) + S(gelu_linear)) * slope + s;
  } else {
    static_assert(K == A::silu);
    const S z = within(a, S(750));
    S s, slope;
    logistic<Fast>(z, s, slope);
    return z * slope + s;
  }
}

}  // namespace fanin::cuda
