// The network on a GPU; see network.hpp.
#include "network.hpp"

#include <algorithm>
#include <bit>
#include <cfloat>
#include <chrono>
#include <cmath>
#include <limits>
#include <map>
#include <stdexcept>
#include <type_traits>

#include "../core/random.hpp"
#include "fused.hpp"
#include "gemm.hpp"
#include "launch.cuh"
#include "table.hpp"

namespace fanin::cuda {
namespace {

constexpr int block = 256;  // threads

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Row stride of an internal buffer: rows begin at whole packs, and whole tiles of tensor cores.
constexpr int64_t padded(int64_t cols) { return divide_up(cols, 16) * 16; }

template <class E>
const Ops<E>& ops() {
  if constexpr (std::is_same_v<E, bfloat16>) {
    return table().bf16;
  } else {
    return ops_of<E>(table().table);
  }
}

// ---- kernels that only a whole step needs

__global__ void set_state(StepState* state, StepState value) { *state = value; }

template <class E>
__global__ void fill(E* values, int64_t count, float value) {
  const int64_t i = int64_t(blockIdx.x) * block + threadIdx.x;
  if (i < count) {
    values[i] = E(value);
  }
}

// Labels were checked on the host; what is none all the same counts as class 0.
__global__ void gather_labels(const int64_t* labels, const int64_t* order, const StepState* state,
                              int64_t rows, int64_t classes, int64_t* out) {
  const int64_t i = int64_t(blockIdx.x) * block + threadIdx.x;
  if (i < rows) {
    const int64_t label = labels[order[state->first_row + i]];
    out[i] = label >= 0 && label < classes ? label : 0;
  }
}

template <class T>
__global__ void gather_targets(const T* targets, const int64_t* order, const StepState* state,
                               int64_t rows, int64_t cols, T* out) {
  const int64_t i = int64_t(blockIdx.x) * block + threadIdx.x;
  if (i < rows * cols) {
    out[i] = targets[order[state->first_row + i / cols] * cols + i % cols];
  }
}

// Weights of the rows of a batch over the sum that its loss is divided by, which only the device
// knows; `per_row`: terms of a row's loss. A batch of weight zero has loss and gradients zero. By
// one block, so that the sum has one order.
template <class T>
__global__ void share_weights(const T* sample_weight, const T* class_weight, const int64_t* labels,
                              const int64_t* order, const StepState* state, int64_t rows,
                              double per_row, T* out) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < rows; i += block) {
    const double weight =
        sample_weight != nullptr ? double(sample_weight[order[state->first_row + i]]) : 1.0;
    sum += labels != nullptr && class_weight != nullptr ? weight * double(class_weight[labels[i]])
                                                        : weight;
  }
  const double divisor = block_sum<block>(sum) * per_row;
  for (int64_t i = threadIdx.x; i < rows; i += block) {
    const double weight =
        sample_weight != nullptr ? double(sample_weight[order[state->first_row + i]]) : 1.0;
    out[i] = divisor > 0 ? T(weight / divisor) : T(0);
  }
}

// Writes down the loss of the step with its penalties, and goes on to the next one.
__global__ void finish_step(StepState* state, const double* loss, const double* penalties,
                            int64_t pieces, int64_t rows, double* losses) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < pieces; i += block) {
    sum += penalties[i];
  }
  sum = block_sum<block>(sum);
  if (threadIdx.x == 0) {
    losses[state->index] = *loss + sum;
    state->index += 1;
    state->first_row += rows;
    state->step += 1;
  }
}

template <class T>
__global__ void subtract(const T* values, T* from_and_out, int64_t count) {
  const int64_t i = int64_t(blockIdx.x) * block + threadIdx.x;
  if (i < count) {
    from_and_out[i] = values[i] - from_and_out[i];
  }
}

template <class E>
__global__ void find_nonfinite(View<const E> a, int* found) {
  const int64_t i = int64_t(blockIdx.x) * block + threadIdx.x;
  if (i < a.rows * a.cols && !isfinite(Wide<E>(a.data[i / a.cols * a.row_stride + i % a.cols]))) {
    *found = 1;  // whoever writes, writes this
  }
}

unsigned blocks_for(int64_t count) { return unsigned(divide_up(count, block)); }

// While it lives, what is queued on the stream becomes a graph and does not run.
class Capture {
 public:
  explicit Capture(cudaStream_t stream) : stream_(stream) {
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "beginning a capture");
  }
  ~Capture() {
    if (stream_ != nullptr) {  // something was thrown meanwhile
      cudaGraph_t graph = nullptr;
      cudaStreamEndCapture(stream_, &graph);
      if (graph != nullptr) {
        cudaGraphDestroy(graph);
      }
      cudaGetLastError();
    }
  }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  cudaGraphExec_t end() {
    cudaGraph_t graph = nullptr;
    check(cudaStreamEndCapture(std::exchange(stream_, nullptr), &graph), "ending a capture");
    cudaGraphExec_t made = nullptr;
    const cudaError_t status = cudaGraphInstantiate(&made, graph, 0);
    cudaGraphDestroy(graph);
    check(status, "making a graph");
    return made;
  }

 private:
  cudaStream_t stream_;
};

struct GraphEnd {
  void operator()(CUgraphExec_st* graph) const noexcept { cudaGraphExecDestroy(graph); }
};

}  // namespace

template <class T>
Network<T>::Network(std::vector<LayerConfig> layers)
    : layers_(std::move(layers)), stats_(layers_.size()) {}

namespace {

template <class T, class A>
class NetworkOf final : public Network<T> {
 public:
  NetworkOf(std::vector<LayerConfig> layers, const NetworkConfig& config,
            std::vector<std::pair<double, double>> saturation, T* parameters, T* gradients,
            T* running_mean, T* running_var);

  void reserve(int64_t rows, bool training) override;
  void refresh() override { lower_weights(context()); }
  void forward(const Rows<T>& rows, int64_t count, bool training, int bins, uint64_t step,
               T* out) override;
  void backward(const T* dout, T* dx) override;
  double loss_and_gradients(const Rows<T>& rows, int64_t count, int bins, uint64_t step) override;
  void update(const OptimizerRule<T>& rule, const Rates& rates) override;
  void limit_norms() override;
  void begin(const Rows<T>& rows, const OptimizerRule<T>& rule, Steps steps) override;
  std::vector<double> losses() override;
  double seconds_of_step(int64_t rows) const override;
  void set_penalties(double l1, double l2) override;
  void set_replays(bool replays) override { replays_ = replays; }
  size_t nonfinite_layer() override;

 private:
  using Network<T>::layers_;
  using Network<T>::rows_;
  using Network<T>::stats_;

  static constexpr bool lowered = !std::is_same_v<A, T>;

  // Where a layer's parameters lie in the flat vectors; `unit`: in those of the running statistics.
  struct Place {
    int64_t weight, other, gamma, unit;  // other: bias, gamma, beta
    int64_t penalties;                   // in penalties_
  };
  // What a batch leaves in a layer: in the type its elementwise passes compute in, E, which is T
  // where there is batch norm and in the last layer, else A.
  template <class E>
  struct Kept {
    Memory<E> a, z, dz;
  };
  struct State {
    Kept<T> own;
    Kept<A> low;  // where A is not T: of layers in A; and what products read of those in T
    Memory<A> weight;
    Memory<T> x_hat, inv_std;
    Memory<uint16_t> mask;
    Memory<double> unit_mean;
    Memory<int64_t> unit_zeros;
    int64_t stride;  // of rows of all these
  };
  // How a forward pass is done. Outside training nothing but outputs is written.
  struct How {
    bool training;
    int bins;
    bool monitored() const { return bins >= 0; }
  };
  // What the rows of the batch are to reproduce.
  struct Targets {
    const int64_t* labels = nullptr;
    View<const T> targets{};
    const T* sample_weight = nullptr;
    const T* class_weight = nullptr;
    double label_smoothing = 0;
  };
  // Steps of one kind, which differ in nothing but what lies in device memory.
  struct Kind {
    int64_t rows;
    Rows<T> data;
    OptimizerRule<T> rule;
    std::unique_ptr<CUgraphExec_st, GraphEnd> graph;
  };

  cudaStream_t stream() const { return static_cast<cudaStream_t>(Network<T>::stream()); }
  Context context(int number = 0) const;
  template <class E>
  void fit(Memory<E>& memory, int64_t count);
  template <class E>
  std::vector<E> fetch(const E* from, int64_t count) const;
  void go_to(int64_t first_row, uint64_t step);

  // The layer's elementwise passes are in T.
  bool in_own(size_t l) const {
    return !lowered || layers_[l].normalised() || l + 1 == layers_.size();
  }
  template <class E>
  Kept<E>& kept_of(size_t l) {
    if constexpr (std::is_same_v<E, T>) {
      return states_[l].own;
    } else {
      return states_[l].low;
    }
  }
  template <class E>
  View<E> view_of(size_t l, const Memory<E>& memory, int64_t rows) const {
    return rows_of(memory.data(), rows, layers_[l].fan_out, states_[l].stride);
  }
  // What products read: the outputs of a layer, the gradient of its z, its weights.
  View<A> a_of(size_t l) { return view_of(l, kept_of<A>(l).a, rows_); }
  template <class E>
  View<E> dz_of(size_t l) {
    Kept<E>& kept = kept_of<E>(l);
    const bool in_place = std::is_same_v<E, T> && l + 1 == layers_.size();  // of the loss
    return view_of(l, in_place ? kept.a : kept.dz, rows_);
  }
  View<const A> weight_of(size_t l) const;
  View<T> flat_weight(size_t l, T* vector) const {
    const LayerConfig& layer = layers_[l];
    return rows_of(vector + places_[l].weight, layer.fan_in, layer.fan_out, layer.fan_out);
  }
  template <class E>
  const E* bias_of(size_t l) const;
  template <class E>
  View<const E> saved_of(size_t l) {
    Kept<E>& kept = kept_of<E>(l);
    return view_of(l, kept.z.data() != nullptr ? kept.z : kept.a, rows_);
  }
  View<const A> input_of(size_t l) {
    if (l > 0) {
      return a_of(l - 1);
    }
    const int64_t k = layers_.front().fan_in;
    return rows_of<const A>(batch_x_.data(), rows_, k, padded(k));
  }
  Dropout dropout_of(size_t l) const {
    return {layers_[l].dropout_threshold, config_.seed, 0, uint32_t(l), 0, 0};
  }
  View<uint16_t> mask_of(size_t l) const {
    const int64_t words = mask_words(layers_[l].fan_out);
    return rows_of(states_[l].mask.data(), rows_, words, words);
  }
  Dropout input_dropout() const {
    return {config_.input_threshold, config_.seed, 0, input_layer, 0, 0};
  }
  View<uint16_t> input_mask() const {
    const int64_t words = mask_words(layers_.front().fan_in);
    return rows_of(input_mask_.data(), rows_, words, words);
  }

  // The pieces of a step.
  void lower_weights(const Context&);
  void gather(const Context&, const Rows<T>&, View<A> to);
  void gather_wanted(const Context&, const Rows<T>&);
  void forward(const Context&, const Rows<T>&, int64_t count, How);
  template <class E>
  void forward_layer(const Context&, size_t l, View<const A> h, View<E> a, How);
  void normalise(const Context&, size_t l, View<const T> x, View<T> y, How);
  template <class E>
  void drop(const Context&, View<E> a, const Dropout&, View<uint16_t> mask);
  void loss(const Context&);
  void gradients(const Context&);
  void weight_gradients(const Context&, size_t l);
  void bias_gradients(const Context&, size_t l);
  void backward_into(const Context&, size_t l);
  void normalise_backward(const Context&, size_t l);
  void update(const Context&, const OptimizerRule<T>&);
  void constrain(const Context&, const OptimizerRule<T>*, const Update<T>&);
  void step(const Context&, const Rows<T>&, const OptimizerRule<T>&, int64_t count, int bins);
  void step_by_layers(const Context&, const Rows<T>&, const OptimizerRule<T>&, int64_t count,
                      int bins);
  void finish(const Context&);
  // The same in whole kernels (fused.hpp), where they cover the network.
  FusedNetwork fused_network() const;
  bool is_fused(const OptimizerRule<T>&, int bins) const;
  Gather<T> fused_inputs(const Rows<T>&, int64_t count) const;
  void step_fused(const Context&, const Rows<T>&, const OptimizerRule<T>&, int64_t count);
  Kind* known_kind(int64_t rows);
  void queue_steps(int64_t count);
  void keep_vectors(bool back);

  void begin_monitoring(int64_t rows);
  void watch(const Context&, size_t l, View<const T> f, int bins);
  void count_histogram(const Context&, size_t l, View<const T> f, int bins);
  void watch_gradients(const Context&);
  void watch_update(const Context&);
  double norm_of(Context, const T* vector, int64_t count);

  const NetworkConfig config_;
  const std::vector<std::pair<double, double>> saturation_;
  T *parameters_, *gradients_, *running_mean_, *running_var_;
  int64_t count_ = 0, running_count_ = 0, penalty_count_ = 0;
  std::vector<Place> places_;
  std::vector<State> states_;

  Memory<StepState> state_;
  Memory<Rates> rates_;
  Memory<double> losses_, numbers_;  // numbers_: the loss, a norm
  Memory<double> penalties_, row_loss_, squares_, edges_;
  Memory<int64_t> counts_;
  Memory<Stats> stats_memory_;
  Memory<int> found_;
  Memory<uint8_t> decay_mask_;
  Memory<A> batch_x_, ones_;
  Memory<uint16_t> input_mask_;
  Memory<T> batch_targets_, batch_weight_, scratch_, watched_, before_;
  Memory<int64_t> batch_labels_;
  Memory<T> kept_vectors_;  // from before the steps that are queued
  FusedNetwork fused_{};    // of no layers where whole kernels do not cover them
  Memory<unsigned char> fused_scratch_;
  // Outside training, outputs of layers in turn, so that what backward needs stays.
  Memory<A> infer_x_, infer_[2];
  Memory<T> infer_own_, infer_inv_std_;

  int64_t trained_rows_ = 0;  // of the training batch whose outputs still lie in the layers
  Targets targets_;
  double divisor_ = 1;
  bool replays_ = true;
  std::vector<Kind> kinds_;
  std::map<int64_t, double> seconds_;  // rows, what a step of so many took last

  // Steps that are queued.
  Steps queued_{};
  Rows<T> queued_data_{};
  OptimizerRule<T> queued_rule_{};
  Clock::time_point queued_at_;
};

template <class T, class A>
NetworkOf<T, A>::NetworkOf(std::vector<LayerConfig> layers, const NetworkConfig& config,
                           std::vector<std::pair<double, double>> saturation, T* parameters,
                           T* gradients, T* running_mean, T* running_var)
    : Network<T>(std::move(layers)),
      config_(config),
      saturation_(std::move(saturation)),
      parameters_(parameters),
      gradients_(gradients),
      running_mean_(running_mean),
      running_var_(running_var),
      states_(layers_.size()) {
  int64_t widest = 0;
  for (size_t l = 0; l < layers_.size(); ++l) {
    const LayerConfig& layer = layers_[l];
    const int64_t other = count_ + layer.weights();
    places_.push_back({count_, other, other + (layer.has_bias() ? layer.fan_out : 0),
                       running_count_, penalty_count_});
    count_ += layer.parameters();
    running_count_ += layer.normalised() ? layer.fan_out : 0;
    penalty_count_ += layer.fan_in * penalty_pieces(layer.fan_out);
    widest = std::max(widest, layer.fan_out);
    State& state = states_[l];
    state.stride = padded(layer.fan_out);
    if (lowered) {
      fit(state.weight, (layer.parameters() / layer.fan_out) * state.stride);
    }
    if (layer.normalised()) {
      fit(state.inv_std, layer.fan_out);
    }
  }
  fit(state_, 1);
  fit(numbers_, 2);
  fit(squares_, norm_pieces(count_));
  fit(infer_inv_std_, widest);
  fit(losses_, 1);
  fit(rates_, 1);
  set_penalties(-1, -1);
  // AdamW's decay is of weights alone.
  fit(decay_mask_, count_);
  clear(decay_mask_.data(), size_t(count_), stream());
  for (size_t l = 0; l < layers_.size(); ++l) {
    const int64_t weights = layers_[l].weights();
    launch(fill<uint8_t>, blocks_for(weights), block, 0, stream(),
           decay_mask_.data() + places_[l].weight, weights, 1.0f);
  }
  fused_ = fused_network();
}

// Those of the layers stay where these are below 0.
template <class T, class A>
void NetworkOf<T, A>::set_penalties(double l1, double l2) {
  const bool any = std::any_of(layers_.begin(), layers_.end(),
                               [](const LayerConfig& layer) { return layer.penalised(); });
  if (any || l1 > 0 || l2 > 0) {
    fit(penalties_, penalty_count_);  // before anything changes: there may be no memory
    clear(penalties_.data(), size_t(penalty_count_) * sizeof(double), stream());
  }
  for (LayerConfig& layer : layers_) {
    layer.l1 = l1 >= 0 ? l1 : layer.l1;
    layer.l2 = l2 >= 0 ? l2 : layer.l2;
  }
  kinds_.clear();
}

// ---- memory

template <class T, class A>
Context NetworkOf<T, A>::context(int number) const {
  Context context;
  context.stream = stream();
  context.state = state_.data();
  context.rates = rates_.data();
  context.number = numbers_.data() + number;
  context.tf32 = config_.precision == Precision::tfloat32;
  return context;
}

// Room for so many elements. What lay there goes first; captured steps knew where.
template <class T, class A>
template <class E>
void NetworkOf<T, A>::fit(Memory<E>& memory, int64_t count) {
  if (count > memory.size()) {
    kinds_.clear();
    memory = Memory<E>();
    memory.reserve(count, stream());
  }
}

template <class T, class A>
template <class E>
std::vector<E> NetworkOf<T, A>::fetch(const E* from, int64_t count) const {
  std::vector<E> values(static_cast<size_t>(count));
  copy(values.data(), from, size_t(count) * sizeof(E), stream());
  synchronize(stream());
  return values;
}

template <class T, class A>
void NetworkOf<T, A>::reserve(int64_t rows, bool training) {
  int64_t widest = 0, scratch = 0;
  for (size_t l = 0; l < layers_.size(); ++l) {
    const LayerConfig& layer = layers_[l];
    widest = std::max(widest, states_[l].stride);
    scratch = std::max({scratch, moments_size<T>(rows, layer.fan_out),
                        2 * column_sum_scratch(rows, layer.fan_out)});
  }
  const int64_t x_size = rows * padded(layers_.front().fan_in);
  if (!training) {
    fit(infer_x_, x_size);
    fit(infer_[0], rows * widest);
    fit(infer_[1], rows * widest);
    if (lowered) {
      fit(infer_own_, rows * widest);
    }
    return;
  }
  rows_ = trained_rows_ = 0;  // until a batch lies there
  fit(scratch_, scratch);
  fit(batch_x_, x_size);
  fit(row_loss_, rows);
  fit(batch_labels_, rows);
  fit(batch_weight_, rows);
  fit(batch_targets_, rows * layers_.back().fan_out);
  if (config_.input_threshold > 0) {
    fit(input_mask_, rows * mask_words(layers_.front().fan_in));
  }
  if (lowered && rows > ones_.size()) {
    fit(ones_, rows);
    launch(fill<A>, blocks_for(rows), block, 0, stream(), ones_.data(), rows, 1.0f);
  }
  for (size_t l = 0; l < layers_.size(); ++l) {
    const LayerConfig& layer = layers_[l];
    State& state = states_[l];
    const int64_t size = rows * state.stride;
    const bool last = l + 1 == layers_.size();
    const bool keeps_z = needs_z(layer.activation) || layer.batch_norm == BatchNorm::after;
    const auto fit_all = [&](auto& kept) {
      fit(kept.a, size);
      fit(kept.z, keeps_z ? size : 0);
      fit(kept.dz, last ? 0 : size);
    };
    if (in_own(l)) {
      fit_all(state.own);
      if (lowered) {  // what products read of it
        fit(state.low.a, last ? 0 : size);
        fit(state.low.dz, size);
      }
    } else {
      fit_all(state.low);
    }
    fit(state.x_hat, layer.normalised() ? size : 0);
    fit(state.mask, layer.dropout_threshold > 0 ? rows * mask_words(layer.fan_out) : 0);
  }
}

// The next step is this one, on the rows from there.
template <class T, class A>
void NetworkOf<T, A>::go_to(int64_t first_row, uint64_t step) {
  launch(set_state, 1, 1, 0, stream(), state_.data(), StepState{first_row, 0, step});
}

template <class T, class A>
View<const A> NetworkOf<T, A>::weight_of(size_t l) const {
  const LayerConfig& layer = layers_[l];
  if constexpr (lowered) {
    return rows_of<const A>(states_[l].weight.data(), layer.fan_in, layer.fan_out,
                            states_[l].stride);
  } else {
    return flat_weight(l, parameters_);
  }
}

template <class T, class A>
template <class E>
const E* NetworkOf<T, A>::bias_of(size_t l) const {
  if constexpr (std::is_same_v<E, T>) {
    return layers_[l].has_bias() ? parameters_ + places_[l].other : nullptr;
  } else {  // the row behind the weights
    return states_[l].weight.data() + layers_[l].fan_in * states_[l].stride;
  }
}

// ---- the pieces of a step

// Brings the copy that products read up to date: w, and what lies behind it, as further rows.
template <class T, class A>
void NetworkOf<T, A>::lower_weights(const Context& context) {
  if constexpr (lowered) {
    for (size_t l = 0; l < layers_.size(); ++l) {
      const int64_t n = layers_[l].fan_out, rows = layers_[l].parameters() / n;
      convert<T, A>(context, rows_of<const T>(parameters_ + places_[l].weight, rows, n, n),
                    rows_of(states_[l].weight.data(), rows, n, states_[l].stride));
    }
  }
}

template <class T, class A>
void NetworkOf<T, A>::gather(const Context& context, const Rows<T>& rows, View<A> to) {
  ops<A>().gather(context, {rows.x, rows.source, rows.row_stride, rows.col_stride, rows.order,
                            rows.scale, rows.shift, rows.factor, to});
}

// What the rows of the batch are to reproduce.
template <class T, class A>
void NetworkOf<T, A>::gather_wanted(const Context& context, const Rows<T>& from) {
  const int64_t n = layers_.back().fan_out;
  targets_ = {};
  targets_.label_smoothing = from.label_smoothing;
  targets_.class_weight = from.class_weight;
  if (from.labels != nullptr) {
    launch(gather_labels, blocks_for(rows_), block, 0, stream_of(context), from.labels, from.order,
           context.state, rows_, n, batch_labels_.data());
    targets_.labels = batch_labels_.data();
  } else {
    launch(gather_targets<T>, blocks_for(rows_ * n), block, 0, stream_of(context), from.targets,
           from.order, context.state, rows_, n, batch_targets_.data());
    targets_.targets = rows_of<const T>(batch_targets_.data(), rows_, n, n);
  }
  const int64_t per_row = config_.output == Output::softmax ? 1 : n;
  divisor_ = double(rows_ * per_row);
  if (from.sample_weight != nullptr || from.class_weight != nullptr) {
    launch(share_weights<T>, 1, block, 0, stream_of(context), from.sample_weight, from.class_weight,
           targets_.labels, from.order, context.state, rows_, double(per_row),
           batch_weight_.data());
    targets_.sample_weight = batch_weight_.data();
    divisor_ = 1;
  }
}

// Dropout in place.
template <class T, class A>
template <class E>
void NetworkOf<T, A>::drop(const Context& context, View<E> a, const Dropout& dropout,
                           View<uint16_t> mask) {
  ops<E>().activation_forward(context,
                              {a, nullptr, a, {}, Activation::identity, dropout, mask, {}});
}

template <class T, class A>
void NetworkOf<T, A>::normalise(const Context& context, size_t l, View<const T> x, View<T> y,
                                How how) {
  const LayerConfig& layer = layers_[l];
  State& state = states_[l];
  const T* gamma = parameters_ + places_[l].gamma;
  const int64_t unit = places_[l].unit;
  ops<T>().batch_norm_forward(
      context, {x, gamma, gamma + layer.fan_out, running_mean_ + unit, running_var_ + unit, y,
                how.training ? view_of(l, state.x_hat, rows_) : View<T>{},
                how.training ? state.inv_std.data() : infer_inv_std_.data(), how.training,
                batch_norm_momentum, batch_norm_eps, scratch_.data()});
}

// One layer, whose passes are in E; its end is a. Statistics are of f(z), before dropout: then
// dropout is a pass of its own.
template <class T, class A>
template <class E>
void NetworkOf<T, A>::forward_layer(const Context& context, size_t l, View<const A> h, View<E> a,
                                    How how) {
  const LayerConfig& layer = layers_[l];
  const bool after = layer.batch_norm == BatchNorm::after;
  const bool apart = after || (how.monitored() && std::is_same_v<E, T>);  // dropout
  const Dropout dropout = how.training ? dropout_of(l) : Dropout{};
  const Dropout here = apart ? Dropout{} : dropout;
  const View<uint16_t> mask = mask_of(l);
  View<E> z{}, f = a;
  if (how.training) {
    const View<E> kept = view_of(l, kept_of<E>(l).z, rows_);
    if (needs_z(layer.activation)) {
      z = kept;
    } else if (after) {  // it overwrites a, and backward needs f(z)
      f = kept;
    }
  }
  const bool fused = std::is_same_v<E, A> && layer.batch_norm != BatchNorm::before;
  if constexpr (std::is_same_v<E, A>) {
    if (fused) {
      ops<E>().dense_forward(
          context, {h, weight_of(l), bias_of<E>(l), f, z, layer.activation, here, mask, {}});
    }
  }
  if (!fused) {
    product<A, E>(context, h, weight_of(l), f);
    if constexpr (std::is_same_v<E, T>) {
      if (layer.batch_norm == BatchNorm::before) {
        normalise(context, l, f, f, how);
      }
    }
    ops<E>().activation_forward(context,
                                {f, bias_of<E>(l), f, z, layer.activation, here, mask, {}});
  }
  if constexpr (std::is_same_v<E, T>) {
    if (how.monitored()) {
      watch(context, l, f, how.bins);
    }
    if (after) {
      normalise(context, l, f, a, how);
    }
  } else if (how.monitored()) {  // in float32, beside what the step itself computes
    const View<T> beside = rows_of(watched_.data(), h.rows, layer.fan_out, states_[l].stride);
    product<A, T>(context, h, weight_of(l), beside);
    ops<T>().activation_forward(context,
                                {beside, bias_of<T>(l), beside, {}, layer.activation, {}, {}, {}});
    watch(context, l, beside, how.bins);
  }
  if (apart && dropout.threshold > 0) {
    drop(context, a, dropout, mask);
  }
}

// Forward in training mode, of the rows the state says.
template <class T, class A>
void NetworkOf<T, A>::forward(const Context& context, const Rows<T>& rows, int64_t count, How how) {
  rows_ = trained_rows_ = count;
  const int64_t k = layers_.front().fan_in;
  const View<A> x = rows_of(batch_x_.data(), count, k, padded(k));
  gather(context, rows, x);
  if (config_.input_threshold > 0) {
    drop(context, x, input_dropout(), input_mask());
  }
  for (size_t l = 0; l < layers_.size(); ++l) {
    if (in_own(l)) {
      const View<T> a = view_of(l, states_[l].own.a, count);
      forward_layer<T>(context, l, input_of(l), a, how);
      if constexpr (lowered) {
        if (l + 1 < layers_.size()) {
          convert<T, A>(context, a, a_of(l));
        }
      }
    } else {
      forward_layer<A>(context, l, input_of(l), a_of(l), how);
    }
  }
}

// The loss of the batch; logits, or outputs, become its gradient.
template <class T, class A>
void NetworkOf<T, A>::loss(const Context& context) {
  const size_t last = layers_.size() - 1;
  const View<T> z = view_of(last, states_[last].own.a, rows_);
  const Loss<T> loss{z,
                     targets_.labels,
                     targets_.targets,
                     targets_.sample_weight,
                     targets_.class_weight,
                     targets_.label_smoothing,
                     divisor_,
                     z,
                     row_loss_.data(),
                     config_.form};
  switch (config_.output) {
    case Output::softmax:
      ops<T>().softmax_cross_entropy(context, loss);
      break;
    case Output::sigmoid:
      ops<T>().sigmoid_cross_entropy(context, loss);
      break;
    case Output::identity:
      ops<T>().mean_squared_error(context, loss);
      break;
  }
}

// dw, penalty included.
template <class T, class A>
void NetworkOf<T, A>::weight_gradients(const Context& context, size_t l) {
  const LayerConfig& layer = layers_[l];
  const View<T> dw = flat_weight(l, gradients_);
  product<A, T>(context, input_of(l).transposed(), dz_of<A>(l), dw);
  if (layer.penalised()) {
    ops<T>().regularise(context, flat_weight(l, parameters_), dw, layer.l1, layer.l2,
                        config_.proximal ? 0 : layer.l1,
                        rows_of(penalties_.data() + places_[l].penalties, layer.fan_in,
                                penalty_pieces(layer.fan_out), penalty_pieces(layer.fan_out)));
  }
}

// db where it was not made on the way back, as dgamma and dbeta were.
template <class T, class A>
void NetworkOf<T, A>::bias_gradients(const Context& context, size_t l) {
  T* const db = gradients_ + places_[l].other;
  if (l + 1 == layers_.size()) {
    ops<T>().column_sums(context, dz_of<T>(l), db);
  } else if (!in_own(l)) {  // summed in float32 and not rounded to A
    const int64_t n = layers_[l].fan_out;
    product<A, T>(context, rows_of<const A>(ones_.data(), 1, rows_, rows_), dz_of<A>(l),
                  rows_of(db, 1, n, n));
  }
}

// dz of layer l, from that of the layer above; where it has batch norm, what goes into its backward
// first: through dropout alone where it comes after the activation.
template <class T, class A>
void NetworkOf<T, A>::backward_into(const Context& context, size_t l) {
  const LayerConfig& layer = layers_[l];
  const Activation behind_dropout =
      layer.batch_norm == BatchNorm::after ? Activation::identity : layer.activation;
  const View<const A> dz_above = dz_of<A>(l + 1), w_above = weight_of(l + 1);
  T* const db = layer.normalised() ? nullptr : gradients_ + places_[l].other;
  if constexpr (!lowered) {
    ops<T>().dense_backward(context, {dz_above,
                                      w_above,
                                      {{},
                                       saved_of<T>(l),
                                       dz_of<T>(l),
                                       behind_dropout,
                                       dropout_of(l),
                                       mask_of(l),
                                       db,
                                       scratch_.data()}});
  } else if (in_own(l)) {
    const View<T> dz = dz_of<T>(l);
    product<A, T>(context, dz_above, w_above.transposed(), dz);
    ops<T>().activation_backward(
        context, {dz, saved_of<T>(l), dz, behind_dropout, dropout_of(l), mask_of(l)});
  } else {
    ops<A>().dense_backward(
        context, {dz_above,
                  w_above,
                  {{}, saved_of<A>(l), dz_of<A>(l), behind_dropout, dropout_of(l), mask_of(l)}});
  }
  if (layer.normalised()) {
    normalise_backward(context, l);
  }
  if constexpr (lowered) {
    if (in_own(l)) {
      convert<T, A>(context, dz_of<T>(l), dz_of<A>(l));
    }
  }
}

template <class T, class A>
void NetworkOf<T, A>::normalise_backward(const Context& context, size_t l) {
  const LayerConfig& layer = layers_[l];
  const int64_t gamma = places_[l].gamma;
  const View<T> dz = dz_of<T>(l);
  ops<T>().batch_norm_backward(
      context,
      {dz, view_of(l, states_[l].x_hat, rows_), parameters_ + gamma, states_[l].inv_std.data(), dz,
       gradients_ + gamma, gradients_ + gamma + layer.fan_out, true, scratch_.data()});
  if (layer.batch_norm == BatchNorm::after) {
    ops<T>().activation_backward(context, {dz,
                                           saved_of<T>(l),
                                           dz,
                                           layer.activation,
                                           {},
                                           {},
                                           gradients_ + places_[l].other,
                                           scratch_.data()});
  }
}

// All gradients, from the last layer's dz.
template <class T, class A>
void NetworkOf<T, A>::gradients(const Context& context) {
  const size_t last = layers_.size() - 1;
  if constexpr (lowered) {
    convert<T, A>(context, dz_of<T>(last), dz_of<A>(last));
  }
  for (size_t l = last + 1; l-- > 0;) {
    weight_gradients(context, l);
    bias_gradients(context, l);
    if (l > 0) {
      backward_into(context, l - 1);
    }
  }
}

// The optimizer's step over the whole flat vector at once, and what follows it. Its rates are read
// in device memory.
template <class T, class A>
void NetworkOf<T, A>::update(const Context& context, const OptimizerRule<T>& rule) {
  const T* const gradients = gradients_;
  Update<T> update = part_of(rule, update_of(rule, 0, 0), parameters_, gradients, 0, count_);
  if (rule.weight_decay != 0) {
    update.decay_mask = decay_mask_.data();
  }
  if (rule.clip_norm < unlimited) {
    Context with_norm = context;
    with_norm.number = numbers_.data() + 1;
    ops<T>().norm(with_norm, gradients_, count_, rule.clip_value, squares_.data());
    update.norm = with_norm.number;
    update.clip_norm = rule.clip_norm;
  }
  switch (rule.rule) {
    case Rule::sgd:
      ops<T>().sgd(context, update);
      break;
    case Rule::rmsprop:
      ops<T>().rmsprop(context, update);
      break;
    case Rule::adam:
    case Rule::adamw:
      ops<T>().adam(context, update);
      break;
  }
  constrain(context, &rule, update);
  lower_weights(context);
}

// Proximal steps, where there is a rule they belong to, and limits of norms.
template <class T, class A>
void NetworkOf<T, A>::constrain(const Context& context, const OptimizerRule<T>* rule,
                                const Update<T>& update) {
  for (size_t l = 0; l < layers_.size(); ++l) {
    const LayerConfig& layer = layers_[l];
    if (rule != nullptr && config_.proximal && layer.l1 > 0) {
      const T* none = nullptr;
      ops<T>().shrink(context,
                      part_of(*rule, update, parameters_, none, places_[l].weight, layer.weights()),
                      layer.l1);
    }
    if (layer.max_norm < unlimited) {
      ops<T>().limit_norms(context, flat_weight(l, parameters_), layer.max_norm);
    }
  }
}

// A whole step; bins >= 0: a monitored one, which waits for its statistics on the way.
template <class T, class A>
void NetworkOf<T, A>::step(const Context& context, const Rows<T>& rows,
                           const OptimizerRule<T>& rule, int64_t count, int bins) {
  if (is_fused(rule, bins)) {
    step_fused(context, rows, rule, count);
    return;
  }
  step_by_layers(context, rows, rule, count, bins);
}

template <class T, class A>
void NetworkOf<T, A>::step_by_layers(const Context& context, const Rows<T>& rows,
                                     const OptimizerRule<T>& rule, int64_t count, int bins) {
  forward(context, rows, count, {true, bins});
  gather_wanted(context, rows);
  loss(context);
  gradients(context);
  if (bins >= 0) {
    watch_gradients(context);
  }
  update(context, rule);
  if (bins >= 0) {
    watch_update(context);
  }
  finish(context);
}

template <class T, class A>
void NetworkOf<T, A>::finish(const Context& context) {
  launch(finish_step, 1, block, 0, stream(), state_.data(), context.number, penalties_.data(),
         penalties_.data() != nullptr ? penalty_count_ : 0, rows_, losses_.data());
}

// ---- whole kernels

template <class T, class A>
FusedNetwork NetworkOf<T, A>::fused_network() const {
  FusedNetwork network{};
  if (!std::is_same_v<T, float> || layers_.size() > size_t(fused_deepest)) {
    return network;
  }
  network.product = lowered                                    ? FusedProduct::bfloat16
                    : config_.precision == Precision::tfloat32 ? FusedProduct::tf32
                                                               : FusedProduct::float32;
  network.seed = config_.seed;
  network.input_threshold = config_.input_threshold;
  for (const LayerConfig& layer : layers_) {
    if (layer.normalised() || std::max(layer.fan_in, layer.fan_out) > fused_widest) {
      return {};
    }
    network.layers[network.count++] = {int(layer.fan_in), int(layer.fan_out), layer.activation,
                                       layer.dropout_threshold};
  }
  return fused_supports(network) ? network : FusedNetwork{};
}

// Whether a step of this kind is. Statistics, penalties and what follows an update are not in it.
template <class T, class A>
bool NetworkOf<T, A>::is_fused(const OptimizerRule<T>& rule, int bins) const {
  return fused_.count > 0 && bins < 0 && rule.clip_norm == unlimited &&
         std::none_of(
             layers_.begin(), layers_.end(),
             [](const LayerConfig& layer) {
               return layer.penalised() || layer.max_norm < unlimited;
             });
}

template <class T, class A>
Gather<T> NetworkOf<T, A>::fused_inputs(const Rows<T>& rows, int64_t count) const {
  const int64_t k = layers_.front().fan_in;
  return {rows.x,     rows.source, rows.row_stride, rows.col_stride,          rows.order,
          rows.scale, rows.shift,  rows.factor,     {nullptr, count, k, k, 1}};
}

template <class T, class A>
void NetworkOf<T, A>::step_fused(const Context& context, const Rows<T>& rows,
                                 const OptimizerRule<T>& rule, int64_t count) {
  if constexpr (std::is_same_v<T, float>) {
    const int64_t n = layers_.back().fan_out;
    rows_ = count;
    trained_rows_ = 0;  // no layer's outputs are left
    const FusedTargets targets{FusedLoss(int(config_.output)),
                               rows.labels,
                               rows_of(rows.targets, count, n, n),
                               rows.sample_weight,
                               rows.class_weight,
                               rows.label_smoothing,
                               config_.form};
    const T* const none = nullptr;
    const FusedUpdate update{rule.rule == Rule::sgd       ? FusedRule::sgd
                             : rule.rule == Rule::rmsprop ? FusedRule::rmsprop
                                                          : FusedRule::adam,
                             part_of(rule, update_of(rule, 0, 0), parameters_, none, 0, count_)};
    fused_step(context, fused_, parameters_, fused_inputs(rows, count), targets, 0, gradients_,
               &update, fused_scratch_.data());
    finish(context);
  }
}

// ---- whole batches

template <class T, class A>
void NetworkOf<T, A>::forward(const Rows<T>& rows, int64_t count, bool training, int bins,
                              uint64_t step, T* out) {
  const Context context = this->context();
  const int64_t n = layers_.back().fan_out;
  const View<T> outputs = rows_of(out, count, n, n);
  if constexpr (std::is_same_v<T, float>) {
    if (!training && bins < 0 && fused_.count > 0) {
      go_to(0, step);
      fused_forward(context, fused_, parameters_, fused_inputs(rows, count), outputs);
      return;
    }
  }
  reserve(count, training);
  if (bins >= 0) {
    begin_monitoring(count);
  }
  go_to(0, step);
  const size_t last = layers_.size() - 1;
  if (training) {
    forward(context, rows, count, {true, bins});
    convert<T, T>(context, view_of(last, states_[last].own.a, count), outputs);
    return;
  }
  const int64_t k = layers_.front().fan_in;
  const View<A> x = rows_of(infer_x_.data(), count, k, padded(k));
  gather(context, rows, x);
  View<const A> h = x;
  const How how{false, bins};
  for (size_t l = 0; l <= last; ++l) {
    const View<A> a = view_of(l, infer_[l % 2], count);
    if (l == last) {
      forward_layer<T>(context, l, h, outputs, how);
    } else if (!in_own(l) || !lowered) {
      forward_layer<A>(context, l, h, a, how);
    } else {
      const View<T> own = view_of(l, infer_own_, count);
      forward_layer<T>(context, l, h, own, how);
      if constexpr (lowered) {
        convert<T, A>(context, own, a);
      }
    }
    h = a;
  }
}

template <class T, class A>
void NetworkOf<T, A>::backward(const T* dout, T* dx) {
  const Context context = this->context();
  const int64_t n = layers_.back().fan_out, k = layers_.front().fan_in;
  convert<T, T>(context, rows_of(dout, rows_, n, n), dz_of<T>(layers_.size() - 1));
  gradients(context);
  if (dx == nullptr) {
    return;
  }
  const View<T> dx_view = rows_of(dx, rows_, k, k);
  product<A, T>(context, dz_of<A>(0), weight_of(0).transposed(), dx_view);
  if (config_.input_threshold > 0) {
    ops<T>().activation_backward(
        context, {dx_view, dx_view, dx_view, Activation::identity, input_dropout(), input_mask()});
  }
}

template <class T, class A>
double NetworkOf<T, A>::loss_and_gradients(const Rows<T>& rows, int64_t count, int bins,
                                           uint64_t step) {
  const Context context = this->context();
  reserve(count, true);
  fit(losses_, 1);
  if (bins >= 0) {
    begin_monitoring(count);
  }
  go_to(0, step);
  forward(context, rows, count, {true, bins});
  gather_wanted(context, rows);
  loss(context);
  gradients(context);
  finish(context);
  return fetch(losses_.data(), 1)[0];
}

template <class T, class A>
void NetworkOf<T, A>::update(const OptimizerRule<T>& rule, const Rates& rates) {
  fit(rates_, 1);  // there is none where there was no memory for many
  go_to(0, 0);
  copy(rates_.data(), &rates, sizeof(Rates), stream());
  update(context(), rule);
  synchronize(stream());
}

template <class T, class A>
void NetworkOf<T, A>::limit_norms() {
  constrain(context(), nullptr, {});
  synchronize(stream());
}

// ---- many steps

// The kind of these steps among the few that came last, or null.
template <class T, class A>
typename NetworkOf<T, A>::Kind* NetworkOf<T, A>::known_kind(int64_t rows) {
  for (auto kind = kinds_.begin(); kind != kinds_.end(); ++kind) {
    if (kind->rows == rows && kind->data == queued_data_ && kind->rule == queued_rule_) {
      std::rotate(kind, kind + 1, kinds_.end());
      return &kinds_.back();
    }
  }
  return nullptr;
}

// Queues so many steps of the kind that is under way. The first ever of a kind finds all there is
// to load and to look up, which a captured one may not.
template <class T, class A>
void NetworkOf<T, A>::queue_steps(int64_t count) {
  constexpr size_t kept = 8;
  Kind* kind = known_kind(queued_.rows);
  if (kind == nullptr && count > 0) {
    if (kinds_.size() == kept) {
      synchronize(stream());  // its graph may still run
      kinds_.erase(kinds_.begin());
    }
    step(context(), queued_data_, queued_rule_, queued_.rows, no_stats);
    kinds_.push_back({queued_.rows, queued_data_, queued_rule_, nullptr});
    kind = &kinds_.back();
    --count;
  }
  for (int64_t i = 0; i < count; ++i) {
    if (!replays_) {
      step(context(), queued_data_, queued_rule_, queued_.rows, no_stats);
      continue;
    }
    if (kind->graph == nullptr) {
      Capture capture(stream());
      step(context(), queued_data_, queued_rule_, queued_.rows, no_stats);
      kind->graph.reset(capture.end());
    }
    check(cudaGraphLaunch(kind->graph.get(), stream()), "running a graph");
    rows_ = queued_.rows;  // as the step itself leaves them
    trained_rows_ = is_fused(queued_rule_, no_stats) ? 0 : rows_;
  }
}

// Copies what steps change besides gradients: aside, or back.
template <class T, class A>
void NetworkOf<T, A>::keep_vectors(bool back) {
  T* aside = kept_vectors_.data();
  const auto keep = [&](T* vector, int64_t count) {
    if (vector != nullptr && count > 0) {
      copy(back ? vector : aside, back ? aside : vector, size_t(count) * sizeof(T), stream());
      aside += count;
    }
  };
  keep(parameters_, count_);
  keep(queued_rule_.first, count_);
  keep(queued_rule_.second, count_);
  keep(running_mean_, running_count_);
  keep(running_var_, running_count_);
  if (back) {
    lower_weights(context());
  }
}

template <class T, class A>
void NetworkOf<T, A>::begin(const Rows<T>& rows, const OptimizerRule<T>& rule, Steps steps) {
  const auto count = int64_t(steps.rates.size());
  if (count == 0 || (steps.bins >= 0 && count > 1)) {
    throw std::invalid_argument("begin: expected steps, one if it is monitored");
  }
  reserve(steps.rows, true);
  const auto room = int64_t(std::bit_ceil(uint64_t(count)));  // so that graphs seldom go
  fit(losses_, room);
  fit(rates_, room);
  const bool fused = is_fused(rule, steps.bins);
  const bool keeps = count > 1 || fused;
  fit(kept_vectors_, keeps ? 3 * count_ + 2 * running_count_ : 0);
  fit(fused_scratch_, fused ? fused_scratch(fused_, steps.rows) : 0);
  if (steps.bins >= 0) {
    begin_monitoring(steps.rows);
  }
  queued_ = std::move(steps);
  queued_data_ = rows;
  queued_rule_ = rule;
  queued_at_ = Clock::now();
  if (keeps) {
    keep_vectors(false);
  }
  copy(rates_.data(), queued_.rates.data(), queued_.rates.size() * sizeof(Rates), stream());
  go_to(queued_.first_row, queued_.step);
  try {
    if (queued_.bins >= 0) {
      step(context(), rows, rule, queued_.rows, queued_.bins);
    } else {
      queue_steps(count);
    }
  } catch (...) {  // such as a graph that has no room: steps before it have none to count them
    if (keeps) {
      keep_vectors(true);
    }
    throw;
  }
  if (fused) {  // whose steps read the weights themselves
    lower_weights(context());
  }
}

template <class T, class A>
std::vector<double> NetworkOf<T, A>::losses() {
  const auto count = int64_t(queued_.rates.size());
  std::vector<double> found = fetch(losses_.data(), count);
  seconds_[queued_.rows] = seconds_since(queued_at_) / double(count);
  const auto bad =
      std::find_if_not(found.begin(), found.end(), [](double loss) { return std::isfinite(loss); });
  const bool fused = is_fused(queued_rule_, queued_.bins);
  // Steps were done behind it: do without them. A step in whole kernels leaves no outputs to find
  // the layer by: let it be done once more, layer by layer.
  if (found.end() - bad > (fused ? 0 : 1)) {
    found.erase(bad + 1, found.end());
    keep_vectors(true);
    go_to(queued_.first_row, queued_.step);
    queue_steps(int64_t(found.size()) - (fused ? 1 : 0));
    if (fused) {
      lower_weights(context());
      step_by_layers(context(), queued_data_, queued_rule_, queued_.rows, no_stats);
    }
    synchronize(stream());
  }
  rows_ = 0;  // the batch is gone: there is nothing to go back through
  return found;
}

template <class T, class A>
double NetworkOf<T, A>::seconds_of_step(int64_t rows) const {
  const auto known = seconds_.find(rows);
  return known == seconds_.end() ? 0 : known->second;
}

// ---- what is looked at

template <class T, class A>
void NetworkOf<T, A>::begin_monitoring(int64_t rows) {
  this->monitored_rows_ = 0;
  this->updated_ = false;
  ++this->monitored_;
  int64_t scratch = 0, widest = 0;
  for (size_t l = 0; l < layers_.size(); ++l) {
    const int64_t n = layers_[l].fan_out;
    fit(states_[l].unit_mean, n);
    fit(states_[l].unit_zeros, n);
    scratch = std::max(scratch, moments_size<T>(rows, n));
    widest = std::max(widest, states_[l].stride);
  }
  fit(scratch_, scratch);
  fit(watched_, lowered ? rows * widest : 0);
  fit(stats_memory_, 1);
  fit(before_, count_);
  this->monitored_rows_ = rows;
}

// Statistics of f(z), to the host.
template <class T, class A>
void NetworkOf<T, A>::watch(const Context& context, size_t l, View<const T> f, int bins) {
  const State& state = states_[l];
  const int64_t n = f.cols;
  Stats stats{};
  stats.unit_mean = state.unit_mean.data();
  stats.unit_zeros = state.unit_zeros.data();
  copy(stats_memory_.data(), &stats, sizeof(Stats), stream());
  ops<T>().stats(context, f, T(saturation_[l].first), T(saturation_[l].second),
                 moments_in(scratch_.data(), f.rows, n), stats_memory_.data());
  LayerStats& found = stats_[l];
  found.stats = fetch(stats_memory_.data(), 1)[0];
  found.unit_mean = fetch(state.unit_mean.data(), n);
  found.unit_zeros = fetch(state.unit_zeros.data(), n);
  found.stats.unit_mean = found.unit_mean.data();
  found.stats.unit_zeros = found.unit_zeros.data();
  found.counts.clear();
  found.edges.clear();
  if (bins > 0) {
    count_histogram(context, l, f, bins);
  }
}

template <class T, class A>
void NetworkOf<T, A>::count_histogram(const Context& context, size_t l, View<const T> f, int bins) {
  LayerStats& found = stats_[l];
  double low = found.stats.min, high = found.stats.max;
  if (!std::isfinite(low) || !std::isfinite(high)) {  // rare: look for the finite ones
    low = std::numeric_limits<double>::infinity();
    high = -low;
    for (int64_t r = 0; r < f.rows; ++r) {
      for (const T value : fetch(f.at(r, 0), f.cols)) {
        if (std::isfinite(value)) {
          low = std::min(low, double(value));
          high = std::max(high, double(value));
        }
      }
    }
    if (low > high) {
      low = 0;
      high = 1;
    }
  }
  found.edges = histogram_edges(low, high, bins);
  fit(edges_, bins + 1);
  fit(counts_, bins);
  copy(edges_.data(), found.edges.data(), found.edges.size() * sizeof(double), stream());
  clear(counts_.data(), size_t(bins) * sizeof(int64_t), stream());
  ops<T>().histogram(context, f, edges_.data(), bins, counts_.data());
  found.counts = fetch(counts_.data(), bins);
}

// The norms of the gradients as the optimizer is given them.
template <class T, class A>
void NetworkOf<T, A>::watch_gradients(const Context& context) {
  for (size_t l = 0; l < layers_.size(); ++l) {
    stats_[l].gradient_norm =
        norm_of(context, gradients_ + places_[l].weight, layers_[l].weights());
  }
  copy(before_.data(), parameters_, size_t(count_) * sizeof(T), stream());
}

template <class T, class A>
void NetworkOf<T, A>::watch_update(const Context& context) {
  launch(subtract<T>, blocks_for(count_), block, 0, stream(), parameters_, before_.data(), count_);
  for (size_t l = 0; l < layers_.size(); ++l) {
    stats_[l].update_norm =
        norm_of(context, before_.data() + places_[l].weight, layers_[l].weights());
  }
  this->updated_ = true;
}

// The Euclidean norm of a vector in device memory, to the host.
template <class T, class A>
double NetworkOf<T, A>::norm_of(Context context, const T* vector, int64_t count) {
  context.number = numbers_.data() + 1;
  ops<T>().norm(context, vector, count, unlimited, squares_.data());
  return fetch(context.number, 1)[0];
}

template <class T, class A>
size_t NetworkOf<T, A>::nonfinite_layer() {
  const size_t last = layers_.size() - 1;
  fit(found_, 1);
  for (size_t l = 0; l < last; ++l) {
    const View<const A> a = view_of(l, kept_of<A>(l).a, trained_rows_);
    clear(found_.data(), sizeof(int), stream());
    launch(find_nonfinite<A>, blocks_for(a.rows * a.cols), block, 0, stream(), a, found_.data());
    if (fetch(found_.data(), 1)[0] != 0) {
      return l;
    }
  }
  return last;
}

}  // namespace

template <class T>
std::unique_ptr<Network<T>> Network<T>::make(std::vector<LayerConfig> layers,
                                             const NetworkConfig& config,
                                             std::vector<std::pair<double, double>> saturation,
                                             T* parameters, T* gradients, T* running_mean,
                                             T* running_var) {
  if constexpr (std::is_same_v<T, float>) {
    if (config.precision == Precision::bfloat16) {
      return std::make_unique<NetworkOf<float, bfloat16>>(std::move(layers), config,
                                                          std::move(saturation), parameters,
                                                          gradients, running_mean, running_var);
    }
  }
  return std::make_unique<NetworkOf<T, T>>(std::move(layers), config, std::move(saturation),
                                           parameters, gradients, running_mean, running_var);
}

template class Network<float>;
template class Network<double>;

}  // namespace fanin::cuda
