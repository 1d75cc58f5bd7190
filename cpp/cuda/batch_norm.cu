// Batch normalisation of x (m, n), column by column (Ioffe and Szegedy, arXiv:1502.03167):
//
//     training    mean, var of the batch's column (var biased, as it divides x);
//                 running = (1 - momentum) running + momentum new, with var * m / (m - 1)
//     inference   mean, var = running
//     x_hat = (x - mean) / sqrt(var + eps)          y = gamma * x_hat + beta
//
//     dgamma = sum dy * x_hat     dbeta = sum dy     (over rows)
//     training    dx = gamma / sqrt(var + eps) * (dy - dbeta / m - x_hat * dgamma / m)
//     inference   dx = gamma / sqrt(var + eps) * dy
//
// Rows are cut into at most `down` chunks. One kernel sums down the columns of each chunk; the next
// joins the sums of its columns, in the order of the chunks and anew in each block, which costs
// less than one more kernel, and goes over the elements. Within a chunk sums are of x less its
// first row, so that a mean far from zero does not drown the variance.
#include "batch_norm.hpp"

#include "columns.cuh"

namespace fanin::cuda {
namespace {

constexpr int together = 4;  // rows of a thread that are on their way from memory at once

struct Chunks {
  int64_t rows;  // of the matrix
  int64_t each;  // rows of a chunk; the last may have fewer
  int count;

  // At most one for each 64 rows, which is what the contract's scratch is for.
  explicit Chunks(int64_t rows)
      : rows(rows),
        each(((rows + down - 1) / down + row_block - 1) / row_block * row_block),
        count(rows > 0 ? int((rows + each - 1) / each) : 0) {}

  __device__ int64_t begin(int64_t chunk) const { return chunk * each; }
  __device__ int64_t end(int64_t chunk) const {
    return chunk + 1 < count ? (chunk + 1) * each : rows;
  }
  dim3 grid(unsigned tiles) const { return dim3(tiles, count > 0 ? unsigned(count) : 1); }
};

// A number for each chunk and column, column by column within a chunk.
template <class T>
struct ChunkSums {
  T* data;
  int64_t cols;

  __device__ T& of(int64_t chunk, int64_t column) const { return data[chunk * cols + column]; }
};

template <class T, int W>
__global__ void chunk_moments(View<const T> x, Chunks chunks, ChunkSums<double> means,
                              ChunkSums<double> squares) {
  const int64_t chunk = blockIdx.y, begin = chunks.begin(chunk), end = chunks.end(chunk);
  const int64_t c = own_column<W>();
  double sums[2][W] = {};
  if (c < x.cols && begin < end) {
    double shift[W];
    const Lanes<T, W> first = load_lanes<W>(x.at(begin, c));
#pragma unroll
    for (int i = 0; i < W; ++i) {
      shift[i] = isfinite(first.v[i]) ? double(first.v[i]) : 0;
    }
#pragma unroll 4
    for (int64_t r = begin + threadIdx.y; r < end; r += down) {
      const Lanes<T, W> row = load_lanes<W>(x.at(r, c));
#pragma unroll
      for (int i = 0; i < W; ++i) {
        const double away = double(row.v[i]) - shift[i];
        sums[0][i] += away;
        sums[1][i] = fma(away, away, sums[1][i]);
      }
    }
  }
  double total[2];
  sum_down<2, W>(sums, total);
  const int64_t own = front_column<W>();
  if (in_front<W>() && own < x.cols && begin < end) {
    const double rows = double(end - begin), first = double(*x.at(begin, own));
    const double away = total[0] / rows;
    means.of(chunk, own) = (isfinite(first) ? first : 0) + away;
    squares.of(chunk, own) = total[1] - total[0] * away;
  }
}

// Mean and inv_std of the columns of a tile, for all threads of a block.
template <class T, int W>
struct Normal {
  T mean[across * W], inv_std[across * W];
};

// Joins the moments of the chunks; what is the batch's is written by the first row of blocks.
template <class T, int W>
__device__ void join_moments(const BatchNormForward<T>& layer, const Chunks& chunks,
                             ChunkSums<double> means, ChunkSums<double> squares,
                             Normal<T, W>& normal) {
  __shared__ double mean[across * W];
  const int64_t cols = layer.x.cols, c = own_column<W>(), own = front_column<W>();
  const int front = threadIdx.y * across + threadIdx.x;
  const int64_t chunk = threadIdx.y;
  const bool mine = chunk < chunks.count && c < cols;
  const double rows = mine ? double(chunks.end(chunk) - chunks.begin(chunk)) : 0;
  double means_here[W] = {}, sums[1][W] = {}, total[1];
#pragma unroll
  for (int i = 0; i < W; ++i) {
    means_here[i] = mine ? means.of(chunk, c + i) : 0;
    sums[0][i] = rows * means_here[i];
  }
  sum_down<1, W>(sums, total);
  if (in_front<W>()) {
    mean[front] = total[0] / double(chunks.rows);
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < W; ++i) {
    const double away = means_here[i] - mean[threadIdx.x * W + i];
    sums[0][i] = mine ? squares.of(chunk, c + i) + rows * away * away : 0;
  }
  sum_down<1, W>(sums, total);
  if (in_front<W>() && own < cols) {
    const double m = double(chunks.rows), batch_mean = mean[front];
    normal.mean[front] = T(batch_mean);
    normal.inv_std[front] = T(1 / sqrt(total[0] / m + layer.eps));
    if (blockIdx.y == 0) {
      const double old = 1 - layer.momentum;
      layer.inv_std[own] = normal.inv_std[front];
      layer.running_mean[own] =
          T(old * double(layer.running_mean[own]) + layer.momentum * batch_mean);
      layer.running_var[own] =
          T(old * double(layer.running_var[own]) + layer.momentum * total[0] / (m - 1));
    }
  }
}

template <class T, int W>
__device__ void use_running(const BatchNormForward<T>& layer, Normal<T, W>& normal) {
  const int64_t own = front_column<W>();
  if (in_front<W>() && own < layer.x.cols) {
    const int front = threadIdx.y * across + threadIdx.x;
    normal.mean[front] = layer.running_mean[own];
    normal.inv_std[front] = T(1 / sqrt(double(layer.running_var[own]) + layer.eps));
    if (blockIdx.y == 0) {
      layer.inv_std[own] = normal.inv_std[front];
    }
  }
}

template <class T, int W>
__global__ void normalise(BatchNormForward<T> layer, Chunks chunks, ChunkSums<double> means,
                          ChunkSums<double> squares) {
  __shared__ Normal<T, W> normal;
  if (layer.training) {
    join_moments<T, W>(layer, chunks, means, squares, normal);
  } else {
    use_running<T, W>(layer, normal);
  }
  __syncthreads();
  const int64_t c = own_column<W>();
  if (c >= layer.x.cols) {
    return;
  }
  Lanes<T, W> mean, inv_std, gamma, beta;
#pragma unroll
  for (int i = 0; i < W; ++i) {
    mean.v[i] = normal.mean[threadIdx.x * W + i];
    inv_std.v[i] = normal.inv_std[threadIdx.x * W + i];
    gamma.v[i] = layer.gamma[c + i];
    beta.v[i] = layer.beta[c + i];
  }
  const int64_t end = chunks.end(blockIdx.y);
  for (int64_t r0 = chunks.begin(blockIdx.y) + threadIdx.y; r0 < end; r0 += together * down) {
    Lanes<T, W> x[together];
#pragma unroll
    for (int k = 0; k < together; ++k) {
      if (r0 + k * down < end) {
        x[k] = load_lanes<W>(layer.x.at(r0 + k * down, c));
      }
    }
#pragma unroll
    for (int k = 0; k < together; ++k) {
      const int64_t r = r0 + k * down;
      if (r >= end) {
        break;
      }
      Lanes<T, W> y;
#pragma unroll
      for (int i = 0; i < W; ++i) {
        x[k].v[i] = (x[k].v[i] - mean.v[i]) * inv_std.v[i];
        y.v[i] = fma(gamma.v[i], x[k].v[i], beta.v[i]);
      }
      if (layer.x_hat.data != nullptr) {
        store_lanes<W>(layer.x_hat.at(r, c), x[k]);
      }
      store_lanes<W>(layer.y.at(r, c), y);
    }
  }
}

template <class T, int W>
__global__ void chunk_products(BatchNormBackward<T> layer, Chunks chunks, ChunkSums<T> dgammas,
                               ChunkSums<T> dbetas) {
  const int64_t chunk = blockIdx.y, end = chunks.end(chunk), c = own_column<W>();
  double sums[2][W] = {};
  if (c < layer.dy.cols) {
#pragma unroll 4
    for (int64_t r = chunks.begin(chunk) + threadIdx.y; r < end; r += down) {
      const Lanes<T, W> dy = load_lanes<W>(layer.dy.at(r, c));
      const Lanes<T, W> x_hat = load_lanes<W>(layer.x_hat.at(r, c));
#pragma unroll
      for (int i = 0; i < W; ++i) {
        sums[0][i] = fma(double(dy.v[i]), double(x_hat.v[i]), sums[0][i]);
        sums[1][i] += double(dy.v[i]);
      }
    }
  }
  double total[2];
  sum_down<2, W>(sums, total);
  const int64_t own = front_column<W>();
  if (in_front<W>() && own < layer.dy.cols && chunk < chunks.count) {
    dgammas.of(chunk, own) = T(total[0]);
    dbetas.of(chunk, own) = T(total[1]);
  }
}

template <class T, int W>
__global__ void normalise_backward(BatchNormBackward<T> layer, Chunks chunks, ChunkSums<T> dgammas,
                                   ChunkSums<T> dbetas) {
  __shared__ T dgamma_of[across * W], dbeta_of[across * W];
  const int64_t cols = layer.dy.cols, c = own_column<W>(), own = front_column<W>();
  const int64_t chunk = threadIdx.y;
  const bool mine = chunk < chunks.count && c < cols;
  double sums[2][W], total[2];
#pragma unroll
  for (int i = 0; i < W; ++i) {
    sums[0][i] = mine ? double(dgammas.of(chunk, c + i)) : 0;
    sums[1][i] = mine ? double(dbetas.of(chunk, c + i)) : 0;
  }
  sum_down<2, W>(sums, total);
  if (in_front<W>() && own < cols) {
    const int front = threadIdx.y * across + threadIdx.x;
    dgamma_of[front] = T(total[0]);
    dbeta_of[front] = T(total[1]);
    if (blockIdx.y == 0) {
      layer.dgamma[own] = T(total[0]);
      layer.dbeta[own] = T(total[1]);
    }
  }
  __syncthreads();
  if (c >= cols) {
    return;
  }
  const T per_row = T(1 / double(chunks.rows));
  Lanes<T, W> factor, dgamma, dbeta;
#pragma unroll
  for (int i = 0; i < W; ++i) {
    factor.v[i] = layer.gamma[c + i] * layer.inv_std[c + i];
    dgamma.v[i] = layer.training ? dgamma_of[threadIdx.x * W + i] * per_row : 0;
    dbeta.v[i] = layer.training ? dbeta_of[threadIdx.x * W + i] * per_row : 0;
  }
  const int64_t end = chunks.end(blockIdx.y);
  for (int64_t r0 = chunks.begin(blockIdx.y) + threadIdx.y; r0 < end; r0 += together * down) {
    Lanes<T, W> dx[together], x_hat[together];
#pragma unroll
    for (int k = 0; k < together; ++k) {
      if (r0 + k * down < end) {
        dx[k] = load_lanes<W>(layer.dy.at(r0 + k * down, c));
        x_hat[k] = load_lanes<W>(layer.x_hat.at(r0 + k * down, c));
      }
    }
#pragma unroll
    for (int k = 0; k < together; ++k) {
      if (r0 + k * down >= end) {
        break;
      }
#pragma unroll
      for (int i = 0; i < W; ++i) {
        if (layer.training) {
          dx[k].v[i] = fma(-x_hat[k].v[i], dgamma.v[i], dx[k].v[i] - dbeta.v[i]);
        }
        dx[k].v[i] *= factor.v[i];
      }
      store_lanes<W>(layer.dx.at(r0 + k * down, c), dx[k]);
    }
  }
}

template <class T, int W>
void forward(const Context& context, const BatchNormForward<T>& layer) {
  const int64_t cols = layer.x.cols;
  const Chunks chunks(layer.x.rows);
  const dim3 grid = chunks.grid(column_tiles<W>(cols));
  double* moments = reinterpret_cast<double*>(layer.scratch);
  const ChunkSums<double> means{moments, cols}, squares{moments + chunks.count * cols, cols};
  if (layer.training) {
    launch(chunk_moments<T, W>, grid, tile_block(), 0, stream_of(context), layer.x, chunks, means,
           squares);
  }
  launch(normalise<T, W>, grid, tile_block(), 0, stream_of(context), layer, chunks, means, squares);
}

template <class T, int W>
void backward(const Context& context, const BatchNormBackward<T>& layer) {
  const int64_t cols = layer.dy.cols;
  const Chunks chunks(layer.dy.rows);
  const dim3 grid = chunks.grid(column_tiles<W>(cols));
  const ChunkSums<T> dgammas{layer.scratch, cols},
      dbetas{layer.scratch + chunks.count * cols, cols};
  launch(chunk_products<T, W>, grid, tile_block(), 0, stream_of(context), layer, chunks, dgammas,
         dbetas);
  launch(normalise_backward<T, W>, grid, tile_block(), 0, stream_of(context), layer, chunks,
         dgammas, dbetas);
}

}  // namespace

template <class T>
void batch_norm_forward(const Context& context, const BatchNormForward<T>& layer) {
  if (layer.x.cols == 0) {
    return;
  }
  constexpr int W = pack_size<T>;
  if (holds_lanes<W>(layer.x) && holds_lanes<W>(layer.y) && holds_lanes<W>(layer.x_hat)) {
    forward<T, W>(context, layer);
  } else {
    forward<T, 1>(context, layer);
  }
}

template <class T>
void batch_norm_backward(const Context& context, const BatchNormBackward<T>& layer) {
  if (layer.dy.cols == 0) {
    return;
  }
  constexpr int W = pack_size<T>;
  if (holds_lanes<W>(layer.dy) && holds_lanes<W>(layer.x_hat) && holds_lanes<W>(layer.dx)) {
    backward<T, W>(context, layer);
  } else {
    backward<T, 1>(context, layer);
  }
}

template void batch_norm_forward(const Context&, const BatchNormForward<float>&);
template void batch_norm_forward(const Context&, const BatchNormForward<double>&);
template void batch_norm_backward(const Context&, const BatchNormBackward<float>&);
template void batch_norm_backward(const Context&, const BatchNormBackward<double>&);

}  // namespace fanin::cuda
