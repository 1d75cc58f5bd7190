// Random bits as such: Philox blocks, 64-bit words, dropout masks. All are the CPU's bits.
#include "random.hpp"

#include "dropout.cuh"

namespace fanin::cuda {

namespace {

constexpr int threads = 256;

// out (count, 4): the blocks of counters c, c + (1, 0, 0, 0), ...; the first word wraps.
__global__ void __launch_bounds__(threads)
    philox_kernel(PhiloxBlock counter, uint32_t k0, uint32_t k1, int64_t count, uint32_t* out) {
  const int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x;
  if (i < count) {
    const PhiloxBlock made =
        philox(counter.w[0] + uint32_t(i), counter.w[1], counter.w[2], counter.w[3], k0, k1);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      out[4 * i + j] = made.w[j];
    }
  }
}

// One thread per block of Philox, which makes the words 2 place and 2 place + 1.
__global__ void __launch_bounds__(threads)
    words_kernel(uint32_t k0, uint32_t k1, uint32_t c2, uint32_t c3, int64_t start, int64_t count,
                 uint64_t* out) {
  const int64_t place = start / 2 + int64_t(blockIdx.x) * threads + threadIdx.x;
  const PhiloxBlock made = philox(uint32_t(place), uint32_t(place >> 32), c2, c3, k0, k1);
  const int64_t i = 2 * place - start;
  if (i >= 0 && i < count) {
    out[i] = made.w[0] | uint64_t(made.w[1]) << 32;
  }
  if (i + 1 < count) {
    out[i + 1] = made.w[2] | uint64_t(made.w[3]) << 32;
  }
}

// One warp per 8 rows and 32 columns: two words of the mask in each row.
__global__ void __launch_bounds__(threads)
    mask_kernel(Dropout dropout, const StepState* state, View<uint16_t> mask, int64_t col_tiles) {
  const int lane = threadIdx.x % warp_size;
  const int64_t tile = int64_t(blockIdx.x) * (threads / warp_size) + threadIdx.x / warp_size;
  const int64_t r = tile / col_tiles * 8, c = tile % col_tiles * warp_size;
  const DropoutKey key = key_of(dropout, state);
  const uint32_t kept =
      kept_rows(key, uint32_t(dropout.col + c) + uint32_t(lane), uint32_t((dropout.row + r) / 8));
  const int64_t word = c / 16 + lane / 16;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const uint32_t both = __ballot_sync(all_lanes, kept >> i & 1);
    if (lane % 16 == i && r + i < mask.rows && word < mask.cols) {
      *mask.at(r + i, word) = uint16_t(both >> (lane / 16 * 16));
    }
  }
}

}  // namespace

void philox(const Context& context, const uint32_t counter[4], const uint32_t key[2], int64_t count,
            uint32_t* out) {
  launch(philox_kernel, dim3(unsigned(divide_up(count, threads))), dim3(threads), 0,
         stream_of(context), PhiloxBlock{{counter[0], counter[1], counter[2], counter[3]}}, key[0],
         key[1], count, out);
}

void random_words(const Context& context, uint64_t seed, uint64_t step, uint32_t layer,
                  uint32_t stream, int64_t start, int64_t count, uint64_t* out) {
  const int64_t places = count > 0 ? (start + count - 1) / 2 - start / 2 + 1 : 0;
  launch(words_kernel, dim3(unsigned(divide_up(places, threads))), dim3(threads), 0,
         stream_of(context), uint32_t(seed), uint32_t(seed >> 32), philox_c2(step, layer, stream),
         uint32_t(step), start, count, out);
}

void dropout_mask(const Context& context, const Dropout& dropout, int64_t rows, int64_t cols,
                  uint16_t* mask) {
  const int64_t words = mask_words(cols), col_tiles = divide_up(cols, warp_size);
  const int64_t tiles = divide_up(rows, 8) * col_tiles;
  launch(mask_kernel, dim3(unsigned(divide_up(tiles, threads / warp_size))), dim3(threads), 0,
         stream_of(context), dropout, context.state, rows_of(mask, rows, words, words), col_tiles);
}

}  // namespace fanin::cuda
