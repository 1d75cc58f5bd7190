// out = x @ w with x and w rounded to bfloat16 and sums in float32; views as in gemm.hpp.
//
// bfloat16 is the upper half of a float32: its range, with 8 bits of precision. Two neighbours in k
// share a 32-bit word, a pair, and one instruction (where there is AVX512_BF16) adds both products:
//
//     for each block of 512 k, in order, for each pair of k in the block:
//         sum = sum + x[i, k] w[k, j] + x[i, k + 1] w[k + 1, j]
//
// The sum of an element does not depend on threads or on the rows around it; how its two products
// are rounded is the instruction set's business, so bits differ between sets. Everything is copied
// into pairs first: a block of x once per task, a panel of w once per block of rows.
#pragma once

#include "gemm.hpp"

namespace fanin {
namespace {

constexpr int64_t block_pairs = product_block / 2;
// Rows of pairs in scratch lie so far apart that they do not meet in the same cache sets.
constexpr int64_t row_of_pairs = block_pairs + 16;

// Rows of pairs from rows of floats: out (rows, stride), written in whole vectors, zeros behind.
inline void round_rows(View<const float> x, uint32_t* out, int64_t stride) {
  constexpr int W = width<float>;
  for (int64_t r = 0; r < x.rows; ++r) {
    auto* to = reinterpret_cast<char*>(out + r * stride);
    const float* from = x.at(r, 0);
    for (int64_t k = 0; k < x.cols; k += 2 * W) {
      if (x.col_stride == 1 && k + 2 * W <= x.cols) {
        store_bf16(to + 2 * k, load(from + k), load(from + k + W));
      } else {
        float some[2 * W] = {};
        for (int64_t i = 0; i < 2 * W && k + i < x.cols; ++i) {
          some[i] = from[(k + i) * x.col_stride];
        }
        store_bf16(to + 2 * k, load(some), load(some + W));
      }
    }
  }
}

// out (pairs of rows of x, stride): row k beside row k + 1, in whole vectors of columns. Unit
// column stride.
inline void round_pairs_of_rows(View<const float> x, uint32_t* out, int64_t stride) {
  constexpr int W = width<float>;
  for (int64_t k = 0; k < x.rows; k += 2, out += stride) {
    for (int64_t c = 0; c < x.cols; c += W) {
      const int lanes = int(x.cols - c < W ? x.cols - c : W);
      const Vec<float> even = load_lanes(x.at(k, c), lanes);
      const Vec<float> odd = k + 1 < x.rows ? load_lanes(x.at(k + 1, c), lanes) : zero<float>();
      store_pairs(out + c, pairs_of(even, odd));
    }
  }
}

// A block of x as pairs; where it was laid out.
struct RoundedRows {
  const uint32_t* data;
  int64_t row_stride, pair_stride;
};

inline RoundedRows round_block(View<const float> x, uint32_t* to) {
  if (x.row_stride == 1) {
    const int64_t stride = round_up(x.rows, 32) + 16;
    round_pairs_of_rows(x.transposed(), to, stride);
    return {to, 1, stride};
  }
  round_rows(x, to, row_of_pairs);
  return {to, row_of_pairs, 1};
}

// w (k, columns) as a panel of `vectors` vectors of pairs; `turned` is room for its transpose.
inline void round_panel(View<const float> w, int vectors, uint32_t* turned, uint32_t* panel) {
  if (w.col_stride == 1) {
    round_pairs_of_rows(w, panel, int64_t(vectors) * width<float>);
    return;
  }
  round_rows(w.transposed(), turned, row_of_pairs);
  const View<const float> moved =  // as floats: they are moved, not computed with
      rows_of(reinterpret_cast<const float*>(turned), w.cols, (w.rows + 1) / 2, row_of_pairs)
          .transposed();
  copy_panel(moved, 0, moved.rows, 0, moved.cols, vectors, reinterpret_cast<float*>(panel));
}

// x and its strides come apart: a struct would come by memory, and be read only when the stores of
// the tile before are done.
template <int R, int V>
void tile_bf16(int64_t pairs, const uint32_t* x, int64_t x_row, int64_t x_pair,
               const uint32_t* panel, float* out, int64_t out_row, int last, bool accumulate,
               Ahead& ahead) {
  constexpr int W = width<float>;
  Ahead next = ahead;
  Vec<float> sum[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      sum[r][v] = zero<float>();
    }
  }
  for (int64_t p = 0; p < pairs; ++p) {
    next.fetch_line();
    Pairs w[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      w[v] = load_pairs(panel + v * W);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Pairs x_pair = broadcast_pair(x[r * x_row]);
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) {
        sum[r][v] = add_products(sum[r][v], x_pair, w[v]);
      }
    }
    panel += V * W;
    x += x_pair;
  }
  ahead = next;
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      const int lanes = v < V - 1 ? W : last;
      float* to = out + r * out_row + v * W;
      store_lanes(to, accumulate ? load_lanes(to, lanes) + sum[r][v] : sum[r][v], lanes);
    }
  }
}

using TileBf16 = void (*)(int64_t, const uint32_t*, int64_t, int64_t, const uint32_t*, float*,
                          int64_t, int, bool, Ahead&);

// One shape of tiles, 8 rows of up to 3 vectors; 4 of up to 2 where registers are few.
constexpr int bf16_rows = registers == 32 ? 8 : 4, bf16_vectors = registers == 32 ? 3 : 2;

template <int R, int V>
constexpr TileBf16 tile_bf16_or_null() {
  if constexpr (R <= bf16_rows && V <= bf16_vectors) {
    return tile_bf16<R, V>;
  } else {
    return nullptr;
  }
}

template <int R>
struct TilesBf16 {
  static constexpr TileBf16 by_vectors[3] = {tile_bf16_or_null<R, 1>(), tile_bf16_or_null<R, 2>(),
                                             tile_bf16_or_null<R, 3>()};
};

inline TileBf16 tile_bf16_of(int rows, int vectors) {
  static constexpr const TileBf16* tiles[8] = {TilesBf16<1>::by_vectors, TilesBf16<2>::by_vectors,
                                               TilesBf16<3>::by_vectors, TilesBf16<4>::by_vectors,
                                               TilesBf16<5>::by_vectors, TilesBf16<6>::by_vectors,
                                               TilesBf16<7>::by_vectors, TilesBf16<8>::by_vectors};
  return tiles[rows - 1][vectors - 1];
}

constexpr int64_t bf16_block_rows = 8 * row_block;  // of x that a task copies

// out[r0:r1, c0:c1] = x[r0:r1] @ w[:, c0:c1], by one thread; r1 - r0 <= bf16_block_rows.
inline void product_of_block_bf16(View<const float> x, View<const float> w, View<float> out,
                                  Block block, uint32_t* scratch) {
  constexpr int W = width<float>;
  uint32_t* panel = scratch;
  uint32_t* turned = panel + block_pairs * bf16_vectors * W;
  uint32_t* rounded = turned + row_of_pairs * bf16_vectors * W;
  const int64_t k = x.cols, rows = block.r1 - block.r0;
  const int64_t vectors = (block.c1 - block.c0 + W - 1) / W;
  const int64_t panels = (vectors + bf16_vectors - 1) / bf16_vectors;
  for (int64_t r = block.r0; k == 0 && r < block.r1; ++r) {
    for (int64_t c = block.c0; c < block.c1; ++c) {
      *out.at(r, c) = 0;
    }
  }
  for (int64_t k0 = 0; k0 < k; k0 += product_block) {
    const int64_t k1 = k0 + product_block < k ? k0 + product_block : k;
    const RoundedRows x_block = round_block(x.block({block.r0, block.r1, k0, k1}), rounded);
    for (int64_t p = 0; p < panels; ++p) {
      const int64_t v0 = part(vectors, panels, p);
      const int wide = int(part(vectors, panels, p + 1) - v0);
      const int64_t left = block.c0 + v0 * W;
      const int64_t right = left + wide * W < block.c1 ? left + wide * W : block.c1;
      const int last = int(right - left - (wide - 1) * W);
      round_panel(w.block({k0, k1, left, right}), wide, turned, panel);
      Ahead panel_ahead =
          ahead_of(w, k0, k1, right, right + wide * W < block.c1 ? right + wide * W : block.c1);
      const int64_t tiles = (rows + bf16_rows - 1) / bf16_rows;
      for (int64_t t = 0; t < tiles; ++t) {
        const int64_t top = part(rows, tiles, t);
        tile_bf16_of(int(part(rows, tiles, t + 1) - top), wide)(
            (k1 - k0 + 1) / 2, x_block.data + top * x_block.row_stride, x_block.row_stride,
            x_block.pair_stride, panel, out.at(block.r0 + top, left), out.row_stride, last, k0 > 0,
            panel_ahead);
      }
    }
  }
}

static_assert(row_of_pairs * (2 * bf16_vectors * width<float> + bf16_block_rows + 48) *
                  sizeof(uint32_t) <=
              operation_scratch_bytes);

// As `product` of gemm.hpp; tasks are wide, as each copies its rows of x.
template <class Then>
void product_bf16(const Context& context, View<const float> x, View<const float> w, View<float> out,
                  Then&& then) {
  const int64_t blocks = row_blocks(out.rows);
  const int64_t groups = (out.cols + patch_cols - 1) / patch_cols;
  const int64_t row_tasks = (out.rows + bf16_block_rows - 1) / bf16_block_rows;
  const int64_t col_tasks = (out.cols + 511) / 512;
  auto body = [&](int64_t task, void* scratch) {
    const auto [i, j] = place_of(task, context.threads, row_tasks, col_tasks);
    const int64_t r0 = part(blocks, row_tasks, i) * row_block;
    const int64_t r1 = part(blocks, row_tasks, i + 1) * row_block;
    const int64_t c0 = part(groups, col_tasks, j) * patch_cols;
    const int64_t c1 = part(groups, col_tasks, j + 1) * patch_cols;
    const Block block{r0, r1 < out.rows ? r1 : out.rows, c0, c1 < out.cols ? c1 : out.cols};
    product_of_block_bf16(x, w, out, block, static_cast<uint32_t*>(scratch));
    then(block.r0, block.r1, block.c0, block.c1);
  };
  const double nanoseconds = double(x.rows) * double(x.cols) * double(w.cols) / 200.0;
  parallel_for(worth(context, nanoseconds), row_tasks * col_tasks, body);
}

}  // namespace
}  // namespace fanin
