#include "network.hpp"

#include <algorithm>
#include <cfloat>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "../kernels/dispatch.hpp"

namespace fanin {
namespace {

// Row stride of an internal buffer: whole vectors, and not a large power of two, whose rows would
// fall into the same cache sets (15 % of a product at 1024).
int64_t padded(int64_t cols) {
  const int64_t stride = (cols + 15) / 16 * 16;
  return stride >= 512 && stride % 256 == 0 ? stride + 16 : stride;
}

bool stopped(const Context& context) {
  return context.interrupted != nullptr && context.interrupted(context.interrupted_state);
}

}  // namespace

template <class T>
Network<T>::Network(std::vector<LayerConfig> layers, Output output, uint64_t seed, T* parameters,
                    T* gradients, T* running_mean, T* running_var)
    : layers_(std::move(layers)),
      output_(output),
      seed_(seed),
      parameters_(parameters),
      gradients_(gradients),
      running_mean_(running_mean),
      running_var_(running_var),
      states_(layers_.size()) {
  int64_t at = 0;
  for (size_t l = 0; l < layers_.size(); ++l) {
    const LayerConfig& layer = layers_[l];
    const int64_t behind = at + layer.weights();
    places_.push_back({at, behind, behind, behind + layer.fan_out, running_count_});
    at += layer.parameters();
    running_count_ += layer.batch_norm ? layer.fan_out : 0;
    State& state = states_[l];
    state.a_stride = padded(layer.fan_out);
    state.unit_mean.resize(size_t(layer.fan_out));
    state.unit_zeros.resize(size_t(layer.fan_out));
    state.stats.unit_mean = state.unit_mean.data();
    state.stats.unit_zeros = state.unit_zeros.data();
    if (layer.batch_norm) {
      state.inv_std.resize(size_t(layer.fan_out));
    }
  }
}

template <class T>
Dropout Network<T>::dropout_of(size_t layer) const {
  return {layers_[layer].dropout_threshold, seed_, step_, uint32_t(layer)};
}

template <class T>
View<const T> Network<T>::weight_of(size_t layer) const {
  const LayerConfig& of = layers_[layer];
  return rows_of<const T>(parameters_ + places_[layer].weight, of.fan_in, of.fan_out, of.fan_out);
}

template <class T>
View<T> Network<T>::a_of(size_t layer) const {
  const State& state = states_[layer];
  return rows_of(state.a.data(), rows_, layers_[layer].fan_out, state.a_stride);
}

template <class T>
void Network<T>::reserve(int64_t rows, bool training) {
  int64_t widest = 0, scratch = 0;
  for (size_t l = 0; l < layers_.size(); ++l) {
    const LayerConfig& layer = layers_[l];
    State& state = states_[l];
    widest = std::max(widest, padded(layer.fan_out));
    scratch = std::max({scratch, stats_scratch<T>(rows, layer.fan_out),
                        2 * column_sum_scratch(rows, layer.fan_out)});
    if (!training) {
      continue;
    }
    const size_t elements = size_t(rows * layer.fan_out);
    state.a.resize(size_t(rows * state.a_stride));
    if (needs_z(layer.activation)) {
      state.z.resize(elements);
    }
    if (layer.batch_norm) {
      state.x_hat.resize(elements);
    }
    if (layer.dropout_threshold > 0) {
      state.mask.resize(size_t(rows * mask_words(layer.fan_out)));
    }
  }
  scratch_.resize(size_t(scratch));
  for (Buffer<T>& buffer : training ? dz_ : inference_) {
    buffer.resize(size_t(rows * widest));
  }
}

template <class T>
void Network<T>::count_histogram(const Context& context, size_t l, View<const T> a, int bins) {
  State& state = states_[l];
  double low = state.stats.min, high = state.stats.max;
  if (!std::isfinite(low) || !std::isfinite(high)) {  // rare: look for the finite ones
    low = std::numeric_limits<double>::infinity();
    high = -low;
    for (int64_t r = 0; r < a.rows; ++r) {
      for (int64_t c = 0; c < a.cols; ++c) {
        const double value = double(*a.at(r, c));
        if (std::isfinite(value)) {
          low = std::min(low, value);
          high = std::max(high, value);
        }
      }
    }
    if (low > high) {
      low = 0;
      high = 1;
    }
  }
  // The ends as histogram_range of fanin.reference.stats sets them.
  low = std::max(low, -8e307);
  high = std::min(high, 8e307);
  const double finest =
      4 * bins * std::max(DBL_EPSILON * std::max(std::abs(low), std::abs(high)), DBL_MIN);
  if (high - low <= finest) {
    const double margin = std::max(0.5, finest);
    low -= margin;
    high += margin;
  }
  state.edges.clear();
  for (int i = 0; i < bins; ++i) {
    state.edges.push_back(low + i * ((high - low) / bins));
  }
  state.edges.push_back(high);
  state.counts.assign(size_t(bins), 0);
  ops_of<T>(table()).histogram(context, a, state.edges.data(), bins, state.counts.data());
}

template <class T>
void Network<T>::forward_layer(const Context& context, size_t l, View<const T> x, View<T> a,
                               bool training, int bins) {
  const Ops<T>& ops = ops_of<T>(table());
  const LayerConfig& layer = layers_[l];
  const Place& place = places_[l];
  State& state = states_[l];
  const Dropout dropout = training ? dropout_of(l) : Dropout{};
  // A histogram is of activations before dropout: then dropout is a pass of its own, behind it.
  const Dropout at_once = bins > 0 ? Dropout{} : dropout;
  T* z = training && needs_z(layer.activation) ? state.z.data() : nullptr;
  Stats* stats = bins > 0 ? &state.stats : nullptr;
  if (!layer.batch_norm) {
    ops.dense_forward(context, {x, weight_of(l), parameters_ + place.bias, a, z, layer.activation,
                                at_once, state.mask.data(), stats, scratch_.data()});
  } else {
    ops.gemm(context, x, weight_of(l), a);
    ops.batch_norm_forward(context, {a, parameters_ + place.gamma, parameters_ + place.beta,
                                     running_mean_ + place.unit, running_var_ + place.unit, a,
                                     training ? state.x_hat.data() : nullptr,
                                     training ? state.inv_std.data() : scratch_.data(), training,
                                     batch_norm_momentum, batch_norm_eps, scratch_.data()});
    ops.activation_forward(context, {a, nullptr, a, z, layer.activation, at_once, state.mask.data(),
                                     stats, scratch_.data()});
  }
  if (bins > 0) {
    count_histogram(context, l, a, bins);
    if (dropout.threshold > 0) {
      ops.activation_forward(context, {a, nullptr, a, nullptr, Activation::identity, dropout,
                                       state.mask.data(), nullptr, nullptr});
    }
  }
}

template <class T>
void Network<T>::forward(const Context& context, View<const T> x, bool training, int bins,
                         uint64_t step, View<T> out) {
  reserve(x.rows, training);
  if (training) {
    x_ = x;
    rows_ = x.rows;
    step_ = step;
  }
  const size_t last = layers_.size() - 1;
  View<const T> h = x;
  for (size_t l = 0; l <= last; ++l) {
    View<T> a = training ? a_of(l)
                         : rows_of(inference_[l % 2].data(), x.rows, layers_[l].fan_out,
                                   states_[l].a_stride);
    if (l == last && out.data != nullptr) {
      a = out;
    }
    forward_layer(context, l, h, a, training, bins);
    h = a;
  }
}

template <class T>
double Network<T>::backward(const Context& context, View<const T> dout, View<T> dx) {
  const Ops<T>& ops = ops_of<T>(table());
  double penalty = 0;
  View<const T> da = dout;
  for (size_t l = layers_.size(); l-- > 0;) {
    const LayerConfig& layer = layers_[l];
    const Place& place = places_[l];
    const State& state = states_[l];
    const View<T> a = a_of(l);
    const bool keeps_z = needs_z(layer.activation);
    const View<const T> saved =
        keeps_z ? rows_of<const T>(state.z.data(), rows_, layer.fan_out, layer.fan_out)
                : View<const T>(a);
    View<T> dz = rows_of(dz_[l % 2].data(), rows_, layer.fan_out, state.a_stride);
    // The output layer has neither activation nor dropout: saved is not read.
    ops.activation_backward(context,
                            {da, saved, dz, layer.batch_norm ? nullptr : gradients_ + place.bias,
                             layer.activation, dropout_of(l), state.mask.data(), scratch_.data()});
    if (layer.batch_norm) {
      ops.batch_norm_backward(
          context, {dz, state.x_hat.data(), parameters_ + place.gamma, state.inv_std.data(), dz,
                    gradients_ + place.gamma, gradients_ + place.beta, true, scratch_.data()});
    }
    const View<const T> h = l > 0 ? View<const T>(a_of(l - 1)) : x_;
    T* dw = gradients_ + place.weight;
    ops.gemm(context, h.transposed(), dz, rows_of(dw, layer.fan_in, layer.fan_out, layer.fan_out));
    if (layer.l1 > 0 || layer.l2 > 0) {
      penalty += ops.regularise(context, parameters_ + place.weight, dw, layer.weights(), layer.l1,
                                layer.l2);
    }
    if (l > 0) {
      const View<T> below =
          rows_of(dz_[(l - 1) % 2].data(), rows_, layer.fan_in, states_[l - 1].a_stride);
      ops.gemm(context, dz, weight_of(l).transposed(), below);
      da = below;
    } else if (dx.data != nullptr) {
      ops.gemm(context, dz, weight_of(0).transposed(), dx);
    }
  }
  return penalty;
}

template <class T>
double Network<T>::loss_divisor(const Targets<T>& targets, int64_t rows, int64_t cols) const {
  double divisor = 0;
  for (int64_t r = 0; r < rows; ++r) {
    double weight = targets.sample_weight != nullptr ? double(targets.sample_weight[r]) : 1.0;
    if (targets.labels != nullptr && targets.class_weight != nullptr) {
      weight *= double(targets.class_weight[targets.labels[r]]);
    }
    divisor += weight;
  }
  if (output_ != Output::softmax) {
    divisor *= double(cols);
  }
  // A batch of weight zero: loss and gradients zero.
  return divisor > 0 ? divisor : std::numeric_limits<double>::infinity();
}

template <class T>
double Network<T>::loss_of(const Context& context, const Targets<T>& targets, View<T> logits) {
  const Ops<T>& ops = ops_of<T>(table());
  row_loss_.resize(size_t(logits.rows));
  const Loss<T> loss{logits,
                     targets.labels,
                     targets.targets,
                     targets.sample_weight,
                     targets.class_weight,
                     targets.label_smoothing,
                     loss_divisor(targets, logits.rows, logits.cols),
                     logits,
                     row_loss_.data()};
  switch (output_) {
    case Output::softmax:
      return ops.softmax_cross_entropy(context, loss);
    case Output::sigmoid:
      return ops.sigmoid_cross_entropy(context, loss);
    default:
      return ops.mean_squared_error(context, loss);
  }
}

template <class T>
double Network<T>::loss_and_gradients(const Context& context, View<const T> x,
                                      const Targets<T>& targets, int bins, uint64_t step) {
  forward(context, x, true, bins, step, View<T>{});
  const View<T> logits = a_of(layers_.size() - 1);
  const double loss = loss_of(context, targets, logits);  // logits become their gradient
  return loss + backward(context, logits, View<T>{});
}

template <class T>
void Network<T>::update(const Context& context, const OptimizerRule<T>& rule, double lr,
                        int64_t steps_done) {
  const Ops<T>& ops = ops_of<T>(table());
  for (size_t l = 0; l < layers_.size(); ++l) {
    const int64_t weights = layers_[l].weights(), all = layers_[l].parameters();
    const int64_t start = places_[l].weight;
    apply_rule(ops, context, rule, lr, steps_done, parameters_, gradients_, start, weights, true,
               nullptr);
    apply_rule(ops, context, rule, lr, steps_done, parameters_, gradients_, start + weights,
               all - weights, false, nullptr);
  }
}

template <class T>
Progress Network<T>::train(const Context& context, const Dataset& data, const Targets<T>& targets,
                           const OptimizerRule<T>& rule, const double* lr, int64_t steps_done,
                           uint64_t step, int bins_at_last, double seconds) {
  using Clock = std::chrono::steady_clock;
  const Ops<T>& ops = ops_of<T>(table());
  const Clock::time_point start = Clock::now();
  const int64_t fan_in = layers_.front().fan_in, fan_out = layers_.back().fan_out;
  const int64_t largest = std::min(data.batch_size, data.count), x_stride = padded(fan_in);
  batch_x_.resize(size_t(largest * x_stride));
  batch_labels_.resize(size_t(largest));
  batch_weight_.resize(size_t(largest));
  batch_targets_.resize(size_t(largest * fan_out));
  running_before_.resize(size_t(2 * running_count_));
  Context uninterrupted = context;
  uninterrupted.interrupted = nullptr;

  Progress done;
  while (done.rows < data.count) {
    const int64_t rows = std::min(data.batch_size, data.count - done.rows);
    const int64_t* chosen = data.rows + done.rows;
    const View<T> x = rows_of(batch_x_.data(), rows, fan_in, x_stride);
    ops.gather(context, data.x, data.source, data.row_stride, data.col_stride, chosen, data.scale,
               x);
    Targets<T> batch = targets;
    for (int64_t r = 0; r < rows; ++r) {
      if (targets.labels != nullptr) {
        batch_labels_.data()[r] = targets.labels[chosen[r]];
      } else {
        std::memcpy(batch_targets_.data() + r * fan_out, targets.targets.at(chosen[r], 0),
                    size_t(fan_out) * sizeof(T));
      }
      if (targets.sample_weight != nullptr) {
        batch_weight_.data()[r] = targets.sample_weight[chosen[r]];
      }
    }
    batch.labels = targets.labels != nullptr ? batch_labels_.data() : nullptr;
    batch.targets = rows_of<const T>(batch_targets_.data(), rows, fan_out, fan_out);
    batch.sample_weight = targets.sample_weight != nullptr ? batch_weight_.data() : nullptr;

    std::copy_n(running_mean_, running_count_, running_before_.data());
    std::copy_n(running_var_, running_count_, running_before_.data() + running_count_);
    const bool last = done.rows + rows == data.count;
    const double loss =
        loss_and_gradients(context, x, batch, last ? bins_at_last : 0, step + uint64_t(done.steps));
    if (stopped(context)) {
      std::copy_n(running_before_.data(), running_count_, running_mean_);
      std::copy_n(running_before_.data() + running_count_, running_count_, running_var_);
      break;
    }
    update(uninterrupted, rule, lr[done.steps], steps_done + done.steps);
    done.loss += loss * double(rows);
    done.rows += rows;
    done.steps += 1;
    if (std::chrono::duration<double>(Clock::now() - start).count() > seconds) {
      break;
    }
  }
  rows_ = 0;  // the batch is gone: there is nothing to go back through
  return done;
}

template class Network<float>;
template class Network<double>;

}  // namespace fanin
