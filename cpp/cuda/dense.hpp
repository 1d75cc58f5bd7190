// Entries of the table: dense.cu.
#pragma once

#include "table.hpp"

namespace fanin::cuda {

template <class T>
void dense_forward(const Context&, const DenseForward<T>&);
template <class T>
void activation_forward(const Context&, const ActivationForward<T>&);
template <class T>
void activation_backward(const Context&, const ActivationBackward<T>&);
template <class T>
void dense_backward(const Context&, const DenseBackward<T>&);
template <class T>
void column_sums(const Context&, View<const T> x, T* sums);

}  // namespace fanin::cuda
