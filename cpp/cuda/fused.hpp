// Whole small networks in one kernel: dense layers no wider than `fused_widest`, whose activations
// stay on the chip from the input to the output, and in a training step from the output back.
//
//     layer l:  h' = dropout(f(h @ w + b))      with dropout before layer 0 as well
//
// Parameters and gradients are flat vectors of float32, per layer w (fan_in, fan_out), then b
// (fan_out). Pointers are the device's; everything is queued on `Context::stream`, nothing is
// allocated, and a call may be captured. The same shapes give the same bits on the same kind of
// GPU.
#pragma once

#include "../core/ops.hpp"

namespace fanin::cuda {

constexpr int fused_widest = 128, fused_deepest = 16;

struct FusedLayer {
  int fan_in, fan_out;
  Activation activation;
  uint32_t dropout_threshold;  // of 65536
};

// What products round their inputs to; they sum in float32.
enum class FusedProduct : int { float32, tf32, bfloat16, float16 };

struct FusedNetwork {
  FusedLayer layers[fused_deepest];
  int count;  // of layers
  FusedProduct product;
  uint64_t seed;
  uint32_t input_threshold;  // of 65536: dropout of the inputs
};

enum class FusedLoss : int { squared, sigmoid, softmax };

// What the rows of the data set that x is gathered from are to reproduce, as in `Loss`. Row i of
// the batch is row x.rows[i] here too.
struct FusedTargets {
  FusedLoss loss;
  const int64_t* labels;       // softmax: classes; or null
  View<const float> targets;   // where labels is null: unit column stride
  const float* sample_weight;  // or null
  const float* class_weight;   // softmax: (n) or null; part of a row's weight where it has a label
  double label_smoothing;
  LossForm form;
};

// One of the optimizers of `Ops`; biases do not decay. `update` has the constants and the flat
// vectors; gradients, count, decay_mask, squares and norm are not read.
enum class FusedRule : int { sgd, rmsprop, adam };

struct FusedUpdate {
  FusedRule rule;
  Update<float> update;
};

// Whether the kernels cover a network on the device in use: depth and widths within the bounds
// above, fan_in of each layer the fan_out of the one before, and shared memory for 16 rows. Batch
// norm, statistics, regularisers, limits of norms are for the table of operations.
bool fused_supports(const FusedNetwork& network);

// out (m, n) = the network of x outside training: nothing is dropped. Of x, `out` says its size
// alone; where x.rows is null the rows are 0, 1, ...
void fused_forward(const Context& context, const FusedNetwork& network, const float* parameters,
                   const Gather<float>& x, View<float> out);

// Bytes of scratch, aligned to 16, for a step on so many rows.
int64_t fused_scratch(const FusedNetwork& network, int64_t rows);

// Forward in training mode, loss and gradients; then, where `update` is not null, its step on the
// parameters. The mean loss, over the sum of the rows' weights (times n unless softmax), goes to
// context.number. `gradients` may be null where there is an update. With context.state the rows
// begin at x.rows[state->first_row] (or at that row), and masks are those of state->step instead of
// `step`; with context.rates the update's rates are rates[state->index].
void fused_step(const Context& context, const FusedNetwork& network, float* parameters,
                const Gather<float>& x, const FusedTargets& targets, uint64_t step,
                float* gradients, const FusedUpdate* update, void* scratch);

}  // namespace fanin::cuda
