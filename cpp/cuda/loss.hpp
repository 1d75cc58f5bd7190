// Losses and the softmax on CUDA: entries of Ops of every dtype; 16-bit ones compute in float.
#pragma once

#include "../core/ops.hpp"

namespace fanin::cuda {

// These write the loss to context.number and return NaN.
template <class T>
double softmax_cross_entropy(const Context& context, const Loss<T>& loss);

template <class T>
double sigmoid_cross_entropy(const Context& context, const Loss<T>& loss);

template <class T>
double mean_squared_error(const Context& context, const Loss<T>& loss);

template <class T>
void softmax(const Context& context, View<const T> z, View<T> p);

}  // namespace fanin::cuda
