// Entries of the table: stats.cu. Also, in their memory, what others ask of moments.
#pragma once

#include "table.hpp"

namespace fanin::cuda {

template <class T>
void stats(const Context&, View<const T> a, T lo, T hi, const Moments<T>&, Stats*);
template <class T>
void join_moments(const Context&, const Moments<T>&, int64_t rows, int64_t cols, Stats*);

}  // namespace fanin::cuda
