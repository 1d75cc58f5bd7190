// A network of dense layers and its training step on a GPU, with the role of net/network.hpp:
//
//     layer l:  z = h @ w (+ b)   [batch norm]   f(z)   [batch norm]   h' = dropout(.)
//
// All vectors are the caller's and lie in device memory, in the order net/network.hpp says. A step
// is queued on the network's own stream: gathering, forward, loss, backward, penalties, norms,
// update, proximal steps, limits. The first step of its kind is queued kernel by kernel, which lets
// everything be loaded and looked up; the second is captured, and it and all that follow are
// replayed as one graph. What differs from step to step lies in device memory, StepState and Rates
// of core/ops.hpp; the losses of steps stay there too, until the host reads those of many at once.
//
// T is the dtype of the vectors, A that of what is multiplied: T, or bfloat16 with T = float. Then
// activations are kept in bfloat16 and every product adds in float32; the last layer and layers
// with batch norm compute in float32 between their products; the weights are float32, and a copy
// in bfloat16 follows each update.
#pragma once

#include <memory>
#include <vector>

#include "../core/ops.hpp"
#include "../net/layers.hpp"
#include "../net/optimizer.hpp"
#include "device.hpp"

namespace fanin::cuda {

enum class Precision : int { own, bfloat16, tfloat32 };

// What the layers of a network share.
struct NetworkConfig {
  Output output;
  uint64_t seed;
  Precision precision;
  uint32_t input_threshold;  // of 65536: dropout of the inputs
  bool proximal;             // l1 is seen to by a proximal step after each update
  LossForm form{};
};

// Rows of a data set in device memory and what the network is to reproduce for them, `labels` or
// `targets` (or neither, outside training); x, its strides, scale, shift and factor as in Gather.
template <class T>
struct Rows {
  const void* x;
  Source source;
  int64_t row_stride, col_stride;
  double scale = 1;
  const void *shift = nullptr, *factor = nullptr;
  const int64_t* labels = nullptr;
  const T* targets = nullptr;        // (rows, n), contiguous
  const T* sample_weight = nullptr;  // or null
  const T* class_weight = nullptr;   // (n) or null
  double label_smoothing = 0;
  const int64_t* order;  // which of them a call works on

  bool operator==(const Rows&) const = default;
};

// How many steps of how many rows are queued at once, with the optimizer's numbers for each.
struct Steps {
  int64_t first_row;  // in Rows::order
  int64_t rows;       // of each step
  std::vector<Rates> rates;
  uint64_t step;        // of the network, before the first
  int bins = no_stats;  // >= 0: the one step there is is monitored, with so many bins
};

// What the host knows of a layer in a monitored batch.
struct LayerStats {
  Stats stats{};
  std::vector<double> unit_mean;
  std::vector<int64_t> unit_zeros;
  std::vector<int64_t> counts;  // histogram; empty when not made
  std::vector<double> edges;
  double gradient_norm = 0, update_norm = 0;
};

template <class T>
class Network {
 public:
  // The network of these layers; `saturation`: for each layer, between which bounds an activation
  // is not saturated.
  static std::unique_ptr<Network> make(std::vector<LayerConfig> layers, const NetworkConfig&,
                                       std::vector<std::pair<double, double>> saturation,
                                       T* parameters, T* gradients, T* running_mean,
                                       T* running_var);
  virtual ~Network() = default;

  // Room for batches of so many rows. Throws OutOfMemory, and the network is as it was.
  virtual void reserve(int64_t rows, bool training) = 0;

  // What the caller changed in the parameters is seen by what is queued from now on.
  virtual void refresh() = 0;

  // out (m, n), contiguous: logits, or values. Training: masks of `step`, batch statistics, and
  // everything that backward needs is kept.
  virtual void forward(const Rows<T>& rows, int64_t count, bool training, int bins, uint64_t step,
                       T* out) = 0;
  // From dout (m, n), contiguous, the gradients of the last training forward, regularisers
  // included; dx (m, k) when it is not null.
  virtual void backward(const T* dout, T* dx) = 0;
  // Forward in training mode, loss and backward. Returns the loss, penalty included.
  virtual double loss_and_gradients(const Rows<T>& rows, int64_t count, int bins,
                                    uint64_t step) = 0;
  // An update by the gradients as they are, and what follows it.
  virtual void update(const OptimizerRule<T>& rule, const Rates& rates) = 0;
  // What follows an update by something else: limits of norms.
  virtual void limit_norms() = 0;

  // Queues steps; `losses` of them waits for their end and returns each one's, to the first that is
  // not finite: parameters, moments and statistics are then those behind that step.
  virtual void begin(const Rows<T>& rows, const OptimizerRule<T>& rule, Steps steps) = 0;
  virtual std::vector<double> losses() = 0;
  // What a step of so many rows took last, in seconds; 0 before the first.
  virtual double seconds_of_step(int64_t rows) const = 0;

  // Lets these be the penalties of every layer from the next gradients on.
  virtual void set_penalties(double l1, double l2) = 0;
  // Whether steps are captured and replayed, as they are at first.
  virtual void set_replays(bool replays) = 0;

  // The first layer whose outputs for the last training batch are not all finite; the last layer,
  // whose outputs the loss has overwritten, where those of all others are.
  virtual size_t nonfinite_layer() = 0;

  // How many batches were monitored: statistics are of the last one; its rows, 0 when there is
  // none; and whether an update followed.
  int64_t monitored() const { return monitored_; }
  int64_t monitored_rows() const { return monitored_rows_; }
  bool updated() const { return updated_; }
  const LayerStats& stats(size_t layer) const { return stats_.at(layer); }

  int64_t batch_rows() const { return rows_; }  // 0: nothing to go back through
  void* stream() const { return stream_.get(); }
  const std::vector<LayerConfig>& layers() const { return layers_; }

 protected:
  explicit Network(std::vector<LayerConfig> layers);

  const Stream stream_;  // goes last: what lies on it is released before
  std::vector<LayerConfig> layers_;
  std::vector<LayerStats> stats_;
  int64_t rows_ = 0;  // of the last training forward
  int64_t monitored_ = 0, monitored_rows_ = 0;
  bool updated_ = false;
};

}  // namespace fanin::cuda
