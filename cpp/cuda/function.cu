// Elementwise functions as they are inside the kernels.
#include "function.hpp"

#include "math.cuh"

namespace fanin::cuda {
namespace {

constexpr int threads = 256;

template <class T>
__device__ T value_of(Function which, T x) {
  switch (which) {
    case Function::exp:
      return exp(x);
    case Function::log:
      return log(x);
    case Function::tanh:
      return tanh(x);
    case Function::sigmoid:
      return sigmoid<false>(x);
    case Function::erf:
      return erf(x);
    case Function::softplus:
      return softplus<false>(x);
    case Function::normal_cdf:
      return normal_cdf<false>(x);
  }
  return x;
}

template <class T>
__global__ void apply(Function which, const T* x, T* out, int64_t count) {
  const int64_t step = int64_t(gridDim.x) * threads;
  for (int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x; i < count; i += step) {
    out[i] = value_of(which, x[i]);
  }
}

}  // namespace

template <class T>
void function(const Context& context, Function which, const T* x, T* out, int64_t count) {
  launch(apply<T>, dim3(resident_blocks(divide_up(count, threads), 8)), dim3(threads), 0,
         stream_of(context), which, x, out, count);
}

template void function(const Context&, Function, const float*, float*, int64_t);
template void function(const Context&, Function, const double*, double*, int64_t);

}  // namespace fanin::cuda
