// The one unit that is compiled once per instruction set (see CMakeLists.txt). It exports exactly
// one symbol, its table; everything else in it is local, so that code made for one processor is
// never linked into a program that runs on another.
#include "activation.hpp"
#include "batch_norm.hpp"
#include "dense.hpp"
#include "dispatch.hpp"
#include "dropout.hpp"
#include "gather.hpp"
#include "gemm.hpp"
#include "gemm_bf16.hpp"
#include "isa.hpp"
#include "loss.hpp"
#include "math.hpp"
#include "optimizer.hpp"
#include "peak.hpp"
#include "random.hpp"
#include "stats.hpp"

namespace fanin {
namespace {

template <class T>
void function(const Context& context, Function which, const T* x, T* out, int64_t count) {
  for_elements<T>(context, count, [&](int64_t i, int lanes) {
    const Vec<T> in = load_lanes(x + i, lanes);
    Vec<T> y = in;
    switch (which) {
      case Function::exp:
        y = exp(in);
        break;
      case Function::log:
        y = log(in);
        break;
      case Function::tanh:
        y = tanh(in);
        break;
      case Function::sigmoid:
        y = sigmoid(in);
        break;
      case Function::erf:
        y = erf(in);
        break;
      case Function::softplus:
        y = softplus(in);
        break;
      case Function::normal_cdf:
        y = normal_cdf(in);
        break;
    }
    store_lanes(out + i, y, lanes);
  });
}

void philox(const Context&, const uint32_t counter[4], const uint32_t key[2], int64_t count,
            uint32_t* out) {
  philox_blocks(counter, key, count, out);
}

template <class T>
constexpr Ops<T> ops = {
    .gemm = gemm<T>,
    .dense_forward = dense_forward<T>,
    .activation_forward = activation_forward<T>,
    .activation_backward = activation_backward<T>,
    .dense_backward = dense_backward<T>,
    .column_sums = column_sums<T>,
    .batch_norm_forward = batch_norm_forward<T>,
    .batch_norm_backward = batch_norm_backward<T>,
    .stats = stats<T>,
    .join_moments = join_moments<T>,
    .histogram = histogram<T>,
    .softmax_cross_entropy = mean_loss<T, softmax_row<T>, softmax_columns<T>>,
    .sigmoid_cross_entropy = mean_loss<T, sigmoid_row<T>, sigmoid_columns<T>>,
    .mean_squared_error = mean_loss<T, squared_row<T>, squared_columns<T>>,
    .softmax = softmax<T>,
    .regularise = regularise<T>,
    .norm = norm<T>,
    .sgd = sgd<T>,
    .rmsprop = rmsprop<T>,
    .adam = adam<T>,
    .shrink = shrink<T>,
    .limit_norms = limit_norms<T>,
    .gather = gather<T>,
    .function = function<T>,
};

}  // namespace

#define FANIN_JOIN_(a, b) a##b
#define FANIN_JOIN(a, b) FANIN_JOIN_(a, b)

extern const Table FANIN_JOIN(table_, FANIN_ISA);
const Table FANIN_JOIN(table_, FANIN_ISA) = {
    .name = isa_name,
    .has_fma = has_fma,
    .float32 = ops<float>,
    .float64 = ops<double>,
    .philox = philox,
    .dropout_mask = dropout_mask,
    .random_words = random_words,
    .fma_peak_float32 = fma_peak<float>,
    .fma_peak_float64 = fma_peak<double>,
};

}  // namespace fanin
