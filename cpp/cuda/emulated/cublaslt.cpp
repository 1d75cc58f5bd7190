// cuBLASLt for the emulated build: the part of it that cublaslt.hpp declares, on the CPU.
//
// It holds its callers to what the real one demands (a leading dimension as long as a column,
// pointers as aligned as was promised, room for the workspace) and ends the program otherwise. The
// workspace is filled with NaN by every product. Sums are chains in the type computed in.
//
//   * `FANIN_EMULATED_CUBLAS=missing`: there is no such library.
//   * `FANIN_EMULATED_CUBLAS=aligned`: it knows no algorithm for matrices that are not aligned to
//     16 bytes.
#include "../cublaslt.hpp"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace fanin::cuda::cublaslt {

struct Context {
  int nothing;
};
struct Product {
  ComputeType compute;
  Operation a = as_it_is, b = as_it_is;
};
struct Layout {
  DataType type;
  int64_t rows, cols, stride;
};
struct Preference {
  uint64_t workspace = 0;
  uint32_t alignment[4] = {256, 256, 256, 256};  // of a, b, c, d
};

namespace {

constexpr size_t workspace_wanted = 4096;
constexpr uint64_t signature = 0x6661'6e69'6e00'0001;  // of an algorithm of ours

void demand(bool fulfilled, const char* what) {
  if (!fulfilled) {
    emulated::fail(what);
  }
}

bool setting_is(const char* value) {
  const char* set = std::getenv("FANIN_EMULATED_CUBLAS");
  return set != nullptr && std::string_view(set) == value;
}

size_t version() { return 0; }
const char* status_string(Status status) {
  return status == success ? "success" : "not supported by the emulated cuBLAS";
}
Status create(Context** context) {
  *context = new Context{};
  return success;
}

Status product_create(Product** product, ComputeType compute, DataType scale) {
  demand(scale == (compute == compute_64f ? real_64f : real_32f), "cuBLAS: type of the scale");
  *product = new Product{compute};
  return success;
}
Status product_destroy(Product* product) {
  delete product;
  return success;
}
Status product_set(Product* product, ProductAttribute which, const void* value, size_t bytes) {
  demand(bytes == sizeof(Operation), "cuBLAS: size of an attribute");
  std::memcpy(which == operation_a ? &product->a : &product->b, value, bytes);
  return success;
}

Status layout_create(Layout** layout, DataType type, uint64_t rows, uint64_t cols, int64_t stride) {
  demand(rows > 0 && cols > 0, "cuBLAS: an empty matrix");
  demand(stride >= int64_t(rows), "cuBLAS: a leading dimension shorter than a column");
  *layout = new Layout{type, int64_t(rows), int64_t(cols), stride};
  return success;
}
Status layout_destroy(Layout* layout) {
  delete layout;
  return success;
}

Status preference_create(Preference** preference) {
  *preference = new Preference;
  return success;
}
Status preference_destroy(Preference* preference) {
  delete preference;
  return success;
}
Status preference_set(Preference* preference, PreferenceAttribute which, const void* value,
                      size_t bytes) {
  if (which == max_workspace_bytes) {
    demand(bytes == 8, "cuBLAS: size of an attribute");
    std::memcpy(&preference->workspace, value, bytes);
    return success;
  }
  demand(bytes == 4, "cuBLAS: size of an attribute");
  uint32_t number;
  std::memcpy(&number, value, bytes);
  if (which == reduction_scheme_mask) {
    demand(number == reduction_in_compute_type, "cuBLAS: a sum in no fixed order");
  } else {
    preference->alignment[which - min_alignment_a_bytes] = number;
  }
  return success;
}

Status heuristic(Context*, Product* product, Layout* a, Layout* b, Layout* c, Layout* d,
                 Preference* preference, int, HeuristicResult* result, int* found) {
  demand(a->type == b->type && c == d, "cuBLAS: types that do not go together");
  const bool whole = product->compute == compute_64f;
  demand(whole == (a->type == real_64f) && whole == (d->type == real_64f),
         "cuBLAS: types that do not go together");
  demand(product->compute != compute_32f_fast_tf32 || a->type == real_32f,
         "cuBLAS: TF32 of other types");
  demand(preference->workspace >= workspace_wanted, "cuBLAS: no workspace");
  for (const uint32_t alignment : preference->alignment) {
    if (alignment < 16 && setting_is("aligned")) {
      *found = 0;
      return not_supported;
    }
  }
  *result = {};
  result->algorithm.data[0] = signature;
  for (int i = 0; i < 4; ++i) {
    result->algorithm.data[1 + i] = preference->alignment[i];
  }
  result->workspace_bytes = workspace_wanted;
  *found = 1;
  return success;
}

float to_tf32(float x) {  // 10 bits behind the point, to nearest, ties away from zero
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return std::isfinite(x) ? std::bit_cast<float>((bits + 0x1000) & 0xFFFFE000) : x;
}

// op(matrix), column after column.
template <class T>
std::vector<T> numbers_of(const void* data, const Layout& layout, bool turned, bool tf32) {
  const auto element = [&](int64_t i) -> T {
    switch (layout.type) {
      case real_64f:
        return T(static_cast<const double*>(data)[i]);
      case real_32f: {
        const float x = static_cast<const float*>(data)[i];
        return T(tf32 ? to_tf32(x) : x);
      }
      case real_16f:
        return T(float(static_cast<const __half*>(data)[i]));
      default:
        return T(float(static_cast<const __nv_bfloat16*>(data)[i]));
    }
  };
  std::vector<T> numbers(size_t(layout.rows * layout.cols));
  for (int64_t col = 0; col < layout.cols; ++col) {
    for (int64_t row = 0; row < layout.rows; ++row) {
      numbers[size_t(turned ? row * layout.cols + col : col * layout.rows + row)] =
          element(col * layout.stride + row);
    }
  }
  return numbers;
}

template <class T>
void compute(const Product& product, const void* a_data, const Layout& a, const void* b_data,
             const Layout& b, void* d_data, const Layout& d) {
  const bool a_turned = product.a == transposed, b_turned = product.b == transposed;
  const bool tf32 = product.compute == compute_32f_fast_tf32;
  const int64_t inner = a_turned ? a.rows : a.cols;
  demand(inner == (b_turned ? b.cols : b.rows) && d.rows == (a_turned ? a.cols : a.rows) &&
             d.cols == (b_turned ? b.rows : b.cols),
         "cuBLAS: shapes that do not go together");
  const std::vector<T> as = numbers_of<T>(a_data, a, a_turned, tf32);
  const std::vector<T> bs = numbers_of<T>(b_data, b, b_turned, tf32);
  std::vector<T> column(size_t(d.rows));
  for (int64_t col = 0; col < d.cols; ++col) {
    std::fill(column.begin(), column.end(), T(0));
    for (int64_t k = 0; k < inner; ++k) {
      const T factor = bs[size_t(col * inner + k)];
      const T* from = as.data() + k * d.rows;
      for (int64_t row = 0; row < d.rows; ++row) {
        column[size_t(row)] += from[row] * factor;
      }
    }
    for (int64_t row = 0; row < d.rows; ++row) {
      const int64_t at = col * d.stride + row;
      const T value = column[size_t(row)];
      switch (d.type) {
        case real_64f:
          static_cast<double*>(d_data)[at] = double(value);
          break;
        case real_32f:
          static_cast<float*>(d_data)[at] = float(value);
          break;
        case real_16f:
          static_cast<__half*>(d_data)[at] = float(value);
          break;
        case real_16bf:
          static_cast<__nv_bfloat16*>(d_data)[at] = float(value);
          break;
      }
    }
  }
}

Status multiply(Context*, Product* product, const void* alpha, const void* a, Layout* a_layout,
                const void* b, Layout* b_layout, const void* beta, const void* c, Layout* c_layout,
                void* d, Layout* d_layout, const Algorithm* algorithm, void* workspace,
                size_t workspace_bytes, void* stream) {
  const bool is64 = product->compute == compute_64f;
  const auto number = [&](const void* of) {
    return is64 ? *static_cast<const double*>(of) : double(*static_cast<const float*>(of));
  };
  demand(number(alpha) == 1 && number(beta) == 0 && c == d && c_layout == d_layout,
         "cuBLAS: only products are emulated");
  demand(algorithm->data[0] == signature, "cuBLAS: no algorithm of its own");
  const void* data[] = {a, b, c, d};
  for (int i = 0; i < 4; ++i) {
    demand(reinterpret_cast<uintptr_t>(data[i]) % algorithm->data[1 + i] == 0,
           "cuBLAS: a matrix less aligned than was promised");
  }
  demand(workspace != nullptr && workspace_bytes >= workspace_wanted, "cuBLAS: no workspace");
  // a plan may be gone when a captured product is replayed
  emulated::queue(static_cast<cudaStream_t>(stream), [=, product = *product, a_layout = *a_layout,
                                                      b_layout = *b_layout, d_layout = *d_layout] {
    std::memset(workspace, 0xFF, workspace_bytes);
    if (is64) {
      compute<double>(product, a, a_layout, b, b_layout, d, d_layout);
    } else {
      compute<float>(product, a, a_layout, b, b_layout, d, d_layout);
    }
  });
  return success;
}

}  // namespace

void look_in(std::vector<std::string>) {}

const Library& library() {
  if (setting_is("missing")) {
    throw Missing("cuBLAS is missing, which fanin multiplies matrices with: none is emulated");
  }
  static const Library all{"emulated",     version,           status_string,      create,
                           product_create, product_destroy,   product_set,        layout_create,
                           layout_destroy, preference_create, preference_destroy, preference_set,
                           heuristic,      multiply};
  return all;
}

}  // namespace fanin::cuda::cublaslt
