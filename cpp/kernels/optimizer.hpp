// Optimizers over a flat vector of parameters p with gradients g; PyTorch's conventions.
//
//   SGD       v = momentum v + g           p -= lr v       (Nesterov: p -= lr (g + momentum v))
//   RMSprop   s = alpha s + (1 - alpha) g^2                 p -= lr g / (sqrt(s) + eps)
//   Adam      m = m + (1 - beta1)(g - m)   s = beta2 s + (1 - beta2) g^2
//             p -= lr / (1 - beta1^t) m / (sqrt(s) / sqrt(1 - beta2^t) + eps), or with eps_hat
//             p -= lr sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(s) + eps)
//   AdamW     first p -= lr weight_decay p where p is decayed, then Adam
//
// (Kingma and Ba, arXiv:1412.6980; Loshchilov and Hutter, arXiv:1711.05101.) Moments below the
// smallest normal number become zero: denormals would make a step twice as slow and change nothing.
//
// Clipped, g is gradient_scale min(max(g, -clip_value), clip_value). The norm that the scale is had
// from is summed in double, in pieces of norm_piece elements and 16 lanes: squares of float32 are
// exact and those of float64 are rounded before they are added, so that NumPy gets the same bits.
//
// And the regularisers: dw += l2 w + l1 sign(w), sign(0) = 0. What weights obey after a step:
//
//   shrink        w = sign(w) max(|w| - t, 0), t = l1 lr (1 + momentum + momentum^2 + ...) for SGD,
//                 l1 lr / (sqrt(s) + eps) for the others, s corrected as Adam's
//   limit_norms   w[:, j] *= max_norm / ||w[:, j]|| where the norm is larger
#pragma once

#include "../core/ops.hpp"
#include "blocks.hpp"
#include "isa.hpp"

namespace fanin {
namespace {

template <class T>
[[gnu::always_inline]] inline Vec<T> flush(Vec<T> moment) {
  const Vec<T> smallest = broadcast(sizeof(T) == 4 ? T(__FLT_MIN__) : T(__DBL_MIN__));
  return select(abs(moment) < smallest, zero<T>(), moment);
}

// min and max give their second operand where one is NaN.
template <class T>
[[gnu::always_inline]] inline Vec<T> clip(Vec<T> g, Vec<T> limit) {
  return max(-limit, min(limit, g));
}

// A sum of squares in double and 16 lanes, so that none of float32 under- or overflows.
template <class T>
class SquareSum {
 public:
  SquareSum() {
    for (Vec<double>& sum : sums_) {
      sum = zero<double>();
    }
  }
  // Of a vector of elements, the v-th of the 16 lanes.
  [[gnu::always_inline]] void add(int v, const T* x) {
#pragma GCC unroll 8
    for (int c = 0; c < width<T>; c += width<double>) {
      const Vec<double> wide = load_wide(x + c);
      Vec<double>& sum = sums_[(v * width<T> + c) / width<double>];
      sum = sum + wide * wide;
    }
  }
  void store_to(double (&lane)[16]) const {
    for (int c = 0; c < 16; c += width<double>) {
      store(lane + c, sums_[c / width<double>]);
    }
  }

 private:
  Vec<double> sums_[16 / width<double>];
};

// p = rule(i, lanes, g, p) for the vectors of an update, g clipped where it is to be.
template <class T, class Rule>
void for_updates(const Context& context, const Update<T>& update, const Rule& rule) {
  const T* gradients = update.gradients;
  T* parameters = update.parameters;
  const Vec<T> limit = broadcast(T(update.clip_value)), scale = broadcast(T(update.gradient_scale));
  if (update.squares != nullptr) {
    const Rule own = rule;  // as in for_elements
    const bool clips = update.clips();
    SquareSum<T> gradient;
    Lanes16<T> change;
    change.clear();
    for_row<T>(update.count, [&](int64_t i, int lanes, int v) __attribute__((always_inline)) {
      const Vec<T> g = load_lanes(gradients + i, lanes), p = load_lanes(parameters + i, lanes);
      const Vec<T> next = own(i, lanes, clips ? clip(g, limit) * scale : g, p);
      store_lanes(parameters + i, next, lanes);
      const Vec<T> added =
          lanes == width<T> ? next - p : select(first<T>(lanes), next - p, zero<T>());
      change.v[v] = fma(added, added, change.v[v]);
      T whole[width<T>];  // zeros behind the last element
      store(whole, g);
      gradient.add(v, lanes == width<T> ? gradients + i : whole);
    });
    gradient.store_to(update.squares->gradient);
    change.store_to(update.squares->change);
  } else if (update.clips()) {
    for_elements<T>(context, update.count, [=](int64_t i, int lanes) {
      const Vec<T> g = clip(load_lanes(gradients + i, lanes), limit) * scale;
      store_lanes(parameters + i, rule(i, lanes, g, load_lanes(parameters + i, lanes)), lanes);
    });
  } else {
    for_elements<T>(context, update.count, [=](int64_t i, int lanes) {
      const Vec<T> g = load_lanes(gradients + i, lanes);
      store_lanes(parameters + i, rule(i, lanes, g, load_lanes(parameters + i, lanes)), lanes);
    });
  }
}

template <class T>
double norm(const Context& context, const T* gradients, int64_t count, double clip_value,
            double* squares) {
  const int64_t pieces = norm_pieces(count);
  auto body = [=](int64_t piece, void*) {
    const Vec<T> limit = broadcast(T(clip_value));
    const int64_t start = piece * norm_piece;
    const int64_t end = start + norm_piece < count ? start + norm_piece : count;
    SquareSum<T> square;
    for_row<T>(end - start, [&](int64_t i, int lanes, int v) __attribute__((always_inline)) {
      T g[width<T>];
      store(g, clip(load_lanes(gradients + start + i, lanes), limit));
      square.add(v, g);
    });
    double lane[16];
    square.store_to(lane);
    squares[piece] = fanin::tree_sum(lane);
  };
  parallel_for(worth(context, 0.2 * double(count)), pieces, body);
  return __builtin_sqrt(sum_of(squares, pieces));
}

template <class T>
void sgd(const Context& context, const Update<T>& update) {
  const Vec<T> lr = broadcast(T(update.lr)), momentum = broadcast(T(update.beta1));
  for_updates<T>(context, update, [=](int64_t i, int lanes, Vec<T> g, Vec<T> p) {
    Vec<T> direction = g;
    if (update.first != nullptr) {
      const Vec<T> v = flush(fma(momentum, load_lanes(update.first + i, lanes), g));
      store_lanes(update.first + i, v, lanes);
      direction = update.nesterov ? fma(momentum, v, g) : v;
    }
    return fnma(lr, direction, p);
  });
}

template <class T>
void rmsprop(const Context& context, const Update<T>& update) {
  const Vec<T> lr = broadcast(T(update.lr)), eps = broadcast(T(update.eps));
  const Vec<T> alpha = broadcast(T(update.beta2)), rest = broadcast(T(1 - update.beta2));
  for_updates<T>(context, update, [=](int64_t i, int lanes, Vec<T> g, Vec<T> p) {
    const Vec<T> before = load_lanes(update.second + i, lanes);
    const Vec<T> s = flush(fma(alpha, before, rest * g * g));
    store_lanes(update.second + i, s, lanes);
    return p - lr * g / (sqrt(s) + eps);
  });
}

template <class T>
void adam(const Context& context, const Update<T>& update) {
  const Vec<T> lr = broadcast(T(update.lr)), eps = broadcast(T(update.eps));
  const Vec<T> rest1 = broadcast(T(1 - update.beta1));
  const Vec<T> beta2 = broadcast(T(update.beta2)), rest2 = broadcast(T(1 - update.beta2));
  const Vec<T> correction = broadcast(T(update.correction));
  const Vec<T> decay = broadcast(T(update.decay));
  for_updates<T>(context, update, [=](int64_t i, int lanes, Vec<T> g, Vec<T> p) {
    Vec<T> m = load_lanes(update.first + i, lanes);
    Vec<T> s = load_lanes(update.second + i, lanes);
    m = flush(fma(rest1, g - m, m));
    s = flush(fma(beta2, s, rest2 * g * g));
    if (update.decay != 0) {
      const Vec<T> smaller = fnma(decay, p, p);
      if (update.decay_mask == nullptr) {
        p = smaller;
      } else {
        uint32_t decayed = 0;
        for (int l = 0; l < lanes; ++l) {
          decayed |= uint32_t(update.decay_mask[i + l] != 0) << l;
        }
        p = select(mask_from_bits<T>(decayed), smaller, p);
      }
    }
    store_lanes(update.first + i, m, lanes);
    store_lanes(update.second + i, s, lanes);
    return p - lr * m / fma(sqrt(s), correction, eps);
  });
}

// Without l1 there are no signs to find and no second sum to make.
template <bool has_l1, class T>
void regularise_rows(const Context& context, View<const T> w, View<T> dw, double l1, double l2,
                     double l1_slope, View<double> penalties) {
  constexpr int64_t tall = 16;  // rows of a task
  const Vec<T> c1 = broadcast(T(l1_slope)), c2 = broadcast(T(l2));
  auto body = [&](int64_t block, void*) {
    const View<const T> from = w;  // copies, as in for_elements
    const View<T> to = dw;
    const View<double> sums = penalties;
    const int64_t r1 = (block + 1) * tall < w.rows ? (block + 1) * tall : w.rows;
    for (int64_t r = block * tall; r < r1; ++r) {
      for (int64_t i = 0; i < sums.cols; ++i) {
        const int64_t start = i * penalty_cols;
        const int64_t n = from.cols - start < penalty_cols ? from.cols - start : penalty_cols;
        Lanes16<T> square, size;
        square.clear();
        size.clear();
        for_row<T>(n, [&](int64_t c, int lanes, int lane) {
          const Vec<T> x = load_lanes(from.at(r, start + c), lanes);
          square.v[lane] = fma(x, x, square.v[lane]);
          T* const d = to.at(r, start + c);
          Vec<T> slope = c2 * x;
          if constexpr (has_l1) {
            size.v[lane] = size.v[lane] + abs(x);
            slope = fma(c2, x, select(x == zero<T>(), zero<T>(), copysign(c1, x)));
          }
          store_lanes(d, load_lanes(d, lanes) + slope, lanes);
        });
        *sums.at(r, i) = l2 / 2 * double(square.sum()) + (has_l1 ? l1 * double(size.sum()) : 0.0);
      }
    }
  };
  parallel_for(worth(context, 0.3 * double(w.rows) * double(w.cols)), (w.rows + tall - 1) / tall,
               body);
}

template <class T>
void regularise(const Context& context, View<const T> w, View<T> dw, double l1, double l2,
                double l1_slope, View<double> penalties) {
  (l1 > 0 ? regularise_rows<true, T> : regularise_rows<false, T>)(context, w, dw, l1, l2, l1_slope,
                                                                  penalties);
}

template <class T>
void shrink(const Context& context, const Update<T>& update, double l1) {
  T* parameters = update.parameters;
  const T* squares = update.second;
  const Vec<T> all = broadcast(T(l1 * update.step_size)), eps = broadcast(T(update.eps));
  const Vec<T> correction = broadcast(T(update.correction));
  for_elements<T>(context, update.count, [=](int64_t i, int lanes) {
    const Vec<T> p = load_lanes(parameters + i, lanes);
    Vec<T> t = all;
    if (squares != nullptr) {
      t = t / fma(sqrt(load_lanes(squares + i, lanes)), correction, eps);
    }
    const Vec<T> size = abs(p) - t;
    store_lanes(parameters + i, select(size <= zero<T>(), zero<T>(), copysign(size, p)), lanes);
  });
}

// Chains down the columns within row blocks, joined in order. In double no square of float32 is
// rounded, none under- or overflows.
template <class T>
void limit_norms(const Context& context, View<T> w, double max_norm) {
  constexpr int together = 64;
  auto body = [&](int64_t task, void*) {
    const int64_t c0 = task * together;
    const int cols = int(w.cols - c0 < together ? w.cols - c0 : together);
    double total[together] = {};
    for (int64_t r0 = 0; r0 < w.rows; r0 += row_block) {
      const int64_t r1 = r0 + row_block < w.rows ? r0 + row_block : w.rows;
      double sum[together] = {};
      for (int64_t r = r0; r < r1; ++r) {
        const T* row = w.at(r, c0);
        for (int c = 0; c < cols; ++c) {
          sum[c] += double(row[c]) * double(row[c]);
        }
      }
      for (int c = 0; c < cols; ++c) {
        total[c] += sum[c];
      }
    }
    T factor[together];
    bool some = false;
    for (int c = 0; c < cols; ++c) {
      const double norm = __builtin_sqrt(total[c]);
      factor[c] = norm > max_norm ? T(max_norm / norm) : T(1);
      some = some || norm > max_norm;
    }
    for (int64_t r = 0; some && r < w.rows; ++r) {
      T* row = w.at(r, c0);
      for (int c = 0; c < cols; ++c) {
        row[c] *= factor[c];
      }
    }
  };
  parallel_for(worth(context, 0.2 * double(w.rows) * double(w.cols)),
               (w.cols + together - 1) / together, body);
}

}  // namespace
}  // namespace fanin
