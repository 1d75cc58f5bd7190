// The instructions of the tensor cores that fused.cu is made of, sm_80 and later.
//
//     tf32            float32 whose last 13 bits are zero: what the cores multiply in this mode
//     load_matrices   four 8 x 8 matrices of 16-bit numbers from shared memory
//     multiply_add    c (16, 8) += a (16, d) @ b (d, 8), d = 16 for 16-bit numbers and 8 for tf32
//
// All lanes of a warp call them together. Of c, lane l has in c[i] the element of row
// l / 4 + 8 (i / 2) and column 2 (l % 4) + i % 2. emulated/tensor_core.h has the same for the CPU.
#pragma once

#include "launch.cuh"

namespace fanin::cuda {

struct tf32 {
  float value;
};

}  // namespace fanin::cuda

#ifdef FANIN_CUDA_EMULATED
#include "emulated/tensor_core.h"
#else

namespace fanin::cuda {

// To nearest, ties away from zero.
__device__ __forceinline__ tf32 to_tf32(float x) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return {__uint_as_float(bits)};
}

// Lanes 8 i to 8 i + 7 say where the rows of matrix i begin, at multiples of 16 bytes. Lane l gets
// in m[i] elements 2 (l % 4) and the next of row l / 4; where transposed, of column l / 4.
template <bool transposed, class T>
__device__ __forceinline__ void load_matrices(uint32_t (&m)[4], const T* row) {
  static_assert(sizeof(T) == 2);
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(at)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(at)
                 : "memory");
  }
}

// Of a, lane l has in the two halves of a[i] elements 2 (l % 4) + 8 (i / 2) and the next of row
// l / 4 + 8 (i % 2); of b, in b[i], elements 2 (l % 4) + 8 i and the next of column l / 4. With
// tf32: in a[i] element l % 4 + 4 (i / 2) of that row, in b[i] element l % 4 + 4 i of that column.
template <class In>
__device__ __forceinline__ void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1) {
  if constexpr (std::is_same_v<In, bfloat16>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else if constexpr (std::is_same_v<In, float16>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    static_assert(std::is_same_v<In, tf32>);
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

// Brings the 128 bytes there from the device's memory into its cache.
__device__ __forceinline__ void prefetch(const void* address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}

}  // namespace fanin::cuda

#endif
