// What every kernel is made with.
//
//     Wide<T>          the type that values stored as T are computed in: float for bfloat16 and
//                      float16, else T itself
//     Pack<T>          16 bytes of T: one load or store of a thread
//     launch           a kernel onto a stream
//     dynamic_shared   the shared memory whose size the launch said
//     warp_sum, block_sum, block_max   over a warp or a block, in a fixed order: the same bits
//                      each time, and in every thread
//
// The same text is compiled for the CPU (emulated/cuda_runtime.h) to be tested without a GPU.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "../core/ops.hpp"
#include "error.hpp"

namespace fanin::cuda {

using bfloat16 = __nv_bfloat16;
using float16 = __half;

template <class T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

constexpr int warp_size = 32;
constexpr unsigned all_lanes = 0xFFFFFFFF;

constexpr int64_t divide_up(int64_t count, int64_t by) { return (count + by - 1) / by; }

// ---- memory

template <class T>
struct alignas(16) Pack {
  static constexpr int size = 16 / int(sizeof(T));
  T v[size];
};

// The address must be a multiple of 16 bytes.
template <class T>
__device__ __forceinline__ Pack<T> load_pack(const T* from) {
#ifdef FANIN_CUDA_EMULATED
  emulated::need_alignment(from, 16);
#endif
  Pack<T> pack;
  *reinterpret_cast<uint4*>(&pack) = *reinterpret_cast<const uint4*>(from);
  return pack;
}

template <class T>
__device__ __forceinline__ void store_pack(T* to, const Pack<T>& pack) {
#ifdef FANIN_CUDA_EMULATED
  emulated::need_alignment(to, 16);
#endif
  *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(&pack);
}

// The same into device memory, never shared: one store, where nvcc may take the assignment above
// apart into a store for each number.
template <class T>
__device__ __forceinline__ void store_pack_whole(T* to, const Pack<T>& pack) {
#ifdef FANIN_CUDA_EMULATED
  emulated::need_alignment(to, 16);
#endif
  __stwb(reinterpret_cast<uint4*>(to), *reinterpret_cast<const uint4*>(&pack));
}

// Whether all rows of a view with contiguous rows begin at multiples of 16 bytes.
template <class T>
bool has_packs(const View<T>& view) {
  return view.data == nullptr ||
         (uintptr_t(view.data) % 16 == 0 &&
          (view.rows <= 1 || view.row_stride * int64_t(sizeof(T)) % 16 == 0));
}

// `bytes` of it, at multiples of 16.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
#ifdef FANIN_CUDA_EMULATED
  return static_cast<T*>(emulated::Block::get().shared());
#else
  extern __shared__ __align__(16) unsigned char shared_memory[];
  return reinterpret_cast<T*>(shared_memory);
#endif
}

// ---- launches

// Bytes of dynamic shared memory that a block may have; its static arrays have the other 512. The
// first device asked about speaks for all.
inline int most_shared() {
  static const int bytes = [] {
    int device = 0, found = 0;
    check(cudaGetDevice(&device), "asking for the device");
    check(cudaDeviceGetAttribute(&found, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
          "asking for the shared memory of a block");
    return found - 512;
  }();
  return bytes;
}

// kernel<<<grid, block, shared_bytes, stream>>>(arguments...); an empty grid launches nothing.
template <class K, class... A>
void launch(K kernel, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
            A... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) {
    return;
  }
  // 48 KB less static arrays, of which kernels that come near have 1 KB at most. What is asked for
  // is always the same: less might be too little for what another thread is about to launch.
  constexpr size_t without_asking = size_t{47} << 10;
  if (shared_bytes > without_asking) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most_shared()),
          "asking for shared memory");
  }
#ifdef FANIN_CUDA_EMULATED
  emulated::launch(kernel, grid, block, shared_bytes, stream, arguments...);
#else
  kernel<<<grid, block, shared_bytes, stream>>>(arguments...);
#endif
  check(cudaGetLastError(), "launch of a kernel");
}

inline cudaStream_t stream_of(const Context& context) {
  return static_cast<cudaStream_t>(context.stream);
}

// Of the current device; 132 on an H100 or H200.
inline int multiprocessors() {
  static const int count = [] {
    int device = 0, found = 0;
    check(cudaGetDevice(&device), "asking for the device");
    check(cudaDeviceGetAttribute(&found, cudaDevAttrMultiProcessorCount, device),
          "asking for the number of multiprocessors");
    return found;
  }();
  return count;
}

// Blocks of a kernel that strides over `pieces` of work, one piece per block and turn: all that can
// be resident, but no more than there is work for. Results must not depend on it.
inline unsigned resident_blocks(int64_t pieces, int per_multiprocessor) {
  const int64_t most = int64_t(multiprocessors()) * per_multiprocessor;
  return unsigned(pieces < most ? pieces : most);
}

// ---- sums in a fixed order

// The larger; NaN where there is one.
template <class T>
__device__ __forceinline__ T larger(T x, T y) {
  return x > y || x != x ? x : y;
}
template <class T>
__device__ __forceinline__ T smaller(T x, T y) {
  return x < y || x != x ? x : y;
}

// join(join(x0, x1), ...) of a warp's values; `join` is symmetric, and every lane is given the
// result.
template <class T, class Join>
__device__ __forceinline__ T joined_in_warp(T value, Join join) {
#pragma unroll
  for (int away = warp_size / 2; away > 0; away /= 2) {
    value = join(value, __shfl_xor_sync(all_lanes, value, away));
  }
  return value;
}

// Of a block of `threads` (a multiple of 32); every thread is given the result. Ends with a
// barrier, so that it can be called again.
template <int threads, class T, class Join>
__device__ __forceinline__ T joined_in_block(T value, Join join) {
  static_assert(threads % warp_size == 0 && threads <= 1024);
  constexpr int warps = threads / warp_size;
  __shared__ T of_warps[warps];
  value = joined_in_warp(value, join);
  if (threadIdx.x % warp_size == 0) {
    of_warps[threadIdx.x / warp_size] = value;
  }
  __syncthreads();
  T total = of_warps[0];
#pragma unroll
  for (int i = 1; i < warps; ++i) {
    total = join(total, of_warps[i]);
  }
  __syncthreads();
  return total;
}

struct Sum {
  template <class T>
  __device__ __forceinline__ T operator()(T x, T y) const {
    return x + y;
  }
};
struct Larger {
  template <class T>
  __device__ __forceinline__ T operator()(T x, T y) const {
    return larger(x, y);
  }
};

template <class T>
__device__ __forceinline__ T warp_sum(T value) {
  return joined_in_warp(value, Sum{});
}
template <int threads, class T>
__device__ __forceinline__ T block_sum(T value) {
  return joined_in_block<threads>(value, Sum{});
}
template <int threads, class T>
__device__ __forceinline__ T block_max(T value) {
  return joined_in_block<threads>(value, Larger{});
}

}  // namespace fanin::cuda
