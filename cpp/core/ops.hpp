// THE CONTRACT: every operation of fanin, once, as a table of function pointers.
//
// Each CPU instruction set fills one `Table` (cpp/kernels/kernels.cpp, compiled once per set); a
// CUDA table fills the same entries with device pointers and a stream; python/fanin/reference/ says
// in NumPy what each entry means. Nothing else computes.
//
// Letters, the same everywhere: x (m, k) a batch, w (k, n) weights (fan_in, fan_out), b (n) the
// bias, z = x @ w + b, a (m, n) = f(z); a leading d is the gradient of the loss with respect to
// what follows.
//
// Rules for every entry:
//   * outputs are overwritten, never accumulated, unless the comment says "+=";
//   * inputs and outputs do not overlap unless the comment says "may alias";
//   * scratch belongs to the caller and is as large as the function beside the entry says;
//   * nothing is allocated, thrown or printed;
//   * the result does not depend on `Context::threads`: sums are cut by shape alone;
//   * on CUDA pointers are the device's, an entry is queued on `Context::stream`, and what it would
//     return, or write to the host, it writes to device memory; returned numbers are NaN;
//   * when `Context::interrupted` says so, an entry returns early and its outputs hold garbage.
//
// The canonical order (docs/numerics.md), which makes results equal on every set with fma:
//   * an element of a product is a chain of fused multiply-adds over k in blocks of
//     `product_block`, started at +0; the sums of the blocks are added in order;
//   * sums over rows (bias gradient, batch norm, statistics) are chains within blocks of
//     `row_block` rows, whose sums are added in order;
//   * sums over columns or flat vectors run in 16 lanes (element i in lane i % 16), which are then
//     added as a tree 8 + 8, 4 + 4, 2 + 2, 1 + 1.
#pragma once

#include <cstddef>
#include <cstdint>

#include "view.hpp"

namespace fanin {

constexpr int64_t product_block = 512;
constexpr int64_t row_block = 64;

enum class Activation : int {
  identity,
  relu,
  leaky_relu,
  elu,
  selu,
  tanh,
  sigmoid,
  gelu,
  gelu_tanh,
  silu,
  softplus,
};
constexpr int activation_count = 11;

// True where f'(z) cannot be had from a = f(z), so that the backward pass needs z.
static constexpr bool needs_z(Activation kind) {
  return kind == Activation::gelu || kind == Activation::gelu_tanh || kind == Activation::silu;
}

// Calls f.template operator()<kind>(): from the name at run time to the type at compile time.
template <class F>
[[gnu::always_inline]] static constexpr decltype(auto) visit(Activation kind, F&& f) {
  using A = Activation;
  switch (kind) {
    case A::identity:
      return f.template operator()<A::identity>();
    case A::relu:
      return f.template operator()<A::relu>();
    case A::leaky_relu:
      return f.template operator()<A::leaky_relu>();
    case A::elu:
      return f.template operator()<A::elu>();
    case A::selu:
      return f.template operator()<A::selu>();
    case A::tanh:
      return f.template operator()<A::tanh>();
    case A::sigmoid:
      return f.template operator()<A::sigmoid>();
    case A::gelu:
      return f.template operator()<A::gelu>();
    case A::gelu_tanh:
      return f.template operator()<A::gelu_tanh>();
    case A::silu:
      return f.template operator()<A::silu>();
    case A::softplus:
      return f.template operator()<A::softplus>();
  }
  __builtin_unreachable();
}

// Memory that the caller will change next: blocks of the same shape in up to three matrices.
struct Upcoming {
  void* data[3];  // null where there are fewer
  int64_t rows, row_bytes, stride_bytes;
};

// What changes from one replay of a captured step to the next (CUDA only).
struct StepState {
  int64_t first_row;  // of the batch, in the order of rows of the call
  int64_t index;      // of the step in the call
  uint64_t step;      // of the network: part of dropout's key
};

// What an update takes anew in each step; see Update.
struct Rates {
  double lr, correction, step_size, decay;
};

// How an operation is to run: by how many threads, and who may stop it.
struct Context {
  int threads = 1;
  bool (*interrupted)(void*) = nullptr;  // asked now and then by the calling thread
  void* interrupted_state = nullptr;
  const Upcoming* upcoming = nullptr;  // a product on one thread fetches it into the cache
  bool whole_vectors = false;  // a product may read 15 elements behind each row of its operands
  bool bfloat16 = false;       // float32 products round their inputs to bfloat16 and sum in float32

  // CUDA only. All that follows is in device memory, so that a captured step can be replayed.
  void* stream = nullptr;
  const StepState* state = nullptr;  // Dropout::step is read there, and Gather::rows begins there
  const Rates* rates = nullptr;      // Update's own are rates[state->index]
  double* number = nullptr;          // where an entry writes the number that it would return
  bool tf32 = false;  // float32 products round their inputs to TF32 and sum in float32
};

// Which elements are dropped: bits of Philox4x32-10 of (seed, step, layer, element); random.hpp.
struct Dropout {
  uint32_t threshold = 0;  // dropped where 16 random bits < threshold; 0 drops nothing
  uint64_t seed = 0, step = 0;
  uint32_t layer = 0;
  int64_t row = 0, col = 0;  // of the first element in the layer; multiples of 8 (CPU: 16), of 16

  [[gnu::always_inline]] constexpr double scale() const { return 65536.0 / (65536.0 - threshold); }
};

// One bit per element, set where it is kept: bit c % 16 of word c / 16 of its row.
static constexpr int64_t mask_words(int64_t cols) { return (cols + 15) / 16; }

// On a CPU the words of the same 16 columns lie together, so that threads that work on different
// columns do not write to the same cache lines. Those of 16 rows are made at once: behind the last
// row there is room, and parts of a mask begin at multiples of 16 rows.
static constexpr int64_t mask_column(int64_t rows) { return (rows + 31) / 32 * 32; }
static constexpr int64_t mask_size(int64_t rows, int64_t cols) {
  return mask_column(rows) * mask_words(cols);
}
template <class Word>
static constexpr View<Word> mask_in(Word* words, int64_t rows, int64_t cols) {
  return {words, rows, mask_words(cols), 1, mask_column(rows)};
}

static constexpr int64_t row_blocks(int64_t rows) { return (rows + row_block - 1) / row_block; }

// Statistics of activations before dropout. `unit_mean` and `unit_zeros` are (n), the caller's.
struct Stats {
  double mean, std, min, max;
  int64_t zeros, saturated;
  double* unit_mean;
  int64_t* unit_zeros;
};

// What statistics of an (m, n) matrix are made of: seven arrays of one number per row block and
// column (kernels/stats.hpp), and room to work in, in the caller's memory.
template <class T>
struct Moments {
  double* work = nullptr;  // 2 * stride
  T* data = nullptr;       // null: no statistics are wanted
  int64_t stride = 0;      // between row blocks: n rounded up to 16, so that whole vectors fit
  int64_t size = 0;        // between arrays

  // Those of the part of the matrix that begins there: multiples of row_block and of 16.
  [[gnu::always_inline]] Moments from(int64_t row, int64_t col) const {
    return {work, data + (row / row_block * stride + col), stride, size};
  }
};

// Elements of T that moments of an (m, n) matrix take.
template <class T>
static inline int64_t moments_size(int64_t rows, int64_t cols) {
  const int64_t stride = (cols + 15) / 16 * 16;
  return 7 * row_blocks(rows) * stride + 2 * stride * int64_t(sizeof(double) / sizeof(T));
}

template <class T>
static inline Moments<T> moments_in(T* memory, int64_t rows, int64_t cols) {
  const int64_t stride = (cols + 15) / 16 * 16;
  double* work = reinterpret_cast<double*>(memory);
  return {work, reinterpret_cast<T*>(work + 2 * stride), stride, row_blocks(rows) * stride};
}

// a = dropout(f(x @ w + b)), the whole dense layer.
template <class T>
struct DenseForward {
  View<const T> x;  // (m, k), any strides
  View<const T> w;  // (k, n), any strides
  const T* b;       // (n) or null
  View<T> a;        // (m, n), unit column stride
  View<T> z;        // (m, n), unit column stride: x @ w + b is kept here; data may be null
  Activation activation;
  Dropout dropout;
  View<uint16_t> mask;  // CPU: mask_in; CUDA: (m, mask_words(n)). Written when threshold > 0
  Moments<T> moments;   // of f(z); written when moments.data is not null
};

// The elementwise half of a dense layer: a = dropout(f(z + b)). `a` may alias `z`.
template <class T>
struct ActivationForward {
  View<const T> z;  // (m, n), unit column stride
  const T* b;       // (n) or null
  View<T> a;        // (m, n), unit column stride
  View<T> z_kept;   // as DenseForward::z
  Activation activation;
  Dropout dropout;
  View<uint16_t> mask;
  Moments<T> moments;
};

// dz = da * mask * scale * f'. `dz` may alias `da` or `saved`.
template <class T>
struct ActivationBackward {
  View<const T> da;     // (m, n), unit column stride
  View<const T> saved;  // a as forward wrote it (after dropout), or z where needs_z
  View<T> dz;           // (m, n), unit column stride
  Activation activation;
  Dropout dropout;
  View<const uint16_t> mask;  // read when dropout.threshold > 0
  // CUDA only: where db is not null, the column sums of dz are made in the same pass. Scratch:
  // column_sum_scratch(m, n) numbers of the type that T is computed in.
  T* db = nullptr;  // (n)
  void* db_scratch = nullptr;
};

// The same with da = dz @ w^T, the gradient that the layer above hands down.
template <class T>
struct DenseBackward {
  View<const T> dz;             // (m, n), of the layer above
  View<const T> w;              // (k, n), its weights
  ActivationBackward<T> below;  // (m, k); `da` is not read
};

static constexpr int64_t column_sum_scratch(int64_t rows, int64_t cols) {
  return row_blocks(rows) * cols;
}

// y = gamma * (x - mean) / sqrt(var + eps) + beta, per column.
template <class T>
struct BatchNormForward {
  View<const T> x;                // (m, n), unit column stride
  const T *gamma, *beta;          // (n)
  T *running_mean, *running_var;  // (n); training: r = (1 - momentum) r + momentum * new
  View<T> y;                      // (m, n), unit column stride; may alias x
  View<T> x_hat;  // (m, n), unit column stride: x normalised, for backward; data may be null
  T* inv_std;     // (n), written
  bool training;
  double momentum, eps;
  T* scratch;  // moments_size<T>(m, n), when training
};

// `dx` may alias `dy`.
template <class T>
struct BatchNormBackward {
  View<const T> dy;          // (m, n), unit column stride
  View<const T> x_hat;       // (m, n), unit column stride
  const T *gamma, *inv_std;  // (n)
  View<T> dx;                // (m, n), unit column stride
  T *dgamma, *dbeta;         // (n)
  bool training;             // false: mean and variance were constants
  T* scratch;                // 2 * column_sum_scratch(m, n)
};

constexpr double unlimited = __builtin_inf();

// How a loss is stated: factors on its value and on dz; what probabilities are clipped to in the
// value, [clip, 1 - clip], or 0; and what a row of a softmax then costs at least and at most. NaN
// stays NaN.
struct LossForm {
  double value = 1, gradient = 1;
  double clip = 0;
  double least = -unlimited, most = unlimited;
};

// Losses: mean over the batch, and their gradient. `dz` may alias `z`.
template <class T>
struct Loss {
  View<const T> z;         // (m, n), unit column stride: logits, or outputs
  const int64_t* labels;   // softmax: (m) classes in [0, n); or null
  View<const T> targets;   // where labels is null: (m, n), unit column stride
  const T* sample_weight;  // (m) or null
  const T* class_weight;   // softmax: (n) or null
  double label_smoothing;  // in [0, 1)
  double divisor;          // the sum of weights the loss is divided by
  View<T> dz;              // (m, n), unit column stride; data may be null: no gradient
  double* row_loss;        // (m), scratch
  LossForm form{};
};

// A row of weights is penalised in pieces of so many columns.
constexpr int64_t penalty_cols = 1024;
static constexpr int64_t penalty_pieces(int64_t cols) {
  return (cols + penalty_cols - 1) / penalty_cols;
}

// A norm is summed in pieces of so many elements.
constexpr int64_t norm_piece = 8192;
static constexpr int64_t norm_pieces(int64_t count) {
  return (count + norm_piece - 1) / norm_piece;
}

// Sums of squares over some parameters, in 16 lanes: of their gradients, in double since those that
// vanish or explode are what one looks for, and of what an update adds to them.
template <class T>
struct Squares {
  double gradient[16];
  T change[16];
};

// An optimizer's step over `count` elements; `decay` is AdamW's lr * weight_decay. Where it says g,
// the rule sees gradient_scale * min(max(g, -clip_value), clip_value); NaN stays NaN.
template <class T>
struct Update {
  T* parameters;
  const T* gradients;
  T* first;   // momentum, mean of gradients; null where the rule has none
  T* second;  // mean of squared gradients; likewise
  int64_t count;
  double lr;            // Adam: lr / (1 - beta1^t); with eps_hat times sqrt(1 - beta2^t)
  double beta1, beta2;  // momentum or beta1; alpha or beta2
  double eps;
  double correction;  // Adam without eps_hat: 1 / sqrt(1 - beta2^t); else 1
  double step_size;   // what a steady gradient is multiplied with, but for `second`; for `shrink`
  double decay;
  const uint8_t* decay_mask;  // (count) not 0 where a parameter decays; null: everywhere
  bool nesterov;
  double clip_value = unlimited, gradient_scale = 1;
  Squares<T>* squares = nullptr;  // where wanted; of gradients as they are given
  // CUDA only: gradients whose norm, in device memory, exceeds `clip_norm` are scaled to it.
  const double* norm = nullptr;
  double clip_norm = unlimited;

  [[gnu::always_inline]] bool clips() const {
    return clip_value < unlimited || gradient_scale != 1;
  }
};

// Elementwise functions as they are inside the kernels, for the tests of their error bounds.
enum class Function : int { exp, log, tanh, sigmoid, erf, softplus, normal_cdf };
constexpr int function_count = 7;

// Rows of a data set, converted to T while they are gathered: out[i] = x[rows[i]] * scale, in T;
// or, where there is a shift, (x[rows[i]] - shift) * factor for each column, in the wider type of T
// and x, the result then rounded to T.
enum class Source : int { uint8, float32, float64 };

// Calls f.template operator()<From>() for the type of the elements of x.
template <class F>
[[gnu::always_inline]] static constexpr decltype(auto) visit(Source source, F&& f) {
  switch (source) {
    case Source::uint8:
      return f.template operator()<uint8_t>();
    case Source::float32:
      return f.template operator()<float>();
    case Source::float64:
      return f.template operator()<double>();
  }
  __builtin_unreachable();
}

template <class T>
struct Gather {
  const void* x;
  Source source;
  int64_t row_stride, col_stride;  // any, in elements
  const int64_t* rows;             // (m)
  double scale;
  // (k) of double where source is float64, else of T (of float where T has 16 bits); or both null
  const void *shift, *factor;
  View<T> out;  // (m, k), unit column stride
};

// The operations on one dtype.
template <class T>
struct Ops {
  // out = x @ w; any strides for x and w; out has a unit stride along rows or columns.
  void (*gemm)(const Context&, View<const T> x, View<const T> w, View<T> out);
  void (*dense_forward)(const Context&, const DenseForward<T>&);
  void (*activation_forward)(const Context&, const ActivationForward<T>&);
  void (*activation_backward)(const Context&, const ActivationBackward<T>&);
  void (*dense_backward)(const Context&, const DenseBackward<T>&);
  // sums[j] = sum over rows of x[:, j]: the gradient of a bias from dz. Unit column stride.
  void (*column_sums)(const Context&, View<const T> x, T* sums);
  void (*batch_norm_forward)(const Context&, const BatchNormForward<T>&);
  void (*batch_norm_backward)(const Context&, const BatchNormBackward<T>&);
  // Statistics of a (m, n), unit column stride; lo, hi: what lies outside counts as saturated.
  void (*stats)(const Context&, View<const T> a, T lo, T hi, const Moments<T>&, Stats*);
  // Statistics of an (m, n) matrix from its moments.
  void (*join_moments)(const Context&, const Moments<T>&, int64_t rows, int64_t cols, Stats*);
  // counts[i] += elements of a with edges[i] <= a < edges[i + 1] (the last bin closed); bins + 1
  // increasing edges. Any strides. Not a number: not counted.
  void (*histogram)(const Context&, View<const T> a, const double* edges, int bins,
                    int64_t* counts);
  double (*softmax_cross_entropy)(const Context&, const Loss<T>&);
  double (*sigmoid_cross_entropy)(const Context&, const Loss<T>&);
  double (*mean_squared_error)(const Context&, const Loss<T>&);
  // p = softmax(z) row by row; p may alias z. Unit column strides.
  void (*softmax)(const Context&, View<const T> z, View<T> p);
  // dw += l2 * w + l1_slope * sign(w). penalties (rows, penalty_pieces(cols)): l2 / 2 * sum w^2 +
  // l1 * sum |w| of each piece of a row. Unit column strides.
  void (*regularise)(const Context&, View<const T> w, View<T> dw, double l1, double l2,
                     double l1_slope, View<double> penalties);
  // sqrt(sum g^2) of the `count` gradients that an update with this clip_value sees, in double.
  // Scratch: squares (norm_pieces(count)).
  double (*norm)(const Context&, const T* gradients, int64_t count, double clip_value,
                 double* squares);
  void (*sgd)(const Context&, const Update<T>&);
  void (*rmsprop)(const Context&, const Update<T>&);
  void (*adam)(const Context&, const Update<T>&);
  // The proximal step of l1 that belongs to an update just done: p = sign(p) max(|p| - t, 0) with
  // t = l1 step_size, divided by sqrt(second) correction + eps where there are mean squares. Reads
  // no gradients.
  void (*shrink)(const Context&, const Update<T>&, double l1);
  // Scales each column of w (k, n) that has a larger Euclidean norm to max_norm, to rounding. Norms
  // are summed in double. Unit column stride.
  void (*limit_norms)(const Context&, View<T> w, double max_norm);
  void (*gather)(const Context&, const Gather<T>&);
  void (*function)(const Context&, Function, const T* x, T* out, int64_t count);
};

// All that one device, one instruction set, offers.
struct Table {
  const char* name;  // "baseline", "avx2", "avx512", "avx512_bf16", "neon"
  bool has_fma;
  Ops<float> float32;
  Ops<double> float64;
  // Bits of `count` Philox blocks whose first counter word rises from counter[0]; for tests.
  // Counter and key are the host's.
  void (*philox)(const Context&, const uint32_t counter[4], const uint32_t key[2], int64_t count,
                 uint32_t* out);
  // The mask of an (m, n) matrix: on a CPU as in mask_in, with CUDA (m, mask_words(n)) words.
  void (*dropout_mask)(const Context&, const Dropout&, int64_t rows, int64_t cols, uint16_t* mask);
  // 64-bit words number start ... start + count - 1 of (seed, step, layer) in a stream.
  void (*random_words)(const Context&, uint64_t seed, uint64_t step, uint32_t layer,
                       uint32_t stream, int64_t start, int64_t count, uint64_t* out);
  // Fused multiply-adds on registers for about `seconds`; returns FLOP/s of one thread.
  double (*fma_peak_float32)(double seconds);
  double (*fma_peak_float64)(double seconds);
};

template <class T>
const Ops<T>& ops_of(const Table& table);
template <>
inline const Ops<float>& ops_of<float>(const Table& table) {
  return table.float32;
}
template <>
inline const Ops<double>& ops_of<double>(const Table& table) {
  return table.float64;
}

}  // namespace fanin
