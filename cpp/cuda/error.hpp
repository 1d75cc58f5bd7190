// What the CUDA runtime answers, as exceptions.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace fanin::cuda {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class OutOfMemory : public Error {
 public:
  using Error::Error;
};

// Throws where `status` is an error; `what` is what was being done.
inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) {
    return;
  }
  cudaGetLastError();  // taken note of: later calls must not meet it again
  const std::string message = std::string("CUDA: ") + what + ": " + cudaGetErrorString(status) +
                              " (" + cudaGetErrorName(status) + ")";
  if (status == cudaErrorMemoryAllocation) {
    throw OutOfMemory(message);
  }
  throw Error(message);
}

}  // namespace fanin::cuda
