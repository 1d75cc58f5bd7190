// Losses of z (m, n), means over the batch, and their gradients dz.
//
//   softmax cross-entropy   p = softmax(z), q the target distribution smoothed to
//                           (1 - s) q + s / n, v the class weights, w the row's weight:
//       loss = sum_i w_i sum_c v_c q_ic (log sum exp z_i - z_ic) / D
//       dz_ic = w_i (p_ic sum_c v_c q_ic - v_c q_ic) / D
//   sigmoid cross-entropy   t the target smoothed to (1 - s) t + s / 2:
//       loss = sum w_i (max(z, 0) - z t + log(1 + exp(-|z|))) / D,  dz = w_i (sigmoid(z) - t) / D
//   mean squared error
//       loss = sum w_i (z - t)^2 / D,  dz = 2 w_i (z - t) / D
//
// D, the divisor, is the caller's, as is the form: loss and dz have factors of their own, and in
// the loss probabilities may be clipped: then a row of the softmax costs no less and no more than
// the form says, and the sigmoid's cross-entropy is that of p = sigmoid(z) as it is rounded,
// -t log p - (1 - t) log(1 - p). exp sees z - max(z), so nothing overflows. Sums over a row run in
// 16 lanes, sums over rows in double.
#pragma once

#include "blocks.hpp"
#include "math.hpp"

namespace fanin {
namespace {

template <class T>
[[gnu::always_inline]] inline T largest_of(const T* z, int64_t n) {
  constexpr int W = width<T>;
  const Vec<T> lowest = broadcast(T(-__builtin_inf()));
  Vec<T> most = lowest;
  Mask<T> unordered = is_nan(zero<T>());
  for_row<T>(n, [&](int64_t c, int lanes, int) {
    const Vec<T> x = load_lanes(z + c, lanes);
    const Vec<T> seen = lanes == W ? x : select(first<T>(lanes), x, lowest);
    unordered = unordered | is_nan(seen);
    most = max(seen, most);
  });
  if (any(unordered)) {
    return T(__builtin_nan(""));
  }
  T lane[W];
  store(lane, most);
  T largest = lane[0];
  for (int l = 1; l < W; ++l) {
    largest = lane[l] > largest ? lane[l] : largest;
  }
  return largest;
}

// p = exp(z - largest); returns the sum.
template <class T>
[[gnu::always_inline]] inline T exp_row(const T* z, int64_t n, T largest, T* p) {
  Lanes16<T> total;
  total.clear();
  for_row<T>(n, [&](int64_t c, int lanes, int lane) {
    Vec<T> e = exp(load_lanes(z + c, lanes) - broadcast(largest));
    if (lanes < width<T>) {
      e = select(first<T>(lanes), e, zero<T>());
    }
    store_lanes(p + c, e, lanes);
    total.v[lane] = total.v[lane] + e;
  });
  return total.sum();
}

template <class T>
[[gnu::always_inline]] inline T log_of(T x) {
  T lane[width<T>];
  store(lane, log(broadcast(x)));
  return lane[0];
}

// What a row costs within the ends of the form; NaN is neither below nor above.
[[gnu::always_inline]] inline double cut(const LossForm& form, double loss) {
  return loss < form.least ? form.least : loss > form.most ? form.most : loss;
}

// What z costs against t. min and max give their second operand where one is NaN.
template <class T>
[[gnu::always_inline]] inline Vec<T> cross_entropy(const LossForm& form, Vec<T> z, Vec<T> t) {
  if (form.clip == 0) {
    return fnma(z, t, softplus(z));
  }
  const Vec<T> one = broadcast(T(1)), clip = broadcast(T(form.clip));
  const Vec<T> p = max(clip, min(one - clip, sigmoid(z)));
  return zero<T>() - fma(t, log(p), (one - t) * log(one - p));
}

// What the loss of row r is multiplied with, before the division.
template <class T>
[[gnu::always_inline]] inline double row_factor(const Loss<T>& loss, int64_t r) {
  return loss.form.value * (loss.sample_weight != nullptr ? double(loss.sample_weight[r]) : 1);
}

// What d of its row r, but for `factor`, is multiplied with; rounded to T once.
template <class T>
[[gnu::always_inline]] inline T d_factor(const Loss<T>& loss, int64_t r, double factor) {
  const double weight = loss.sample_weight != nullptr ? double(loss.sample_weight[r]) : 1;
  return T(factor * loss.form.gradient * weight / loss.divisor);
}

template <class T>
void softmax(const Context& context, View<const T> z, View<T> p) {
  auto body = [&](int64_t block, void*) {
    const int64_t r1 = (block + 1) * row_block < z.rows ? (block + 1) * row_block : z.rows;
    for (int64_t r = block * row_block; r < r1; ++r) {
      const T sum = exp_row(z.at(r, 0), z.cols, largest_of(z.at(r, 0), z.cols), p.at(r, 0));
      for_row<T>(z.cols, [&](int64_t c, int lanes, int) {
        store_lanes(p.at(r, c), load_lanes(p.at(r, c), lanes) / broadcast(sum), lanes);
      });
    }
  };
  parallel_for(worth(context, 0.4 * double(z.rows) * double(z.cols)), row_blocks(z.rows), body);
}

// sum over c of v_c q_c (sum exp known) for one row: the row's loss, and dz when asked for.
template <class T>
double softmax_row(const Loss<T>& loss, int64_t r) {
  const int64_t n = loss.z.cols;
  const T* z = loss.z.at(r, 0);
  const T smooth = T(loss.label_smoothing);
  const T off = smooth / T(n), on = T(1) - smooth;
  const int64_t label = loss.labels != nullptr ? loss.labels[r] : -1;

  // v_c q_c of vector c: the target distribution times the class weights.
  const Vec<T> offset = broadcast(off);
  const auto target = [&](int64_t c, int lanes) {
    Vec<T> q = offset;
    if (loss.labels == nullptr) {
      q = fma(broadcast(on), load_lanes(loss.targets.at(r, c), lanes), offset);
    } else if (label >= c && label < c + width<T>) {
      q = select(mask_from_bits<T>(1u << (label - c)), offset + broadcast(on), offset);
    }
    if (loss.class_weight != nullptr) {
      q = q * load_lanes(loss.class_weight + c, lanes);
    }
    return lanes == width<T> ? q : select(first<T>(lanes), q, zero<T>());
  };

  const T largest = largest_of(z, n);
  Lanes16<T> exps, targets, dots;
  exps.clear();
  targets.clear();
  dots.clear();
  for_row<T>(n, [&](int64_t c, int lanes, int lane) {
    const Vec<T> below = load_lanes(z + c, lanes) - broadcast(largest);
    Vec<T> e = exp(below);
    if (lanes < width<T>) {
      e = select(first<T>(lanes), e, zero<T>());
    }
    const Vec<T> q = target(c, lanes);
    exps.v[lane] = exps.v[lane] + e;
    targets.v[lane] = targets.v[lane] + q;
    // A target of zero counts nothing, even where z is -inf.
    dots.v[lane] = select(q == zero<T>(), dots.v[lane], fma(q, below, dots.v[lane]));
    if (loss.dz.data != nullptr) {  // where the row of z may lie, too
      store_lanes(loss.dz.at(r, c), e, lanes);
    }
  });
  const T sum = exps.sum(), weight = targets.sum();
  if (loss.dz.data != nullptr) {
    const Vec<T> p_scale = broadcast(weight / sum);
    const Vec<T> scale = broadcast(d_factor(loss, r, 1));
    for_row<T>(n, [&](int64_t c, int lanes, int) {
      const Vec<T> e = load_lanes(loss.dz.at(r, c), lanes);
      store_lanes(loss.dz.at(r, c), scale * (e * p_scale - target(c, lanes)), lanes);
    });
  }
  const double row = double(weight) * double(log_of(sum)) - double(dots.sum());
  return row_factor(loss, r) * cut(loss.form, row);
}

template <class T>
double sigmoid_row(const Loss<T>& loss, int64_t r) {
  const T smooth = T(loss.label_smoothing);
  const Vec<T> scale = broadcast(d_factor(loss, r, 1));
  Lanes16<T> total;
  total.clear();
  for_row<T>(loss.z.cols, [&](int64_t c, int lanes, int lane) {
    const Vec<T> z = load_lanes(loss.z.at(r, c), lanes);
    const Vec<T> t = fma(broadcast(T(1) - smooth), load_lanes(loss.targets.at(r, c), lanes),
                         broadcast(smooth / 2));
    Vec<T> row = cross_entropy(loss.form, z, t);
    if (lanes < width<T>) {
      row = select(first<T>(lanes), row, zero<T>());
    }
    total.v[lane] = total.v[lane] + row;
    if (loss.dz.data != nullptr) {
      store_lanes(loss.dz.at(r, c), scale * (sigmoid(z) - t), lanes);
    }
  });
  return row_factor(loss, r) * double(total.sum());
}

template <class T>
double squared_row(const Loss<T>& loss, int64_t r) {
  const Vec<T> scale = broadcast(d_factor(loss, r, 2));
  Lanes16<T> total;
  total.clear();
  for_row<T>(loss.z.cols, [&](int64_t c, int lanes, int lane) {
    const Vec<T> off =
        load_lanes(loss.z.at(r, c), lanes) - load_lanes(loss.targets.at(r, c), lanes);
    total.v[lane] = fma(off, off, total.v[lane]);
    if (loss.dz.data != nullptr) {
      store_lanes(loss.dz.at(r, c), scale * off, lanes);
    }
  });
  return row_factor(loss, r) * double(total.sum());
}

// ---- not many columns: width<T> rows at once, each in a lane of its own

constexpr int most_columns = 64;

// columns[c], lane i: element (r0 + i, c); zero beyond the matrix.
template <class T>
[[gnu::always_inline]] inline void load_columns(View<const T> x, int64_t r0, int rows,
                                                Vec<T> (&columns)[most_columns]) {
  constexpr int W = width<T>;
  for (int c0 = 0; c0 < x.cols; c0 += W) {
    const int lanes = int(x.cols - c0 < W ? x.cols - c0 : W);
    Vec<T> square[W];
    for (int i = 0; i < W; ++i) {
      square[i] = i < rows ? load_first(x.at(r0 + i, c0), lanes) : zero<T>();
    }
    transpose(square);
    for (int i = 0; i < W; ++i) {
      columns[c0 + i] = square[i];
    }
  }
}

template <class T>
[[gnu::always_inline]] inline void store_columns(const Vec<T> (&columns)[most_columns], int64_t r0,
                                                 int rows, View<T> x) {
  constexpr int W = width<T>;
  for (int c0 = 0; c0 < x.cols; c0 += W) {
    const int lanes = int(x.cols - c0 < W ? x.cols - c0 : W);
    Vec<T> square[W];
    for (int i = 0; i < W; ++i) {
      square[i] = columns[c0 + i];
    }
    transpose(square);
    for (int i = 0; i < rows; ++i) {
      store_first(x.at(r0 + i, c0), square[i], lanes);
    }
  }
}

// The 16 lanes of the sum of a row, for width<T> rows at once.
template <class T>
struct RowSums {
  Vec<T> lane[16];

  [[gnu::always_inline]] RowSums() {
    for (Vec<T>& sum : lane) {
      sum = zero<T>();
    }
  }
  [[gnu::always_inline]] Vec<T>& of(int column) { return lane[column % 16]; }
  [[gnu::always_inline]] Vec<T> total() { return tree_sum(lane); }
};

// d_factor of each row.
template <class T>
[[gnu::always_inline]] inline Vec<T> d_factors(const Loss<T>& loss, int64_t r0, int rows,
                                               double factor) {
  if (loss.sample_weight == nullptr) {
    return broadcast(d_factor(loss, r0, factor));
  }
  T lane[width<T>] = {};
  for (int i = 0; i < rows; ++i) {
    lane[i] = d_factor(loss, r0 + i, factor);
  }
  return load(lane);
}

template <class T>
void softmax_columns(const Loss<T>& loss, int64_t r0, int rows) {
  const int n = int(loss.z.cols);
  const T smooth = T(loss.label_smoothing);
  const Vec<T> on = broadcast(T(1) - smooth), off = broadcast(smooth / T(n));
  Vec<T> z[most_columns], q[most_columns];
  load_columns(loss.z, r0, rows, z);
  if (loss.labels == nullptr) {
    load_columns(loss.targets, r0, rows, q);
    for (int c = 0; c < n; ++c) {
      q[c] = fma(on, q[c], off);
    }
  } else {
    T lane[width<T>] = {};
    for (int i = 0; i < rows; ++i) {
      lane[i] = T(loss.labels[r0 + i]);
    }
    const Vec<T> label = load(lane);
    for (int c = 0; c < n; ++c) {
      q[c] = select(label == broadcast(T(c)), off + on, off);
    }
  }
  for (int c = 0; c < n && loss.class_weight != nullptr; ++c) {
    q[c] = q[c] * broadcast(loss.class_weight[c]);
  }

  Vec<T> largest = broadcast(T(-__builtin_inf()));
  Mask<T> unordered = is_nan(zero<T>());
  for (int c = 0; c < n; ++c) {
    unordered = unordered | is_nan(z[c]);
    largest = max(z[c], largest);
  }
  largest = select(unordered, broadcast(T(__builtin_nan(""))), largest);
  RowSums<T> exps, targets, dots;
  for (int c = 0; c < n; ++c) {
    const Vec<T> below = z[c] - largest;
    z[c] = exp(below);
    exps.of(c) = exps.of(c) + z[c];
    targets.of(c) = targets.of(c) + q[c];
    dots.of(c) = select(q[c] == zero<T>(), dots.of(c), fma(q[c], below, dots.of(c)));
  }
  const Vec<T> sum = exps.total(), weight = targets.total();
  if (loss.dz.data != nullptr) {
    const Vec<T> p_scale = weight / sum, scale = d_factors(loss, r0, rows, 1);
    for (int c = 0; c < n; ++c) {
      z[c] = scale * (z[c] * p_scale - q[c]);
    }
    store_columns(z, r0, rows, loss.dz);
  }
  T weights[width<T>], logs[width<T>], products[width<T>];
  store(weights, weight);
  store(logs, log(sum));
  store(products, dots.total());
  for (int i = 0; i < rows; ++i) {
    const double row = double(weights[i]) * double(logs[i]) - double(products[i]);
    loss.row_loss[r0 + i] = row_factor(loss, r0 + i) * cut(loss.form, row);
  }
}

// The losses that are sums of terms: plus_term(sum, z, t, slope) adds one and sets its derivative.
template <class T, class PlusTerm>
[[gnu::always_inline]] inline void sum_columns(const Loss<T>& loss, int64_t r0, int rows,
                                               double factor, PlusTerm&& plus_term) {
  Vec<T> z[most_columns], t[most_columns];
  load_columns(loss.z, r0, rows, z);
  load_columns(loss.targets, r0, rows, t);
  const Vec<T> scale = d_factors(loss, r0, rows, factor);
  RowSums<T> terms;
  for (int c = 0; c < loss.z.cols; ++c) {
    Vec<T> slope;
    terms.of(c) = plus_term(terms.of(c), z[c], t[c], slope);
    z[c] = scale * slope;
  }
  if (loss.dz.data != nullptr) {
    store_columns(z, r0, rows, loss.dz);
  }
  T totals[width<T>];
  store(totals, terms.total());
  for (int i = 0; i < rows; ++i) {
    loss.row_loss[r0 + i] = row_factor(loss, r0 + i) * double(totals[i]);
  }
}

template <class T>
void sigmoid_columns(const Loss<T>& loss, int64_t r0, int rows) {
  const T smooth = T(loss.label_smoothing);
  sum_columns(loss, r0, rows, 1, [&](Vec<T> sum, Vec<T> z, Vec<T> target, Vec<T>& slope) {
    const Vec<T> t = fma(broadcast(T(1) - smooth), target, broadcast(smooth / 2));
    slope = sigmoid(z) - t;
    return sum + cross_entropy(loss.form, z, t);
  });
}

template <class T>
void squared_columns(const Loss<T>& loss, int64_t r0, int rows) {
  sum_columns(loss, r0, rows, 2, [&](Vec<T> sum, Vec<T> z, Vec<T> target, Vec<T>& slope) {
    slope = z - target;
    return fma(slope, slope, sum);
  });
}

// ---- whole batches

template <class T>
using LossRow = double (*)(const Loss<T>&, int64_t row);
template <class T>
using LossColumns = void (*)(const Loss<T>&, int64_t r0, int rows);

template <class T, LossRow<T> of_row, LossColumns<T> of_columns>
double mean_loss(const Context& context, const Loss<T>& loss) {
  auto body = [&](int64_t block, void*) {
    const int64_t start = block * row_block;
    const int64_t end = start + row_block < loss.z.rows ? start + row_block : loss.z.rows;
    if (loss.z.cols <= most_columns) {
      for (int64_t r = start; r < end; r += width<T>) {
        of_columns(loss, r, int(end - r < width<T> ? end - r : width<T>));
      }
    } else {
      for (int64_t r = start; r < end; ++r) {
        loss.row_loss[r] = of_row(loss, r);
      }
    }
  };
  parallel_for(worth(context, double(loss.z.rows) * (5 + double(loss.z.cols))),
               row_blocks(loss.z.rows), body);
  return sum_of(loss.row_loss, loss.z.rows) / loss.divisor;
}

}  // namespace
}  // namespace fanin
