// The operations of core/ops.hpp on CUDA devices.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "../core/ops.hpp"

namespace fanin {

// Moments of values of two bytes are floats: counts and sums need them.
template <>
struct Moments<__nv_bfloat16> : Moments<float> {
  Moments() = default;
  Moments(const Moments<float>& moments) : Moments<float>(moments) {}
};
template <>
struct Moments<__half> : Moments<float> {
  Moments() = default;
  Moments(const Moments<float>& moments) : Moments<float>(moments) {}
};

}  // namespace fanin

namespace fanin::cuda {

struct DeviceTable {
  Table table;
  Ops<__nv_bfloat16> bf16;
  Ops<__half> f16;
};

const DeviceTable& table();

}  // namespace fanin::cuda
