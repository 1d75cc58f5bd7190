// How matrices and flat vectors are walked: in vectors, patches, blocks and chunks, always cut by
// shape, and how what the pieces found is summed: always in the same order (core/ops.hpp).
#pragma once

#include "../core/ops.hpp"
#include "../core/parallel.hpp"
#include "../core/sum.hpp"
#include "isa.hpp"

namespace fanin {
namespace {

// ---- vectors

template <class T>
[[gnu::always_inline]] inline Vec<T> load_lanes(const T* from, int lanes) {
  return lanes == width<T> ? load(from) : load_first(from, lanes);
}

template <class T>
[[gnu::always_inline]] inline void store_lanes(T* to, Vec<T> x, int lanes) {
  lanes == width<T> ? store(to, x) : store_first(to, x, lanes);
}

// 16 lanes of T whatever the vector's width: element i of a row belongs to lane i % 16.
template <class T>
struct Lanes16 {
  static constexpr int vectors = 16 / width<T>;
  Vec<T> v[vectors];

  [[gnu::always_inline]] void clear() {
    for (int i = 0; i < vectors; ++i) {
      v[i] = zero<T>();
    }
  }

  [[gnu::always_inline]] void store_to(T (&lane)[16]) const {
    for (int i = 0; i < vectors; ++i) {
      store(lane + i * width<T>, v[i]);
    }
  }
  [[gnu::always_inline]] T sum() const {
    T lane[16];
    store_to(lane);
    return tree_sum(lane);
  }
};

// Calls each(c, lanes, vector of the 16) for the vectors of a row of n; unrolled, so that the 16
// lanes may stay in registers.
template <class T, class Each>
[[gnu::always_inline]] inline void for_row(int64_t n, Each&& each) {
  constexpr int W = width<T>, vectors = Lanes16<T>::vectors;
  int64_t c = 0;
  for (; c + 16 <= n; c += 16) {
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) {
      each(c + v * W, W, v);
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < vectors; ++v, c += W) {
    if (c < n) {
      each(c, int(n - c < W ? n - c : W), v);
    }
  }
}

// ---- sums

// out[c] = sum over blocks, in order, of sums (blocks, n).
template <class T>
void join_sums(const T* sums, int64_t rows, int64_t cols, T* out) {
  for (int64_t c = 0; c < cols; ++c) {
    out[c] = rows > 0 ? sums[c] : T(0);
  }
  for (int64_t block = 1; block < row_blocks(rows); ++block) {
    for (int64_t c = 0; c < cols; ++c) {
      out[c] += sums[block * cols + c];
    }
  }
}

// ---- matrices

// Part i of n things cut into `parts` parts: sizes differ by at most one.
constexpr int64_t part(int64_t n, int64_t parts, int64_t i) { return n * i / parts; }

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Elementwise work goes along rows in patches of a row block by 16 columns, one mask word wide.
constexpr int64_t patch_cols = 16;

// A patch of `rows` x `cols` <= row_block x 16 elements whose first is element (r0, c0).
struct Patch {
  int64_t r0, c0;
  int rows, cols;
};

// Calls each(c, lanes) for the vectors of a row of `cols` columns.
template <class T, class Each>
[[gnu::always_inline]] inline void for_vectors(int cols, Each&& each) {
  constexpr int W = width<T>;
  if (cols == patch_cols) {
#pragma GCC unroll 8
    for (int c = 0; c < patch_cols; c += W) {
      each(c, W);
    }
  } else {
    for (int c = 0; c < cols; c += W) {
      each(c, cols - c < W ? cols - c : W);
    }
  }
}

// Cuts an (m, n) elementwise pass into tasks of one row block by up to 256 columns and calls
// body(r0, r1, c0, c1).
template <class Body>
void for_blocks(const Context& context, int64_t rows, int64_t cols, double nanoseconds,
                const Body& body) {
  constexpr int64_t wide = 256;
  const int64_t col_tasks = (cols + wide - 1) / wide;
  auto task = [&](int64_t i, void*) {
    const int64_t r0 = i / col_tasks * row_block, c0 = i % col_tasks * wide;
    body(r0, r0 + row_block < rows ? r0 + row_block : rows, c0,
         c0 + wide < cols ? c0 + wide : cols);
  };
  parallel_for(worth(context, nanoseconds * double(rows) * double(cols)),
               row_blocks(rows) * col_tasks, task);
}

// ---- flat vectors

constexpr int64_t chunk_elements = 8192;

// Calls each(i, lanes) for the vectors of `count` elements, in chunks shared by the threads.
template <class T, class Each>
void for_elements(const Context& context, int64_t count, const Each& each) {
  // flatten: `each` is inlined twice; a call per vector would take as long as its work. A copy of
  // its own, as vector stores might alias what others see: pointers would be loaded again each
  // time.
  auto body = [&](int64_t chunk, void*) __attribute__((flatten)) {
    const Each own = each;
    const int64_t start = chunk * chunk_elements;
    const int64_t end = start + chunk_elements < count ? start + chunk_elements : count;
    int64_t i = start;
    for (; i + width<T> <= end; i += width<T>) {
      own(i, width<T>);
    }
    if (i < end) {
      own(i, int(end - i));
    }
  };
  parallel_for(worth(context, 0.3 * double(count)), (count + chunk_elements - 1) / chunk_elements,
               body);
}

}  // namespace
}  // namespace fanin
