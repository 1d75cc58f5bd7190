// One dense layer, forward and backward.
//
//     z = x @ w + b     h = f(z)     a = mask * scale * h          x (m, k)  w (k, n)  a (m, n)
//     dz = da * mask * scale * f'(z)      db = sum over rows of dz
//
// (dw = x^T @ dz and dx = dz @ w^T are products: gemm.hpp.) f, the mask and the statistics of h are
// applied to each block of z as soon as the product has finished it, in patches of row_block rows
// by 16 columns: the patch of h goes through a small buffer that stays in the first cache. z may be
// kept for the backward pass; the mask is kept at one bit per element.
#pragma once

#include "activation.hpp"
#include "blocks.hpp"
#include "dropout.hpp"
#include "gemm.hpp"
#include "stats.hpp"

namespace fanin {
namespace {

// h = f(z + b) for one patch; b may be null, z_kept (rows z_row apart, contiguous) too.
template <class T>
using ActivatePatch = void (*)(Patch patch, const T* z, int64_t z_row, const T* b, T* z_kept,
                               int64_t kept_row, T* h, int64_t h_row);

template <Activation K, class T>
void activate_patch(Patch patch, const T* z, int64_t z_row, const T* b, T* z_kept, int64_t kept_row,
                    T* h, int64_t h_row) {
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
  Epilogue<T> epilogue{z,
                       b,
                       a,
                       z_kept,
                       dropout,
                       mask,
                       stats != nullptr,
                       Moments<T>{},
                       activate_patch_of<T>(kind),
                       T(0),
                       T(0)};
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

template <class T>
void activation_backward(const Context& context, const ActivationBackward<T>& layer) {
  using PatchBackward = void (*)(const ActivationBackward<T>&, Patch, T*);
  PatchBackward backward = nullptr;
  const bool drops = layer.dropout.threshold > 0;
  visit(layer.activation, [&]<Activation K>() {
    backward =
        drops ? activation_backward_patch<K, true, T> : activation_backward_patch<K, false, T>;
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
