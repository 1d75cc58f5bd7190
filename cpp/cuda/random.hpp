// Entries of the table: random.cu.
#pragma once

#include "../core/ops.hpp"

namespace fanin::cuda {

void philox(const Context&, const uint32_t counter[4], const uint32_t key[2], int64_t count,
            uint32_t* out);
void dropout_mask(const Context&, const Dropout&, int64_t rows, int64_t cols, uint16_t* mask);
void random_words(const Context&, uint64_t seed, uint64_t step, uint32_t layer, uint32_t stream,
                  int64_t start, int64_t count, uint64_t* out);

}  // namespace fanin::cuda
