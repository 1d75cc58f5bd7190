// One dense layer, forward and backward.
//
//     z = x @ w + b     h = f(z)     a = mask * scale * h          x (m, k)  w (k, n)  a (m, n)
//     dz = da * mask * scale * f'(z)      da = dz_above @ w_above^T      db = sum over rows of dz
//
// (dw = x^T @ dz is a product: gemm.hpp.) f, the mask and the statistics of h, or f' and the mask,
// are applied to each block of a product as soon as it is finished, in patches of row_block rows by
// 16 columns. Where both dropout and statistics are wanted, the patch of h goes through a small
// buffer that stays in the first cache. z may be kept for the backward pass; the mask is kept at
// one bit per element.
#pragma once

#include "activation.hpp"
#include "blocks.hpp"
#include "dropout.hpp"
#include "gemm.hpp"
#include "stats.hpp"

namespace fanin {
namespace {

// Where a patch begins in each of these matrices, and how far apart its rows are.
template <class T>
struct PatchRows {
  const T* z;
  T* z_kept;             // null: not kept
  T* to;                 // h, or a
  const uint16_t* mask;  // of a; rows lie together
  int64_t z_row, kept_row, to_row;
};

// h = f(z + b) for one patch, b may be null; or a = mask * scale * h.
template <class T>
using ActivatePatch = void (*)(Patch patch, const PatchRows<T>& rows, const T* b, T scale);

template <Activation K, bool Drops, class T>
void activate_patch(Patch patch, const PatchRows<T>& of_patch, const T* b, T scale) {
  const PatchRows<T> rows = of_patch;  // a copy: a vector store might alias what is referred to
  for_vectors<T>(patch.cols, [&](int c, int lanes) {
    const Vec<T> bias = b != nullptr ? load_lanes(b + c, lanes) : zero<T>();
    for (int r = 0; r < patch.rows; ++r) {
      Vec<T> value = load_lanes(rows.z + r * rows.z_row + c, lanes);
      if (b != nullptr) {
        value = value + bias;
      }
      if (rows.z_kept != nullptr) {
        store_lanes(rows.z_kept + r * rows.kept_row + c, value, lanes);
      }
      value = activate<K>(value);
      if constexpr (Drops) {
        value = dropped(value, uint32_t(rows.mask[r]) >> c, broadcast(scale));
      }
      store_lanes(rows.to + r * rows.to_row + c, value, lanes);
    }
  });
}

template <class T>
ActivatePatch<T> activate_patch_of(Activation kind, bool drops) {
  ActivatePatch<T> found = nullptr;
  visit(kind, [&]<Activation K>() {
    found = drops ? activate_patch<K, true, T> : activate_patch<K, false, T>;
  });
  return found;
}

// Statistics of h, and a = mask * scale * h.
template <class T>
void see_and_drop(View<const T> h, T lo, T hi, const Moments<T>& moments, const uint16_t* mask,
                  T scale, T* a, int64_t a_row) {
  patch_moments(h, lo, hi, moments, [=](int64_t r, int64_t c, int lanes, Vec<T> value) {
    const uint32_t bits = uint32_t(mask[r]) >> c;
    store_lanes(a + r * a_row + c, dropped(value, bits, broadcast(scale)), lanes);
  });
}

// Everything behind z for rows [r0, r1) and columns [c0, c1): r0 a multiple of row_block, c0 of 16.
template <class T>
struct Epilogue {
  View<const T> z;  // what the product wrote; may be the memory of a
  const T* b;
  View<T> a;
  View<T> z_kept;
  Dropout dropout;
  View<uint16_t> mask;
  Moments<T> moments;
  ActivatePatch<T> activate;  // makes a, or h where statistics come between
  T lo, hi;

  void operator()(int64_t r0, int64_t r1, int64_t c0, int64_t c1) const {
    const bool drops = dropout.threshold > 0, with_stats = moments.data != nullptr;
    const T scale = T(dropout.scale());
    alignas(64) T buffer[row_block * patch_cols];
    for (int64_t r = r0; r < r1; r += row_block) {
      for (int64_t c = c0; c < c1; c += patch_cols) {
        const Patch patch{r, c, int(r1 - r < row_block ? r1 - r : row_block),
                          int(c1 - c < patch_cols ? c1 - c : patch_cols)};
        const uint16_t* bits = nullptr;
        if (drops) {
          mask_patch(dropout, patch, mask);
          bits = mask.at(r, c / patch_cols);
        }
        const bool buffered = drops && with_stats;
        T* const to = buffered ? buffer : a.at(r, c);
        const int64_t to_row = buffered ? patch_cols : a.row_stride;
        T* const kept = z_kept.data != nullptr ? z_kept.at(r, c) : nullptr;
        activate(patch, {z.at(r, c), kept, to, bits, z.row_stride, z_kept.row_stride, to_row},
                 b != nullptr ? b + c : nullptr, scale);
        if (with_stats) {
          const View<const T> h = rows_of<const T>(to, patch.rows, patch.cols, to_row);
          const Moments<T> found = moments.from(r, c);
          if (drops) {
            see_and_drop(h, lo, hi, found, bits, scale, a.at(r, c), a.row_stride);
          } else {
            patch_moments(h, lo, hi, found);
          }
        }
      }
    }
  }
};

// Of a DenseForward or an ActivationForward, whose z is given.
template <class T, class Layer>
Epilogue<T> epilogue_of(const Layer& layer, View<const T> z, View<T> z_kept) {
  const bool drops = layer.dropout.threshold > 0, seen = layer.moments.data != nullptr;
  Epilogue<T> epilogue{z,
                       layer.b,
                       layer.a,
                       z_kept,
                       layer.dropout,
                       layer.mask,
                       layer.moments,
                       activate_patch_of<T>(layer.activation, drops && !seen),
                       T(0),
                       T(0)};
  saturation_bounds(layer.activation, &epilogue.lo, &epilogue.hi);
  return epilogue;
}

template <class T>
void dense_forward(const Context& context, const DenseForward<T>& layer) {
  product(context, layer.x, layer.w, layer.a, epilogue_of<T>(layer, layer.a, layer.z));
}

template <class T>
void activation_forward(const Context& context, const ActivationForward<T>& layer) {
  for_blocks(context, layer.a.rows, layer.a.cols, 0.2,
             epilogue_of<T>(layer, layer.z, layer.z_kept));
}

// dz for one patch; da may lie in its memory.
template <class T>
using BackwardPatch = void (*)(const ActivationBackward<T>& layer, View<const T> da, Patch patch);

template <Activation K, bool Drops, class T>
void backward_patch(const ActivationBackward<T>& layer, View<const T> da, Patch patch) {
  // Copies: a vector store might alias what is behind a reference, which would be loaded again.
  const View<const T> all_saved = layer.saved;
  const View<const uint16_t> mask = layer.mask;
  const View<T> out = layer.dz;
  const Vec<T> scale = broadcast(T(layer.dropout.scale()));
  const Vec<T> keep = broadcast(T(1 / layer.dropout.scale()));
  for_vectors<T>(patch.cols, [&](int c, int lanes) {
    for (int r = 0; r < patch.rows; ++r) {
      const int64_t row = patch.r0 + r, col = patch.c0 + c;
      Vec<T> d = load_lanes(da.at(row, col), lanes);
      Vec<T> saved = load_lanes(all_saved.at(row, col), lanes);
      if constexpr (Drops) {
        d = d * scale;
        if constexpr (!needs_z(K)) {
          saved = saved * keep;
        }
      }
      Vec<T> dz = K == Activation::identity ? d : d * derivative<K>(saved);
      if constexpr (Drops) {
        const uint32_t bits = *mask.at(row, patch.c0 / patch_cols);
        dz = select(mask_from_bits<T>(bits >> c), dz, zero<T>());
      }
      store_lanes(out.at(row, col), dz, lanes);
    }
  });
}

template <class T>
BackwardPatch<T> backward_patch_of(const ActivationBackward<T>& layer) {
  BackwardPatch<T> found = nullptr;
  const bool drops = layer.dropout.threshold > 0;
  visit(layer.activation, [&]<Activation K>() {
    found = drops ? backward_patch<K, true, T> : backward_patch<K, false, T>;
  });
  return found;
}

// Calls backward(layer, da, patch) for the patches of a block.
template <class T>
void backward_block(const ActivationBackward<T>& layer, View<const T> da, BackwardPatch<T> backward,
                    int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
  for (int64_t r = r0; r < r1; r += row_block) {
    for (int64_t c = c0; c < c1; c += patch_cols) {
      backward(layer, da,
               {r, c, int(r1 - r < row_block ? r1 - r : row_block),
                int(c1 - c < patch_cols ? c1 - c : patch_cols)});
    }
  }
}

template <class T>
void activation_backward(const Context& context, const ActivationBackward<T>& layer) {
  const BackwardPatch<T> backward = backward_patch_of(layer);
  for_blocks(context, layer.dz.rows, layer.dz.cols, 0.1,
             [&](int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
               backward_block(layer, layer.da, backward, r0, r1, c0, c1);
             });
}

template <class T>
void dense_backward(const Context& context, const DenseBackward<T>& layer) {
  const BackwardPatch<T> backward = backward_patch_of(layer.below);
  product(context, layer.dz, layer.w.transposed(), layer.below.dz,
          [&](int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
            backward_block<T>(layer.below, layer.below.dz, backward, r0, r1, c0, c1);
          });
}

// Each column: chains within row blocks, joined in order; four vectors of columns at a time.
template <class T>
void column_sums(const Context& context, View<const T> x, T* sums) {
  constexpr int W = width<T>, together = 4;
  auto body = [&](int64_t task, void*) {
    const View<const T> all = x;  // a copy, as in for_elements
    const int64_t c0 = task * together * W;
    int lanes[together];  // of each vector; none behind the last column
    for (int v = 0; v < together; ++v) {
      const int64_t left = all.cols - c0 - v * W;
      lanes[v] = int(left < 0 ? 0 : left < W ? left : W);
    }
    Vec<T> total[together];
    for (int64_t r0 = 0; r0 < all.rows || r0 == 0; r0 += row_block) {
      Vec<T> sum[together];
      for (int v = 0; v < together; ++v) {
        sum[v] = zero<T>();
      }
      const int64_t r1 = r0 + row_block < all.rows ? r0 + row_block : all.rows;
      const T* row = all.at(r0, c0);
      for (int64_t r = r0; r < r1; ++r, row += all.row_stride) {
        for (int v = 0; v < together && lanes[v] > 0; ++v) {
          sum[v] = sum[v] + load_lanes(row + v * W, lanes[v]);
        }
      }
      for (int v = 0; v < together; ++v) {
        total[v] = r0 == 0 ? sum[v] : total[v] + sum[v];
      }
    }
    for (int v = 0; v < together && lanes[v] > 0; ++v) {
      store_lanes(sums + c0 + v * W, total[v], lanes[v]);
    }
  };
  parallel_for(worth(context, 0.05 * double(x.rows) * double(x.cols)),
               (x.cols + together * W - 1) / (together * W), body);
}

}  // namespace
}  // namespace fanin
