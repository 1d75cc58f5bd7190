// Sums down the columns of a matrix: what a block does with a tile of it.
//
// A block has `across` by `down` threads. A thread takes W neighbouring columns, and every
// `down`-th row: eight threads side by side read whole sectors of memory, whatever W is. Sums are
// made in double: first over the rows of a thread, then over the threads of a warp, then over the
// warps, in that order always.
#pragma once

#include "lanes.cuh"

namespace fanin::cuda {

constexpr int across = 8, down = 32;
constexpr int tile_warps = across * down / 32;
inline dim3 tile_block() { return dim3(across, down); }

// Tiles of W columns a thread.
template <int W>
unsigned column_tiles(int64_t cols) {
  return unsigned((cols + across * W - 1) / (across * W));
}

// The first column of this thread, and how many of its W there are: less than 1 means none.
template <int W>
__device__ int64_t own_column() {
  return (int64_t(blockIdx.x) * across + threadIdx.x) * W;
}

// A thread in front, one of the first across * W, has a column of the tile to itself.
template <int W>
__device__ bool in_front() {
  return int(threadIdx.y * across + threadIdx.x) < across * W;
}
template <int W>
__device__ int64_t front_column() {
  return int64_t(blockIdx.x) * across * W + threadIdx.y * across + threadIdx.x;
}

// Adds K quantities of all threads of a column. Each thread in front gets those of its own.
template <int K, int W>
__device__ void sum_down(double (&x)[K][W], double (&total)[K]) {
  __shared__ double sums[tile_warps][K][across * W];
  const int warp = threadIdx.y / (32 / across);
#pragma unroll
  for (int k = 0; k < K; ++k) {
#pragma unroll
    for (int i = 0; i < W; ++i) {
#pragma unroll
      for (int step = across; step < 32; step *= 2) {
        x[k][i] += __shfl_xor_sync(0xFFFFFFFFu, x[k][i], step);
      }
      if (threadIdx.y % (32 / across) == 0) {
        sums[warp][k][threadIdx.x * W + i] = x[k][i];
      }
    }
  }
  __syncthreads();
  if (in_front<W>()) {
    const int column = threadIdx.y * across + threadIdx.x;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      total[k] = 0;
#pragma unroll
      for (int w = 0; w < tile_warps; ++w) {
        total[k] += sums[w][k][column];
      }
    }
  }
  __syncthreads();
}

}  // namespace fanin::cuda
