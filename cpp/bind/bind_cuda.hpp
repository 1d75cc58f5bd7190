// The parts of the module _cuda.
#pragma once

#include <pybind11/pybind11.h>

namespace fanin::cuda {

void bind_fused(pybind11::module_& module);

}  // namespace fanin::cuda
