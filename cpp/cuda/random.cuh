// Philox4x32-10 of one thread. Counter, key and streams: core/random.hpp; the bits are the CPU's.
#pragma once

#include "../core/random.hpp"
#include "launch.cuh"

namespace fanin::cuda {

struct PhiloxBlock {
  uint32_t w[4];
};

__device__ __forceinline__ PhiloxBlock philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3,
                                              uint32_t k0, uint32_t k1) {
  constexpr uint32_t step0 = philox_weyl[0], step1 = philox_weyl[1];
#pragma unroll
  for (int i = 0; i < philox_rounds; ++i) {
    const uint64_t first = uint64_t(philox_multiply[0]) * c0;
    const uint64_t second = uint64_t(philox_multiply[1]) * c2;
    c0 = uint32_t(second >> 32) ^ c1 ^ k0;
    c1 = uint32_t(second);
    c2 = uint32_t(first >> 32) ^ c3 ^ k1;
    c3 = uint32_t(first);
    k0 += step0;
    k1 += step1;
  }
  return {{c0, c1, c2, c3}};
}

}  // namespace fanin::cuda
