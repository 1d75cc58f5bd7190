// Gathering of rows on CUDA: an entry of Ops of every dtype; 16-bit ones compute in float and round
// once.
#pragma once

#include "../core/ops.hpp"

namespace fanin::cuda {

template <class T>
void gather(const Context& context, const Gather<T>& gather);

}  // namespace fanin::cuda
