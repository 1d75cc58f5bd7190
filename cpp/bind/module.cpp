// Table of contents of fanin._core. What things mean is documented in Python (python/fanin).
#include "../kernels/dispatch.hpp"
#include "bind.hpp"

PYBIND11_MODULE(_core, module) {
  fanin::choose_isa();
  fanin::bind_runtime(module);
  fanin::bind_ops(module);
  fanin::bind_network(module);
}
