// Table of contents of fanin._cuda, which is built with FANIN_CUDA=ON (by nvcc, for GPUs) or
// EMULATED (the same kernels on the CPU, for tests).
#include <pybind11/pybind11.h>

#include "../cuda/table.hpp"

namespace fanin {

void bind_cuda_training(pybind11::module_& module);

}  // namespace fanin

PYBIND11_MODULE(_cuda, module) {
#ifdef FANIN_CUDA_EMULATED
  module.attr("emulated") = true;
#else
  module.attr("emulated") = false;
#endif
  module.attr("name") = fanin::cuda::table().table.name;
  fanin::bind_cuda_training(module);
}
