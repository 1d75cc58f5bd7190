// nvcuda::wmma on the CPU: products of small matrices that the lanes of a warp hold together.
//
// Which element lies where is not said by CUDA, and programs must not ask. Here element e of a
// matrix, counted row by row, is x[e / 32] of lane e % 32. Inputs: float16 or bfloat16 (16 x 16 x
// 16, 32 x 8 x 16, 8 x 32 x 16), or TF32 (16 x 16 x 8); sums in float.
#pragma once

#include "cuda_bf16.h"
#include "cuda_fp16.h"

namespace nvcuda::wmma {

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
namespace precision {
struct tf32;
}
enum layout_t { mem_row_major, mem_col_major };

template <class T>
struct storage_element {
  using type = T;
};
template <>
struct storage_element<precision::tf32> {
  using type = float;
};

template <class Use, int m, int n, int k, class T, class Layout = void>
struct fragment {
  static_assert((m == 16 && n == 16) || (m == 32 && n == 8) || (m == 8 && n == 32));
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, __half> ||
                std::is_same_v<T, __nv_bfloat16> || std::is_same_v<T, precision::tf32>);
  static_assert(std::is_same_v<T, precision::tf32> ? k == 8 && m == 16 : k == 16 || k == 8);
  static constexpr int rows = std::is_same_v<Use, matrix_b> ? k : m;
  static constexpr int cols = std::is_same_v<Use, matrix_a> ? k : n;
  static constexpr int num_elements = rows * cols / 32;
  using element_type = typename storage_element<T>::type;
  element_type x[num_elements];
};

// The bits that tensor cores look at of a float, rounded to nearest, ties away.
inline float __float_to_tf32(float value) {
  const unsigned bits = std::bit_cast<unsigned>(value);
  return (bits & 0x7F800000) == 0x7F800000 ? value
                                           : std::bit_cast<float>((bits + 0x1000) & 0xFFFFE000);
}

namespace emulated_warp {

using ::emulated::Block;
inline const char operations[4] = {};

inline void meet(int operation) {
  ::emulated::Exchange<int>(&operations[operation], 0xFFFFFFFF, 0);
}
// Where `mine` lies in each lane.
inline void meet(int operation, const void* mine, const void** lanes) {
  const ::emulated::Exchange<const void*> all(&operations[operation], 0xFFFFFFFF, mine);
  for (unsigned lane = 0; lane < 32; ++lane) {
    lanes[lane] = all.read(lane);
  }
}

// A lane's element e as its place (row, column).
template <class Fragment, class F>
void for_elements(Fragment&, F&& f) {
  const int lane = int(Block::get().lane());
  for (int i = 0; i < Fragment::num_elements; ++i) {
    const int e = 32 * i + lane;
    f(i, e / Fragment::cols, e % Fragment::cols);
  }
}

}  // namespace emulated_warp

template <class Use, int m, int n, int k, class T, class Layout>
void load_matrix_sync(fragment<Use, m, n, k, T, Layout>& to,
                      const typename storage_element<T>::type* from, unsigned stride) {
  if (reinterpret_cast<uintptr_t>(from) % 32 != 0 || stride * sizeof(*from) % 16 != 0) {
    ::emulated::fail("load_matrix_sync needs a pointer to 32 bytes and rows of 16 bytes");
  }
  emulated_warp::meet(0);
  emulated_warp::for_elements(to, [&](int i, int row, int col) {
    to.x[i] = std::is_same_v<Layout, row_major> ? from[size_t(row) * stride + col]
                                                : from[size_t(col) * stride + row];
  });
  emulated_warp::meet(0);
}

template <int m, int n, int k>
void load_matrix_sync(fragment<accumulator, m, n, k, float>& to, const float* from, unsigned stride,
                      layout_t layout) {
  emulated_warp::meet(1);
  emulated_warp::for_elements(to, [&](int i, int row, int col) {
    to.x[i] = layout == mem_row_major ? from[size_t(row) * stride + col]
                                      : from[size_t(col) * stride + row];
  });
  emulated_warp::meet(1);
}

template <int m, int n, int k>
void store_matrix_sync(float* to, const fragment<accumulator, m, n, k, float>& from,
                       unsigned stride, layout_t layout) {
  if (reinterpret_cast<uintptr_t>(to) % 32 != 0 || stride * sizeof(float) % 16 != 0) {
    ::emulated::fail("store_matrix_sync needs a pointer to 32 bytes and rows of 16 bytes");
  }
  emulated_warp::meet(2);
  emulated_warp::for_elements(from, [&](int i, int row, int col) {
    (layout == mem_row_major ? to[size_t(row) * stride + col] : to[size_t(col) * stride + row]) =
        from.x[i];
  });
  emulated_warp::meet(2);
}

template <class Use, int m, int n, int k, class T, class Layout>
void fill_fragment(fragment<Use, m, n, k, T, Layout>& to, typename storage_element<T>::type value) {
  for (auto& x : to.x) {
    x = value;
  }
}

// d = a @ b + c.
template <int m, int n, int k, class T, class LayoutA, class LayoutB>
void mma_sync(fragment<accumulator, m, n, k, float>& d,
              const fragment<matrix_a, m, n, k, T, LayoutA>& a,
              const fragment<matrix_b, m, n, k, T, LayoutB>& b,
              const fragment<accumulator, m, n, k, float>& c) {
  const void *lanes_a[32], *lanes_b[32];
  emulated_warp::meet(3, &a, lanes_a);
  emulated_warp::meet(3, &b, lanes_b);
  const auto element = [](const auto& first, const void* const* lanes, int row, int col) {
    using Fragment = std::remove_cvref_t<decltype(first)>;
    const int e = row * Fragment::cols + col;
    return float(static_cast<const Fragment*>(lanes[e % 32])->x[e / 32]);
  };
  fragment<accumulator, m, n, k, float> sums;
  emulated_warp::for_elements(sums, [&](int i, int row, int col) {
    sums.x[i] = c.x[i];
    for (int j = 0; j < k; ++j) {
      sums.x[i] += element(a, lanes_a, row, j) * element(b, lanes_b, j, col);
    }
  });
  emulated_warp::meet(3);  // before anybody changes what others read
  d = sums;
}

}  // namespace nvcuda::wmma
