// Products of matrices, by cuBLASLt.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "../core/ops.hpp"

namespace fanin::cuda {

// out = x @ w, (m, k) times (k, n); any strides for x and w; out has a unit stride along rows or
// columns. For <float, float> <double, double> and from __nv_bfloat16 or __half to itself or to
// float; the latter are summed in float. float products round their inputs to bfloat16 where
// context.bfloat16 says so, to TF32 where context.tf32 does.
template <class In, class Out>
void product(const Context& context, View<const In> x, View<const In> w, View<Out> out);

// to[i][j] = from[i][j], rounded to To; any strides. From a type to itself, between float and the
// types of two bytes, from integers to int64.
template <class From, class To>
void convert(const Context& context, View<const From> from, View<To> to);

}  // namespace fanin::cuda
