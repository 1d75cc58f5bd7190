// Elementary functions of float and double that CUDA's own do not cover. NaN gives NaN.
#pragma once

#include "../core/ops.hpp"
#include "launch.cuh"

namespace fanin::cuda {

// e^min(x, 0) / (1 + e^-|x|): no overflow, and right where the result is small.
template <class T>
__device__ __forceinline__ T sigmoid(T x) {
  const T e = exp(-fabs(x));
  return (x < 0 ? e : T(1)) / (1 + e);
}

// log(1 + e^x) = max(x, 0) + log(1 + e^-|x|)
template <class T>
__device__ __forceinline__ T softplus(T x) {
  return (x > 0 ? x : T(0)) + log1p(exp(-fabs(x)));
}

__device__ __forceinline__ float normal_cdf(float x) { return normcdff(x); }
__device__ __forceinline__ double normal_cdf(double x) { return normcdf(x); }

// An entry of Ops<float> and Ops<double>, for the tests of error bounds; 16-bit types compute in
// float, which those cover.
template <class T>
void function(const Context& context, Function which, const T* x, T* out, int64_t count);

}  // namespace fanin::cuda
