// A network of dense layers and its training step, on whatever table of operations is in use.
//
//     layer l:  z = h @ w (+ b)      [batch norm]      h' = dropout(f(z))
//
// The parameters, gradients and running statistics are the caller's flat vectors, in the order
//     per layer: w (k, n), then b (n), or gamma (n) and beta (n) where batch norm makes b useless;
// running means and variances in two more, of the layers with batch norm.
// A network owns what one batch leaves behind: outputs, masks, normalised inputs, statistics. Its
// methods are not safe to call from two threads at once; the caller sees to that.
#pragma once

#include <vector>

#include "../core/buffer.hpp"
#include "../core/ops.hpp"
#include "optimizer.hpp"

namespace fanin {

constexpr double batch_norm_momentum = 0.1, batch_norm_eps = 1e-5;

enum class Output : int { identity, sigmoid, softmax };

struct LayerConfig {
  int64_t fan_in, fan_out;
  Activation activation;
  uint32_t dropout_threshold;  // of 65536
  bool batch_norm;
  double l1, l2;

  int64_t weights() const { return fan_in * fan_out; }
  int64_t parameters() const { return weights() + (batch_norm ? 2 : 1) * fan_out; }
};

// What the network is to reproduce for one batch; `labels` or `targets`.
template <class T>
struct Targets {
  const int64_t* labels = nullptr;   // softmax: (m)
  View<const T> targets{};           // (m, n), unit column stride
  const T* sample_weight = nullptr;  // (m) or null
  const T* class_weight = nullptr;   // (n) or null
  double label_smoothing = 0;
};

// The rows of a data set that a call trains on.
struct Dataset {
  const void* x;  // any strides, in elements
  Source source;
  int64_t row_stride, col_stride;
  double scale;
  const int64_t* rows;  // which rows, in order
  int64_t count;
  int64_t batch_size;
};

struct Progress {
  int64_t rows = 0, steps = 0;
  double loss = 0;  // sum over steps of loss * rows
};

template <class T>
class Network {
 public:
  Network(std::vector<LayerConfig> layers, Output output, uint64_t seed, T* parameters,
          T* gradients, T* running_mean, T* running_var);

  // out (m, n): logits, or values. Training: masks of `step`, batch statistics, and everything that
  // backward needs is kept; x must live until then. bins > 0: statistics, and histograms of so
  // many bins.
  void forward(const Context& context, View<const T> x, bool training, int bins, uint64_t step,
               View<T> out);

  // From dout (m, n) the gradients of the last training forward, regularisers included; dx (m, k)
  // when dx.data is not null. Returns the penalty of the regularisers.
  double backward(const Context& context, View<const T> dout, View<T> dx);

  // Forward in training mode, loss and backward. Returns the loss, penalty included.
  double loss_and_gradients(const Context& context, View<const T> x, const Targets<T>& targets,
                            int bins, uint64_t step);

  void update(const Context& context, const OptimizerRule<T>& rule, double lr, int64_t steps_done);

  // Steps over data.rows in batches until all are done, `seconds` have passed or
  // context.interrupted says so; a step that was interrupted leaves no trace. `lr` holds one
  // learning rate per step.
  Progress train(const Context& context, const Dataset& data, const Targets<T>& targets,
                 const OptimizerRule<T>& rule, const double* lr, int64_t steps_done, uint64_t step,
                 int bins_at_last, double seconds);

  bool can_backward() const { return rows_ > 0; }
  int64_t batch_rows() const { return rows_; }
  const Stats& stats(size_t layer) const { return states_.at(layer).stats; }
  const std::vector<int64_t>& counts(size_t layer) const { return states_.at(layer).counts; }
  const std::vector<double>& edges(size_t layer) const { return states_.at(layer).edges; }
  const std::vector<LayerConfig>& layers() const { return layers_; }

 private:
  // Where a layer's parameters lie in the flat vectors; `unit`: in those of the running statistics.
  struct Place {
    int64_t weight, bias, gamma, beta, unit;
  };
  // What one training batch leaves in a layer.
  struct State {
    Buffer<T> a, z, x_hat, inv_std;
    Buffer<uint16_t> mask;
    Buffer<double> unit_mean;
    Buffer<int64_t> unit_zeros;
    Stats stats{};
    std::vector<int64_t> counts;  // histogram; empty when not made
    std::vector<double> edges;
    int64_t a_stride = 0;
  };

  void reserve(int64_t rows, bool training);
  Dropout dropout_of(size_t layer) const;
  View<const T> weight_of(size_t layer) const;
  View<T> a_of(size_t layer) const;
  void forward_layer(const Context& context, size_t layer, View<const T> x, View<T> a,
                     bool training, int bins);
  void count_histogram(const Context& context, size_t layer, View<const T> a, int bins);
  double loss_of(const Context& context, const Targets<T>& targets, View<T> logits);
  double loss_divisor(const Targets<T>& targets, int64_t rows, int64_t cols) const;

  std::vector<LayerConfig> layers_;
  Output output_;
  uint64_t seed_;
  T *parameters_, *gradients_, *running_mean_, *running_var_;
  int64_t running_count_ = 0;
  std::vector<Place> places_;
  std::vector<State> states_;

  View<const T> x_{};  // input of the last training forward
  int64_t rows_ = 0;   // its rows; 0: nothing to go back through
  uint64_t step_ = 0;
  Buffer<T> inference_[2];  // outputs of layers in turn, outside training
  Buffer<T> dz_[2];         // gradients of layers in turn
  Buffer<T> scratch_;
  Buffer<double> row_loss_;
  Buffer<T> batch_x_, batch_targets_, batch_weight_, running_before_;
  Buffer<int64_t> batch_labels_;
};

}  // namespace fanin
