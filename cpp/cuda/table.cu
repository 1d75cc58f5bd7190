// Fills the table of operations.
#include "table.hpp"

#include "batch_norm.hpp"
#include "dense.hpp"
#include "function.hpp"
#include "gather.hpp"
#include "gemm.hpp"
#include "histogram.hpp"
#include "launch.cuh"
#include "loss.hpp"
#include "optimizer.hpp"
#include "random.hpp"
#include "stats.hpp"

namespace fanin::cuda {

namespace {

template <class T>
Ops<T> ops() {
  Ops<T> ops{};
  ops.gemm = product<T, T>;
  ops.dense_forward = dense_forward<T>;
  ops.activation_forward = activation_forward<T>;
  ops.activation_backward = activation_backward<T>;
  ops.dense_backward = dense_backward<T>;
  ops.column_sums = column_sums<T>;
  ops.stats = stats<T>;
  ops.join_moments = join_moments<T>;
  ops.histogram = histogram<T>;
  ops.softmax_cross_entropy = softmax_cross_entropy<T>;
  ops.sigmoid_cross_entropy = sigmoid_cross_entropy<T>;
  ops.mean_squared_error = mean_squared_error<T>;
  ops.softmax = softmax<T>;
  ops.gather = gather<T>;
  if constexpr (sizeof(T) > 2) {  // the headers say why
    ops.batch_norm_forward = batch_norm_forward<T>;
    ops.batch_norm_backward = batch_norm_backward<T>;
    ops.regularise = regularise<T>;
    ops.norm = norm<T>;
    ops.sgd = sgd<T>;
    ops.rmsprop = rmsprop<T>;
    ops.adam = adam<T>;
    ops.shrink = shrink<T>;
    ops.limit_norms = limit_norms<T>;
    ops.function = function<T>;
  }
  return ops;
}

}  // namespace

const DeviceTable& table() {
  static const DeviceTable table = [] {
    DeviceTable made{};
    made.table.name = "cuda";
    made.table.has_fma = true;
    made.table.float32 = ops<float>();
    made.table.float64 = ops<double>();
    made.bf16 = ops<bfloat16>();
    made.f16 = ops<float16>();
    made.table.philox = philox;
    made.table.dropout_mask = dropout_mask;
    made.table.random_words = random_words;
    // fma_peak_*: the rate of one CPU thread is not asked of a device.
    return made;
  }();
  return table;
}

}  // namespace fanin::cuda
