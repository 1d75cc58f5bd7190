// Philox4x32-10: four random 32-bit words from a counter of four words and a key of two.
//
//     J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC
//     2011
//
// Nothing is stored: a number is a function of the seed and of its place, so that the same one can
// be drawn again, by any thread, on any machine. Key: the low and high half of the seed. Counter:
//
//     c0, c1   the place: column and row / 8 of a dropout block (kernels/random.hpp);
//              low and high half of e / 2 for the 64-bit word e, which is
//              w0 | w1 << 32 of its block where e is even, w2 | w3 << 32 where it is odd
//     c2       layer (16 bits) | step >> 32 (12 bits) << 16 | stream (4 bits) << 28
//     c3       step & 0xffffffff
//
// hence seed < 2^64, step < 2^44, layer < 2^16. The rounds are in kernels/random.hpp.
#pragma once

#include <cstdint>

namespace fanin {

constexpr uint32_t stream_dropout = 0, stream_init = 1, stream_shuffle = 2, stream_augment = 3;

constexpr uint32_t input_layer = 0xFFFF;  // of the mask over a network's inputs

constexpr int philox_rounds = 10;
constexpr uint32_t philox_multiply[2] = {0xD2511F53, 0xCD9E8D57};
constexpr uint32_t philox_weyl[2] = {0x9E3779B9, 0xBB67AE85};  // golden ratio, sqrt(3) - 1

static constexpr uint32_t philox_c2(uint64_t step, uint32_t layer, uint32_t stream) {
  return layer | static_cast<uint32_t>(step >> 32) << 16 | stream << 28;
}

}  // namespace fanin
