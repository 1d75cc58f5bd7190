// Whole small networks in one kernel.
//
// A block takes tiles of rows, 16 to 128 of them. A tile's activations lie in shared memory,
// rounded to what products read, beside the weights: nothing of a tile is in the device's memory
// but x, the targets and, outside training, the output. A warp has one strip of 16 rows, all of its
// columns or a part of them, in registers: bias, activation, dropout, derivative and loss are
// computed where the product's sums are.
//
// Backward, dz of a layer takes the place of the layer's output. Every activation of a tile is
// kept, none is recomputed; where the derivative needs z (needs_z), it is kept as well, made from z
// while that was in registers. Masks are drawn once, eight rows of a column at a time as Philox
// gives them, and kept as one bit per element. dw is summed over a block's tiles, in the order in
// which the lanes hold it, so that 16 bytes are added at a time and without conflict. Each block
// leaves its sums of dw and db, of the loss and of the weights of its rows; gradients are divided
// by the latter only when a second kernel has added the blocks, in order, and steps.
// A batch that one block can do ends in the same launch.
//
// What a step should take, counted; H200, 132 multiprocessors, 4.8 TB/s, 67 TFLOP/s by FFMA, about
// 600 in bfloat16 by mma.sync (two thirds of what wgmma reaches), 1.75 GHz:
//   64-64-64-64-64, batch 65536, labels. Products 65536 * 2 * (3 * 16384 - 4096) = 5.9 GFLOP: 10 us
//     in bfloat16, 88 us in float32. Device memory: x 16.8 MB, labels 0.5 MB: 3.6 us. Activations
//     out and back would be 2 * 4 * 16.8 MB a pass, 28 us. Shared memory, bfloat16, per tile of 128
//     rows: 11 products read (16 + 64) * 64 * 2 bytes for each of 8 strips, 0.9 MB, and the sums of
//     dw 0.13 MB: 8000 clocks at 128 bytes; 512 tiles on 132 blocks are 4 rounds: 18 us, which is
//     the floor of this design. Partial sums: 132 * 66 KB, written and read in the cache: 3 us.
//   16-64-64-4, batch 32, float32: 0.9 MFLOP and 22 KB of parameters, nothing for either rate. What
//     counts is the way through one multiprocessor: weights from the cache 1.5 us, eight products
//     of at most 2000 clocks, 5 us, Adam's 22 KB three times 1.5 us, one launch 2.5 us.
#include "fused.hpp"

#include <algorithm>

#include "activation.cuh"
#include "loss.cuh"
#include "piece.cuh"
#include "random.cuh"
#include "rules.cuh"

namespace fanin::cuda {
namespace {

constexpr int threads = 256, warps = threads / warp_size;
constexpr int dw_groups = 4;  // a warp's piece of dw is 16 by 32

// ---- what lies where

// The units between two layers: those of x, of hidden layers, of the output.
struct Units {
  int width;
  Activation activation;  // that made them
  uint32_t threshold;     // of their dropout
  uint32_t layer;         // the part of its key
  float scale;
  int stride;  // elements from row to row
  // Where they lie in shared memory, in bytes; the bits of their mask, a byte for 8 rows of a
  // column; and what the gradient is to be multiplied with, where needs_z(activation).
  int at, kept, slope;
};

struct Weights {
  int place;     // of w in the flat vectors; b comes behind it
  int w, b;      // in shared memory, in bytes
  int dw, db;    // in a block's sums
  int db_strip;  // db in the sums of a strip
};

struct Plan {
  Units units[fused_deepest + 1];  // layer l is between units l and l + 1
  Weights layers[fused_deepest];
  int count;             // of layers
  int strips;            // of 16 rows in a tile
  bool resident;         // all weights are in shared memory; else those of one layer
  bool sums_on_chip;     // dw is summed there, else in the device's memory
  int sums, strip_sums;  // where, in bytes; db of each strip
  int parameters;        // the length of the flat vectors
  int biases;            // of all layers
  int sums_size;  // of a block's sums, a multiple of 4; db begins at sums_size - padded biases
  int db_begin;
  int bytes;  // of shared memory
  int blocks;

  __host__ __device__ int rows() const { return 16 * strips; }
};

// The sums of dw (k, n): pieces of 16 rows by 32 columns, groups of 8 columns in them, lanes, four
// numbers of a lane.
__host__ __device__ constexpr int dw_pieces_across(int n) { return (padded(n) + 31) / 32; }
__host__ __device__ constexpr int dw_pieces(int k, int n) {
  return padded(k) / 16 * dw_pieces_across(n);
}
constexpr int group_size = 4 * warp_size, dw_piece_size = dw_groups * group_size;

struct Batch {
  Gather<float> x;
  bool plain;  // rows of x can be read in 16 bytes and want no conversion but by `scale`
  FusedTargets targets;
  const float* parameters;
  View<float> out;
  uint64_t seed, step;
  const StepState* state;
  double* numbers;  // of each block: loss, weight
  float* sums;      // of each block

  __device__ int64_t rows() const { return x.out.rows; }
  __device__ int64_t first_row() const { return state != nullptr ? state->first_row : 0; }
  // The row of the data set that is row r of the batch.
  __device__ int64_t source_row(int64_t r) const {
    const int64_t i = first_row() + r;
    return x.rows != nullptr ? x.rows[i] : i;
  }
};

// What is done with the sums of all blocks.
struct Finish {
  float *parameters, *gradients;
  bool updates;
  FusedRule rule;
  Update<float> update;
  const Rates* rates;
  const StepState* state;
  double* number;
  double slope;    // a factor of all gradients
  double value;    // of the loss
  double columns;  // what the sum of weights is multiplied with
};

// ---- pieces of the kernel. `most` is how many groups of 8 columns a lane has room for.

template <class In>
__device__ __forceinline__ In* at_byte(int byte) {
  return reinterpret_cast<In*>(dynamic_shared<unsigned char>() + byte);
}

template <class In>
struct alignas(4 * sizeof(In)) Four {
  In v[4];
};
template <class In>
struct alignas(2 * sizeof(In)) Two {
  In v[2];
};

// The activation of one group: a branch for four numbers. Those that are one instruction stay in
// the caller.
template <bool Fast>
__device__ __attribute__((noinline)) Pack<float> activate_group(Activation kind, Pack<float> g) {
  visit(kind, [&]<Activation K>() {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      g.v[i] = activate<K, Fast>(g.v[i]);
    }
  });
  return g;
}
template <bool Fast>
__device__ __attribute__((noinline)) Pack<float> derive_group(Activation kind, Pack<float> g) {
  visit(kind, [&]<Activation K>() {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      g.v[i] = derivative<K, Fast>(g.v[i]);
    }
  });
  return g;
}

template <bool Fast>
__device__ __forceinline__ Pack<float> activated(Activation kind, Pack<float> g) {
  if (kind == Activation::identity) {
    return g;
  }
  if (kind == Activation::relu) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      g.v[i] = activate<Activation::relu, Fast>(g.v[i]);
    }
    return g;
  }
  return activate_group<Fast>(kind, g);
}
template <bool Fast>
__device__ __forceinline__ Pack<float> derived(Activation kind, Pack<float> g) {
  if (kind == Activation::identity || kind == Activation::relu) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      g.v[i] = kind == Activation::identity ? 1.0f : derivative<Activation::relu, Fast>(g.v[i]);
    }
    return g;
  }
  return derive_group<Fast>(kind, g);
}

// w and b of a layer into shared memory, zeros behind them.
template <class In>
__device__ __attribute__((noinline)) void load_weights(const Plan& plan, int l,
                                                       const float* parameters) {
  const int k = plan.units[l].width, n = plan.units[l + 1].width;
  const int quads = padded(n) / 4, stride = stride_of<In>(n);
  const float* w = parameters + plan.layers[l].place;
  In* to = at_byte<In>(plan.layers[l].w);
  const bool in_packs = n % 4 == 0 && reinterpret_cast<uintptr_t>(w) % 16 == 0;
#pragma unroll 4
  for (int e = int(threadIdx.x); e < padded(k) * quads; e += threads) {
    const int r = e / quads, c = e % quads * 4;
    Pack<float> x{};
    if (r < k && in_packs && c < n) {
      x = load_pack(w + r * n + c);
    } else if (r < k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        x.v[i] = c + i < n ? w[r * n + c + i] : 0.0f;
      }
    }
    *reinterpret_cast<Four<In>*>(to + r * stride + c) = {rounded<In>(x.v[0]), rounded<In>(x.v[1]),
                                                         rounded<In>(x.v[2]), rounded<In>(x.v[3])};
  }
  float* b = at_byte<float>(plan.layers[l].b);
  for (int c = int(threadIdx.x); c < padded(n); c += threads) {
    b[c] = c < n ? w[k * n + c] : 0.0f;
  }
}

// One number of x as `Gather` converts it.
__device__ __attribute__((noinline)) float input_of(const Gather<float>& x, int64_t row,
                                                    int64_t col) {
  const int64_t at = row * x.row_stride + col * x.col_stride;
  if (x.source == Source::float64) {
    const double from = static_cast<const double*>(x.x)[at];
    if (x.shift == nullptr) {
      return __fmul_rn(float(from), float(x.scale));
    }
    return float(__dmul_rn(__dadd_rn(from, -static_cast<const double*>(x.shift)[col]),
                           static_cast<const double*>(x.factor)[col]));
  }
  const float from = x.source == Source::uint8 ? float(static_cast<const uint8_t*>(x.x)[at])
                                               : static_cast<const float*>(x.x)[at];
  if (x.shift == nullptr) {
    return __fmul_rn(from, float(x.scale));
  }
  return __fmul_rn(__fsub_rn(from, static_cast<const float*>(x.shift)[col]),
                   static_cast<const float*>(x.factor)[col]);
}

// Which of 8 rows of a column are kept, one bit each.
__device__ __attribute__((noinline)) unsigned char kept_rows(const Batch& batch, uint64_t step,
                                                             const Units& units, int64_t r8,
                                                             int col) {
  const PhiloxBlock words =
      philox(uint32_t(col), uint32_t(r8), philox_c2(step, units.layer, stream_dropout),
             uint32_t(step), uint32_t(batch.seed), uint32_t(batch.seed >> 32));
  unsigned kept = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    kept |= unsigned((words.w[i] & 0xFFFF) >= units.threshold) << i;
    kept |= unsigned((words.w[i] >> 16) >= units.threshold) << (i + 4);
  }
  return static_cast<unsigned char>(kept);
}

__device__ __forceinline__ bool is_kept(const Units& units, int row, int col) {
  const unsigned char* kept = at_byte<unsigned char>(units.kept);
  return kept[row / 8 * padded(units.width) + col] >> (row % 8) & 1;
}

// Rows [r0, r0 + rows) of x; zeros behind them and behind the batch.
template <class In>
__device__ void load_inputs(const Plan& plan, const Batch& batch, int64_t r0) {
  const Units& units = plan.units[0];
  const int k = units.width, quads = padded(k) / 4, stride = units.stride;
  In* to = at_byte<In>(units.at);
  const float scale = float(batch.x.scale);
#pragma unroll 4
  for (int e = int(threadIdx.x); e < plan.rows() * quads; e += threads) {
    const int r = e / quads, c = e % quads * 4;
    Pack<float> x{};
    if (r0 + r < batch.rows() && c < k) {
      const int64_t row = batch.source_row(r0 + r);
      if (batch.plain) {
        x = load_pack(static_cast<const float*>(batch.x.x) + row * batch.x.row_stride + c);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          x.v[i] *= scale;
        }
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          x.v[i] = c + i < k ? input_of(batch.x, row, c + i) : 0.0f;
        }
      }
      if (units.threshold > 0) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          x.v[i] = c + i < k && is_kept(units, r, c + i) ? x.v[i] * units.scale : 0.0f;
        }
      }
    }
    *reinterpret_cast<Four<In>*>(to + r * stride + c) = {rounded<In>(x.v[0]), rounded<In>(x.v[1]),
                                                         rounded<In>(x.v[2]), rounded<In>(x.v[3])};
  }
}

// Has the rows that this block takes next brought into the cache meanwhile.
__device__ void fetch_inputs(const Plan& plan, const Batch& batch, int64_t r0) {
  constexpr int line = 128 / int(sizeof(float));
  const int lines = (plan.units[0].width + line - 1) / line;
  for (int e = int(threadIdx.x); batch.plain && e < plan.rows() * lines; e += threads) {
    const int64_t r = r0 + e / lines;
    if (r < batch.rows()) {
      prefetch(static_cast<const float*>(batch.x.x) + batch.source_row(r) * batch.x.row_stride +
               e % lines * line);
    }
  }
}

// A piece, columns c0 and on of `strip`, as the units' own: rounded, zeros behind the last column.
template <class In, int most>
__device__ __forceinline__ void store_piece(const float (&v)[most][4], int groups, int strip,
                                            int c0, const Units& units) {
  using L = Lane<In>;
  const int stride = units.stride;
  In* to = at_byte<In>(units.at) + strip * 16 * stride + c0;
#pragma unroll
  for (int j = 0; j < most; ++j) {
    if (j < groups) {
#pragma unroll
      for (int i = 0; i < 4; i += L::neighbours) {
        const int col = 8 * j + L::col(i);
        In* place = to + L::row(i) * stride + col;
        const int left = units.width - c0 - col;
        if constexpr (L::neighbours == 2) {
          *reinterpret_cast<Two<In>*>(place) = {rounded<In>(left > 0 ? v[j][i] : 0.0f),
                                                rounded<In>(left > 1 ? v[j][i + 1] : 0.0f)};
        } else {
          *place = rounded<In>(left > 0 ? v[j][i] : 0.0f);
        }
      }
    }
  }
}

// dropout(f(z)) of a piece, and where it is wanted what its gradient is to be multiplied with.
template <class In, bool training, int most>
__device__ __forceinline__ void activate_piece(float (&v)[most][4], int groups, int strip, int c0,
                                               const Units& units) {
  using L = Lane<In>;
  const bool drops = training && units.threshold > 0;
  const bool keeps_slope = training && needs_z(units.activation);
  const int stride = units.stride;
  In* slopes = at_byte<In>(units.slope) + strip * 16 * stride + c0;
#pragma unroll
  for (int j = 0; j < most; ++j) {
    if (j < groups) {
      const Pack<float> z{{v[j][0], v[j][1], v[j][2], v[j][3]}};
      Pack<float> a = activated<is_fast<In>>(units.activation, z);
      Pack<float> factor{{1, 1, 1, 1}};
      if (drops) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const bool kept = is_kept(units, strip * 16 + L::row(i), c0 + 8 * j + L::col(i));
          factor.v[i] = kept ? units.scale : 0.0f;
          a.v[i] = kept ? a.v[i] * units.scale : 0.0f;
        }
      }
      if (keeps_slope) {
        const Pack<float> slope = derived<is_fast<In>>(units.activation, z);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          slopes[L::row(i) * stride + 8 * j + L::col(i)] =
              rounded<In>(factor.v[i] != 0 ? slope.v[i] * factor.v[i] : 0.0f);
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        v[j][i] = a.v[i];
      }
    }
  }
}

// v, the gradient of a piece of the units, becomes that of what went into their activation.
template <class In, int most>
__device__ __forceinline__ void derive_piece(float (&v)[most][4], int groups, int strip, int c0,
                                             const Units& units) {
  using L = Lane<In>;
  const bool drops = units.threshold > 0, has_slope = needs_z(units.activation);
  const int stride = units.stride;
  const In* saved = at_byte<In>(has_slope ? units.slope : units.at) + strip * 16 * stride + c0;
  const float keep = 1 / units.scale;
#pragma unroll
  for (int j = 0; j < most; ++j) {
    if (j < groups) {
      Pack<float> slope;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        slope.v[i] = value_of(saved[L::row(i) * stride + 8 * j + L::col(i)]);
      }
      if (!has_slope) {
        if (drops) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            slope.v[i] *= keep;
          }
        }
        slope = derived<is_fast<In>>(units.activation, slope);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float d = v[j][i] * slope.v[i];
        if (drops && !has_slope) {
          d = is_kept(units, strip * 16 + L::row(i), c0 + 8 * j + L::col(i)) ? d * units.scale : 0;
        }
        v[j][i] = d;
      }
    }
  }
}

// ---- losses; as in loss.cu, but dz is not divided yet

// The row of a strip that two lanes share, one of even columns and one of odd ones.
struct LossRow {
  bool here;
  int64_t source, label;
  float weight;  // of the sample
};

__device__ __forceinline__ LossRow loss_row(const Batch& batch, int64_t row, int n) {
  LossRow at{row < batch.rows(), 0, -1, 1};
  if (at.here) {
    const FusedTargets& targets = batch.targets;
    at.source = batch.source_row(row);
    at.weight = targets.sample_weight != nullptr ? targets.sample_weight[at.source] : 1.0f;
    if (targets.labels != nullptr) {
      // They were checked, but may have been written to since.
      const int64_t label = targets.labels[at.source];
      at.label = label >= 0 && label < n ? label : 0;
    }
  }
  return at;
}

__device__ __forceinline__ float of_both(float x) { return x + __shfl_xor_sync(all_lanes, x, 1); }

// z of a strip, in float where its dz is to be, becomes dz: `z` is the lane's row, whose elements
// in float and then as In begin at the same place. The even lane adds what the row costs and
// weighs.
template <class In>
__device__ void take_loss(float* z, int n, const FusedTargets& targets, const LossRow& row,
                          double& loss, double& weight) {
  const int odd = lane_of_warp() % 2, columns = padded(n);
  const float smooth = float(targets.label_smoothing);
  In* dz = reinterpret_cast<In*>(z);
  float cost = 0, p_scale = 0, largest = -INFINITY;
  // v_c q_c of a softmax, the target distribution times the class weights; or the target.
  const auto target = [&](int c) {
    const float t =
        targets.labels != nullptr ? float(c == row.label) : *targets.targets.at(row.source, c);
    if (targets.loss == FusedLoss::squared) {
      return t;
    }
    if (targets.loss == FusedLoss::sigmoid) {
      return fmaf(1 - smooth, t, smooth / 2);
    }
    const float q = fmaf(1 - smooth, t, smooth / float(n));
    return targets.class_weight != nullptr ? q * targets.class_weight[c] : q;
  };
  const int end = row.here ? n : 0;
  if (targets.loss == FusedLoss::softmax) {
    for (int c = odd; c < end; c += 2) {
      largest = larger(z[c], largest);
    }
    largest = larger(largest, __shfl_xor_sync(all_lanes, largest, 1));
    float sum = 0, total = 0, dots = 0;
#pragma unroll 2
    for (int c = odd; c < end; c += 2) {
      const float below = z[c] - largest, q = target(c);
      sum += expf(below);
      total += q;
      // A target of zero counts nothing, even where z is -inf.
      dots = q == 0 ? dots : fmaf(q, below, dots);
    }
    sum = of_both(sum);
    total = of_both(total);
    dots = of_both(dots);
    p_scale = total / sum;
    const double whole = double(total) * double(logf(sum)) - double(dots);
    loss += odd == 0 && row.here ? double(row.weight) * cut(targets.form, whole) : 0;
  }
#pragma unroll 2
  for (int c = odd; c < columns; c += 2) {
    float slope = 0;
    if (c < end) {
      const float t = target(c);
      if (targets.loss == FusedLoss::softmax) {
        slope = expf(z[c] - largest) * p_scale - t;
      } else if (targets.loss == FusedLoss::sigmoid) {
        slope = sigmoid<false>(z[c]) - t;
        cost += cross_entropy(targets.form, z[c], t);
      } else {
        slope = z[c] - t;
        cost = fmaf(slope, slope, cost);
      }
    }
    __syncwarp();  // what lies here was read
    dz[c] = rounded<In>(row.weight * slope);
  }
  cost = of_both(cost);
  if (odd == 0 && row.here) {
    loss += double(row.weight) * double(cost);
    const bool by_class = targets.labels != nullptr && targets.class_weight != nullptr;
    weight += double(row.weight) * (by_class ? double(targets.class_weight[row.label]) : 1.0);
  }
}

// ---- the end of a step

// Which parameter's gradient is element e of a block's sums: its place in the flat vectors, or -1
// where there is none. L: the lanes that the sums of dw are held by.
template <class L>
__device__ int parameter_of(const Plan& plan, int e, bool& is_weight) {
  is_weight = e < plan.db_begin;
  for (int l = 0; l < plan.count; ++l) {
    const Weights& layer = plan.layers[l];
    const int k = plan.units[l].width, n = plan.units[l + 1].width;
    if (!is_weight) {
      if (e >= layer.db && e < layer.db + n) {
        return layer.place + k * n + e - layer.db;
      }
    } else if (e < layer.dw + dw_pieces(k, n) * dw_piece_size) {
      const int in_layer = e - layer.dw, piece = in_layer / dw_piece_size;
      const int group = in_layer % dw_piece_size / group_size, lane = in_layer % group_size / 4;
      const int i = in_layer % 4, rows_apart = 16 / L::rows;
      const int across = dw_pieces_across(n);
      const int row = piece / across * 16 + lane / L::across + L::row_of(i) * rows_apart;
      const int col =
          piece % across * 32 + group * 8 + lane % L::across * L::neighbours + i % L::neighbours;
      return row < k && col < n ? layer.place + row * n + col : -1;
    }
  }
  return -1;
}

// What the sum of the weights of rows divides: a batch of weight zero has loss and gradients zero.
__device__ __forceinline__ double one_over(double divisor) { return divisor > 0 ? 1 / divisor : 0; }

__device__ void finish_parameter(const Finish& finish, const Settings<float>& settings, int place,
                                 bool is_weight, float sum, float scale) {
  const float g = sum * scale;
  if (finish.gradients != nullptr) {
    finish.gradients[place] = g;
  }
  if (!finish.updates) {
    return;
  }
  const Update<float>& update = finish.update;
  const float seen = clip(g, settings.limit) * settings.scale;
  float p = finish.parameters[place];
  float m = update.first != nullptr ? update.first[place] : 0.0f;
  float s = update.second != nullptr ? update.second[place] : 0.0f;
  const bool decays = settings.decays && is_weight;
  switch (finish.rule) {
    case FusedRule::sgd:
      p = update.first != nullptr ? Momentum::step(settings, seen, p, decays, m, s)
                                  : Sgd::step(settings, seen, p, decays, m, s);
      break;
    case FusedRule::rmsprop:
      p = Rmsprop::step(settings, seen, p, decays, m, s);
      break;
    case FusedRule::adam:
      p = Adam::step(settings, seen, p, decays, m, s);
      break;
  }
  finish.parameters[place] = p;
  if (update.first != nullptr) {
    update.first[place] = m;
  }
  if (update.second != nullptr) {
    update.second[place] = s;
  }
}

__device__ Settings<float> settings_of(const Finish& finish) {
  const Update<float>& update = finish.update;
  return Settings<float>(update, rates_of(update.lr, update.correction, update.step_size,
                                          update.decay, finish.rates, finish.state));
}

// One block for 32 elements of the sums: a warp adds every 8th block's, the first adds the warps'.
template <class L>
__global__ void __launch_bounds__(threads)
    add_blocks(const __grid_constant__ Plan plan, const __grid_constant__ Finish finish,
               const double* numbers, const float* sums) {
  __shared__ float of_warps[warps][warp_size];
  const int lane = lane_of_warp(), warp = int(threadIdx.x) / warp_size;
  const int e = int(blockIdx.x) * warp_size + lane;
  float sum = 0;
  if (e < plan.sums_size) {
#pragma unroll 8
    for (int b = warp; b < plan.blocks; b += warps) {
      sum += sums[int64_t(b) * plan.sums_size + e];
    }
  }
  of_warps[warp][lane] = sum;
  __syncthreads();
  if (warp > 0) {
    return;
  }
  double loss = 0, weight = 0;
  for (int b = lane; b < plan.blocks; b += warp_size) {
    loss += numbers[2 * b];
    weight += numbers[2 * b + 1];
  }
  const double factor = one_over(warp_sum(weight) * finish.columns);
  loss = warp_sum(loss) * finish.value * factor;
  if (blockIdx.x == 0 && lane == 0) {
    *finish.number = loss;
  }
  bool is_weight;
  const int place = e < plan.sums_size ? parameter_of<L>(plan, e, is_weight) : -1;
  if (place < 0) {
    return;
  }
  for (int w = 1; w < warps; ++w) {
    sum += of_warps[w][lane];
  }
  finish_parameter(finish, settings_of(finish), place, is_weight, sum,
                   float(finish.slope * factor));
}

// ---- the kernel

// widest: of all layers, 64 or 128. `alone`: one block does the whole step.
template <class In, int widest, bool training>
__global__ void __launch_bounds__(threads, training ? 1 : 2)
    fused(const __grid_constant__ Plan plan, const __grid_constant__ Batch batch,
          const __grid_constant__ Finish finish) {
  using L = Lane<In>;
  constexpr int most = widest / 8;
  const int lane = lane_of_warp(), warp = int(threadIdx.x) / warp_size;
  const int parts = warps / plan.strips, strip = warp / parts, part = warp % parts;
  const int last = plan.count - 1;
  const uint64_t step = batch.state != nullptr ? batch.state->step : batch.step;
  float* strip_sums = at_byte<float>(plan.strip_sums) + strip * plan.biases;
  float* own_sums = batch.sums + int64_t(blockIdx.x) * plan.sums_size;
  float* sums = plan.sums_on_chip ? at_byte<float>(plan.sums) : own_sums;
  // z of the output and its gradient begin at the same places.
  const int z_stride = plan.units[plan.count].stride * int(sizeof(In)) / int(sizeof(float));
  double loss = 0, weight = 0;

  if (plan.resident) {
    for (int l = 0; l <= last; ++l) {
      load_weights<In>(plan, l, batch.parameters);
    }
  }
  if (training) {
    for (int e = int(threadIdx.x); e < plan.strips * plan.biases; e += threads) {
      at_byte<float>(plan.strip_sums)[e] = 0;
    }
  }
  // The part of so many columns, in groups of 8, that is this warp's.
  const auto groups_of = [&](int width, int& c0) {
    const int piece = padded((padded(width) + parts - 1) / parts);
    c0 = part * piece;
    return max(0, min(piece, padded(width) - c0)) / 8;
  };
  // Those who share rows meet.
  const auto meet = [&] {
    if (parts == 1 && plan.resident) {
      __syncwarp();
    } else {
      __syncthreads();
    }
  };

  const int64_t tiles = (batch.rows() + plan.rows() - 1) / plan.rows();
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const int64_t r0 = tile * plan.rows();
    __syncthreads();  // all are done with the tile before
    if (training && plan.units[0].threshold > 0) {
      const Units& units = plan.units[0];
      const int pad = padded(units.width);
      for (int e = int(threadIdx.x); e < plan.rows() / 8 * pad; e += threads) {
        at_byte<unsigned char>(units.kept)[e] =
            kept_rows(batch, step, units, r0 / 8 + e / pad, e % pad);
      }
      __syncthreads();
    }
    load_inputs<In>(plan, batch, r0);
    if (!plan.resident) {
      load_weights<In>(plan, 0, batch.parameters);
    }
    __syncthreads();
    fetch_inputs(plan, batch, r0 + int64_t(gridDim.x) * plan.rows());

    for (int l = 0; l <= last; ++l) {
      const Units &from = plan.units[l], &to = plan.units[l + 1];
      int c0, groups = groups_of(to.width, c0);
      if (groups > 0) {
        float v[most][4];
        const float* b = at_byte<float>(plan.layers[l].b) + c0;
#pragma unroll
        for (int j = 0; j < most; ++j) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            v[j][i] = j < groups ? b[8 * j + L::col(i)] : 0.0f;
          }
        }
        add_product<false, false>(v, at_byte<In>(from.at) + strip * 16 * from.stride, from.stride,
                                  at_byte<In>(plan.layers[l].w) + c0, stride_of<In>(to.width),
                                  padded(from.width), groups);
        if (l < last) {
          if (training && to.threshold > 0) {
            for (int e = lane; e < 2 * 8 * groups; e += warp_size) {
              const int below = e / (8 * groups), c = c0 + e % (8 * groups);
              const int r8 = 2 * strip + below;
              at_byte<unsigned char>(to.kept)[r8 * padded(to.width) + c] =
                  kept_rows(batch, step, to, r0 / 8 + r8, c);
            }
            __syncwarp();
          }
          activate_piece<In, training>(v, groups, strip, c0, to);
          store_piece<In>(v, groups, strip, c0, to);
        } else {
          const int64_t first = r0 + strip * 16;
          float* z = at_byte<float>(to.at) + strip * 16 * z_stride + c0;
#pragma unroll
          for (int j = 0; j < most; ++j) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              const int row = L::row(i), col = 8 * j + L::col(i);
              if (training) {
                if (j < groups) {
                  z[row * z_stride + col] = v[j][i];
                }
              } else if (j < groups && first + row < batch.rows() && c0 + col < to.width) {
                *batch.out.at(first + row, c0 + col) = v[j][i];
              }
            }
          }
        }
      }
      meet();
      if (training && l == last) {
        if (part == 0) {
          const int row = strip * 16 + lane / 2;
          take_loss<In>(at_byte<float>(to.at) + row * z_stride, to.width, batch.targets,
                        loss_row(batch, r0 + row, to.width), loss, weight);
        }
        __syncthreads();
      }
      if (!plan.resident && l < last) {
        load_weights<In>(plan, l + 1, batch.parameters);
        __syncthreads();
      }
    }

    for (int l = last; training && l >= 0; --l) {
      const Units &from = plan.units[l], &to = plan.units[l + 1];
      const int k = padded(from.width), n = padded(to.width);
      const int w_stride = stride_of<In>(to.width);
      const In* dz = at_byte<In>(to.at);
      for (int c = part * warp_size + lane; c < to.width; c += parts * warp_size) {
        float sum = 0;
#pragma unroll
        for (int r = 0; r < 16; ++r) {
          sum += value_of(dz[(strip * 16 + r) * to.stride + c]);
        }
        strip_sums[plan.layers[l].db_strip + c] += sum;
      }
      float v[most][4];
      int c0, groups = groups_of(from.width, c0);
      groups = l > 0 ? groups : 0;
      if (groups > 0) {
#pragma unroll
        for (int j = 0; j < most; ++j) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            v[j][i] = 0;
          }
        }
        add_product<false, true>(v, dz + strip * 16 * to.stride, to.stride,
                                 at_byte<In>(plan.layers[l].w) + c0 * w_stride, w_stride, n,
                                 groups);
        derive_piece<In>(v, groups, strip, c0, from);
      }
      const int across = dw_pieces_across(to.width);
      for (int piece = warp; piece < k / 16 * across; piece += warps) {
        const int row = piece / across * 16, col = piece % across * 32;
        const int dw_columns = min(dw_groups, (n - col) / 8);
        float* at = sums + plan.layers[l].dw + piece * dw_piece_size + 4 * lane;
        float dw[dw_groups][4];
#pragma unroll
        for (int j = 0; j < dw_groups; ++j) {
          Pack<float> before{};
          if (tile != blockIdx.x && j < dw_columns) {
            before = load_pack(at + j * group_size);
          }
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            dw[j][i] = before.v[i];
          }
        }
        add_product<true, false>(dw, at_byte<In>(from.at) + row, from.stride, dz + col, to.stride,
                                 plan.rows(), dw_columns);
#pragma unroll
        for (int j = 0; j < dw_groups; ++j) {
          if (j < dw_columns) {
            store_pack(at + j * group_size, Pack<float>{{dw[j][0], dw[j][1], dw[j][2], dw[j][3]}});
          }
        }
      }
      if (l == 0) {
        break;
      }
      __syncthreads();  // all have read this layer's input and weights
      if (groups > 0) {
        store_piece<In>(v, groups, strip, c0, from);
      }
      if (!plan.resident && l > 1) {
        load_weights<In>(plan, l - 1, batch.parameters);
      }
      __syncthreads();
    }
  }

  if (!training) {
    return;
  }
  loss = block_sum<threads>(loss);
  weight = block_sum<threads>(weight);
  const bool alone = gridDim.x == 1;
  // Element e of this block's sums.
  const auto sum_of = [&](int e) {
    if (e < plan.db_begin) {
      return sums[e];
    }
    float sum = 0;
    for (int s = 0; s < plan.strips && e - plan.db_begin < plan.biases; ++s) {
      sum += at_byte<float>(plan.strip_sums)[s * plan.biases + e - plan.db_begin];
    }
    return sum;
  };
  if (!alone) {
    for (int e = int(threadIdx.x); e < plan.sums_size; e += threads) {
      if (plan.sums_on_chip || e >= plan.db_begin) {
        own_sums[e] = sum_of(e);
      }
    }
    if (threadIdx.x == 0) {
      batch.numbers[2 * blockIdx.x] = loss;
      batch.numbers[2 * blockIdx.x + 1] = weight;
    }
    return;
  }
  const double factor = one_over(weight * finish.columns);
  if (threadIdx.x == 0) {
    *finish.number = loss * finish.value * factor;
  }
  const Settings<float> settings = settings_of(finish);
  for (int e = int(threadIdx.x); e < plan.sums_size; e += threads) {
    bool is_weight;
    const int place = parameter_of<L>(plan, e, is_weight);
    if (place >= 0) {
      finish_parameter(finish, settings, place, is_weight, sum_of(e), float(finish.slope * factor));
    }
  }
}

// ---- plans

int element_size(FusedProduct product) {
  return product == FusedProduct::bfloat16 || product == FusedProduct::float16 ? 2 : 4;
}

Plan lay_out(const FusedNetwork& network, bool training, int strips, bool resident,
             bool sums_on_chip) {
  Plan plan{};
  plan.count = network.count;
  plan.strips = strips;
  plan.resident = resident;
  plan.sums_on_chip = training && sums_on_chip;
  const int size = element_size(network.product);
  const auto row_bytes = [=](int width) { return padded(width) * size + 16; };
  const auto take = [&](int bytes) {
    const int at = plan.bytes;
    plan.bytes += (bytes + 15) / 16 * 16;
    return at;
  };
  const auto set_units = [&](int l, int width, Activation made_by, uint32_t threshold,
                             uint32_t layer) {
    Units& units = plan.units[l];
    const float scale = float(65536.0 / (65536.0 - threshold));
    // z of the output lies in float where its gradient is to be.
    const int bytes = training && l == plan.count ? padded(width) * 4 + 16 : row_bytes(width);
    units = {
        width, made_by, training ? threshold : 0, layer, training ? scale : 1.0f, bytes / size, 0,
        0,     0};
    if (training) {
      units.at = take(plan.rows() * bytes);
      units.kept = units.threshold > 0 ? take(plan.rows() / 8 * padded(width)) : 0;
      units.slope = needs_z(made_by) ? take(plan.rows() * row_bytes(width)) : 0;
    }
  };
  set_units(0, network.layers[0].fan_in, Activation::identity, network.input_threshold,
            input_layer);
  int largest = 0;
  for (int l = 0; l < plan.count; ++l) {
    const FusedLayer& layer = network.layers[l];
    set_units(l + 1, layer.fan_out, layer.activation, layer.dropout_threshold, uint32_t(l));
    const int bytes = padded(layer.fan_in) * row_bytes(layer.fan_out);
    largest = std::max(largest, bytes);
    plan.layers[l].place = plan.parameters;
    plan.layers[l].w = resident ? take(bytes) : 0;
    plan.layers[l].b = take(padded(layer.fan_out) * 4);
    plan.layers[l].dw = plan.sums_size;
    plan.sums_size += dw_pieces(layer.fan_in, layer.fan_out) * dw_piece_size;
    plan.parameters += (layer.fan_in + 1) * layer.fan_out;
  }
  if (!resident) {
    const int at = take(largest);
    for (int l = 0; l < plan.count; ++l) {
      plan.layers[l].w = at;
    }
  }
  if (!training) {  // the units of two layers, in turn; strips lie at the same places in all
    int widest = 0;
    for (int l = 0; l <= plan.count; ++l) {
      widest = std::max(widest, plan.units[l].width);
    }
    const int bytes = row_bytes(widest);
    const int at[2] = {take(plan.rows() * bytes), take(plan.rows() * bytes)};
    for (int l = 0; l <= plan.count; ++l) {
      plan.units[l].at = at[l % 2];
      plan.units[l].stride = bytes / size;
    }
    return plan;
  }
  // db of a strip has room for whole groups.
  plan.db_begin = plan.sums_size;
  for (int l = 0; l < plan.count; ++l) {
    plan.layers[l].db_strip = plan.biases;
    plan.layers[l].db = plan.db_begin + plan.biases;
    plan.biases += padded(network.layers[l].fan_out);
  }
  plan.sums_size += plan.biases;
  plan.strip_sums = take(strips * plan.biases * 4);
  plan.sums = plan.sums_on_chip ? take(plan.db_begin * 4) : 0;
  return plan;
}

// A step of so many multiply-adds forward is done by one block: a second launch, and its turn
// through the device's memory, would take longer than what a second block saves.
constexpr int64_t most_alone = int64_t{1} << 18;

// As large a tile as leaves work for all multiprocessors, and fits. No plan has no strips.
Plan plan_of(const FusedNetwork& network, int64_t rows, bool training) {
  int64_t products = 0;
  for (int l = 0; l < network.count; ++l) {
    products += rows * network.layers[l].fan_in * network.layers[l].fan_out;
  }
  const bool alone = training && products <= most_alone;
  const int64_t most_tiles = alone ? 1 : multiprocessors();
  int wanted = 1;
  while (wanted < warps && (alone ? wanted * 16 < rows : rows > most_tiles * wanted * 16)) {
    wanted *= 2;
  }
  for (const bool resident : {true, false}) {
    for (int strips = wanted; strips >= 1; strips /= 2) {
      for (const bool sums_on_chip : {true, false}) {
        Plan plan = lay_out(network, training, strips, resident, sums_on_chip);
        if (plan.bytes <= most_shared()) {
          const int64_t tiles = divide_up(rows, plan.rows());
          plan.blocks = int(std::min(tiles, training ? most_tiles : 2 * most_tiles));
          return plan;
        }
      }
    }
  }
  return Plan{};
}

// Whether rows of x are float32 that lie together and begin at multiples of 16 bytes.
bool is_plain(const Gather<float>& x) {
  return x.source == Source::float32 && x.shift == nullptr && x.col_stride == 1 &&
         x.out.cols % 4 == 0 && x.row_stride % 4 == 0 && uintptr_t(x.x) % 16 == 0;
}

template <class In, bool training>
void launch_fused(const Context& context, const Plan& plan, const Batch& batch,
                  const Finish& finish) {
  int widest = 0;
  for (int l = 0; l <= plan.count; ++l) {
    widest = std::max(widest, plan.units[l].width);
  }
  launch(widest <= 64 ? fused<In, 64, training> : fused<In, 128, training>,
         dim3(unsigned(plan.blocks)), dim3(threads), size_t(plan.bytes), stream_of(context), plan,
         batch, finish);
  if (training && plan.blocks > 1) {
    using L = Lane<std::conditional_t<Lane<In>::on_cores, bfloat16, float>>;
    launch(add_blocks<L>, dim3(unsigned(divide_up(plan.sums_size, warp_size))), dim3(threads), 0,
           stream_of(context), plan, finish, static_cast<const double*>(batch.numbers),
           static_cast<const float*>(batch.sums));
  }
}

template <bool training>
void launch_fused(const Context& context, FusedProduct product, const Plan& plan,
                  const Batch& batch, const Finish& finish) {
  switch (product) {
    case FusedProduct::float32:
      return launch_fused<float, training>(context, plan, batch, finish);
    case FusedProduct::tf32:
      return launch_fused<tf32, training>(context, plan, batch, finish);
    case FusedProduct::bfloat16:
      return launch_fused<bfloat16, training>(context, plan, batch, finish);
    case FusedProduct::float16:
      return launch_fused<float16, training>(context, plan, batch, finish);
  }
}

}  // namespace

bool fused_supports(const FusedNetwork& network) {
  if (network.count < 1 || network.count > fused_deepest) {
    return false;
  }
  for (int l = 0; l < network.count; ++l) {
    const FusedLayer& layer = network.layers[l];
    const bool fits = layer.fan_in >= 1 && layer.fan_in <= fused_widest && layer.fan_out >= 1 &&
                      layer.fan_out <= fused_widest;
    if (!fits || (l > 0 && layer.fan_in != network.layers[l - 1].fan_out)) {
      return false;
    }
  }
  const FusedLayer& last = network.layers[network.count - 1];
  return last.activation == Activation::identity && last.dropout_threshold == 0 &&
         plan_of(network, 16, true).strips > 0;
}

void fused_forward(const Context& context, const FusedNetwork& network, const float* parameters,
                   const Gather<float>& x, View<float> out) {
  if (x.out.rows == 0) {
    return;
  }
  const Plan plan = plan_of(network, x.out.rows, false);
  Batch batch{};
  batch.x = x;
  batch.plain = is_plain(x);
  batch.parameters = parameters;
  batch.out = out;
  batch.state = context.state;
  launch_fused<false>(context, network.product, plan, batch, {});
}

int64_t fused_scratch(const FusedNetwork& network, int64_t rows) {
  const Plan plan = plan_of(network, rows, true);
  return plan.blocks * (2 * int64_t(sizeof(double)) + plan.sums_size * int64_t(sizeof(float)));
}

void fused_step(const Context& context, const FusedNetwork& network, float* parameters,
                const Gather<float>& x, const FusedTargets& targets, uint64_t step,
                float* gradients, const FusedUpdate* update, void* scratch) {
  const Plan plan = plan_of(network, x.out.rows, true);
  Batch batch{};
  batch.x = x;
  batch.plain = is_plain(x);
  batch.targets = targets;
  batch.parameters = parameters;
  batch.seed = network.seed;
  batch.step = step;
  batch.state = context.state;
  batch.numbers = static_cast<double*>(scratch);
  batch.sums = reinterpret_cast<float*>(batch.numbers + 2 * plan.blocks);
  Finish finish{};
  finish.parameters = parameters;
  finish.gradients = gradients;
  finish.updates = update != nullptr;
  if (update != nullptr) {
    finish.rule = update->rule;
    finish.update = update->update;
  }
  finish.rates = context.rates;
  finish.state = context.state;
  finish.number = context.number;
  finish.slope = targets.form.gradient * (targets.loss == FusedLoss::squared ? 2 : 1);
  finish.value = targets.form.value;
  finish.columns = targets.loss == FusedLoss::softmax ? 1 : plan.units[plan.count].width;
  launch_fused<true>(context, network.product, plan, batch, finish);
}

}  // namespace fanin::cuda
