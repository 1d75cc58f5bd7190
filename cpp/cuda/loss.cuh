// What a row, or an element, costs: the arithmetic that loss.cu and fused.cu share.
#pragma once

#include "math.cuh"

namespace fanin::cuda {

// The loss of a row within the ends of the form; NaN is neither below nor above.
__device__ __forceinline__ double cut(const LossForm& form, double loss) {
  return loss < form.least ? form.least : loss > form.most ? form.most : loss;
}

// What z costs against t. NaN stays NaN.
template <class Number>
__device__ __forceinline__ Number cross_entropy(const LossForm& form, Number z, Number t) {
  if (form.clip == 0) {
    return fma(-z, t, softplus<false>(z));
  }
  const Number least = Number(form.clip), most = 1 - least;
  Number p = sigmoid<false>(z);
  p = p > most ? most : p;
  p = p < least ? least : p;
  return -fma(t, log(p), (1 - t) * log(1 - p));
}

}  // namespace fanin::cuda
