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
// D and the form are the caller's, as kernels/loss.hpp has them. L threads share a row
// (row_group.cuh) and read it anew for each sum, from the nearest cache: rows are short and
// products are not. Losses of rows are added in double. One block does all of a small batch; where
// there are more, each leaves its sum, and a second kernel adds those.
#include "loss.hpp"

#include <algorithm>
#include <type_traits>

#include "lanes.cuh"
#include "loss.cuh"
#include "math.cuh"
#include "row_group.cuh"

namespace fanin::cuda {
namespace {

constexpr int threads = 512;
constexpr int64_t most_blocks = 1024;
constexpr int64_t turns_of_one_block = 4;  // they take less time than a second kernel

// What row r costs is multiplied with this, before the division.
template <class T>
__device__ double row_factor(const Loss<T>& loss, int64_t r) {
  return loss.form.value * (loss.sample_weight != nullptr ? double(loss.sample_weight[r]) : 1);
}

// What dz of row r, but for `factor`, is multiplied with; rounded once.
template <class T>
__device__ Wide<T> d_factor(const Loss<T>& loss, int64_t r, double factor) {
  const double weight = loss.sample_weight != nullptr ? double(loss.sample_weight[r]) : 1;
  return Wide<T>(factor * loss.form.gradient * weight / loss.divisor);
}

// v_c q_c, the target distribution of a row times the class weights.
template <class T>
struct Target {
  const Loss<T>& loss;
  int64_t row, label;
  Wide<T> on, off;

  __device__ Target(const Loss<T>& loss, int64_t row)
      : loss(loss),
        row(row),
        label(loss.labels != nullptr ? loss.labels[row] : -1),
        on(1 - Wide<T>(loss.label_smoothing)),
        off(Wide<T>(loss.label_smoothing) / Wide<T>(loss.z.cols)) {}

  template <int W>
  __device__ void of(int64_t c, Wide<T> (&q)[W]) const {
    if (loss.labels != nullptr) {
#pragma unroll
      for (int i = 0; i < W; ++i) {
        q[i] = c + i == label ? off + on : off;
      }
    } else {
      const Lanes<T, W> t = load_lanes<W>(loss.targets.at(row, c));
#pragma unroll
      for (int i = 0; i < W; ++i) {
        q[i] = fma(on, Wide<T>(t.v[i]), off);
      }
    }
    if (loss.class_weight != nullptr) {
#pragma unroll
      for (int i = 0; i < W; ++i) {
        q[i] *= Wide<T>(loss.class_weight[c + i]);
      }
    }
  }
};

// The largest of a row and the sum of exp(z - largest); `cols` is 0 for a group without a row.
template <int L, int W, class T>
__device__ Wide<T> largest_of(const T* z, int64_t cols) {
  Wide<T> most = -Wide<T>(INFINITY);
  for (int64_t c = threadIdx.x % L * W; c < cols; c += L * W) {
    const Lanes<T, W> lanes = load_lanes<W>(z + c);
#pragma unroll
    for (int i = 0; i < W; ++i) {
      most = larger(most, Wide<T>(lanes.v[i]));
    }
  }
  return group_max<L>(most);
}

// The sum of all rows' losses: the loss itself where one block has seen them all.
__device__ void keep_sum(double sum, double* of_blocks, double divisor, double* number) {
  sum = block_sum<threads>(sum);
  if (threadIdx.x == 0) {
    if (gridDim.x == 1) {
      *number = sum / divisor;
    } else {
      of_blocks[blockIdx.x] = sum;
    }
  }
}

__global__ void __launch_bounds__(threads)
    add_blocks(const double* of_blocks, int blocks, double divisor, double* number) {
  double sum = 0;
  for (int i = threadIdx.x; i < blocks; i += threads) {
    sum += of_blocks[i];
  }
  sum = block_sum<threads>(sum);
  if (threadIdx.x == 0) {
    *number = sum / divisor;
  }
}

// ---- softmax

struct Softmax {
  template <int L, int W, class T>
  __device__ static double row(const Loss<T>& loss, int64_t r, bool mine) {
    using Number = Wide<T>;
    const int64_t cols = mine ? loss.z.cols : 0, row = mine ? r : 0;
    const T* z = loss.z.at(row, 0);
    const Target<T> target(loss, row);
    const Number largest = largest_of<L, W>(z, cols);
    Number sum = 0, weight = 0, dots = 0;
    for (int64_t c = threadIdx.x % L * W; c < cols; c += L * W) {
      const Lanes<T, W> lanes = load_lanes<W>(z + c);
      Number q[W];
      target.of(c, q);
#pragma unroll
      for (int i = 0; i < W; ++i) {
        const Number below = Number(lanes.v[i]) - largest;
        sum += exponential<is_fast<T>>(below);
        weight += q[i];
        // A target of zero counts nothing, even where z is -inf.
        dots = q[i] == 0 ? dots : fma(q[i], below, dots);
      }
    }
    sum = group_sum<L>(sum);
    weight = group_sum<L>(weight);
    dots = group_sum<L>(dots);
    if (loss.dz.data != nullptr) {
      const Number p_scale = weight / sum, scale = d_factor(loss, row, 1);
      for (int64_t c = threadIdx.x % L * W; c < cols; c += L * W) {
        const Lanes<T, W> lanes = load_lanes<W>(z + c);
        Number q[W];
        target.of(c, q);
        Lanes<T, W> dz;
#pragma unroll
        for (int i = 0; i < W; ++i) {
          dz.v[i] =
              T(scale * (exponential<is_fast<T>>(Number(lanes.v[i]) - largest) * p_scale - q[i]));
        }
        store_lanes<W>(loss.dz.at(row, c), dz);
      }
    }
    if (!mine || threadIdx.x % L != 0) {
      return 0;
    }
    const double whole = double(weight) * double(log(sum)) - double(dots);
    return row_factor(loss, row) * cut(loss.form, whole);
  }
};

template <int L, int W, class T>
__global__ void __launch_bounds__(threads) softmax_rows(View<const T> z, View<T> p) {
  constexpr int groups = threads / L;
  for (int64_t first = int64_t(blockIdx.x) * groups; first < z.rows;
       first += int64_t(gridDim.x) * groups) {
    const int64_t r = first + threadIdx.x / L, row = r < z.rows ? r : 0;
    const int64_t cols = r < z.rows ? z.cols : 0;
    const Wide<T> largest = largest_of<L, W>(z.at(row, 0), cols);
    Wide<T> sum = 0;
    for (int64_t c = threadIdx.x % L * W; c < cols; c += L * W) {
      const Lanes<T, W> lanes = load_lanes<W>(z.at(row, c));
#pragma unroll
      for (int i = 0; i < W; ++i) {
        sum += exponential<is_fast<T>>(Wide<T>(lanes.v[i]) - largest);
      }
    }
    sum = group_sum<L>(sum);
    for (int64_t c = threadIdx.x % L * W; c < cols; c += L * W) {
      Lanes<T, W> lanes = load_lanes<W>(z.at(row, c));
#pragma unroll
      for (int i = 0; i < W; ++i) {
        lanes.v[i] = T(exponential<is_fast<T>>(Wide<T>(lanes.v[i]) - largest) / sum);
      }
      store_lanes<W>(p.at(row, c), lanes);
    }
  }
}

// ---- sums of terms: of(z, target, slope) returns one and sets its derivative

template <class Number>
struct Sigmoid {
  static constexpr double slope_factor = 1;
  const LossForm& form;
  Number smooth;

  template <class T>
  __device__ explicit Sigmoid(const Loss<T>& loss)
      : form(loss.form), smooth(Number(loss.label_smoothing)) {}
  __device__ Number of(Number z, Number target, Number& slope) const {
    const Number t = fma(1 - smooth, target, smooth / 2);
    slope = sigmoid<false>(z) - t;
    return cross_entropy(form, z, t);
  }
};

template <class Number>
struct Squared {
  static constexpr double slope_factor = 2;

  template <class T>
  __device__ explicit Squared(const Loss<T>&) {}
  __device__ Number of(Number z, Number target, Number& slope) const {
    slope = z - target;
    return slope * slope;
  }
};

template <template <class> class Term>
struct Terms {
  // This thread's share of what the row costs.
  template <int L, int W, class T>
  __device__ static double row(const Loss<T>& loss, int64_t r, bool mine) {
    using Number = Wide<T>;
    if (!mine) {
      return 0;
    }
    const Term<Number> term(loss);
    const Number scale = d_factor(loss, r, Term<Number>::slope_factor);
    Number sum = 0;
    for (int64_t c = threadIdx.x % L * W; c < loss.z.cols; c += L * W) {
      const Lanes<T, W> z = load_lanes<W>(loss.z.at(r, c));
      const Lanes<T, W> target = load_lanes<W>(loss.targets.at(r, c));
      Lanes<T, W> dz;
#pragma unroll
      for (int i = 0; i < W; ++i) {
        Number slope;
        sum += term.of(Number(z.v[i]), Number(target.v[i]), slope);
        dz.v[i] = T(scale * slope);
      }
      if (loss.dz.data != nullptr) {
        store_lanes<W>(loss.dz.at(r, c), dz);
      }
    }
    return row_factor(loss, r) * double(sum);
  }
};

// ---- whole batches

template <class Kind, int L, int W, class T>
__global__ void __launch_bounds__(threads) loss_rows(Loss<T> loss, double* number) {
  constexpr int groups = threads / L;
  double sum = 0;
  for (int64_t first = int64_t(blockIdx.x) * groups; first < loss.z.rows;
       first += int64_t(gridDim.x) * groups) {
    const int64_t r = first + threadIdx.x / L;
    sum += Kind::template row<L, W>(loss, r, r < loss.z.rows);
  }
  keep_sum(sum, loss.row_loss, loss.divisor, number);
}

template <int n>
using Constant = std::integral_constant<int, n>;

// Calls body(L, W) for rows of so many columns.
template <class T, class Body>
void with_groups(int64_t cols, bool in_packs, const Body& body) {
  constexpr int W = pack_size<T>;
  if (cols <= 16) {
    body(Constant<4>{}, Constant<1>{});
  } else if (cols <= 2048) {
    in_packs ? body(Constant<32>{}, Constant<W>{}) : body(Constant<32>{}, Constant<1>{});
  } else {
    in_packs ? body(Constant<256>{}, Constant<W>{}) : body(Constant<256>{}, Constant<1>{});
  }
}

template <class Kind, class T>
double mean_loss(const Context& context, const Loss<T>& loss) {
  constexpr int W = pack_size<T>;
  const bool in_packs =
      holds_lanes<W>(loss.z) && holds_lanes<W>(loss.targets) && holds_lanes<W>(loss.dz);
  with_groups<T>(loss.z.cols, in_packs, [&](auto L, auto W) {
    const int64_t turns = divide_up(loss.z.rows, threads / L);
    const int64_t blocks = turns <= turns_of_one_block ? 1 : std::min(turns, most_blocks);
    launch(loss_rows<Kind, L, W, T>, dim3(unsigned(blocks)), dim3(threads), 0, stream_of(context),
           loss, context.number);
    if (blocks > 1) {
      launch(add_blocks, dim3(1), dim3(threads), 0, stream_of(context),
             static_cast<const double*>(loss.row_loss), int(blocks), loss.divisor, context.number);
    }
  });
  return NAN;
}

}  // namespace

template <class T>
double softmax_cross_entropy(const Context& context, const Loss<T>& loss) {
  return mean_loss<Softmax>(context, loss);
}

template <class T>
double sigmoid_cross_entropy(const Context& context, const Loss<T>& loss) {
  return mean_loss<Terms<Sigmoid>>(context, loss);
}

template <class T>
double mean_squared_error(const Context& context, const Loss<T>& loss) {
  return mean_loss<Terms<Squared>>(context, loss);
}

template <class T>
void softmax(const Context& context, View<const T> z, View<T> p) {
  constexpr int W = pack_size<T>;
  with_groups<T>(z.cols, holds_lanes<W>(z) && holds_lanes<W>(p), [&](auto L, auto W) {
    const int64_t blocks = std::min(divide_up(z.rows, threads / L), int64_t{1} << 16);
    launch(softmax_rows<L, W, T>, dim3(unsigned(blocks)), dim3(threads), 0, stream_of(context), z,
           p);
  });
}

#define FANIN_LOSSES(T)                                                  \
  template double softmax_cross_entropy(const Context&, const Loss<T>&); \
  template double sigmoid_cross_entropy(const Context&, const Loss<T>&); \
  template double mean_squared_error(const Context&, const Loss<T>&);    \
  template void softmax(const Context&, View<const T>, View<T>)
FANIN_LOSSES(float);
FANIN_LOSSES(double);
FANIN_LOSSES(bfloat16);
FANIN_LOSSES(float16);

}  // namespace fanin::cuda
