// A network of dense layers and its training step, on whatever table of operations is in use.
//
//     layer l:  z = h @ w (+ b)   [batch norm]   f(z)   [batch norm]   h' = dropout(.)
//
// with dropout before layer 0 as well. The parameters, gradients and running statistics are the
// caller's flat vectors, in the order
//     per layer: w (k, n), then b (n) unless batch norm before f makes it useless, then gamma (n)
//     and beta (n) of batch norm;
// running means and variances in two more, of the layers with batch norm.
// A network owns what one batch leaves behind: outputs, masks, normalised inputs, statistics. Its
// methods are not safe to call from two threads at once; the caller sees to that.
#pragma once

#include <memory>
#include <vector>

#include "../core/buffer.hpp"
#include "../core/ops.hpp"
#include "layers.hpp"
#include "optimizer.hpp"
#include "pace.hpp"

namespace fanin {

// What the network is to reproduce for some rows; `labels` or `targets`.
template <class T>
struct Targets {
  const int64_t* labels = nullptr;   // softmax: (m)
  View<const T> targets{};           // (m, n), unit column stride
  const T* sample_weight = nullptr;  // (m) or null
  const T* class_weight = nullptr;   // (n) or null
  double label_smoothing = 0;
};

// The rows of a data set that a call trains on; x, its strides, scale, shift and factor as in
// Gather.
struct Dataset {
  const void* x;
  Source source;
  int64_t row_stride, col_stride;
  double scale;
  const int64_t* rows;  // which rows, in order
  int64_t count;
  int64_t batch_size;
  const void *shift = nullptr, *factor = nullptr;
  double loss = 0;  // what the sum of Progress begins with: that of the rows before
};

template <class T>
class TrainingStep;

// What the layers of a network share.
struct NetworkConfig {
  Output output;
  uint64_t seed;
  bool bfloat16;             // products round their inputs to it
  uint32_t input_threshold;  // of 65536: dropout of the inputs
  bool proximal;             // l1 is seen to by a proximal step after each update
  LossForm form{};
};

template <class T>
class Network {
 public:
  Network(std::vector<LayerConfig> layers, const NetworkConfig& config, T* parameters, T* gradients,
          T* running_mean, T* running_var);
  ~Network();

  // out (m, n): logits, or values. Training: masks of `step`, batch statistics, and everything that
  // backward needs is kept; x must live until then. bins >= 0: statistics, and histograms of so
  // many bins.
  void forward(const Context& context, View<const T> x, bool training, int bins, uint64_t step,
               View<T> out);

  // From dout (m, n) the gradients of the last training forward, regularisers included; dx (m, k)
  // when dx.data is not null.
  void backward(const Context& context, View<const T> dout, View<T> dx);

  // Forward in training mode, loss and backward. Returns the loss, penalty included.
  double loss_and_gradients(const Context& context, View<const T> x, const Targets<T>& targets,
                            int bins, uint64_t step);

  // Steps over data.rows in batches until all are done, `seconds` have passed, a loss was not
  // finite or context.interrupted says so; a step that was interrupted leaves no trace. `lr` holds
  // one learning rate per step, `penalties`, where not null, l1 and l2 of all layers per step;
  // those of the last step done stay.
  Progress train(const Context& context, const Dataset& data, const Targets<T>& targets,
                 const OptimizerRule<T>& rule, const double* lr, int64_t steps_done, uint64_t step,
                 int bins_at_last, double seconds, const double* penalties = nullptr);

  // What follows an update by this rule: proximal steps and limits of norms. `rule` may be null
  // where there are no proximal steps.
  void constrain(const Context& context, const OptimizerRule<T>* rule, const Update<T>& update);
  // Whether there is anything of the kind.
  bool constrains() const;

  // Lets these be the penalties of every layer from the next gradients on.
  void set_penalties(double l1, double l2);

  // How many batches were monitored: statistics are of the last one.
  int64_t monitored() const { return monitored_; }
  // The rows of that batch; 0 when there is none, or when its step was interrupted: then its
  // statistics are lost, as are those of the one before.
  int64_t monitored_rows() const { return monitored_rows_; }
  const Stats& stats(size_t layer);
  // Whether an update followed, and the norms of dw and of what it added to a layer's w.
  bool updated() const { return updated_; }
  double gradient_norm(size_t layer) const;
  double update_norm(size_t layer) const;

  // The first layer whose outputs for the last training batch are not all finite; the last layer,
  // whose outputs the loss has overwritten, where those of all others are.
  size_t nonfinite_layer() const;

  // What a step will take, from the last one; before the first, a guess.
  double seconds_of_step(int64_t rows, int threads, bool monitored) const;

  bool can_backward() const { return rows_ > 0; }
  int64_t batch_rows() const { return rows_; }
  const std::vector<int64_t>& counts(size_t layer) const { return states_.at(layer).counts; }
  const std::vector<double>& edges(size_t layer) const { return states_.at(layer).edges; }
  const std::vector<LayerConfig>& layers() const { return layers_; }

 private:
  friend class TrainingStep<T>;

  // Whether a layer's l1 is seen to by proximal steps.
  bool shrinks(const LayerConfig& layer) const { return config_.proximal && layer.l1 > 0; }

  // Where a layer's parameters lie in the flat vectors; `unit`: in those of the running statistics.
  struct Place {
    int64_t weight, other, gamma, unit;  // other: bias, gamma, beta
  };
  // What one training batch leaves in a layer.
  struct State {
    Buffer<T> a, z, x_hat, inv_std, dz, moments;
    Buffer<uint16_t> mask;
    Buffer<double> unit_mean, penalties;
    Buffer<int64_t> unit_zeros;
    Buffer<Squares<T>> squares;
    Stats stats{};
    std::vector<int64_t> counts;  // histogram; empty when not made
    std::vector<double> edges;
    int64_t a_stride = 0;
  };

  // How a forward pass is done.
  struct Forward {
    bool training;
    bool monitored;
    bool drops;  // in training
  };
  // Where a block of one leaves what backward needs, and what it drops.
  struct Kept {
    View<T> z, x_hat;
    Dropout dropout;
    View<uint16_t> mask;
  };

  // How steps on so many rows go, with one thread and with all.
  struct Plans {
    int64_t rows;
    int most_threads;
    bool monitored;
    double seconds;  // what the last one took
    Pace pace;
    std::unique_ptr<TrainingStep<T>> alone, together;
  };

  void reserve(int64_t rows, bool training);
  void reserve_penalties(size_t layer);

  // What belongs to a layer, for the batch of the last training forward. No memory where it is not
  // kept.
  View<T> weight_of(size_t layer, T* vector) const;
  View<T> a_of(size_t layer) const;
  View<T> z_of(size_t layer) const;
  View<T> x_hat_of(size_t layer) const;
  View<T> dz_of(size_t layer) const;
  View<const T> input_of(size_t layer) const;
  View<const T> saved_of(size_t layer) const;
  View<T> activated_of(size_t layer, View<T> a, const Kept&) const;
  View<uint16_t> mask_of(size_t layer, Block) const;
  Dropout dropout_of(size_t layer, Block) const;
  Kept kept_of(size_t layer, Block, const Forward&) const;
  Moments<T> moments_of(size_t layer) const;
  Moments<T> moments_of(size_t layer, Block, const Forward&) const;
  void begin_monitoring(int64_t rows);

  Context for_products(Context context) const;

  // The pieces of a step, on a block of the rows and columns of a layer's output, or of w.
  void gather(const Context&, const Dataset&, const int64_t* chosen, int64_t r0, int64_t r1);
  void copy_inputs();
  void drop_inputs(const Context&, int64_t r0, int64_t r1);
  Dropout input_dropout_of(int64_t row) const;
  View<uint16_t> input_mask_of(int64_t r0, int64_t r1) const;
  void fetch_next(const Dataset&, const int64_t* chosen, int64_t r0, int64_t r1) const;
  void product(const Context&, size_t layer, Block, View<const T> x, View<T> a, const Forward&);
  void normalise(const Context&, size_t layer, Block, View<T> a, const Forward&);
  void drop(const Context&, View<T> a, const Dropout&, View<uint16_t> mask) const;
  void loss(const Context&, int64_t r0, int64_t r1);
  void product_backward(const Context&, size_t layer, Block below);
  void normalise_backward(const Context&, size_t layer, Block);
  void weight_gradients(const Context&, size_t layer, Block, View<T> dw);
  void bias_gradients(const Context&, size_t layer);
  double penalty() const;
  void shrink(const Context&, const OptimizerRule<T>&, const Update<T>&, size_t layer, Block);
  void limit_norms(const Context&, size_t layer, int64_t c0, int64_t c1);

  void gather_targets(const Targets<T>& from, const int64_t* chosen);
  void count_histogram(const Context&, size_t layer, View<const T> a, int bins);
  void gradients(const Context&);
  double loss_and_gradients(const Context&, View<const T> x, int bins, uint64_t step);
  void update(const Context&, const OptimizerRule<T>&, Update<T>, bool monitored);
  void update_weights(const Context&, const OptimizerRule<T>&, Update<T>, size_t layer, Block,
                      View<const T> dw, bool monitored);
  Plans& plans_of(int64_t rows, int most_threads, bool monitored);
  double planned_step(int most_threads, bool monitored, const Dataset&, const int64_t* chosen,
                      const OptimizerRule<T>&, const Update<T>&);

  std::vector<LayerConfig> layers_;
  const NetworkConfig config_;
  T *parameters_, *gradients_, *running_mean_, *running_var_;
  int64_t running_count_ = 0;
  std::vector<Place> places_;
  std::vector<State> states_;

  View<const T> x_{};      // input of the last training forward
  int64_t rows_ = 0;       // its rows; 0: nothing to go back through
  int64_t kept_rows_ = 0;  // of the training batch whose outputs still lie in the layers
  uint64_t step_ = 0;
  int64_t monitored_ = 0, monitored_rows_ = 0;
  bool updated_ = false;
  Targets<T> targets_;  // of the batch: the buffers below
  double divisor_ = 1;  // of its loss
  Buffer<T> batch_x_, batch_targets_, batch_weight_;
  Buffer<uint16_t> input_mask_;
  Buffer<int64_t> batch_labels_;
  Buffer<double> row_loss_, norm_scratch_;
  Buffer<T> inference_[2];  // outputs of layers in turn, outside training
  Buffer<T> scratch_, running_before_;
  std::vector<Plans> plans_;
};

}  // namespace fanin
