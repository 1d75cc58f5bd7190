// Moments of a column within a block of rows, which one thread makes.
//
// The seven numbers are those of kernels/stats.hpp; here sums are in double, shift is the mean
// rounded to the type of the moments and deviation the rest of the mean, so that shift + deviation
// has twice the digits.
#pragma once

#include "launch.cuh"
#include "table.hpp"

namespace fanin::cuda {

// The seven arrays, by name.
template <class S>
struct MomentArrays {
  __host__ __device__ explicit MomentArrays(const Moments<S>& m)
      : shift(m.data),
        deviation(shift + m.size),
        spread(deviation + m.size),
        zeros(spread + m.size),
        saturated(zeros + m.size),
        min(saturated + m.size),
        max(min + m.size) {}
  S *shift, *deviation, *spread, *zeros, *saturated, *min, *max;
};

// Of a[0], a[stride], ... (`rows` of them, at least one) into element `at` of the arrays.
template <class T>
__device__ __forceinline__ void column_moments(const T* a, int64_t stride, int rows, Wide<T> lo,
                                               Wide<T> hi, const Moments<Wide<T>>& moments,
                                               int64_t at) {
  using S = Wide<T>;
  const double first = double(S(a[0]));
  const double shift = isfinite(first) ? first : 0.0;
  double sum = 0, square = 0;
  int zeros = 0, saturated = 0;
  S min = S(a[0]), max = min;
#pragma unroll 8
  for (int r = 0; r < rows; ++r) {
    const S value = S(a[r * stride]);
    const double deviation = double(value) - shift;
    sum += deviation;
    square += deviation * deviation;
    zeros += value == 0;
    saturated += value < lo || value > hi;
    min = smaller(min, value);
    max = larger(max, value);
  }
  const double mean = shift + sum / rows, inside = square - sum * (sum / rows);
  const MomentArrays<S> to(moments);
  to.shift[at] = S(mean);
  to.deviation[at] = isfinite(S(mean)) ? S(mean - double(S(mean))) : S(0);
  to.spread[at] = S(sqrt((inside < 0 ? 0.0 : inside) / rows));
  to.zeros[at] = S(zeros);
  to.saturated[at] = S(saturated);
  to.min[at] = min;
  to.max[at] = max;
}

}  // namespace fanin::cuda
