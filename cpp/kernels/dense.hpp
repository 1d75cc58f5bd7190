// One dense layer, forward and backward.
//
//     z = x @ w + b     h = f(z)     a = mask * scale * h          x (m, k)  w (k, n)  a (m, n)
//     dz = da * mask * scale * f'(z)      db = sum over rows of dz
//
// (dw = x^T @ dz and dx = dz @ w^T are products: gemm.hpp.) f, the mask and the statistics of h are
// applied to each block of z as soon as the product has finished it, in patches of row_block rows by
// 16 columns: the patch of h goes through a small buffer that stays in the first cache.
// z may be kept for the backward pass; the mask is kept at one bit per element.
#pragma once

#include "activation.hpp"
#include "gemm.hpp"
#include "random.hpp"
#include "stats.hpp"

namespace fanin {
namespace {

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

template <class T>
[[gnu::always_inline]] inline Vec<T> load_lanes(const T* from, int lanes) {
  return lanes == width<T> ? load(from) : load_first(from, lanes);
}

template <class T>
[[gnu::always_inline]] inline void store_lanes(T* to, Vec<T> x, int lanes) {
  lanes == width<T> ? store(to, x) : store_first(to, x, lanes);
}

// h = f(z + b) for one patch; b may be null, z_kept (rows z_row apart, contiguous) too.
template <class T>
using ActivatePatch = void (*)(Patch patch, const T* z, int64_t z_row, const T* b, T* z_kept,
                               int64_t kept_row, T* h, int64_t h_row);

template <Activation K, class T>
void activate_patch(Patch patch, const T* z, int64_t z_row, const T* b, T* z_kept,
                    int64_t kept_row, T* h, int64_t h_row) {
  for_vectors<T>(patch.cols, [&](int c, int lanes) {
    const Vec<T> bias = b != nullptr ? load_lanes(b + c, lanes) : zero<T>();
    for (int r = 0; r < patch.rows; ++r) {
      Vec<T> value = load_lanes(z + r * z_row + c, lanes);
      if (b != nullptr) {
        value = value + bias;
      }
      if (z_kept != nullptr) {
        store_lanes(z_kept + r * kept_row + c, value, lanes);
      }
      store_lanes(h + r * h_row + c, activate<K>(value), lanes);
    }
  });
}

template <class T>
ActivatePatch<T> activate_patch_of(Activation kind) {
  ActivatePatch<T> found = nullptr;
  visit(kind, [&]<Activation K>() { found = activate_patch<K, T>; });
  return found;
}

// The mask bits of one patch, into `bits` (one word a row) and into the mask of the matrix.
inline void mask_patch(const Dropout& dropout, Patch patch, uint16_t* mask, int64_t words,
                       uint16_t* bits) {
  for (int r = 0; r < patch.rows; r += 8) {
    dropout_bits(dropout.seed, dropout.step, dropout.layer, uint64_t(patch.r0 + r) / 8,
                 uint32_t(patch.c0), dropout.threshold, bits + r);
  }
  for (int r = 0; r < patch.rows; ++r) {
    mask[(patch.r0 + r) * words + patch.c0 / patch_cols] = bits[r];
  }
}

// a = mask * scale * h for one patch.
template <class T>
void drop_patch(Patch patch, const T* h, int64_t h_row, const uint16_t* bits, T scale, T* a,
                int64_t a_row) {
  for_vectors<T>(patch.cols, [&](int c, int lanes) {
    for (int r = 0; r < patch.rows; ++r) {
      const Vec<T> kept = load_lanes(h + r * h_row + c, lanes) * broadcast(scale);
      const Mask<T> keep = mask_from_bits<T>(uint32_t(bits[r]) >> c);
      store_lanes(a + r * a_row + c, select(keep, kept, zero<T>()), lanes);
    }
  });
}

// Everything behind z for rows [r0, r1) and columns [c0, c1): r0 a multiple of row_block, c0 of 16.
template <class T>
struct Epilogue {
  View<const T> z;  // what the product wrote; may be the memory of a
  const T* b;
  View<T> a;
  T* z_kept;
  Dropout dropout;
  uint16_t* mask;
  bool with_stats;
  Moments<T> moments;
  ActivatePatch<T> activate;
  T lo, hi;

  void operator()(int64_t r0, int64_t r1, int64_t c0, int64_t c1) const {
    const bool drops = dropout.threshold > 0;
    const bool buffered = drops || with_stats;
    alignas(64) T buffer[row_block * patch_cols];
    alignas(64) uint16_t bits[row_block];
    for (int64_t r = r0; r < r1; r += row_block) {
      for (int64_t c = c0; c < c1; c += patch_cols) {
        const Patch patch{r, c, int(r1 - r < row_block ? r1 - r : row_block),
                          int(c1 - c < patch_cols ? c1 - c : patch_cols)};
        T* h = buffered ? buffer : a.at(r, c);
        const int64_t h_row = buffered ? patch_cols : a.row_stride;
        activate(patch, z.at(r, c), z.row_stride, b != nullptr ? b + c : nullptr,
                 z_kept != nullptr ? z_kept + r * a.cols + c : nullptr, a.cols, h, h_row);
        if (with_stats) {
          const View<const T> seen = rows_of<const T>(h, patch.rows, patch.cols, h_row);
          patch_moments(seen, r / row_block, c, lo, hi, moments);
        }
        if (drops) {
          mask_patch(dropout, patch, mask, mask_words(a.cols), bits);
          drop_patch(patch, h, h_row, bits, T(dropout.scale()), a.at(r, c), a.row_stride);
        } else if (buffered) {
          copy_patch(patch, h, h_row, a.at(r, c), a.row_stride);
        }
      }
    }
  }

 private:
  static void copy_patch(Patch patch, const T* h, int64_t h_row, T* a, int64_t a_row) {
    for_vectors<T>(patch.cols, [&](int c, int lanes) {
      for (int r = 0; r < patch.rows; ++r) {
        store_lanes(a + r * a_row + c, load_lanes(h + r * h_row + c, lanes), lanes);
      }
    });
  }
};

template <class T>
Epilogue<T> epilogue_of(View<const T> z, const T* b, View<T> a, T* z_kept, Activation kind,
                        const Dropout& dropout, uint16_t* mask, Stats* stats, T* scratch,
                        double** work) {
  Epilogue<T> epilogue{z,    b,                  a,           z_kept,
                       dropout, mask, stats != nullptr, Moments<T>{}, activate_patch_of<T>(kind),
                       T(0), T(0)};
  saturation_bounds(kind, &epilogue.lo, &epilogue.hi);
  if (stats != nullptr) {
    epilogue.moments = moments_in(scratch, a.rows, a.cols, work);
  }
  return epilogue;
}

template <class T>
void dense_forward(const Context& context, const DenseForward<T>& layer) {
  double* work = nullptr;
  const Epilogue<T> epilogue =
      epilogue_of<T>(layer.a, layer.b, layer.a, layer.z, layer.activation, layer.dropout,
                     layer.mask, layer.stats, layer.stats_scratch, &work);
  product(context, layer.x, layer.w, layer.a, epilogue);
  if (layer.stats != nullptr) {
    finish_stats(epilogue.moments, layer.a.rows, layer.a.cols, work, layer.stats);
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

template <class T>
void activation_forward(const Context& context, const ActivationForward<T>& layer) {
  double* work = nullptr;
  const Epilogue<T> epilogue =
      epilogue_of<T>(layer.z, layer.b, layer.a, layer.z_kept, layer.activation, layer.dropout,
                     layer.mask, layer.stats, layer.stats_scratch, &work);
  for_blocks(context, layer.a.rows, layer.a.cols, 0.2, epilogue);
  if (layer.stats != nullptr) {
    finish_stats(epilogue.moments, layer.a.rows, layer.a.cols, work, layer.stats);
  }
}

// dz, and the sum of dz over the rows of this block, for one patch.
template <Activation K, bool Drops, class T>
void activation_backward_patch(const ActivationBackward<T>& layer, Patch patch, T* sums) {
  const int64_t words = mask_words(layer.dz.cols);
  const Vec<T> scale = broadcast(T(layer.dropout.scale()));
  const Vec<T> keep = broadcast(T(1 / layer.dropout.scale()));
  for_vectors<T>(patch.cols, [&](int c, int lanes) {
    Vec<T> sum = zero<T>();
    for (int r = 0; r < patch.rows; ++r) {
      const int64_t row = patch.r0 + r, col = patch.c0 + c;
      Vec<T> d = load_lanes(layer.da.at(row, col), lanes);
      Vec<T> saved = load_lanes(layer.saved.at(row, col), lanes);
      if constexpr (Drops) {
        d = d * scale;
        if constexpr (!needs_z(K)) {
          saved = saved * keep;
        }
      }
      Vec<T> dz = K == Activation::identity ? d : d * derivative<K>(saved);
      if constexpr (Drops) {
        const uint32_t bits = layer.mask[row * words + patch.c0 / patch_cols];
        dz = select(mask_from_bits<T>(bits >> c), dz, zero<T>());
      }
      store_lanes(layer.dz.at(row, col), dz, lanes);
      sum = sum + dz;
    }
    if (sums != nullptr) {
      store_lanes(sums + c, sum, lanes);
    }
  });
}

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

template <class T>
void activation_backward(const Context& context, const ActivationBackward<T>& layer) {
  using PatchBackward = void (*)(const ActivationBackward<T>&, Patch, T*);
  PatchBackward backward = nullptr;
  const bool drops = layer.dropout.threshold > 0;
  visit(layer.activation, [&]<Activation K>() {
    backward = drops ? activation_backward_patch<K, true, T> : activation_backward_patch<K, false, T>;
  });
  const int64_t rows = layer.dz.rows, cols = layer.dz.cols;
  for_blocks(context, rows, cols, 0.1, [&](int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
    for (int64_t c = c0; c < c1; c += patch_cols) {
      const Patch patch{r0, c, int(r1 - r0), int(c1 - c < patch_cols ? c1 - c : patch_cols)};
      backward(layer, patch,
               layer.db != nullptr ? layer.scratch + r0 / row_block * cols + c : nullptr);
    }
  });
  if (layer.db != nullptr) {
    join_sums(layer.scratch, rows, cols, layer.db);
  }
}

}  // namespace
}  // namespace fanin
