// Batch normalisation of x (m, n), column by column (Ioffe and Szegedy, arXiv:1502.03167).
//
//     training    mean, var of the batch's column (var biased, as it divides x);
//                 running = (1 - momentum) running + momentum new, with var * m / (m - 1)
//     inference   mean, var = running
//     x_hat = (x - mean) / sqrt(var + eps)          y = gamma * x_hat + beta
//
//     dgamma = sum dy * x_hat     dbeta = sum dy     (over rows)
//     training    dx = gamma / sqrt(var + eps) * (dy - dbeta / m - x_hat * dgamma / m)
//     inference   dx = gamma / sqrt(var + eps) * dy
#pragma once

#include "blocks.hpp"
#include "stats.hpp"

namespace fanin {
namespace {

template <class T>
void batch_norm_forward(const Context& context, const BatchNormForward<T>& layer) {
  const int64_t rows = layer.x.rows, cols = layer.x.cols;
  const T* mean = layer.running_mean;
  if (layer.training) {
    const Moments<T> moments = moments_in(layer.scratch, rows, cols);
    const T infinity = T(__builtin_inf());
    for_blocks(context, rows, cols, 0.1, [&](int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
      patch_moments(View<const T>{layer.x.at(r0, c0), r1 - r0, c1 - c0, layer.x.row_stride, 1},
                    -infinity, infinity, moments.from(r0, c0));
    });
    double* batch_mean = moments.work;
    double* m2 = moments.work + cols;
    join_means(moments, rows, cols, batch_mean, m2);
    // The batch's mean, rounded to T, takes the place of the moments, now joined.
    T* rounded = moments.data;
    mean = rounded;
    for (int64_t c = 0; c < cols; ++c) {
      rounded[c] = T(batch_mean[c]);
      layer.inv_std[c] = T(1 / __builtin_sqrt(m2[c] / double(rows) + layer.eps));
      layer.running_mean[c] =
          T((1 - layer.momentum) * double(layer.running_mean[c]) + layer.momentum * batch_mean[c]);
      layer.running_var[c] = T((1 - layer.momentum) * double(layer.running_var[c]) +
                               layer.momentum * m2[c] / double(rows - 1));
    }
  } else {
    for (int64_t c = 0; c < cols; ++c) {
      layer.inv_std[c] = T(1 / __builtin_sqrt(double(layer.running_var[c]) + layer.eps));
    }
  }
  for_blocks(context, rows, cols, 0.1, [&](int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
    const View<const T> in = layer.x;
    const View<T> y = layer.y, kept = layer.x_hat;
    for (int64_t c = c0; c < c1; c += width<T>) {
      const int lanes = int(c1 - c < width<T> ? c1 - c : width<T>);
      const Vec<T> center = load_lanes(mean + c, lanes);
      const Vec<T> inv_std = load_lanes(layer.inv_std + c, lanes);
      const Vec<T> gamma = load_lanes(layer.gamma + c, lanes);
      const Vec<T> beta = load_lanes(layer.beta + c, lanes);
      for (int64_t r = r0; r < r1; ++r) {
        const Vec<T> x_hat = (load_lanes(in.at(r, c), lanes) - center) * inv_std;
        if (kept.data != nullptr) {
          store_lanes(kept.at(r, c), x_hat, lanes);
        }
        store_lanes(y.at(r, c), fma(gamma, x_hat, beta), lanes);
      }
    }
  });
}

template <class T>
void batch_norm_backward(const Context& context, const BatchNormBackward<T>& layer) {
  const int64_t rows = layer.dy.rows, cols = layer.dy.cols;
  T* dgamma_sums = layer.scratch;
  T* dbeta_sums = layer.scratch + column_sum_scratch(rows, cols);
  for_blocks(context, rows, cols, 0.1, [&](int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
    for (int64_t c = c0; c < c1; c += width<T>) {
      const int lanes = int(c1 - c < width<T> ? c1 - c : width<T>);
      Vec<T> dgamma = zero<T>(), dbeta = zero<T>();
      for (int64_t r = r0; r < r1; ++r) {
        const Vec<T> dy = load_lanes(layer.dy.at(r, c), lanes);
        dgamma = fma(dy, load_lanes(layer.x_hat.at(r, c), lanes), dgamma);
        dbeta = dbeta + dy;
      }
      store_lanes(dgamma_sums + r0 / row_block * cols + c, dgamma, lanes);
      store_lanes(dbeta_sums + r0 / row_block * cols + c, dbeta, lanes);
    }
  });
  join_sums(dgamma_sums, rows, cols, layer.dgamma);
  join_sums(dbeta_sums, rows, cols, layer.dbeta);

  const T per_row = T(1.0 / double(rows));
  for_blocks(context, rows, cols, 0.1, [&](int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
    const View<const T> in = layer.dy, kept = layer.x_hat;
    const View<T> out = layer.dx;
    for (int64_t c = c0; c < c1; c += width<T>) {
      const int lanes = int(c1 - c < width<T> ? c1 - c : width<T>);
      const Vec<T> factor =
          load_lanes(layer.gamma + c, lanes) * load_lanes(layer.inv_std + c, lanes);
      const Vec<T> dgamma = load_lanes(layer.dgamma + c, lanes) * broadcast(per_row);
      const Vec<T> dbeta = load_lanes(layer.dbeta + c, lanes) * broadcast(per_row);
      for (int64_t r = r0; r < r1; ++r) {
        Vec<T> dy = load_lanes(in.at(r, c), lanes);
        if (layer.training) {
          const Vec<T> x_hat = load_lanes(kept.at(r, c), lanes);
          dy = fnma(x_hat, dgamma, dy - dbeta);
        }
        store_lanes(out.at(r, c), factor * dy, lanes);
      }
    }
  });
}

}  // namespace
}  // namespace fanin
