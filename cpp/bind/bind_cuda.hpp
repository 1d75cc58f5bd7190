// The parts of the module fanin._cuda.
#pragma once

#include <pybind11/pybind11.h>

namespace fanin::cuda {

void bind_array(pybind11::module_& module);
void bind_ops(pybind11::module_& module);
void bind_training(pybind11::module_& module);
void bind_fused(pybind11::module_& module);
void bind_network(pybind11::module_& module);

}  // namespace fanin::cuda
