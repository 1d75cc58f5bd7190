// Products of small matrices in shared memory, 16 rows by a multiple of 8 columns to a warp, in
// registers: what fused.cu calls for every layer, forward and backward.
//
//     In        what the matrices are stored as: float, multiplied by ordinary fused multiply-adds,
//               or tf32, bfloat16, float16, multiplied by tensor cores; sums are float32
//     Lane<In>  which elements of a group, 16 rows by 8 columns, a lane holds: four, in g[0 .. 3]
//
// Matrices have zeros behind their rows and columns up to a multiple of 16, and rows so long that
// the 8 rows of a matrix that a warp reads at once lie in different banks: an odd number of 16
// bytes.
#pragma once

#include "tensor_core.cuh"

namespace fanin::cuda {

constexpr int padded(int width) { return (width + 15) / 16 * 16; }

// Elements from row to row.
template <class In>
constexpr int stride_of(int width) {
  return padded(width) + 16 / int(sizeof(In));
}

template <class In>
__device__ __forceinline__ In rounded(float x) {
  if constexpr (std::is_same_v<In, float>) {
    return x;
  } else if constexpr (std::is_same_v<In, tf32>) {
    return to_tf32(x);
  } else if constexpr (std::is_same_v<In, bfloat16>) {
    return __float2bfloat16_rn(x);
  } else {
    return __float2half_rn(x);
  }
}

template <class In>
__device__ __forceinline__ float value_of(In x) {
  if constexpr (std::is_same_v<In, tf32>) {
    return x.value;
  } else {
    return float(x);
  }
}

__device__ __forceinline__ int lane_of_warp() { return int(threadIdx.x) % warp_size; }

template <class In>
struct Lane {
  static constexpr bool on_cores = !std::is_same_v<In, float>;
  static constexpr int across = on_cores ? 4 : 8;  // lanes that share a row
  static constexpr int rows = on_cores ? 2 : 4;    // of a group, in one lane
  static constexpr int neighbours = 4 / rows;      // columns of a group, in one lane

  static constexpr int row_of(int i) { return i / neighbours; }  // of the lane's rows
  __device__ static __forceinline__ int row(int i) {
    return lane_of_warp() / across + row_of(i) * (16 / rows);
  }
  __device__ static __forceinline__ int col(int i) {
    return lane_of_warp() % across * neighbours + i % neighbours;
  }
};

// sum (16, 8 groups) += a (16, k) @ b (k, 8 groups); k a multiple of 16, groups even. Element
// (i, p) of a lies at a[i * a_stride + p], or where `a_down` at a[p * a_stride + i]; element (p, j)
// of b at b[p * b_stride + j], or where `b_down` at b[j * b_stride + p].
template <bool a_down, bool b_down, int most, class In>
__device__ __forceinline__ void add_product(float (&sum)[most][4], const In* a, int a_stride,
                                            const In* b, int b_stride, int k, int groups) {
  const int lane = lane_of_warp();
  if constexpr (sizeof(In) == 2) {
    const In* a_row = a_down ? a + (lane % 8 + lane / 16 * 8) * a_stride + lane / 8 % 2 * 8
                             : a + lane % 16 * a_stride + lane / 16 * 8;
    const In* b_row = b_down ? b + (lane % 8 + lane / 16 * 8) * b_stride + lane / 8 % 2 * 8
                             : b + (lane % 8 + lane / 8 % 2 * 8) * b_stride + lane / 16 * 8;
#pragma unroll 2
    for (int p = 0; p < k; p += 16) {
      uint32_t of_a[4], of_b[4];
      load_matrices<a_down>(of_a, a_row + (a_down ? p * a_stride : p));
#pragma unroll
      for (int j = 0; j < most; j += 2) {
        if (j < groups) {
          load_matrices<!b_down>(of_b,
                                 b_row + (b_down ? 8 * j * b_stride + p : p * b_stride + 8 * j));
          multiply_add<In>(sum[j], of_a, of_b[0], of_b[1]);
          multiply_add<In>(sum[j + 1], of_a, of_b[2], of_b[3]);
        }
      }
    }
  } else if constexpr (std::is_same_v<In, tf32>) {
    const auto bits = [](const tf32* x) { return __float_as_uint(x->value); };
#pragma unroll 1
    for (int p = 0; p < k; p += 8) {
      uint32_t of_a[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + i % 2 * 8, col = p + lane % 4 + i / 2 * 4;
        of_a[i] = bits(a_down ? a + col * a_stride + row : a + row * a_stride + col);
      }
#pragma unroll
      for (int j = 0; j < most; ++j) {
        if (j < groups) {
          uint32_t of_b[2];
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const int row = p + lane % 4 + i * 4, col = 8 * j + lane / 4;
            of_b[i] = bits(b_down ? b + col * b_stride + row : b + row * b_stride + col);
          }
          multiply_add<In>(sum[j], of_a, of_b[0], of_b[1]);
        }
      }
    }
  } else {
    using L = Lane<float>;
#pragma unroll 1
    for (int p = 0; p < k; p += 4) {
      Pack<float> of_a[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if constexpr (a_down) {
#pragma unroll
          for (int q = 0; q < 4; ++q) {
            of_a[i].v[q] = a[(p + q) * a_stride + L::row(i)];
          }
        } else {
          of_a[i] = load_pack(a + L::row(i) * a_stride + p);
        }
      }
#pragma unroll
      for (int j = 0; j < most; ++j) {
        if (j < groups) {
          Pack<float> of_b;
          if constexpr (b_down) {
            of_b = load_pack(b + (8 * j + L::col(0)) * b_stride + p);
          } else {
#pragma unroll
            for (int q = 0; q < 4; ++q) {
              of_b.v[q] = b[(p + q) * b_stride + 8 * j + L::col(0)];
            }
          }
#pragma unroll
          for (int q = 0; q < 4; ++q) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              sum[j][i] = fmaf(of_a[i].v[q], of_b.v[q], sum[j][i]);
            }
          }
        }
      }
    }
  }
}

}  // namespace fanin::cuda
