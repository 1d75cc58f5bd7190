// L threads that work on one row of a matrix: L a power of two, part of a warp, or whole warps.
//
// A block has some such groups side by side. All of its threads call these together; sums and
// maxima come in an order fixed by L, and every thread of a group is given them.
#pragma once

#include "launch.cuh"

namespace fanin::cuda {

// op is associative but for rounding, and op(x, y) has the bits of op(y, x).
template <int L, class T, class Op>
__device__ __forceinline__ T over_group(T value, const Op& op) {
  static_assert(L <= warp_size ? warp_size % L == 0 : L % warp_size == 0);
#pragma unroll
  for (int away = 1; away < (L < warp_size ? L : warp_size); away *= 2) {
    value = op(value, __shfl_xor_sync(all_lanes, value, away));
  }
  if constexpr (L > warp_size) {
    __shared__ T of_warp[1024 / warp_size];
    if (threadIdx.x % warp_size == 0) {
      of_warp[threadIdx.x / warp_size] = value;
    }
    __syncthreads();
    const T* first = of_warp + threadIdx.x / L * (L / warp_size);
    value = first[0];
#pragma unroll
    for (int w = 1; w < L / warp_size; ++w) {
      value = op(value, first[w]);
    }
    __syncthreads();
  }
  return value;
}

template <int L, class T>
__device__ __forceinline__ T group_sum(T value) {
  return over_group<L>(value, [](T x, T y) { return x + y; });
}

// NaN where there is one.
template <int L, class T>
__device__ __forceinline__ T group_max(T value) {
  return over_group<L>(value, [](T x, T y) { return larger(x, y); });
}

}  // namespace fanin::cuda
