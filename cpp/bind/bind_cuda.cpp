// Table of contents of fanin._cuda, which is built with FANIN_CUDA=ON (by nvcc, for GPUs) or
// EMULATED (the same kernels on the CPU, for tests). What things mean is documented in Python.
#include "bind_cuda.hpp"

#include <pybind11/stl.h>

#include <exception>
#include <optional>

#include "../cuda/cublaslt.hpp"
#include "../cuda/device.hpp"
#include "../cuda/error.hpp"

#ifdef FANIN_CUDA_EMULATED
#define FANIN_CUDA_ARCHITECTURES "emulated"
#endif

namespace fanin::cuda {
namespace {

namespace py = pybind11;

std::optional<std::string> reason_unavailable() {
  const std::string reason = unavailable();
  return reason.empty() ? std::nullopt : std::optional(reason);
}

py::dict properties_of(int device) {
  if (device < 0 || device >= device_count()) {
    throw std::invalid_argument("device: expected a number below " +
                                std::to_string(device_count()) + ", got " + std::to_string(device));
  }
  const Properties found = properties(device);
  py::dict all;
  all["name"] = found.name;
  all["architecture"] = "sm_" + std::to_string(found.major) + std::to_string(found.minor);
  all["multiprocessors"] = found.multiprocessors;
  all["memory"] = found.memory;
  all["free_memory"] = found.free_memory;
  all["shared_memory"] = found.shared_memory;
  all["l2_cache"] = found.l2_cache;
  all["driver"] = version_text(found.driver);
  all["runtime"] = version_text(found.runtime);
  return all;
}

// What the device has no memory for is a MemoryError, a library that is missing an ImportError.
void translate(std::exception_ptr thrown) {
  try {
    if (thrown) {
      std::rethrow_exception(thrown);
    }
  } catch (const OutOfMemory& error) {
    PyErr_SetString(PyExc_MemoryError, error.what());
  } catch (const cublaslt::Missing& error) {
    PyErr_SetString(PyExc_ImportError, error.what());
  }
}

}  // namespace
}  // namespace fanin::cuda

PYBIND11_MODULE(_cuda, module) {
  using namespace fanin::cuda;
  pybind11::register_local_exception_translator(&translate);
#ifdef FANIN_CUDA_EMULATED
  module.attr("emulated") = true;
  module.def("limit_memory", &emulated::limit_memory, pybind11::arg("bytes"));
  module.def("take_waits", [] { return emulated::waits.take(); });
#else
  module.attr("emulated") = false;
#endif
  module.attr("architectures") = FANIN_CUDA_ARCHITECTURES;
  module.def("available", &reason_unavailable);
  module.def("device_count", &device_count);
  module.def("properties", &properties_of, pybind11::arg("device") = 0);
  module.def(
      "own_stream",
      [](int device) {
        const OnDevice on(device);
        return reinterpret_cast<uintptr_t>(own_stream());
      },
      pybind11::arg("device"));
  module.def(
      "synchronize",
      [](uintptr_t stream) {
        const pybind11::gil_scoped_release released;
        synchronize(reinterpret_cast<void*>(stream));
      },
      pybind11::arg("stream"));
  module.def("look_for_cublas_in", &cublaslt::look_in, pybind11::arg("folders"));
  module.def("cublas", [] {
    const cublaslt::Library& library = cublaslt::library();
    return pybind11::make_tuple(library.path, library.version());
  });
  module.def(
      "load_cublas",
      [](int driver, const std::vector<std::string>& folders) {
        const cublaslt::Library library = cublaslt::load(driver, folders);
        return pybind11::make_tuple(library.path, library.version());
      },
      pybind11::arg("driver"), pybind11::arg("folders"));
  bind_array(module);
  bind_ops(module);
  bind_training(module);
  bind_fused(module);
  bind_network(module);
}
