// Masks from one bit per element to one byte.
#include "dropout.hpp"

#include "launch.cuh"

namespace fanin::cuda {
namespace {

constexpr int threads = 256;

__global__ void __launch_bounds__(threads)
    unpack_kernel(View<const uint16_t> mask, int64_t cols, bool* kept) {
  for (int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x; i < mask.rows * cols;
       i += int64_t(gridDim.x) * threads) {
    const int64_t row = i / cols, col = i % cols;
    kept[i] = *mask.at(row, col / 16) >> (col % 16) & 1;
  }
}

}  // namespace

void unpack_mask(const Context& context, View<const uint16_t> mask, int64_t cols, bool* kept) {
  const int64_t blocks = divide_up(mask.rows * cols, threads);
  launch(unpack_kernel, dim3(resident_blocks(blocks, 2048 / threads)), dim3(threads), 0,
         stream_of(context), mask, cols, kept);
}

}  // namespace fanin::cuda
