// Optimizers over a flat vector of parameters p with gradients g; PyTorch's conventions.
//
//   SGD       v = momentum v + g           p -= lr v       (Nesterov: p -= lr (g + momentum v))
//   RMSprop   s = alpha s + (1 - alpha) g^2                 p -= lr g / (sqrt(s) + eps)
//   Adam      m = m + (1 - beta1)(g - m)   s = beta2 s + (1 - beta2) g^2
//             p -= lr / (1 - beta1^t) m / (sqrt(s) / sqrt(1 - beta2^t) + eps), or with eps_hat
//             p -= lr sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(s) + eps)
//   AdamW     first p -= lr weight_decay p where p is decayed, then Adam
//
// (Kingma and Ba, arXiv:1412.6980; Loshchilov and Hutter, arXiv:1711.05101.) The formulas are
// rounded as kernels/optimizer.hpp rounds them; moments below the smallest normal number become
// zero.
//
// All of a network's parameters are one vector, so one launch updates all its layers: each number
// is read and written once, 16 bytes at a time. What changes from step to step (learning rate,
// corrections, the norm that clip_norm looks at) is read from device memory.
#include "optimizer.hpp"

#include "columns.cuh"
#include "lanes.cuh"
#include "row_group.cuh"
#include "rules.cuh"

namespace fanin::cuda {
namespace {

constexpr int threads = 256;

// The first of W elements of this thread, and the way to its next.
template <int W>
__device__ int64_t first_element() {
  return (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * W;
}
template <int W>
__device__ int64_t next_element() {
  return int64_t(gridDim.x) * blockDim.x * W;
}

// ---- updates (rules.cuh has the arithmetic)

// Where squares are wanted there are 16 blocks, for each is to leave the sums of one lane.
constexpr int square_blocks = 16, square_threads = 512;

template <class Rule, int W, bool with_squares, class T>
__global__ void __launch_bounds__(with_squares ? square_threads : threads)
    update_all(Update<T> update, const Rates* rates, const StepState* state) {
  const Settings<T> of(
      update, rates_of(update.lr, update.correction, update.step_size, update.decay, rates, state));
  double gradient_square = 0, change_square = 0;
  for (int64_t i = first_element<W>(); i < update.count; i += next_element<W>()) {
    const int64_t left = update.count - i;
    const Lanes<T, W> g = load_first<W>(update.gradients + i, left);
    Lanes<T, W> p = load_first<W>(update.parameters + i, left), m{}, s{};
    if constexpr (Rule::first) {
      m = load_first<W>(update.first + i, left);
    }
    if constexpr (Rule::second) {
      s = load_first<W>(update.second + i, left);
    }
    Lanes<uint8_t, W> decayed{};
    if (Rule::decays && of.decays && update.decay_mask != nullptr) {
      decayed = load_first<W>(update.decay_mask + i, left);
    }
#pragma unroll
    for (int k = 0; k < W; ++k) {
      const bool decays = of.decays && (update.decay_mask == nullptr || decayed.v[k] != 0);
      const T next =
          Rule::step(of, clip(g.v[k], of.limit) * of.scale, p.v[k], decays, m.v[k], s.v[k]);
      if constexpr (with_squares) {
        if (k < left) {
          const double given = double(g.v[k]), change = double(next - p.v[k]);
          gradient_square = fma(given, given, gradient_square);
          change_square = fma(change, change, change_square);
        }
      }
      p.v[k] = next;
    }
    store_first<W>(update.parameters + i, p, left);
    if constexpr (Rule::first) {
      store_first<W>(update.first + i, m, left);
    }
    if constexpr (Rule::second) {
      store_first<W>(update.second + i, s, left);
    }
  }
  if constexpr (with_squares) {
    gradient_square = block_sum<square_threads>(gradient_square);
    change_square = block_sum<square_threads>(change_square);
    if (threadIdx.x == 0) {
      update.squares->gradient[blockIdx.x] = gradient_square;
      update.squares->change[blockIdx.x] = T(change_square);
    }
  }
}

template <class T>
bool holds_all_lanes(const Update<T>& update) {
  constexpr int W = pack_size<T>;
  return holds_lanes<W>(update.parameters) && holds_lanes<W>(update.gradients) &&
         holds_lanes<W>(update.first) && holds_lanes<W>(update.second) &&
         holds_lanes<W>(update.decay_mask);
}

template <class Rule, int W, class T>
void apply(const Context& context, const Update<T>& update) {
  if (update.squares != nullptr) {
    launch(update_all<Rule, W, true, T>, dim3(square_blocks), dim3(square_threads), 0,
           stream_of(context), update, context.rates, context.state);
  } else {
    const int64_t blocks = divide_up(update.count, int64_t{threads} * W);
    launch(update_all<Rule, W, false, T>, dim3(resident_blocks(blocks, 8)), dim3(threads), 0,
           stream_of(context), update, context.rates, context.state);
  }
}

template <class Rule, class T>
void apply(const Context& context, const Update<T>& update) {
  if (holds_all_lanes(update)) {
    apply<Rule, pack_size<T>>(context, update);
  } else {
    apply<Rule, 1>(context, update);
  }
}

// ---- the norm of gradients

constexpr int at_once = 4;  // independent loads of a thread

template <int W, class T>
__global__ void __launch_bounds__(threads)
    piece_squares(const T* gradients, int64_t count, T limit, double* squares) {
  const int64_t end = min(count, int64_t(blockIdx.x + 1) * norm_piece);
  double sums[at_once] = {};
  for (int64_t start = int64_t(blockIdx.x) * norm_piece; start < end;
       start += int64_t{at_once} * threads * W) {
#pragma unroll
    for (int j = 0; j < at_once; ++j) {
      const int64_t i = start + (int64_t{j} * threads + threadIdx.x) * W;
      if (i < end) {
        const Lanes<T, W> g = load_first<W>(gradients + i, end - i);
#pragma unroll
        for (int k = 0; k < W; ++k) {
          const double x = double(clip(g.v[k], limit));
          sums[j] = fma(x, x, sums[j]);
        }
      }
    }
  }
  const double sum = block_sum<threads>((sums[0] + sums[1]) + (sums[2] + sums[3]));
  if (threadIdx.x == 0) {
    squares[blockIdx.x] = sum;
  }
}

__global__ void __launch_bounds__(threads)
    join_squares(const double* squares, int64_t pieces, double* number) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < pieces; i += threads) {
    sum += squares[i];
  }
  sum = block_sum<threads>(sum);
  if (threadIdx.x == 0) {
    *number = sqrt(sum);
  }
}

// ---- regularisers

// L threads for each piece of a row, penalty_cols columns of it at most.
template <int L, int W, class T>
__global__ void __launch_bounds__(threads)
    penalise_rows(View<const T> w, View<T> dw, double l1, double l2, T slope,
                  View<double> penalties) {
  constexpr int groups = threads / L;
  const T l2_slope = T(l2);
  const int64_t pieces = penalties.cols;
  const int64_t place = int64_t(blockIdx.x) * groups + threadIdx.x / L;
  const bool mine = place < w.rows * pieces;
  const int64_t row = mine ? place / pieces : 0, piece = mine ? place % pieces : 0;
  const int64_t end = mine ? min(w.cols, (piece + 1) * penalty_cols) : 0;
  T square = 0, size = 0;
  for (int64_t c = piece * penalty_cols + threadIdx.x % L * W; c < end; c += L * W) {
    const Lanes<T, W> x = load_lanes<W>(w.at(row, c));
    Lanes<T, W> d = load_lanes<W>(dw.at(row, c));
#pragma unroll
    for (int k = 0; k < W; ++k) {
      square = fma(x.v[k], x.v[k], square);
      size += fabs(x.v[k]);
      const T sign = x.v[k] == 0 ? T(0) : copysign(slope, x.v[k]);
      d.v[k] += fma(l2_slope, x.v[k], sign);
    }
    store_lanes<W>(dw.at(row, c), d);
  }
  square = group_sum<L>(square);
  size = group_sum<L>(size);
  if (mine && threadIdx.x % L == 0) {
    *penalties.at(row, piece) = l2 / 2 * double(square) + l1 * double(size);
  }
}

template <int L, int W, class T>
void penalise(const Context& context, View<const T> w, View<T> dw, double l1, double l2,
              double l1_slope, View<double> penalties) {
  const int64_t blocks = divide_up(w.rows * penalties.cols, threads / L);
  launch(penalise_rows<L, W, T>, dim3(unsigned(blocks)), dim3(threads), 0, stream_of(context), w,
         dw, l1, l2, T(l1_slope), penalties);
}

template <int W, class T>
__global__ void __launch_bounds__(threads)
    shrink_all(Update<T> update, double l1, const Rates* rates, const StepState* state) {
  const Rates now =
      rates_of(update.lr, update.correction, update.step_size, update.decay, rates, state);
  const T threshold = T(l1 * now.step_size), correction = T(now.correction), eps = T(update.eps);
  for (int64_t i = first_element<W>(); i < update.count; i += next_element<W>()) {
    const int64_t left = update.count - i;
    Lanes<T, W> p = load_first<W>(update.parameters + i, left), s{};
    if (update.second != nullptr) {
      s = load_first<W>(update.second + i, left);
    }
#pragma unroll
    for (int k = 0; k < W; ++k) {
      const T t =
          update.second != nullptr ? threshold / fma(sqrt(s.v[k]), correction, eps) : threshold;
      const T size = fabs(p.v[k]) - t;
      p.v[k] = size <= 0 ? T(0) : copysign(size, p.v[k]);
    }
    store_first<W>(update.parameters + i, p, left);
  }
}

// One block for each tile of columns.
template <int W, class T>
__global__ void limit_tile(View<T> w, double max_norm) {
  __shared__ T factor_of[across * W];
  const int64_t c = own_column<W>();
  double sums[1][W] = {}, total[1];
  if (c < w.cols) {
#pragma unroll 4
    for (int64_t r = threadIdx.y; r < w.rows; r += down) {
      const Lanes<T, W> x = load_lanes<W>(w.at(r, c));
#pragma unroll
      for (int k = 0; k < W; ++k) {
        sums[0][k] = fma(double(x.v[k]), double(x.v[k]), sums[0][k]);
      }
    }
  }
  sum_down<1, W>(sums, total);
  if (in_front<W>() && front_column<W>() < w.cols) {
    const double norm = sqrt(total[0]);
    factor_of[threadIdx.y * across + threadIdx.x] = norm > max_norm ? T(max_norm / norm) : T(1);
  }
  __syncthreads();
  if (c >= w.cols) {
    return;
  }
  T factor[W];
  bool some = false;
#pragma unroll
  for (int k = 0; k < W; ++k) {
    factor[k] = factor_of[threadIdx.x * W + k];
    some = some || factor[k] != 1;
  }
  for (int64_t r = threadIdx.y; some && r < w.rows; r += down) {
    Lanes<T, W> x = load_lanes<W>(w.at(r, c));
#pragma unroll
    for (int k = 0; k < W; ++k) {
      x.v[k] *= factor[k];
    }
    store_lanes<W>(w.at(r, c), x);
  }
}

}  // namespace

template <class T>
void sgd(const Context& context, const Update<T>& update) {
  if (update.first != nullptr) {
    apply<Momentum>(context, update);
  } else {
    apply<Sgd>(context, update);
  }
}

template <class T>
void rmsprop(const Context& context, const Update<T>& update) {
  apply<Rmsprop>(context, update);
}

template <class T>
void adam(const Context& context, const Update<T>& update) {
  apply<Adam>(context, update);
}

template <class T>
double norm(const Context& context, const T* gradients, int64_t count, double clip_value,
            double* squares) {
  constexpr int W = pack_size<T>;
  const int64_t pieces = norm_pieces(count);
  launch(holds_lanes<W>(gradients) ? piece_squares<W, T> : piece_squares<1, T>,
         dim3(unsigned(pieces)), dim3(threads), 0, stream_of(context), gradients, count,
         T(clip_value), squares);
  launch(join_squares, dim3(1), dim3(threads), 0, stream_of(context),
         static_cast<const double*>(squares), pieces, context.number);
  return NAN;
}

template <class T>
void regularise(const Context& context, View<const T> w, View<T> dw, double l1, double l2,
                double l1_slope, View<double> penalties) {
  constexpr int W = pack_size<T>;
  if (w.cols <= 16) {
    penalise<4, 1>(context, w, dw, l1, l2, l1_slope, penalties);
  } else if (holds_lanes<W>(w) && holds_lanes<W>(dw)) {
    penalise<32, W>(context, w, dw, l1, l2, l1_slope, penalties);
  } else {
    penalise<32, 1>(context, w, dw, l1, l2, l1_slope, penalties);
  }
}

template <class T>
void shrink(const Context& context, const Update<T>& update, double l1) {
  constexpr int W = pack_size<T>;
  const bool in_packs = holds_lanes<W>(update.parameters) && holds_lanes<W>(update.second);
  const int64_t blocks = divide_up(update.count, threads * (in_packs ? W : 1));
  launch(in_packs ? shrink_all<W, T> : shrink_all<1, T>, dim3(resident_blocks(blocks, 8)),
         dim3(threads), 0, stream_of(context), update, l1, context.rates, context.state);
}

template <class T>
void limit_norms(const Context& context, View<T> w, double max_norm) {
  constexpr int W = pack_size<T>;
  if (holds_lanes<W>(w)) {
    launch(limit_tile<W, T>, dim3(column_tiles<W>(w.cols)), tile_block(), 0, stream_of(context), w,
           max_norm);
  } else {
    launch(limit_tile<1, T>, dim3(column_tiles<1>(w.cols)), tile_block(), 0, stream_of(context), w,
           max_norm);
  }
}

#define FANIN_OPTIMIZERS(T)                                                                \
  template void sgd(const Context&, const Update<T>&);                                     \
  template void rmsprop(const Context&, const Update<T>&);                                 \
  template void adam(const Context&, const Update<T>&);                                    \
  template double norm(const Context&, const T*, int64_t, double, double*);                \
  template void regularise(const Context&, View<const T>, View<T>, double, double, double, \
                           View<double>);                                                  \
  template void shrink(const Context&, const Update<T>&, double);                          \
  template void limit_norms(const Context&, View<T>, double)
FANIN_OPTIMIZERS(float);
FANIN_OPTIMIZERS(double);

}  // namespace fanin::cuda
