// Finds and loads libcublasLt.
#include "cublaslt.hpp"

#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <utility>

#include "device.hpp"

#if !defined(FANIN_CUDA_EMULATED) && __has_include(<cublasLt.h>)
#include <cublasLt.h>
#define FANIN_SAME(ours, theirs) static_assert(int(ours) == int(theirs))
namespace fanin::cuda::cublaslt {
FANIN_SAME(success, CUBLAS_STATUS_SUCCESS);
FANIN_SAME(alloc_failed, CUBLAS_STATUS_ALLOC_FAILED);
FANIN_SAME(not_supported, CUBLAS_STATUS_NOT_SUPPORTED);
FANIN_SAME(real_32f, CUDA_R_32F);
FANIN_SAME(real_64f, CUDA_R_64F);
FANIN_SAME(real_16f, CUDA_R_16F);
FANIN_SAME(real_16bf, CUDA_R_16BF);
FANIN_SAME(compute_32f, CUBLAS_COMPUTE_32F);
FANIN_SAME(compute_64f, CUBLAS_COMPUTE_64F);
FANIN_SAME(compute_32f_fast_tf32, CUBLAS_COMPUTE_32F_FAST_TF32);
FANIN_SAME(as_it_is, CUBLAS_OP_N);
FANIN_SAME(transposed, CUBLAS_OP_T);
FANIN_SAME(operation_a, CUBLASLT_MATMUL_DESC_TRANSA);
FANIN_SAME(operation_b, CUBLASLT_MATMUL_DESC_TRANSB);
FANIN_SAME(max_workspace_bytes, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
FANIN_SAME(reduction_scheme_mask, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
FANIN_SAME(min_alignment_a_bytes, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
FANIN_SAME(min_alignment_b_bytes, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
FANIN_SAME(min_alignment_c_bytes, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
FANIN_SAME(min_alignment_d_bytes, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
FANIN_SAME(reduction_in_compute_type, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
FANIN_SAME(sizeof(Algorithm), sizeof(cublasLtMatmulAlgo_t));
FANIN_SAME(sizeof(HeuristicResult), sizeof(cublasLtMatmulHeuristicResult_t));
FANIN_SAME(offsetof(HeuristicResult, workspace_bytes),
           offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
FANIN_SAME(offsetof(HeuristicResult, state), offsetof(cublasLtMatmulHeuristicResult_t, state));
static_assert(sizeof(Status) == sizeof(cublasStatus_t) && sizeof(DataType) == sizeof(cudaDataType));
static_assert(sizeof(ComputeType) == sizeof(cublasComputeType_t));
}  // namespace fanin::cuda::cublaslt
#undef FANIN_SAME
#endif

namespace fanin::cuda::cublaslt {
namespace {

constexpr int majors[] = {13, 12};  // of CUDA, whose cuBLAS is declared here; the newest first

std::string file_of(int major) { return "libcublasLt.so." + std::to_string(major); }

bool runs(int driver, int major) { return driver == 0 || major <= driver / 1000; }

// One library, and the files that were tried before it was found.
struct Opened {
  void* handle = nullptr;
  std::string path, tried;
};

// Of the major versions that the driver runs, or (`fits` false) of those that it does not.
Opened open_library(int driver, bool fits, const std::vector<std::string>& folders) {
  Opened opened;
  const auto found = [&](const std::string& name, int flags) {
    opened.handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL | flags);
    opened.path = name;
    return opened.handle != nullptr;
  };
  for (const int major : majors) {
    if (runs(driver, major) == fits && found(file_of(major), RTLD_NOLOAD)) {
      return opened;
    }
  }
  for (const std::string& folder : folders) {
    for (const int major : majors) {
      if (runs(driver, major) == fits) {
        const std::string name = (folder.empty() ? "" : folder + "/") + file_of(major);
        if (found(name, 0)) {
          return opened;
        }
        opened.tried += (opened.tried.empty() ? "" : ", ") + name;
      }
    }
  }
  return opened;
}

// There is none that the driver runs: says so, and what was found or tried instead.
[[noreturn]] void refuse(int driver, const std::string& tried,
                         const std::vector<std::string>& folders) {
  std::string message = "cuBLAS is missing, which fanin multiplies matrices with: ";
  std::string wheels = "nvidia-cublas (CUDA 13) or nvidia-cublas-cu12";
  if (driver != 0) {
    message += "the NVIDIA driver runs CUDA " + version_text(driver) + " and nothing newer, ";
  }
  const Opened newer = open_library(driver, false, folders);
  if (newer.handle != nullptr) {
    dlclose(newer.handle);
    message += "so not " + newer.path + ", ";
  }
  if (tried.empty()) {
    throw Missing(message + "and fanin knows none so old: update the driver");
  }
  if (driver != 0 && driver / 1000 < 13) {
    wheels = "nvidia-cublas-cu12";
  }
  throw Missing(message + "tried " + tried +
                "; install the CUDA toolkit's, or the wheel: pip install " + wheels);
}

template <class Function>
void find(const std::string& path, void* handle, const char* name, Function& function) {
  void* symbol = dlsym(handle, name);
  if (symbol == nullptr) {
    throw Missing("cuBLAS: " + path + " has no " + name);
  }
  function = reinterpret_cast<Function>(symbol);
}

}  // namespace

Library load(int driver, const std::vector<std::string>& folders) {
  const Opened opened = open_library(driver, true, folders);
  if (opened.handle == nullptr) {
    refuse(driver, opened.tried, folders);
  }
  Library library{};
  library.path = opened.path;
  const auto bind = [&](const char* name, auto& function) {
    find(opened.path, opened.handle, name, function);
  };
  bind("cublasLtGetVersion", library.version);
  bind("cublasLtGetStatusString", library.status_string);
  bind("cublasLtCreate", library.create);
  bind("cublasLtMatmulDescCreate", library.product_create);
  bind("cublasLtMatmulDescDestroy", library.product_destroy);
  bind("cublasLtMatmulDescSetAttribute", library.product_set);
  bind("cublasLtMatrixLayoutCreate", library.layout_create);
  bind("cublasLtMatrixLayoutDestroy", library.layout_destroy);
  bind("cublasLtMatmulPreferenceCreate", library.preference_create);
  bind("cublasLtMatmulPreferenceDestroy", library.preference_destroy);
  bind("cublasLtMatmulPreferenceSetAttribute", library.preference_set);
  bind("cublasLtMatmulAlgoGetHeuristic", library.heuristic);
  bind("cublasLtMatmul", library.multiply);
  return library;
}

#ifndef FANIN_CUDA_EMULATED

namespace {

std::vector<std::string>& wheels() {
  static std::vector<std::string> folders;
  return folders;
}

}  // namespace

void look_in(std::vector<std::string> folders) { wheels() = std::move(folders); }

// After the wheels' folders what the loader finds (LD_LIBRARY_PATH, ldconfig) and the toolkit's
// usual place.
const Library& library() {
  const auto first = [] {
    int driver = 0;
    cudaDriverGetVersion(&driver);
    std::vector<std::string> folders = wheels();
    folders.insert(folders.end(), {"", "/usr/local/cuda/lib64"});
    return load(driver, folders);
  };
  static const Library loaded = first();  // an exception leaves it to the next call
  return loaded;
}

#endif

}  // namespace fanin::cuda::cublaslt
