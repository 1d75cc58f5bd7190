// Elementary functions of the type that values are computed in.
//
// float and double: the toolkit's, to a few ulp. `Fast` (for values that are stored in two bytes,
// of which each rounding costs 2^-9 or 2^-12): the hardware's exponential, and formulas made of it,
// to about 2^-20.
#pragma once

#include "launch.cuh"

namespace fanin::cuda {

// Whether functions of values stored as T may be Fast.
template <class T>
constexpr bool is_fast = sizeof(T) == 2;

__device__ __forceinline__ float absolute(float x) { return fabsf(x); }
__device__ __forceinline__ double absolute(double x) { return fabs(x); }

template <bool Fast>
__device__ __forceinline__ float exponential(float x) {
  return Fast ? __expf(x) : expf(x);
}
template <bool Fast>
__device__ __forceinline__ double exponential(double x) {
  return exp(x);
}

template <bool Fast>
__device__ __forceinline__ float ratio(float x, float y) {
  return Fast ? __fdividef(x, y) : x / y;
}
template <bool Fast>
__device__ __forceinline__ double ratio(double x, double y) {
  return x / y;
}

// e^x - 1 for x <= 0, and 0 for x > 0.
template <bool Fast>
__device__ __forceinline__ float expm1_negative(float x) {
  x = x > 0 ? 0.0f : x;
  if constexpr (Fast) {
    return x > -0.01f ? x + 0.5f * x * x : __expf(x) - 1;
  } else {
    return expm1f(x);
  }
}
template <bool Fast>
__device__ __forceinline__ double expm1_negative(double x) {
  return expm1(x > 0 ? 0.0 : x);
}

template <bool Fast>
__device__ __forceinline__ float hyperbolic_tangent(float x) {
  if constexpr (Fast) {
    const float a = fabsf(x), square = x * x;
    const float large = copysignf(1 - __fdividef(2.0f, 1 + __expf(fminf(2 * a, 40.0f))), x);
    const float small = x + x * square * (-0x1.555556p-2f + 0x1.111112p-3f * square);
    return x != x ? x : a < 0.1f ? small : large;
  } else {
    return tanhf(x);
  }
}
template <bool Fast>
__device__ __forceinline__ double hyperbolic_tangent(double x) {
  return tanh(x);
}

// 1 / (1 + e^-x); the exponent is never positive, so that nothing overflows.
template <bool Fast, class S>
__device__ __forceinline__ S sigmoid(S x) {
  const S e = exponential<Fast>(-absolute(x));
  return ratio<Fast>(x < 0 ? e : S(1), 1 + e);
}

// s = sigmoid(x) and slope = s (1 - s), accurate on either side.
template <bool Fast, class S>
__device__ __forceinline__ void logistic(S x, S& s, S& slope) {
  const S e = exponential<Fast>(-absolute(x));
  const S large = ratio<Fast>(S(1), 1 + e), small = e * large;
  s = x < 0 ? small : large;
  slope = small * large;
}

// log(1 + e^x) = max(x, 0) + log(1 + e^-|x|); NaN stays.
template <bool Fast>
__device__ __forceinline__ float softplus(float x) {
  const float e = exponential<Fast>(-fabsf(x));
  return (x < 0 ? 0.0f : x) + log1pf(e);
}
template <bool Fast>
__device__ __forceinline__ double softplus(double x) {
  return (x < 0 ? 0.0 : x) + log1p(exp(-fabs(x)));
}

// Phi(x), the probability that a standard normal variable is below x.
//
// Fast: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.2.17; error below 7.5e-8.
template <bool Fast>
__device__ __forceinline__ float normal_cdf(float x) {
  if constexpr (Fast) {
    const float t = __fdividef(1.0f, 1 + 0.2316419f * fabsf(x));
    const float series =
        t * (0.319381530f +
             t * (-0.356563782f + t * (1.781477937f + t * (-1.821255978f + t * 1.330274429f))));
    const float tail = 0.3989422804f * __expf(-0.5f * x * x) * series;
    return x < 0 ? tail : 1 - tail;
  } else {
    return normcdff(x);
  }
}
template <bool Fast>
__device__ __forceinline__ double normal_cdf(double x) {
  return normcdf(x);
}

// Its density, e^(-x^2 / 2) / sqrt(2 pi).
template <bool Fast, class S>
__device__ __forceinline__ S normal_density(S x) {
  return S(0.3989422804014326779) * exponential<Fast>(S(-0.5) * x * x);
}

}  // namespace fanin::cuda
