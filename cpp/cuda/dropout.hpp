// Masks as others read them.
#pragma once

#include "../core/ops.hpp"

namespace fanin::cuda {

// kept (rows, cols), contiguous: true where the bit of the mask is set.
void unpack_mask(const Context& context, View<const uint16_t> mask, int64_t cols, bool* kept);

}  // namespace fanin::cuda
