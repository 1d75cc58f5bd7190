// Batch normalisation on CUDA: entries of Ops<float> and Ops<double>.
//
// None for 16-bit types: a running mean of 8 or 11 bits stands still once what momentum adds is
// less than half of its last bit.
#pragma once

#include "../core/ops.hpp"

namespace fanin::cuda {

template <class T>
void batch_norm_forward(const Context& context, const BatchNormForward<T>& layer);

template <class T>
void batch_norm_backward(const Context& context, const BatchNormBackward<T>& layer);

}  // namespace fanin::cuda
