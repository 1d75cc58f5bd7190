// W neighbouring numbers that a thread takes from memory at once.
//
// Kernels are templates of W: pack_size<T> where addresses allow 16 bytes at a time, else 1.
#pragma once

#include "launch.cuh"

namespace fanin::cuda {

template <class T, int W>
struct alignas(W * sizeof(T) < 16 ? W * sizeof(T) : 16) Lanes {
  T v[W];
};

template <class T>
constexpr int pack_size = 16 / int(sizeof(T));

template <int W, class T>
__device__ __forceinline__ Lanes<T, W> load_lanes(const T* from) {
  return *reinterpret_cast<const Lanes<T, W>*>(from);
}
template <int W, class T>
__device__ __forceinline__ void store_lanes(T* to, const Lanes<T, W>& lanes) {
  *reinterpret_cast<Lanes<T, W>*>(to) = lanes;
}

// The same where only the first `count` are there; the others are 0.
template <int W, class T>
__device__ __forceinline__ Lanes<T, W> load_first(const T* from, int64_t count) {
  if (count >= W) {
    return load_lanes<W>(from);
  }
  Lanes<T, W> lanes;
#pragma unroll
  for (int i = 0; i < W; ++i) {
    lanes.v[i] = i < count ? from[i] : T(0);
  }
  return lanes;
}
template <int W, class T>
__device__ __forceinline__ void store_first(T* to, const Lanes<T, W>& lanes, int64_t count) {
  if (count >= W) {
    store_lanes<W>(to, lanes);
    return;
  }
#pragma unroll
  for (int i = 0; i < W; ++i) {
    if (i < count) {
      to[i] = lanes.v[i];
    }
  }
}

// Whether W at a time can be loaded from there, or nothing will be.
template <int W, class T>
bool holds_lanes(const T* data) {
  return uintptr_t(data) % alignof(Lanes<T, W>) == 0;
}
// Whether all rows, which are contiguous, can be loaded so.
template <int W, class T>
bool holds_lanes(const View<T>& view) {
  return view.data == nullptr || (holds_lanes<W>(view.data) && view.cols % W == 0 &&
                                  (view.rows <= 1 || view.row_stride % W == 0));
}

}  // namespace fanin::cuda
