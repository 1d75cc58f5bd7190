// Statistics of a matrix a (m, n), made while its values pass through registers.
//
// Per block of row_block rows and per column j, seven numbers are kept (`Moments`):
//
//     shift      the column's first value in the block (0 when that is not finite)
//     deviation  the mean of a - shift
//     spread     the standard deviation within the block
//     zeros   how many are 0                  saturated  how many lie outside [lo, hi]
//     min, max  NaN when there is one
//
// spread^2 rows is square - sum^2 / rows, of the sums of a - shift and (a - shift)^2. The
// shift is one of the values, so this difference loses at most a factor of row_block in relative
// accuracy however far the mean is from zero (Chan, Golub and LeVeque, "Algorithms for computing
// the sample variance", 1983). Where the squares leave the range of T the column is done again in
// double
// (`far_column`). Blocks are then joined in order in double:
//
//     mean = sum rows_b mean_b / m,    M2 = sum rows_b (spread_b^2 + (mean_b - mean)^2)
//
// Everything runs down columns, lane by lane: no order depends on the width of a vector.
#pragma once

#include "blocks.hpp"

namespace fanin {
namespace {

// The seven arrays, by name.
template <class T>
struct MomentArrays {
  explicit MomentArrays(const Moments<T>& m)
      : shift(m.data),
        deviation(shift + m.size),
        spread(deviation + m.size),
        zeros(spread + m.size),
        saturated(zeros + m.size),
        min(saturated + m.size),
        max(min + m.size) {}
  T *const shift, *const deviation, *const spread, *const zeros, *const saturated, *const min,
                                                                                       *const max;
};

// Sums of squares in this range have lost nothing to overflow or underflow.
template <class T>
constexpr T least_square = sizeof(T) == 4 ? T(0x1p-80) : T(0x1p-900);
template <class T>
constexpr T most_square = sizeof(T) == 4 ? T(0x1p120) : T(0x1p1000);
template <class T>
constexpr T most = sizeof(T) == 4 ? T(__FLT_MAX__) : T(__DBL_MAX__);

// The running moments of one vector of columns.
template <class T>
struct ColumnMoments {
  Vec<T> shift, sum, square, zeros, saturated, min, max;

  [[gnu::always_inline]] void start(Vec<T> first) {
    const Vec<T> infinity = broadcast(T(__builtin_inf()));
    shift = select(abs(first) < infinity, first, zero<T>());
    sum = square = zeros = saturated = zero<T>();
    min = infinity;
    max = -infinity;
  }

  [[gnu::always_inline]] void add(Vec<T> a, Vec<T> lo, Vec<T> hi) {
    const Vec<T> deviation = a - shift, one = broadcast(T(1));
    sum = sum + deviation;
    square = fma(deviation, deviation, square);
    zeros = select(a == zero<T>(), zeros + one, zeros);
    saturated = select((a < lo) | (a > hi), saturated + one, saturated);
    min = fanin::min(a, min);
    max = fanin::max(a, max);
  }

  // Returns the lanes, as bits, whose squares left the range of T, or whose sum is NaN.
  [[gnu::always_inline]] uint32_t finish(int64_t rows, const MomentArrays<T>& to,
                                         int64_t at) const {
    const Vec<T> deviation = sum / broadcast(T(rows));
    const Vec<T> inside = fnma(sum, deviation, square);
    store(to.shift + at, shift);
    store(to.deviation + at, deviation);
    store(to.spread + at, sqrt(fanin::max(zero<T>(), inside) / broadcast(T(rows))));
    store(to.zeros + at, zeros);
    store(to.saturated + at, saturated);
    store(to.min + at, min);
    store(to.max + at, max);
    const Mask<T> safe =
        (square >= broadcast(least_square<T>)) & (square <= broadcast(most_square<T>));
    return bits(is_nan(sum) | ((min < max) & ~safe));
  }
};

// Moments of a column with a NaN, or whose values differ by very much or very little, in double;
// row by row.
template <class T>
void far_column(View<const T> a, int64_t col, const MomentArrays<T>& to, int64_t at) {
  const double low = double(to.min[at]), high = double(to.max[at]);
  const double size = high > -low ? high : -low;
  const double scale = size > 0x1p500 ? 0x1p-600 : size < 0x1p-400 ? 0x1p600 : 1.0;
  const bool wide = size > 0.25 * double(most<T>);
  const double shift = wide || !(size <= double(most<T>)) ? 0.0 : double(to.shift[at]);
  double sum = 0, square = 0;
  for (int64_t r = 0; r < a.rows; ++r) {
    if (*a.at(r, col) != *a.at(r, col)) {  // its sums are NaN already
      to.min[at] = to.max[at] = T(__builtin_nan(""));
      return;
    }
    const double deviation = double(*a.at(r, col)) * scale - shift * scale;
    sum += deviation;
    square += deviation * deviation;
  }
  const double inside = square - sum * sum / double(a.rows);
  to.shift[at] = T(shift);
  to.deviation[at] = T(sum / double(a.rows) / scale);
  to.spread[at] = T(__builtin_sqrt(inside < 0 ? 0 : inside / double(a.rows)) / scale);
}

// Moments of `a`, at most row_block rows and some columns. Calls then(r, c, lanes, value) for each
// vector. Inlined, as a call would pass much for a patch of 16 columns (statistics 8 % slower).
template <class T, class Then>
[[gnu::always_inline]] inline void patch_moments(View<const T> a, T lo, T hi,
                                                 const Moments<T>& moments, const Then& then) {
  constexpr int W = width<T>;
  const MomentArrays<T> to(moments);
  for (int64_t c = 0; c < a.cols; c += W) {
    const int lanes = int(a.cols - c < W ? a.cols - c : W);
    ColumnMoments<T> column;
    column.start(load_first(a.at(0, c), lanes));
    for (int64_t r = 0; r < a.rows; ++r) {
      const Vec<T> value = load_lanes(a.at(r, c), lanes);
      column.add(value, broadcast(lo), broadcast(hi));
      then(r, c, lanes, value);
    }
    for (uint32_t far = column.finish(a.rows, to, c) & ((1u << lanes) - 1u); far != 0;
         far &= far - 1) {
      const int lane = __builtin_ctz(far);
      far_column(a, c + lane, to, c + lane);
    }
  }
}

template <class T>
void patch_moments(View<const T> a, T lo, T hi, const Moments<T>& moments) {
  patch_moments(a, lo, hi, moments, [](int64_t, int64_t, int, Vec<T>) {});
}

// Joins the blocks: mean and sum of squared deviations of every column, in double.
template <class T>
void join_means(const Moments<T>& moments, int64_t rows, int64_t cols, double* mean, double* m2) {
  const MomentArrays<T> from(moments);
  const int64_t blocks = row_blocks(rows);
  const auto rows_in = [&](int64_t block) {
    return double(block + 1 < blocks ? row_block : rows - block * row_block);
  };
  for (int64_t c = 0; c < cols; ++c) {
    mean[c] = 0;
    m2[c] = 0;
  }
  for (int64_t block = 0; block < blocks; ++block) {
    const T* shift = from.shift + block * moments.stride;
    const T* deviation = from.deviation + block * moments.stride;
    for (int64_t c = 0; c < cols; ++c) {
      mean[c] += rows_in(block) * (double(shift[c]) + double(deviation[c]));
    }
  }
  for (int64_t c = 0; c < cols; ++c) {
    mean[c] /= double(rows);
  }
  for (int64_t block = 0; block < blocks; ++block) {
    const T* shift = from.shift + block * moments.stride;
    const T* deviation = from.deviation + block * moments.stride;
    const T* spread = from.spread + block * moments.stride;
    for (int64_t c = 0; c < cols; ++c) {
      const double inside = double(spread[c]);
      const double away = double(shift[c]) + double(deviation[c]) - mean[c];
      m2[c] += rows_in(block) * (inside * inside + away * away);
    }
  }
}

// The least and the greatest of all columns. Of zeros the positive one: which is met first depends
// on the width of a vector.
template <class T>
void join_range(const Moments<T>& moments, int64_t rows, int64_t cols, Stats* stats) {
  constexpr int W = width<T>;
  const MomentArrays<T> from(moments);
  Vec<T> low = broadcast(T(__builtin_inf())), high = -low;
  Mask<T> unordered = is_nan(low);
  for (int64_t block = 0; block < row_blocks(rows); ++block) {
    for (int64_t c = 0; c < cols; c += W) {
      const int lanes = int(cols - c < W ? cols - c : W);
      const Vec<T> least = load_lanes(from.min + block * moments.stride + c, lanes);
      const Vec<T> greatest = load_lanes(from.max + block * moments.stride + c, lanes);
      low = select(first<T>(lanes), min(least, low), low);
      high = select(first<T>(lanes), max(greatest, high), high);
      unordered = unordered | is_nan(least);
    }
  }
  T lows[W], highs[W];
  store(lows, low);
  store(highs, high);
  for (int i = 1; i < W; ++i) {
    lows[0] = lows[i] < lows[0] ? lows[i] : lows[0];
    highs[0] = highs[i] > highs[0] ? highs[i] : highs[0];
  }
  stats->min = any(unordered) ? __builtin_nan("") : double(lows[0]) + 0.0;
  stats->max = any(unordered) ? __builtin_nan("") : double(highs[0]) + 0.0;
}

template <class T>
void join_moments(const Context&, const Moments<T>& moments, int64_t rows, int64_t cols,
                  Stats* stats) {
  const MomentArrays<T> from(moments);
  double* m2 = moments.work;
  double* spread = moments.work + cols;
  join_means(moments, rows, cols, stats->unit_mean, m2);
  const double mean = sum_of(stats->unit_mean, cols) / double(cols);
  for (int64_t c = 0; c < cols; ++c) {
    const double away = stats->unit_mean[c] - mean;
    spread[c] = m2[c] + double(rows) * away * away;
    stats->unit_zeros[c] = 0;
  }
  stats->mean = mean;
  stats->std = __builtin_sqrt(sum_of(spread, cols) / (double(rows) * double(cols)));
  int64_t zeros = 0, saturated = 0;  // not in *stats: stores to unit_zeros might alias it
  for (int64_t block = 0; block < row_blocks(rows); ++block) {
    const int64_t at = block * moments.stride;
    for (int64_t c = 0; c < cols; ++c) {
      const auto unit_zeros = int64_t(from.zeros[at + c]);
      stats->unit_zeros[c] += unit_zeros;
      zeros += unit_zeros;
      saturated += int64_t(from.saturated[at + c]);
    }
  }
  stats->zeros = zeros;
  stats->saturated = saturated;
  join_range(moments, rows, cols, stats);
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
void stats(const Context& context, View<const T> a, T lo, T hi, const Moments<T>& moments,
           Stats* out) {
  auto body = [&](int64_t block, void*) {
    const int64_t r0 = block * row_block;
    patch_moments(a.row_range(r0, r0 + row_block < a.rows ? r0 + row_block : a.rows), lo, hi,
                  moments.from(r0, 0));
  };
  parallel_for(worth(context, 0.1 * double(a.rows) * double(a.cols)), row_blocks(a.rows), body);
  join_moments(context, moments, a.rows, a.cols, out);
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
