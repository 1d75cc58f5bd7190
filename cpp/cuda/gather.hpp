// Gathering of rows on CUDA: an entry of Ops of every dtype. Where T has 16 bits it is float all
// the way to the end, and Gather's shift and factor are of float where they would be of T.
#pragma once

#include "../core/ops.hpp"

namespace fanin::cuda {

template <class T>
void gather(const Context& context, const Gather<T>& gather);

}  // namespace fanin::cuda
