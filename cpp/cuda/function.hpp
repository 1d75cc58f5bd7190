// Elementary functions on CUDA: an entry of Ops<float> and Ops<double>, for the tests of their
// error bounds.
//
// None for 16-bit types, which compute in float and round more coarsely than any error here.
#pragma once

#include "../core/ops.hpp"

namespace fanin::cuda {

template <class T>
void function(const Context& context, Function which, const T* x, T* out, int64_t count);

}  // namespace fanin::cuda
