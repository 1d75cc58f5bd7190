// Statistics of a matrix a (m, n): moments of each block of row_block rows and each column, which
// are joined first down the columns, then across them.
//
//     mean = sum rows_b mean_b / m,    M2 = sum rows_b (spread_b^2 + (mean_b - mean)^2)
//
// All sums in double, in an order that the shape alone gives.
#include "stats.hpp"

#include "stats.cuh"

namespace fanin::cuda {

namespace {

// One thread per column and block of rows, neighbouring threads at neighbouring columns.
constexpr int moment_threads = 128;

template <class T>
__global__ void __launch_bounds__(moment_threads)
    moments_kernel(View<const T> a, Wide<T> lo, Wide<T> hi, Moments<Wide<T>> moments,
                   int64_t col_tiles) {
  const int64_t block = blockIdx.x / col_tiles;
  const int64_t c = blockIdx.x % col_tiles * moment_threads + threadIdx.x;
  const int64_t left = a.rows - block * row_block;
  if (c < a.cols) {
    column_moments(a.at(block * row_block, c), a.row_stride,
                   int(left < row_block ? left : row_block), lo, hi, moments,
                   block * moments.stride + c);
  }
}

// Columns side by side, each joined by `join_groups` threads: group g takes the blocks of rows g,
// g + join_groups, ..., and the groups are then added in order.
constexpr int join_cols = 32, join_groups = 16;

// Adds what the groups of a column have; every thread is given the sum.
__device__ double sum_groups(double value, double (&of)[join_groups][join_cols]) {
  __syncthreads();  // whoever still reads what lay there
  of[threadIdx.y][threadIdx.x] = value;
  __syncthreads();
  double total = 0;
  for (int g = 0; g < join_groups; ++g) {
    total += of[g][threadIdx.x];
  }
  return total;
}

// Writes unit_mean and unit_zeros, M2 and the saturated of each column into work, and its min and
// max into the arrays' first block.
template <class S>
__global__ void __launch_bounds__(join_cols* join_groups)
    join_columns_kernel(Moments<S> moments, int64_t rows, int64_t cols, const Stats* stats) {
  __shared__ double sums[join_groups][join_cols];
  __shared__ S least[join_groups][join_cols], most[join_groups][join_cols];
  const MomentArrays<S> from(moments);
  const int64_t c = int64_t(blockIdx.x) * join_cols + threadIdx.x;
  const int64_t blocks = divide_up(rows, row_block);
  const bool inside = c < cols;
  double sum = 0, zeros = 0, saturated = 0;
  S min = inside ? from.min[c] : S(0), max = inside ? from.max[c] : S(0);
  for (int64_t b = threadIdx.y; inside && b < blocks; b += join_groups) {
    const int64_t at = b * moments.stride + c;
    const int64_t left = rows - b * row_block;
    sum += double(left < row_block ? left : row_block) *
           (double(from.shift[at]) + double(from.deviation[at]));
    zeros += double(from.zeros[at]);
    saturated += double(from.saturated[at]);
    min = smaller(min, from.min[at]);
    max = larger(max, from.max[at]);
  }
  const double mean = sum_groups(sum, sums) / double(rows);
  double m2 = 0;
  for (int64_t b = threadIdx.y; inside && b < blocks; b += join_groups) {
    const int64_t at = b * moments.stride + c;
    const int64_t left = rows - b * row_block;
    const double away = double(from.shift[at]) + double(from.deviation[at]) - mean;
    const double spread = double(from.spread[at]);
    m2 += double(left < row_block ? left : row_block) * (spread * spread + away * away);
  }
  m2 = sum_groups(m2, sums);
  zeros = sum_groups(zeros, sums);
  saturated = sum_groups(saturated, sums);
  least[threadIdx.y][threadIdx.x] = min;
  most[threadIdx.y][threadIdx.x] = max;
  __syncthreads();
  if (inside && threadIdx.y == 0) {
    for (int g = 1; g < join_groups; ++g) {
      min = smaller(min, least[g][threadIdx.x]);
      max = larger(max, most[g][threadIdx.x]);
    }
    stats->unit_mean[c] = mean;
    stats->unit_zeros[c] = int64_t(zeros);
    moments.work[c] = m2;
    moments.work[moments.stride + c] = saturated;
    from.min[c] = min;
    from.max[c] = max;
  }
}

constexpr int across_threads = 512;

template <class S>
__global__ void __launch_bounds__(across_threads)
    join_across_kernel(Moments<S> moments, int64_t rows, int64_t cols, Stats* stats) {
  const MomentArrays<S> from(moments);
  double sum = 0, zeros = 0, saturated = 0;
  S min = from.min[0], max = from.max[0];
  for (int64_t c = threadIdx.x; c < cols; c += across_threads) {
    sum += stats->unit_mean[c];
    zeros += double(stats->unit_zeros[c]);
    saturated += moments.work[moments.stride + c];
    min = smaller(min, from.min[c]);
    max = larger(max, from.max[c]);
  }
  const double mean = block_sum<across_threads>(sum) / double(cols);
  double m2 = 0;
  for (int64_t c = threadIdx.x; c < cols; c += across_threads) {
    const double away = stats->unit_mean[c] - mean;
    m2 += moments.work[c] + double(rows) * away * away;
  }
  m2 = block_sum<across_threads>(m2);
  zeros = block_sum<across_threads>(zeros);
  saturated = block_sum<across_threads>(saturated);
  max = block_max<across_threads>(max);
  min = -block_max<across_threads>(-min);
  if (threadIdx.x == 0) {
    const bool unordered = min != min || max != max;
    stats->mean = mean;
    stats->std = sqrt(m2 / (double(rows) * double(cols)));
    stats->zeros = int64_t(zeros);
    stats->saturated = int64_t(saturated);
    stats->min = unordered ? double(NAN) : double(min);
    stats->max = unordered ? double(NAN) : double(max);
  }
}

}  // namespace

template <class T>
void join_moments(const Context& context, const Moments<T>& of, int64_t rows, int64_t cols,
                  Stats* stats) {
  using S = Wide<T>;
  const Moments<S> moments = of;
  launch(join_columns_kernel<S>, dim3(unsigned(divide_up(cols, join_cols))),
         dim3(join_cols, join_groups), 0, stream_of(context), moments, rows, cols, stats);
  launch(join_across_kernel<S>, dim3(1), dim3(across_threads), 0, stream_of(context), moments, rows,
         cols, stats);
}

template <class T>
void stats(const Context& context, View<const T> a, T lo, T hi, const Moments<T>& of, Stats* out) {
  using S = Wide<T>;
  const Moments<S> moments = of;
  const int64_t col_tiles = divide_up(a.cols, moment_threads);
  launch(moments_kernel<T>, dim3(unsigned(row_blocks(a.rows) * col_tiles)), dim3(moment_threads), 0,
         stream_of(context), a, S(lo), S(hi), moments, col_tiles);
  join_moments(context, of, a.rows, a.cols, out);
}

#define FANIN_INSTANTIATE(T)                                                              \
  template void stats<T>(const Context&, View<const T>, T, T, const Moments<T>&, Stats*); \
  template void join_moments<T>(const Context&, const Moments<T>&, int64_t, int64_t, Stats*);
FANIN_INSTANTIATE(float)
FANIN_INSTANTIATE(double)
FANIN_INSTANTIATE(bfloat16)
FANIN_INSTANTIATE(float16)
#undef FANIN_INSTANTIATE

}  // namespace fanin::cuda
