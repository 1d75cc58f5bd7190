// Finds and loads libcublasLt.
#include "cublaslt.hpp"

#include <dlfcn.h>

#include <sstream>
#include <utility>
#include <vector>

#if __has_include(<cublasLt.h>)
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

std::string& folders() {
  static std::string colon_separated;
  return colon_separated;
}

// What to hand to dlopen, in order: what the process has loaded already (PyTorch's, CuPy's), the
// wheels', what the loader finds (LD_LIBRARY_PATH, ldconfig), the toolkit's usual place.
std::vector<std::string> candidates() {
  std::vector<std::string> found;
  const auto add = [&](const std::string& prefix) {
    for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12"}) {
      found.push_back(prefix + name);
    }
  };
  std::istringstream list(folders());
  for (std::string folder; std::getline(list, folder, ':');) {
    add(folder + "/");
  }
  add("");
  add("/usr/local/cuda/lib64/");
  return found;
}

void* open_library(std::string& path) {
  for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12"}) {
    if (void* handle = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD)) {
      path = name;
      return handle;
    }
  }
  std::string tried;
  for (const std::string& name : candidates()) {
    if (void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) {
      path = name;
      return handle;
    }
    tried += (tried.empty() ? "" : ", ") + name;
  }
  throw Missing(
      "cuBLAS is missing, which fanin multiplies matrices with: tried " + tried +
      "; install the CUDA toolkit's, or the wheel: pip install nvidia-cublas (CUDA 13) or "
      "nvidia-cublas-cu12");
}

template <class Function>
void find(const std::string& path, void* handle, const char* name, Function& function) {
  void* symbol = dlsym(handle, name);
  if (symbol == nullptr) {
    throw Missing("cuBLAS: " + path + " has no " + name);
  }
  function = reinterpret_cast<Function>(symbol);
}

Library load() {
  Library library{};
  void* handle = open_library(library.path);
  const auto bind = [&](const char* name, auto& function) {
    find(library.path, handle, name, function);
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

}  // namespace

void look_in(std::string colon_separated) { folders() = std::move(colon_separated); }

const Library& library() {
  static const Library loaded = load();  // an exception leaves it to the next call
  return loaded;
}

}  // namespace fanin::cuda::cublaslt
