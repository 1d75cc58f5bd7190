// Table of contents of fanin._cuda, which is built with FANIN_CUDA=ON (by nvcc, for GPUs) or
// EMULATED (the same kernels on the CPU, for tests).
#include <pybind11/pybind11.h>

#include "../cuda/table.hpp"

PYBIND11_MODULE(_cuda, module) {
#ifdef FANIN_CUDA_EMULATED
  module.attr("emulated") = true;
#else
  module.attr("emulated") = false;
#endif
  module.attr("name") = fanin::cuda::table().table.name;
}
