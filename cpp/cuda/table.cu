// Fills the table of operations.
#include "table.hpp"

#include "dense.hpp"
#include "gemm.hpp"
#include "launch.cuh"
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
