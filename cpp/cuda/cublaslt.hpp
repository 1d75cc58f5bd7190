// The part of cuBLASLt's C interface that fanin uses, declared here, so that building and importing
// need no cuBLAS: `library()` loads it when the first product is made.
//
// Versions 12 and 13 agree in all of it; where the toolkit has cublasLt.h, cublaslt.cpp holds the
// declarations against it. In the emulated build `library()` is that of emulated/cublaslt.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace fanin::cuda::cublaslt {

using Status = int;
constexpr Status success = 0, alloc_failed = 3, not_supported = 15;

enum DataType : int { real_32f = 0, real_64f = 1, real_16f = 2, real_16bf = 14 };
enum ComputeType : int { compute_32f = 68, compute_64f = 70, compute_32f_fast_tf32 = 77 };
enum Operation : int32_t { as_it_is = 0, transposed = 1 };
enum ProductAttribute : int { operation_a = 3, operation_b = 4 };
enum PreferenceAttribute : int {
  max_workspace_bytes = 1,    // uint64_t
  reduction_scheme_mask = 3,  // uint32_t
  min_alignment_a_bytes = 5,  // uint32_t, as those that follow
  min_alignment_b_bytes = 6,
  min_alignment_c_bytes = 7,
  min_alignment_d_bytes = 8,
};
// How parts of a sum that were made side by side are joined: in the type that is computed in, in a
// fixed order. The other schemes round to the output's type in between.
constexpr uint32_t reduction_in_compute_type = 2;

struct Context;
struct Product;     // which operation, on which types
struct Layout;      // a matrix, column after column
struct Preference;  // what an algorithm may use

struct Algorithm {
  uint64_t data[8];
};
struct HeuristicResult {
  Algorithm algorithm;
  size_t workspace_bytes;
  Status state;
  float waves;
  int reserved[4];
};

// D = alpha op(A) op(B) + beta C. `stream` is a cudaStream_t.
struct Library {
  std::string path;
  size_t (*version)();
  const char* (*status_string)(Status);
  Status (*create)(Context**);
  Status (*product_create)(Product**, ComputeType, DataType scale);
  Status (*product_destroy)(Product*);
  Status (*product_set)(Product*, ProductAttribute, const void* value, size_t bytes);
  Status (*layout_create)(Layout**, DataType, uint64_t rows, uint64_t cols, int64_t stride);
  Status (*layout_destroy)(Layout*);
  Status (*preference_create)(Preference**);
  Status (*preference_destroy)(Preference*);
  Status (*preference_set)(Preference*, PreferenceAttribute, const void* value, size_t bytes);
  Status (*heuristic)(Context*, Product*, Layout* a, Layout* b, Layout* c, Layout* d, Preference*,
                      int wanted, HeuristicResult* results, int* found);
  Status (*multiply)(Context*, Product*, const void* alpha, const void* a, Layout*, const void* b,
                     Layout*, const void* beta, const void* c, Layout*, void* d, Layout*,
                     const Algorithm*, void* workspace, size_t workspace_bytes, void* stream);
};

// No library was found that the driver can run, or it lacks something; the message says where it
// was looked for.
struct Missing : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Folders that `library()` looks into before others: those of Python's wheels.
void look_in(std::vector<std::string> folders);

// The newest that the process has loaded already (PyTorch's, CuPy's), or else the first that lies
// in one of these folders, "" being wherever the loader looks. `driver` is cudaDriverGetVersion's:
// it runs what was made for its own major version of CUDA, and for older ones. Without a driver, 0,
// nothing is computed and any will do.
Library load(int driver, const std::vector<std::string>& folders);

// Loads it at the first call; one that throws Missing is tried again at the next.
const Library& library();

}  // namespace fanin::cuda::cublaslt
