// Optimizers and regularisers on CUDA: entries of Ops<float> and Ops<double>.
//
// None for 16-bit types: a step of less than 2^-9 of a parameter would be lost in it. Training in
// 16 bits keeps float parameters, gradients and moments, and rounds what products read.
#pragma once

#include "../core/ops.hpp"

namespace fanin::cuda {

template <class T>
void sgd(const Context& context, const Update<T>& update);

template <class T>
void rmsprop(const Context& context, const Update<T>& update);

template <class T>
void adam(const Context& context, const Update<T>& update);

// Writes the norm to context.number and returns NaN.
template <class T>
double norm(const Context& context, const T* gradients, int64_t count, double clip_value,
            double* squares);

template <class T>
void regularise(const Context& context, View<const T> w, View<T> dw, double l1, double l2,
                double l1_slope, View<double> penalties);

template <class T>
void shrink(const Context& context, const Update<T>& update, double l1);

template <class T>
void limit_norms(const Context& context, View<T> w, double max_norm);

}  // namespace fanin::cuda
