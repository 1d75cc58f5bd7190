// Statistics of a matrix a (m, n), made while its values pass through registers.
//
// Per block of row_block rows and per column j, seven numbers are kept (`Moments`):
//
//     shift   the column's first value in the block (0 when that is not finite)
//     sum     sum of a - shift                square   sum of (a - shift)^2
//     zeros   how many are 0                  saturated  how many lie outside [lo, hi]
//     min, max  NaN when there is one
//
// The block's mean is shift + sum / rows and its sum of squared deviations square - sum^2 / rows.
// The shift is one of the values, so that difference loses at most a factor of row_block in
// relative accuracy however far the mean is from zero (Chan, Golub and LeVeque, "Algorithms for
// computing the sample variance", 1983). Blocks are then joined in order in double:
//
//     mean = sum rows_b mean_b / m,    M2 = sum (M2_b + rows_b (mean_b - mean)^2)
//
// Everything runs down columns, lane by lane: no order depends on the width of a vector.
#pragma once

#include "blocks.hpp"

namespace fanin {
namespace {

// The seven numbers of every (row block, column): arrays (blocks, n) one after the other, as wide
// as n rounded up to whole groups of 16, so that whole vectors may be written.
template <class T>
struct Moments {
  T *shift, *sum, *square, *zeros, *saturated, *min, *max;
  int64_t stride;
};

// Lays the arrays out in `scratch`; behind them `*rest` is room for 3 n doubles.
template <class T>
Moments<T> moments_in(T* scratch, int64_t rows, int64_t cols, double** rest) {
  const int64_t stride = round_up(cols, 16), size = row_blocks(rows) * stride;
  *rest = reinterpret_cast<double*>(scratch);
  T* base = reinterpret_cast<T*>(*rest + 3 * stride);
  return {base,
          base + size,
          base + 2 * size,
          base + 3 * size,
          base + 4 * size,
          base + 5 * size,
          base + 6 * size,
          stride};
}

// The running moments of one vector of columns.
template <class T>
struct ColumnMoments {
  Vec<T> shift, sum, square, zeros, saturated, min, max;
  Mask<T> unordered;

  [[gnu::always_inline]] void start(Vec<T> first) {
    const Vec<T> infinity = broadcast(T(__builtin_inf()));
    shift = select(abs(first) < infinity, first, zero<T>());
    sum = square = zeros = saturated = zero<T>();
    min = infinity;
    max = -infinity;
    unordered = is_nan(zero<T>());
  }

  [[gnu::always_inline]] void add(Vec<T> a, Vec<T> lo, Vec<T> hi) {
    const Vec<T> deviation = a - shift, one = broadcast(T(1));
    sum = sum + deviation;
    square = fma(deviation, deviation, square);
    zeros = select(a == zero<T>(), zeros + one, zeros);
    saturated = select((a < lo) | (a > hi), saturated + one, saturated);
    min = fanin::min(a, min);
    max = fanin::max(a, max);
    unordered = unordered | is_nan(a);
  }

  [[gnu::always_inline]] void finish(const Moments<T>& to, int64_t block, int64_t col) const {
    const int64_t at = block * to.stride + col;
    const Vec<T> nan = broadcast(T(__builtin_nan("")));
    store(to.shift + at, shift);
    store(to.sum + at, sum);
    store(to.square + at, square);
    store(to.zeros + at, zeros);
    store(to.saturated + at, saturated);
    store(to.min + at, select(unordered, nan, min));
    store(to.max + at, select(unordered, nan, max));
  }
};

// Moments of `a`, at most row_block rows and some columns of a matrix: its row block `block`, its
// columns from c0.
template <class T>
void patch_moments(View<const T> a, int64_t block, int64_t c0, T lo, T hi, const Moments<T>& to) {
  constexpr int W = width<T>;
  for (int64_t c = 0; c < a.cols; c += W) {
    const int lanes = int(a.cols - c < W ? a.cols - c : W);
    ColumnMoments<T> column;
    column.start(load_first(a.at(0, c), lanes));
    for (int64_t r = 0; r < a.rows; ++r) {
      column.add(lanes == W ? load(a.at(r, c)) : load_first(a.at(r, c), lanes), broadcast(lo),
                 broadcast(hi));
    }
    column.finish(to, block, c0 + c);
  }
}

// Joins the blocks: mean and sum of squared deviations of every column, in double.
template <class T>
void join_moments(const Moments<T>& from, int64_t rows, int64_t cols, double* mean, double* m2) {
  const int64_t blocks = row_blocks(rows);
  const auto rows_in = [&](int64_t block) {
    return double(block + 1 < blocks ? row_block : rows - block * row_block);
  };
  for (int64_t c = 0; c < cols; ++c) {
    mean[c] = 0;
    m2[c] = 0;
  }
  for (int64_t block = 0; block < blocks; ++block) {
    const T* shift = from.shift + block * from.stride;
    const T* sum = from.sum + block * from.stride;
    for (int64_t c = 0; c < cols; ++c) {
      mean[c] += rows_in(block) * double(shift[c]) + double(sum[c]);
    }
  }
  for (int64_t c = 0; c < cols; ++c) {
    mean[c] /= double(rows);
  }
  for (int64_t block = 0; block < blocks; ++block) {
    const T* shift = from.shift + block * from.stride;
    const T* sum = from.sum + block * from.stride;
    const T* square = from.square + block * from.stride;
    const double n = rows_in(block);
    for (int64_t c = 0; c < cols; ++c) {
      const double s = double(sum[c]);
      const double inside = double(square[c]) - s * s / n;
      const double away = double(shift[c]) + s / n - mean[c];
      m2[c] += (inside < 0 ? 0 : inside) + n * away * away;
    }
  }
}

// From moments to `stats`; `work` is room for 2 n doubles.
template <class T>
void finish_stats(const Moments<T>& from, int64_t rows, int64_t cols, double* work, Stats* stats) {
  double* m2 = work;
  double* spread = work + cols;
  join_moments(from, rows, cols, stats->unit_mean, m2);
  const double mean = sum_of(stats->unit_mean, cols) / double(cols);
  for (int64_t c = 0; c < cols; ++c) {
    const double away = stats->unit_mean[c] - mean;
    spread[c] = m2[c] + double(rows) * away * away;
    stats->unit_zeros[c] = 0;
  }
  stats->mean = mean;
  stats->std = __builtin_sqrt(sum_of(spread, cols) / (double(rows) * double(cols)));
  stats->zeros = stats->saturated = 0;
  stats->min = __builtin_inf();
  stats->max = -__builtin_inf();
  bool unordered = false;
  for (int64_t block = 0; block < row_blocks(rows); ++block) {
    const int64_t at = block * from.stride;
    for (int64_t c = 0; c < cols; ++c) {
      stats->unit_zeros[c] += int64_t(from.zeros[at + c]);
      stats->zeros += int64_t(from.zeros[at + c]);
      stats->saturated += int64_t(from.saturated[at + c]);
      const double low = double(from.min[at + c]), high = double(from.max[at + c]);
      unordered = unordered || low != low;
      stats->min = low < stats->min ? low : stats->min;
      stats->max = high > stats->max ? high : stats->max;
    }
  }
  if (unordered) {
    stats->min = stats->max = __builtin_nan("");
  }
}

// Outside [lo, hi] an activation is saturated: within 1 % of its range of a finite end.
template <class T>
void saturation_bounds(Activation kind, T* lo, T* hi) {
  *lo = T(-__builtin_inf());
  *hi = T(__builtin_inf());
  switch (kind) {
    case Activation::tanh:
      *lo = T(-0.98);
      *hi = T(0.98);
      break;
    case Activation::sigmoid:
      *lo = T(0.01);
      *hi = T(0.99);
      break;
    case Activation::elu:
      *lo = T(-0.98);
      break;
    case Activation::selu:
      *lo = T(-0.98 * 1.0507009873554805 * 1.6732632423543772);
      break;
    default:
      break;
  }
}

template <class T>
void stats(const Context& context, View<const T> a, T lo, T hi, Stats* out, T* scratch) {
  double* work;
  const Moments<T> moments = moments_in(scratch, a.rows, a.cols, &work);
  auto body = [&](int64_t block, void*) {
    const int64_t r0 = block * row_block;
    const int64_t r1 = r0 + row_block < a.rows ? r0 + row_block : a.rows;
    patch_moments(View<const T>{a.at(r0, 0), r1 - r0, a.cols, a.row_stride, 1}, block, 0, lo, hi,
                  moments);
  };
  parallel_for(worth(context, 0.1 * double(a.rows) * double(a.cols)), row_blocks(a.rows), body);
  finish_stats(moments, a.rows, a.cols, work, out);
}

// counts[i] += elements with edges[i] <= a < edges[i + 1], the last bin closed. The bin is guessed
// from even spacing and then moved to where the edges say, as numpy.histogram does.
template <class T>
void histogram(const Context&, View<const T> a, const double* edges, int bins, int64_t* counts) {
  const double first = edges[0], last = edges[bins];
  const double per_unit = last > first ? double(bins) / (last - first) : 0;
  for (int64_t r = 0; r < a.rows; ++r) {
    for (int64_t c = 0; c < a.cols; ++c) {
      const double value = double(*a.at(r, c));
      if (!(value >= first && value <= last)) {
        continue;
      }
      const double guess = (value - first) * per_unit;
      int bin = guess < double(bins) ? int(guess) : bins - 1;
      while (bin > 0 && value < edges[bin]) {
        --bin;
      }
      while (bin < bins - 1 && value >= edges[bin + 1]) {
        ++bin;
      }
      ++counts[bin];
    }
  }
}

}  // namespace
}  // namespace fanin
