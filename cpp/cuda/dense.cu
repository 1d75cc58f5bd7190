// One dense layer, forward and backward: a product (gemm.cu), then everything else in one pass.
//
//     z = x @ w + b     h = f(z)     a = mask * scale * h          x (m, k)  w (k, n)  a (m, n)
//     dz = da * mask * scale * f'(z)      da = dz_above @ w_above^T      db = sum over rows of dz
//
// The pass. A tile is row_block rows by up to 32 packs of 16 bytes: its threads are `lanes` across
// by `groups` down, and each has one pack in each of 8 neighbouring rows. Those 8 rows are what one
// block of Philox decides upon, and the 64 rows of a tile are what moments are kept of. Statistics
// go through shared memory and down the columns of the tile, one thread each. The bias gradient is
// summed over a thread's rows, over the tile's groups, over the tiles, always in that order.
//
// Matrices whose rows do not all begin at multiples of 16 bytes, or do not end at one, are read and
// written one element at a time.
#include "dense.hpp"

#include "activation.cuh"
#include "dropout.cuh"
#include "gemm.hpp"
#include "stats.cuh"

namespace fanin::cuda {

namespace {

constexpr int thread_rows = 8;                        // of a thread
constexpr int groups = int(row_block) / thread_rows;  // of rows, in a tile
constexpr int most_lanes = 32;                        // of a tile, across
constexpr int most_threads = most_lanes * groups;
constexpr int blocks_resident = 3;  // on a multiprocessor: 85 registers a thread
// Loads of a thread that are under way: fewer where a pack is many numbers, for want of registers.
template <class T>
constexpr int rows_at_once = sizeof(T) == 2 ? 2 : 4;

// ---- tiles

// How a matrix is cut into tiles.
struct Tiles {
  int lanes;  // 8, 16 or 32
  unsigned down, across;
  dim3 grid() const { return dim3(down * across); }
  dim3 block() const { return dim3(unsigned(lanes), groups); }
};

// The widest tiles of which not much lies beside the matrix.
template <class T>
Tiles tiles_of(int64_t rows, int64_t cols) {
  const auto covered = [&](int lanes) {
    const int64_t width = lanes * Pack<T>::size;
    return divide_up(cols, width) * width;
  };
  int lanes = most_lanes;
  while (lanes > 8 && covered(lanes) > covered(8) + covered(8) / 8) {
    lanes /= 2;
  }
  return {lanes, unsigned(row_blocks(rows)), unsigned(divide_up(cols, lanes * Pack<T>::size))};
}

// The first row and column of a thread's pack.
struct Place {
  int64_t r, c;
};

template <class T>
__device__ __forceinline__ Place place_of(unsigned across) {
  const unsigned down = blockIdx.x / across;
  return {down * row_block + threadIdx.y * thread_rows,
          (int64_t(blockIdx.x - down * across) * blockDim.x + threadIdx.x) * Pack<T>::size};
}

// Packs of the rows r, r + 1, ...; zero outside the matrix. Columns have a unit stride.
template <class T>
__device__ __forceinline__ void load_rows(View<const T> x, int64_t r, int64_t c, bool packs,
                                          Pack<T> (&out)[rows_at_once<T>]) {
#pragma unroll
  for (int i = 0; i < rows_at_once<T>; ++i) {
    out[i] = Pack<T>{};
  }
  if (packs) {
#pragma unroll
    for (int i = 0; i < rows_at_once<T>; ++i) {
      if (r + i < x.rows && c < x.cols) {
        out[i] = load_pack(x.data + (r + i) * x.row_stride + c);
      }
    }
  } else {
#pragma unroll
    for (int i = 0; i < rows_at_once<T>; ++i) {
#pragma unroll
      for (int j = 0; j < Pack<T>::size; ++j) {
        if (r + i < x.rows && c + j < x.cols) {
          out[i].v[j] = x.data[(r + i) * x.row_stride + c + j];
        }
      }
    }
  }
}

template <class T>
__device__ __forceinline__ void store_row(View<T> x, int64_t r, int64_t c, bool packs,
                                          const Pack<T>& pack) {
  if (r >= x.rows || c >= x.cols) {
    return;
  }
  if (packs) {
    store_pack_whole(x.data + r * x.row_stride + c, pack);
  } else {
#pragma unroll
    for (int j = 0; j < Pack<T>::size; ++j) {
      if (c + j < x.cols) {
        x.data[r * x.row_stride + c + j] = pack.v[j];
      }
    }
  }
}

template <class T>
bool ends_with_pack(const View<T>& view) {
  return view.cols % Pack<std::remove_const_t<T>>::size == 0;
}

// ---- forward

// Outside [lo, hi] an activation is saturated: within 1 % of its range of a finite end.
template <class S>
struct Bounds {
  S lo, hi;
};

template <class S>
Bounds<S> saturation_bounds(Activation kind) {
  const S infinity = S(__builtin_inf());
  switch (kind) {
    case Activation::tanh:
      return {S(-0.98), S(0.98)};
    case Activation::sigmoid:
      return {S(0.01), S(0.99)};
    case Activation::elu:
      return {S(-0.98), infinity};
    case Activation::selu:
      return {S(-0.98 * selu_lambda * selu_alpha), infinity};
    default:
      return {-infinity, infinity};
  }
}

// Shared memory: the tile of h, where there are moments.
template <Activation K, class T>
__global__ void __launch_bounds__(most_threads, blocks_resident)
    activation_forward_kernel(ActivationForward<T> layer, const StepState* state, unsigned across,
                              bool packs, Bounds<Wide<T>> saturation) {
  using S = Wide<T>;
  constexpr int P = Pack<T>::size;
  const auto [r0, c] = place_of<T>(across);
  const bool drops = layer.dropout.threshold > 0, with_moments = layer.moments.data != nullptr;
  const int width = int(blockDim.x) * P;
  T* const tile = dynamic_shared<T>();

  S bias[P];
#pragma unroll
  for (int j = 0; j < P; ++j) {
    bias[j] = layer.b != nullptr && c + j < layer.a.cols ? S(layer.b[c + j]) : S(0);
  }
  uint64_t kept = 0;
  const S scale = S(layer.dropout.scale());
  if (drops) {
    kept = kept_patch<P>(key_of(layer.dropout, state), uint32_t(layer.dropout.col + c),
                         uint32_t((layer.dropout.row + r0) / 8));
    store_mask<P>(kept, layer.mask, r0, c);
  }

#pragma unroll 1
  for (int first = 0; first < thread_rows; first += rows_at_once<T>) {
    Pack<T> pack[rows_at_once<T>];
    load_rows(layer.z, r0 + first, c, packs, pack);
    const uint64_t kept_now = kept >> first;
#pragma unroll
    for (int i = 0; i < rows_at_once<T>; ++i) {
      Pack<T> z_kept, a;
#pragma unroll
      for (int j = 0; j < P; ++j) {
        const S z = S(pack[i].v[j]) + bias[j];
        z_kept.v[j] = T(z);
        const S h = activate<K, is_fast<T>>(z);
        a.v[j] = T(h);
        if (with_moments) {
          tile[(threadIdx.y * thread_rows + first + i) * width + threadIdx.x * P + j] = T(h);
        }
        if (drops) {
          a.v[j] = kept_now >> (8 * j + i) & 1 ? T(h * scale) : T(S(0));
        }
      }
      if (layer.z_kept.data != nullptr) {
        store_row(layer.z_kept, r0 + first + i, c, packs, z_kept);
      }
      store_row(layer.a, r0 + first + i, c, packs, a);
    }
  }

  if (with_moments) {
    __syncthreads();
    const int64_t block = blockIdx.x / across, left = layer.a.rows - block * row_block;
    const int64_t first_col = int64_t(blockIdx.x % across) * width;
    const int rows = int(left < row_block ? left : row_block);
    for (int col = threadIdx.y * blockDim.x + threadIdx.x; col < width;
         col += blockDim.x * groups) {
      if (first_col + col < layer.a.cols) {
        column_moments(tile + col, width, rows, saturation.lo, saturation.hi,
                       Moments<S>(layer.moments), block * layer.moments.stride + first_col + col);
      }
    }
  }
}

// ---- backward

// `partial` (row blocks, n), where not null: the column sums of each tile's rows.
template <Activation K, class T>
__global__ void __launch_bounds__(most_threads, blocks_resident)
    activation_backward_kernel(ActivationBackward<T> layer, unsigned across, bool packs,
                               Wide<T>* partial) {
  using S = Wide<T>;
  constexpr int P = Pack<T>::size;
  const auto [r0, c] = place_of<T>(across);
  const bool drops = layer.dropout.threshold > 0;
  const S scale = drops ? S(layer.dropout.scale()) : S(1);
  const S keep = drops && !needs_z(K) ? S(1 / layer.dropout.scale()) : S(1);
  S sums[P] = {};

#pragma unroll 1
  for (int first = 0; first < thread_rows; first += rows_at_once<T>) {
    const int64_t r = r0 + first;
    Pack<T> da[rows_at_once<T>], saved[rows_at_once<T>];
    uint32_t kept[rows_at_once<T>];
    load_rows(layer.da, r, c, packs, da);
    if (K != Activation::identity) {
      load_rows(layer.saved, r, c, packs, saved);
    }
#pragma unroll
    for (int i = 0; i < rows_at_once<T>; ++i) {
      kept[i] = ~0u;
      if (drops && r + i < layer.dz.rows && c < layer.dz.cols) {
        kept[i] = uint32_t(*layer.mask.at(r + i, c / 16)) >> (c % 16);
      }
    }
#pragma unroll
    for (int i = 0; i < rows_at_once<T>; ++i) {
      Pack<T> dz;
#pragma unroll
      for (int j = 0; j < P; ++j) {
        S d = S(da[i].v[j]) * scale;
        if constexpr (K != Activation::identity) {
          d *= derivative<K, is_fast<T>>(S(saved[i].v[j]) * keep);
        }
        d = kept[i] >> j & 1 ? d : S(0);
        dz.v[j] = T(d);
        sums[j] += r + i < layer.dz.rows ? d : S(0);
      }
      store_row(layer.dz, r + i, c, packs, dz);
    }
  }

  if (partial != nullptr) {
    __shared__ S of_group[groups][most_lanes * P];
#pragma unroll
    for (int j = 0; j < P; ++j) {
      of_group[threadIdx.y][threadIdx.x * P + j] = sums[j];
    }
    __syncthreads();
    const int width = int(blockDim.x) * P;
    const int64_t first_col = int64_t(blockIdx.x % across) * width;
    for (int col = threadIdx.y * blockDim.x + threadIdx.x; col < width;
         col += blockDim.x * groups) {
      S sum = of_group[0][col];
#pragma unroll
      for (int g = 1; g < groups; ++g) {
        sum += of_group[g][col];
      }
      if (first_col + col < layer.dz.cols) {
        partial[int64_t(blockIdx.x / across) * layer.dz.cols + first_col + col] = sum;
      }
    }
  }
}

// ---- column sums

// A block has 8 packs of columns to itself, and its 64 groups take rows in turn.
constexpr int sum_lanes = 8, sum_groups = 64;

template <class In, class Out>
__global__ void __launch_bounds__(sum_lanes* sum_groups)
    column_sums_kernel(View<const In> x, Out* sums, bool packs) {
  using S = Wide<In>;
  constexpr int P = Pack<In>::size, width = sum_lanes * P, at_once = rows_at_once<In>;
  __shared__ S of_group[sum_groups][width];
  const int64_t first_col = int64_t(blockIdx.x) * width, c = first_col + threadIdx.x * P;
  S sum[P] = {};
  for (int64_t r = threadIdx.y * at_once; r < x.rows; r += sum_groups * at_once) {
    Pack<In> pack[at_once];
    load_rows(x, r, c, packs, pack);
#pragma unroll
    for (int j = 0; j < P; ++j) {
#pragma unroll
      for (int i = 0; i < at_once; ++i) {
        sum[j] += S(pack[i].v[j]);
      }
    }
  }
#pragma unroll
  for (int j = 0; j < P; ++j) {
    of_group[threadIdx.y][threadIdx.x * P + j] = sum[j];
  }
  __syncthreads();
  const int col = threadIdx.y * sum_lanes + threadIdx.x;
  if (col < width && first_col + col < x.cols) {
    S total = of_group[0][col];
#pragma unroll 8
    for (int g = 1; g < sum_groups; ++g) {
      total += of_group[g][col];
    }
    sums[first_col + col] = Out(total);
  }
}

template <class In, class Out>
void sum_columns(cudaStream_t stream, View<const In> x, Out* sums) {
  const int64_t width = sum_lanes * Pack<In>::size;
  launch(column_sums_kernel<In, Out>, dim3(unsigned(divide_up(x.cols, width))),
         dim3(sum_lanes, sum_groups), 0, stream, x, sums, has_packs(x) && ends_with_pack(x));
}

}  // namespace

template <class T>
void activation_forward(const Context& context, const ActivationForward<T>& layer) {
  using S = Wide<T>;
  const Tiles tiles = tiles_of<T>(layer.a.rows, layer.a.cols);
  const bool packs = ends_with_pack(layer.a) && has_packs(layer.a) && has_packs(layer.z) &&
                     has_packs(layer.z_kept);
  const size_t tile_bytes =
      layer.moments.data != nullptr ? size_t(row_block) * tiles.lanes * sizeof(Pack<T>) : 0;
  visit(layer.activation, [&]<Activation K>() {
    launch(activation_forward_kernel<K, T>, tiles.grid(), tiles.block(), tile_bytes,
           stream_of(context), layer, context.state, tiles.across, packs,
           saturation_bounds<S>(layer.activation));
  });
}

template <class T>
void activation_backward(const Context& context, const ActivationBackward<T>& layer) {
  using S = Wide<T>;
  const int64_t rows = layer.dz.rows, cols = layer.dz.cols;
  const Tiles tiles = tiles_of<T>(rows, cols);
  const bool packs = ends_with_pack(layer.dz) && has_packs(layer.dz) && has_packs(layer.da) &&
                     has_packs(layer.saved);
  S* const partial = layer.db != nullptr ? static_cast<S*>(layer.db_scratch) : nullptr;
  visit(layer.activation, [&]<Activation K>() {
    launch(activation_backward_kernel<K, T>, tiles.grid(), tiles.block(), 0, stream_of(context),
           layer, tiles.across, packs, partial);
  });
  if (partial != nullptr) {
    sum_columns(stream_of(context), View<const S>(rows_of(partial, row_blocks(rows), cols, cols)),
                layer.db);
  }
}

template <class T>
void column_sums(const Context& context, View<const T> x, T* sums) {
  sum_columns(stream_of(context), x, sums);
}

// Here is the choice between our pass and an epilogue of cuBLASLt: a layer without bias,
// activation, dropout, statistics and kept z needs no pass; every other takes ours. cuBLASLt could
// take bias, relu and gelu_tanh without dropout and statistics, and would save the pass's reading
// of z; it is not used before it has been measured to be faster.
template <class T>
bool needs_pass(const DenseForward<T>& layer) {
  return layer.b != nullptr || layer.activation != Activation::identity ||
         layer.dropout.threshold > 0 || layer.moments.data != nullptr || layer.z.data != nullptr;
}

template <class T>
void dense_forward(const Context& context, const DenseForward<T>& layer) {
  product<T, T>(context, layer.x, layer.w, layer.a);
  if (needs_pass(layer)) {
    activation_forward<T>(context, {layer.a, layer.b, layer.a, layer.z, layer.activation,
                                    layer.dropout, layer.mask, layer.moments});
  }
}

template <class T>
void dense_backward(const Context& context, const DenseBackward<T>& layer) {
  ActivationBackward<T> below = layer.below;
  below.da = below.dz;
  product<T, T>(context, layer.dz, layer.w.transposed(), below.dz);
  if (below.activation != Activation::identity || below.dropout.threshold > 0 ||
      below.db != nullptr) {
    activation_backward(context, below);
  }
}

#define FANIN_INSTANTIATE(T)                                                          \
  template void dense_forward<T>(const Context&, const DenseForward<T>&);             \
  template void activation_forward<T>(const Context&, const ActivationForward<T>&);   \
  template void activation_backward<T>(const Context&, const ActivationBackward<T>&); \
  template void dense_backward<T>(const Context&, const DenseBackward<T>&);           \
  template void column_sums<T>(const Context&, View<const T>, T*);
FANIN_INSTANTIATE(float)
FANIN_INSTANTIATE(double)
FANIN_INSTANTIATE(bfloat16)
FANIN_INSTANTIATE(float16)
#undef FANIN_INSTANTIATE

}  // namespace fanin::cuda
