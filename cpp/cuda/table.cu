// Fills the table of operations.
#include "gemm.hpp"
#include "launch.cuh"
#include "table.hpp"

namespace fanin::cuda {

namespace {

template <class T>
Ops<T> ops() {
  Ops<T> ops{};
  ops.gemm = product<T, T>;
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
    return made;
  }();
  return table;
}

}  // namespace fanin::cuda
