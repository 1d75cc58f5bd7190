// The parts of the module.
#pragma once

#include <pybind11/pybind11.h>

namespace fanin {

void bind_runtime(pybind11::module_& module);
void bind_ops(pybind11::module_& module);
void bind_network(pybind11::module_& module);

}  // namespace fanin
