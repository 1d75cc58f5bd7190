// Histograms on CUDA: an entry of Ops of every dtype.
#pragma once

#include "../core/ops.hpp"

namespace fanin::cuda {

template <class T>
void histogram(const Context& context, View<const T> a, const double* edges, int bins,
               int64_t* counts);

}  // namespace fanin::cuda
