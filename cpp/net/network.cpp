#include "network.hpp"

#include <algorithm>
#include <cfloat>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "../core/parallel.hpp"
#include "../core/random.hpp"
#include "../core/sum.hpp"
#include "../kernels/dispatch.hpp"
#include "breakdown.hpp"
#include "step.hpp"

namespace fanin {
namespace {

// Row stride of an internal buffer: whole vectors, and not a large power of two, whose rows would
// fall into the same cache sets (15 % of a product at 1024).
int64_t padded(int64_t cols) {
  const int64_t stride = (cols + 15) / 16 * 16;
  return stride >= 512 && stride % 256 == 0 ? stride + 16 : stride;
}

// Elements of a buffer with so many rows, and a vector: products of a step read whole vectors, also
// at the end of a row. What is there is zero; denormal numbers would slow them down.
size_t with_spare(int64_t rows, int64_t stride) { return size_t(rows * stride + 16); }

// Steps that take longer can be interrupted in the middle, so they first make all gradients.
constexpr double longest_step = 0.03;

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// sqrt of the sum of the 16 lanes that each piece has.
template <class Lanes>
double norm_of(int64_t pieces, const Lanes& lanes) {
  double sum[16] = {};
  for (int64_t i = 0; i < pieces; ++i) {
    for (int l = 0; l < 16; ++l) {
      sum[l] += double(lanes(i)[l]);
    }
  }
  return std::sqrt(tree_sum(sum));
}

bool stopped(const Context& context) {
  return context.interrupted != nullptr && context.interrupted(context.interrupted_state);
}

}  // namespace

template <class T>
Network<T>::Network(std::vector<LayerConfig> layers, const NetworkConfig& config, T* parameters,
                    T* gradients, T* running_mean, T* running_var)
    : layers_(std::move(layers)),
      config_(config),
      parameters_(parameters),
      gradients_(gradients),
      running_mean_(running_mean),
      running_var_(running_var),
      states_(layers_.size()) {
  int64_t at = 0;
  for (size_t l = 0; l < layers_.size(); ++l) {
    const LayerConfig& layer = layers_[l];
    const int64_t other = at + layer.weights();
    places_.push_back({at, other, other + (layer.has_bias() ? layer.fan_out : 0), running_count_});
    at += layer.parameters();
    running_count_ += layer.normalised() ? layer.fan_out : 0;
    State& state = states_[l];
    state.a_stride = padded(layer.fan_out);
    state.unit_mean.resize(size_t(layer.fan_out));
    state.unit_zeros.resize(size_t(layer.fan_out));
    state.stats.unit_mean = state.unit_mean.data();
    state.stats.unit_zeros = state.unit_zeros.data();
    if (layer.normalised()) {
      state.inv_std.resize(size_t(layer.fan_out));
    }
    if (layer.penalised()) {
      reserve_penalties(l);
    }
  }
}

template <class T>
Network<T>::~Network() = default;

template <class T>
void Network<T>::reserve_penalties(size_t l) {
  const LayerConfig& layer = layers_[l];
  states_[l].penalties.resize(size_t(layer.fan_in * penalty_pieces(layer.fan_out)));
}

// Plans of steps ask a layer at each step whether it is penalised.
template <class T>
void Network<T>::set_penalties(double l1, double l2) {
  for (size_t l = 0; l < layers_.size() && (l1 > 0 || l2 > 0); ++l) {
    reserve_penalties(l);  // before anything changes: there may be no memory
  }
  for (LayerConfig& layer : layers_) {
    layer.l1 = l1;
    layer.l2 = l2;
  }
}

template <class T>
void Network<T>::reserve(int64_t rows, bool training) {
  int64_t widest = 0, scratch = 0;
  kept_rows_ = training ? 0 : kept_rows_;
  for (size_t l = 0; l < layers_.size(); ++l) {
    const LayerConfig& layer = layers_[l];
    State& state = states_[l];
    widest = std::max(widest, state.a_stride);
    scratch = std::max({scratch, moments_size<T>(rows, layer.fan_out),
                        2 * column_sum_scratch(rows, layer.fan_out)});
    if (!training) {
      continue;
    }
    const size_t elements = with_spare(rows, state.a_stride);
    state.a.resize_with_zeros(elements);
    if (l + 1 < layers_.size()) {
      state.dz.resize_with_zeros(elements);
    }
    if (needs_z(layer.activation) || layer.batch_norm == BatchNorm::after) {
      state.z.resize(elements);
    }
    if (layer.normalised()) {
      state.x_hat.resize(elements);
    }
    if (layer.dropout_threshold > 0) {
      state.mask.resize(size_t(mask_size(rows, layer.fan_out)));
    }
  }
  scratch_.resize(size_t(scratch));
  if (training) {
    row_loss_.resize(size_t(rows));
    if (config_.input_threshold > 0) {
      input_mask_.resize(size_t(mask_size(rows, layers_.front().fan_in)));
    }
    kept_rows_ = rows;
  } else {
    for (Buffer<T>& buffer : inference_) {
      buffer.resize(size_t(rows * widest));
    }
  }
}

// ---- where things lie

template <class T>
View<T> Network<T>::weight_of(size_t l, T* vector) const {
  const LayerConfig& layer = layers_[l];
  return rows_of(vector + places_[l].weight, layer.fan_in, layer.fan_out, layer.fan_out);
}

template <class T>
View<T> Network<T>::a_of(size_t l) const {
  return rows_of(states_[l].a.data(), rows_, layers_[l].fan_out, states_[l].a_stride);
}

template <class T>
View<T> Network<T>::z_of(size_t l) const {
  return rows_of(states_[l].z.data(), rows_, layers_[l].fan_out, states_[l].a_stride);
}

template <class T>
View<T> Network<T>::x_hat_of(size_t l) const {
  return rows_of(states_[l].x_hat.data(), rows_, layers_[l].fan_out, states_[l].a_stride);
}

// The last layer's takes the place of its output.
template <class T>
View<T> Network<T>::dz_of(size_t l) const {
  return l + 1 < layers_.size()
             ? rows_of(states_[l].dz.data(), rows_, layers_[l].fan_out, states_[l].a_stride)
             : a_of(l);
}

template <class T>
View<const T> Network<T>::input_of(size_t l) const {
  return l > 0 ? View<const T>(a_of(l - 1)) : x_;
}

// What the derivative is had from: z, or f(z), which only batch norm behind it keeps apart from a.
template <class T>
View<const T> Network<T>::saved_of(size_t l) const {
  return states_[l].z.data() != nullptr ? z_of(l) : a_of(l);
}

// Where f(z) of a block goes, whose end is a.
template <class T>
View<T> Network<T>::activated_of(size_t l, View<T> a, const Kept& kept) const {
  const LayerConfig& layer = layers_[l];
  const bool apart = layer.batch_norm == BatchNorm::after && !needs_z(layer.activation);
  return apart && kept.z.data != nullptr ? kept.z : a;
}

// ---- the pieces of a step

template <class T>
Context Network<T>::for_products(Context context) const {
  context.bfloat16 = config_.bfloat16;
  return context;
}

template <class T>
void Network<T>::gather(const Context& context, const Dataset& data, const int64_t* chosen,
                        int64_t r0, int64_t r1) {
  const View<T> x = rows_of(batch_x_.data(), rows_, x_.cols, x_.row_stride).row_range(r0, r1);
  ops_of<T>(table()).gather(context, {data.x, data.source, data.row_stride, data.col_stride,
                                      chosen + r0, data.scale, data.shift, data.factor, x});
}

// Dropout of rows [r0, r1) of the inputs, in batch_x_.
template <class T>
void Network<T>::drop_inputs(const Context& context, int64_t r0, int64_t r1) {
  if (config_.input_threshold > 0) {
    const View<T> x = rows_of(batch_x_.data(), rows_, x_.cols, x_.row_stride).row_range(r0, r1);
    drop(context, x, input_dropout_of(r0), input_mask_of(r0, r1));
  }
}

template <class T>
Dropout Network<T>::input_dropout_of(int64_t row) const {
  return {config_.input_threshold, config_.seed, step_, input_layer, row, 0};
}

template <class T>
View<uint16_t> Network<T>::input_mask_of(int64_t r0, int64_t r1) const {
  return mask_in(input_mask_.data(), rows_, layers_.front().fan_in).row_range(r0, r1);
}

// Fetches the same rows of the next batch, which lie anywhere in memory, while this one is worked
// on.
template <class T>
void Network<T>::fetch_next(const Dataset& data, const int64_t* chosen, int64_t r0,
                            int64_t r1) const {
  const int64_t size = data.source == Source::uint8     ? 1
                       : data.source == Source::float32 ? int64_t(sizeof(float))
                                                        : int64_t(sizeof(double));
  const int64_t next = chosen - data.rows + rows_;
  for (int64_t i = next + r0; i < next + r1 && i < data.count; ++i) {
    const char* start = static_cast<const char*>(data.x) + data.rows[i] * data.row_stride * size;
    for (int64_t at = 0; at < x_.cols * size && data.col_stride == 1; at += cache_line) {
      __builtin_prefetch(start + at, 0, 2);  // the first cache is needed until then
    }
  }
}

// Copies what the rows of the batch are to reproduce; chosen == nullptr: the same rows.
template <class T>
void Network<T>::gather_targets(const Targets<T>& from, const int64_t* chosen) {
  const int64_t fan_out = layers_.back().fan_out;
  batch_labels_.resize(size_t(rows_));
  batch_weight_.resize(size_t(rows_));
  batch_targets_.resize(size_t(rows_ * fan_out));
  targets_ = from;
  targets_.targets = rows_of<const T>(batch_targets_.data(), rows_, fan_out, fan_out);
  targets_.labels = from.labels != nullptr ? batch_labels_.data() : nullptr;
  targets_.sample_weight = from.sample_weight != nullptr ? batch_weight_.data() : nullptr;
  divisor_ = 0;
  for (int64_t r = 0; r < rows_; ++r) {
    const int64_t row = chosen != nullptr ? chosen[r] : r;
    double weight = 1;
    if (from.sample_weight != nullptr) {
      weight = double(batch_weight_.data()[r] = from.sample_weight[row]);
    }
    if (from.labels != nullptr) {
      // They were checked, but another thread may write to them meanwhile.
      const int64_t label = from.labels[row];
      batch_labels_.data()[r] = label >= 0 && label < fan_out ? label : 0;
      if (from.class_weight != nullptr) {
        weight *= double(from.class_weight[batch_labels_.data()[r]]);
      }
    } else {
      std::memcpy(batch_targets_.data() + r * fan_out, from.targets.at(row, 0),
                  size_t(fan_out) * sizeof(T));
    }
    divisor_ += weight;
  }
  if (config_.output != Output::softmax) {
    divisor_ *= double(fan_out);
  }
  if (!(divisor_ > 0)) {  // a batch of weight zero: loss and gradients zero
    divisor_ = std::numeric_limits<double>::infinity();
  }
}

// x @ w for one block, and what comes before batch norm: all of the layer where it has none.
template <class T>
void Network<T>::product(const Context& context, size_t l, Block block, View<const T> x, View<T> a,
                         const Forward& how) {
  const Ops<T>& ops = ops_of<T>(table());
  const LayerConfig& layer = layers_[l];
  const View<const T> w = weight_of(l, parameters_).col_range(block.c0, block.c1);
  if (layer.batch_norm == BatchNorm::before) {
    ops.gemm(for_products(context), x, w, a);
    return;
  }
  Kept kept = kept_of(l, block, how);
  const View<T> activated = activated_of(l, a, kept);
  if (layer.batch_norm == BatchNorm::after) {
    kept.dropout = {};
    kept.z = needs_z(layer.activation) ? kept.z : View<T>{};
  }
  ops.dense_forward(for_products(context),
                    {x, w, parameters_ + places_[l].other + block.c0, activated, kept.z,
                     layer.activation, kept.dropout, kept.mask, moments_of(l, block, how)});
}

// Batch norm of all rows of some columns, and what comes behind it; its end is a.
template <class T>
void Network<T>::normalise(const Context& context, size_t l, Block block, View<T> a,
                           const Forward& how) {
  const Ops<T>& ops = ops_of<T>(table());
  const LayerConfig& layer = layers_[l];
  const T* gamma = parameters_ + places_[l].gamma + block.c0;
  const int64_t unit = places_[l].unit + block.c0;
  // Tasks on other columns use other parts of it.
  T* scratch = scratch_.data() + block.c0 / 16 * moments_size<T>(a.rows, 16);
  const Kept kept = kept_of(l, block, how);
  const bool after = layer.batch_norm == BatchNorm::after;
  const View<T> x = after ? activated_of(l, a, kept) : a;
  ops.batch_norm_forward(
      context, {x, gamma, gamma + layer.fan_out, running_mean_ + unit, running_var_ + unit, a,
                kept.x_hat, how.training ? states_[l].inv_std.data() + block.c0 : scratch,
                how.training, batch_norm_momentum, batch_norm_eps, scratch});
  if (!after) {
    ops.activation_forward(context, {a, nullptr, a, kept.z, layer.activation, kept.dropout,
                                     kept.mask, moments_of(l, block, how)});
  } else if (kept.dropout.threshold > 0) {
    drop(context, a, kept.dropout, kept.mask);
  }
}

// Dropout in place.
template <class T>
void Network<T>::drop(const Context& context, View<T> a, const Dropout& dropout,
                      View<uint16_t> mask) const {
  ops_of<T>(table()).activation_forward(
      context, {a, nullptr, a, {}, Activation::identity, dropout, mask, {}});
}

// Where a block of a training forward leaves what backward needs; and what it drops.
template <class T>
typename Network<T>::Kept Network<T>::kept_of(size_t l, Block block, const Forward& how) const {
  Kept kept{};
  if (how.training) {
    kept.z = z_of(l).block(block);
    kept.x_hat = x_hat_of(l).block(block);
    if (how.drops) {
      kept.dropout = dropout_of(l, block);
      kept.mask = mask_of(l, block);
    }
  }
  return kept;
}

// Those of the monitored batch.
template <class T>
Moments<T> Network<T>::moments_of(size_t l) const {
  return moments_in(states_[l].moments.data(), monitored_rows_, layers_[l].fan_out);
}

template <class T>
Moments<T> Network<T>::moments_of(size_t l, Block block, const Forward& how) const {
  return how.monitored ? moments_of(l).from(block.r0, block.c0) : Moments<T>{};
}

template <class T>
void Network<T>::begin_monitoring(int64_t rows) {
  ++monitored_;
  monitored_rows_ = 0;
  updated_ = false;
  for (size_t l = 0; l < layers_.size(); ++l) {
    State& state = states_[l];
    state.moments.resize(size_t(moments_size<T>(rows, layers_[l].fan_out)));
    state.squares.resize(size_t(layers_[l].pieces()));
    state.counts.clear();
    state.edges.clear();
  }
  monitored_rows_ = rows;
}

template <class T>
const Stats& Network<T>::stats(size_t l) {
  State& state = states_.at(l);
  ops_of<T>(table()).join_moments({}, moments_of(l), monitored_rows_, layers_[l].fan_out,
                                  &state.stats);
  return state.stats;
}

template <class T>
double Network<T>::gradient_norm(size_t l) const {
  const Squares<T>* const pieces = states_.at(l).squares.data();
  return norm_of(layers_[l].pieces(), [=](int64_t i) { return pieces[i].gradient; });
}

template <class T>
double Network<T>::update_norm(size_t l) const {
  const Squares<T>* const pieces = states_.at(l).squares.data();
  return norm_of(layers_[l].pieces(), [=](int64_t i) { return pieces[i].change; });
}

template <class T>
size_t Network<T>::nonfinite_layer() const {
  const size_t last = layers_.size() - 1;
  for (size_t l = 0; l < last; ++l) {
    const State& state = states_[l];
    for (int64_t r = 0; r < kept_rows_; ++r) {
      const T* row = state.a.data() + r * state.a_stride;
      if (!std::all_of(row, row + layers_[l].fan_out, [](T a) { return std::isfinite(a); })) {
        return l;
      }
    }
  }
  return last;
}

template <class T>
Dropout Network<T>::dropout_of(size_t l, Block block) const {
  return {layers_[l].dropout_threshold, config_.seed, step_, uint32_t(l), block.r0, block.c0};
}

template <class T>
View<uint16_t> Network<T>::mask_of(size_t l, Block block) const {
  return mask_in(states_[l].mask.data(), rows_, layers_[l].fan_out)
      .block({block.r0, block.r1, block.c0 / 16, mask_words(block.c1)});
}

template <class T>
void Network<T>::count_histogram(const Context& context, size_t l, View<const T> a, int bins) {
  State& state = states_[l];
  double low = stats(l).min, high = state.stats.max;
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
  state.edges = histogram_edges(low, high, bins);
  state.counts.assign(size_t(bins), 0);
  ops_of<T>(table()).histogram(context, a, state.edges.data(), bins, state.counts.data());
}

// The loss of rows [r0, r1) into row_loss_; logits, or outputs, become its gradient.
template <class T>
void Network<T>::loss(const Context& context, int64_t r0, int64_t r1) {
  const Ops<T>& ops = ops_of<T>(table());
  const View<T> z = a_of(layers_.size() - 1).row_range(r0, r1);
  const auto from = [r0](auto* rows) { return rows != nullptr ? rows + r0 : nullptr; };
  const Loss<T> loss{z,
                     from(targets_.labels),
                     targets_.targets.row_range(r0, r1),
                     from(targets_.sample_weight),
                     targets_.class_weight,
                     targets_.label_smoothing,
                     divisor_,
                     z,
                     row_loss_.data() + r0,
                     config_.form};
  switch (config_.output) {
    case Output::softmax:
      ops.softmax_cross_entropy(context, loss);
      break;
    case Output::sigmoid:
      ops.sigmoid_cross_entropy(context, loss);
      break;
    case Output::identity:
      ops.mean_squared_error(context, loss);
      break;
  }
}

// dz of a block of the layer below layer l; where that has batch norm, what goes into its backward:
// through dropout alone where it comes after the activation.
template <class T>
void Network<T>::product_backward(const Context& context, size_t l, Block below) {
  const LayerConfig& under = layers_[l - 1];
  const Activation behind_dropout =
      under.batch_norm == BatchNorm::after ? Activation::identity : under.activation;
  const View<const T> dz = dz_of(l).row_range(below.r0, below.r1);
  // w^T's columns are w's rows.
  const View<const T> w = weight_of(l, parameters_).row_range(below.c0, below.c1);
  ops_of<T>(table()).dense_backward(for_products(context), {dz,
                                                            w,
                                                            {{},
                                                             saved_of(l - 1).block(below),
                                                             dz_of(l - 1).block(below),
                                                             behind_dropout,
                                                             dropout_of(l - 1, below),
                                                             mask_of(l - 1, below)}});
}

// The backward of `normalise`, into dz.
template <class T>
void Network<T>::normalise_backward(const Context& context, size_t l, Block block) {
  const Ops<T>& ops = ops_of<T>(table());
  const LayerConfig& layer = layers_[l];
  const int64_t n = layer.fan_out, gamma = places_[l].gamma + block.c0;
  const View<T> dz = dz_of(l).block(block);
  T* scratch = scratch_.data() + block.c0 / 16 * 2 * column_sum_scratch(dz.rows, 16);
  ops.batch_norm_backward(context, {dz, x_hat_of(l).block(block), parameters_ + gamma,
                                    states_[l].inv_std.data() + block.c0, dz, gradients_ + gamma,
                                    gradients_ + gamma + n, true, scratch});
  if (layer.batch_norm == BatchNorm::after) {
    ops.activation_backward(context, {dz, saved_of(l).block(block), dz, layer.activation, {}, {}});
  }
}

// dw, penalty included, of a block of w.
template <class T>
void Network<T>::weight_gradients(const Context& context, size_t l, Block block, View<T> dw) {
  const Ops<T>& ops = ops_of<T>(table());
  const LayerConfig& layer = layers_[l];
  const View<const T> h = input_of(l).col_range(block.r0, block.r1);
  ops.gemm(for_products(context), h.transposed(), dz_of(l).col_range(block.c0, block.c1), dw);
  if (layer.penalised()) {
    const int64_t pieces = penalty_pieces(layer.fan_out);
    const View<double> penalties =
        rows_of(states_[l].penalties.data(), layer.fan_in, pieces, pieces)
            .block({block.r0, block.r1, block.c0 / penalty_cols, penalty_pieces(block.c1)});
    ops.regularise(context, weight_of(l, parameters_).block(block), dw, layer.l1, layer.l2,
                   config_.proximal ? 0 : layer.l1, penalties);
  }
}

// db. (dgamma and dbeta were made on the way back.)
template <class T>
void Network<T>::bias_gradients(const Context& context, size_t l) {
  if (layers_[l].has_bias()) {
    ops_of<T>(table()).column_sums(context, dz_of(l), gradients_ + places_[l].other);
  }
}

template <class T>
double Network<T>::penalty() const {
  double total = 0;
  for (size_t l = layers_.size(); l-- > 0;) {
    const LayerConfig& layer = layers_[l];
    if (layer.penalised()) {
      total += sum_of(states_[l].penalties.data(), layer.fan_in * penalty_pieces(layer.fan_out));
    }
  }
  return total;
}

// The proximal step of l1 on a block of w, behind the optimizer's.
template <class T>
void Network<T>::shrink(const Context& context, const OptimizerRule<T>& rule,
                        const Update<T>& update, size_t l, Block block) {
  const LayerConfig& layer = layers_[l];
  if (!shrinks(layer)) {
    return;
  }
  const int64_t cols = block.c1 - block.c0, rows = block.r1 - block.r0;
  const int64_t tall = cols == layer.fan_out ? rows : 1;  // rows that lie together
  for (int64_t r = block.r0; r < block.r1; r += tall) {
    const int64_t start = places_[l].weight + r * layer.fan_out + block.c0;
    const T* none = nullptr;
    ops_of<T>(table()).shrink(context, part_of(rule, update, parameters_, none, start, tall * cols),
                              layer.l1);
  }
}

// The limit of the norms of columns [c0, c1) of w.
template <class T>
void Network<T>::limit_norms(const Context& context, size_t l, int64_t c0, int64_t c1) {
  const LayerConfig& layer = layers_[l];
  if (layer.max_norm < unlimited) {
    ops_of<T>(table()).limit_norms(context, weight_of(l, parameters_).col_range(c0, c1),
                                   layer.max_norm);
  }
}

template <class T>
bool Network<T>::constrains() const {
  return std::any_of(layers_.begin(), layers_.end(), [this](const LayerConfig& layer) {
    return shrinks(layer) || layer.max_norm < unlimited;
  });
}

template <class T>
void Network<T>::constrain(const Context& context, const OptimizerRule<T>* rule,
                           const Update<T>& update) {
  for (size_t l = 0; l < layers_.size(); ++l) {
    const LayerConfig& layer = layers_[l];
    if (rule != nullptr) {
      shrink(context, *rule, update, l, {0, layer.fan_in, 0, layer.fan_out});
    }
    limit_norms(context, l, 0, layer.fan_out);
  }
}

// ---- whole batches

template <class T>
void Network<T>::forward(const Context& context, View<const T> x, bool training, int bins,
                         uint64_t step, View<T> out) {
  const bool monitored = bins >= 0;
  reserve(x.rows, training);
  if (training) {
    x_ = x;
    rows_ = x.rows;
    step_ = step;
    if (config_.input_threshold > 0) {
      copy_inputs();
      drop_inputs(context, 0, rows_);
    }
  }
  if (monitored) {
    begin_monitoring(x.rows);
  }
  const size_t last = layers_.size() - 1;
  View<const T> h = training ? x_ : x;
  for (size_t l = 0; l <= last; ++l) {
    const LayerConfig& layer = layers_[l];
    View<T> a = training
                    ? a_of(l)
                    : rows_of(inference_[l % 2].data(), x.rows, layer.fan_out, states_[l].a_stride);
    if (l == last && out.data != nullptr) {
      a = out;
    }
    // A histogram is of f(.): then dropout is a pass of its own, behind it.
    const Forward how{training, monitored, bins <= 0};
    const Block all{0, x.rows, 0, layer.fan_out};
    product(context, l, all, h, a, how);
    if (layer.batch_norm == BatchNorm::before) {
      normalise(context, l, all, a, how);
    }
    if (bins > 0) {
      count_histogram(context, l, activated_of(l, a, kept_of(l, all, how)), bins);
    }
    if (layer.batch_norm == BatchNorm::after) {
      normalise(context, l, all, a, how);
    }
    if (bins > 0 && layer.dropout_threshold > 0) {
      drop(context, a, dropout_of(l, all), mask_of(l, all));
    }
    h = a;
  }
}

// Makes the inputs our own, where dropout may change them.
template <class T>
void Network<T>::copy_inputs() {
  if (x_.data == batch_x_.data()) {
    return;
  }
  const int64_t stride = padded(x_.cols);
  batch_x_.resize(size_t(rows_ * stride));
  for (int64_t r = 0; r < rows_; ++r) {
    for (int64_t c = 0; c < x_.cols; ++c) {
      batch_x_.data()[r * stride + c] = *x_.at(r, c);
    }
  }
  x_ = rows_of<const T>(batch_x_.data(), rows_, x_.cols, stride);
}

template <class T>
void Network<T>::backward(const Context& context, View<const T> dout, View<T> dx) {
  const View<T> last = dz_of(layers_.size() - 1);
  for (int64_t r = 0; r < rows_; ++r) {
    std::memcpy(last.at(r, 0), dout.at(r, 0), size_t(last.cols) * sizeof(T));
  }
  gradients(context);
  if (dx.data == nullptr) {
    return;
  }
  const Ops<T>& ops = ops_of<T>(table());
  const View<const T> dz = dz_of(0), w = weight_of(0, parameters_);
  ops.gemm(for_products(context), dz, w.transposed(), dx);
  if (config_.input_threshold > 0) {
    ops.activation_backward(
        context, {dx, dx, dx, Activation::identity, input_dropout_of(0), input_mask_of(0, rows_)});
  }
}

// All gradients, from the last layer's dz.
template <class T>
void Network<T>::gradients(const Context& context) {
  for (size_t l = layers_.size(); l-- > 0;) {
    const LayerConfig& layer = layers_[l];
    {
      const Timed timed(Work::weights, context.threads);
      weight_gradients(context, l, {0, layer.fan_in, 0, layer.fan_out}, weight_of(l, gradients_));
      bias_gradients(context, l);
    }
    if (l > 0) {
      const Timed timed(Work::backward, context.threads);
      const Block below{0, rows_, 0, layer.fan_in};
      product_backward(context, l, below);
      if (layers_[l - 1].normalised()) {
        normalise_backward(context, l - 1, below);
      }
    }
  }
}

template <class T>
double Network<T>::loss_and_gradients(const Context& context, View<const T> x,
                                      const Targets<T>& targets, int bins, uint64_t step) {
  rows_ = x.rows;
  gather_targets(targets, nullptr);
  return loss_and_gradients(context, x, bins, step);
}

// The same for targets_.
template <class T>
double Network<T>::loss_and_gradients(const Context& context, View<const T> x, int bins,
                                      uint64_t step) {
  {
    const Timed timed(Work::forward, context.threads);
    forward(context, x, true, bins, step, View<T>{});
  }
  {
    const Timed timed(Work::loss, context.threads);
    loss(context, 0, rows_);
  }
  gradients(context);
  return sum_of(row_loss_.data(), rows_) / divisor_ + penalty();
}

template <class T>
void Network<T>::update(const Context& context, const OptimizerRule<T>& rule, Update<T> update,
                        bool monitored) {
  const Timed timed(Work::update, context.threads);
  const Ops<T>& ops = ops_of<T>(table());
  update.gradient_scale =
      gradient_scale(ops, context, rule, gradients_, places_.back().other + layers_.back().others(),
                     norm_scratch_);
  for (size_t l = 0; l < layers_.size(); ++l) {
    const LayerConfig& layer = layers_[l];
    const View<const T> dw = weight_of(l, gradients_);
    if (monitored) {
      const int64_t tall = layer.piece_rows();
      auto body = [&](int64_t i, void*) {
        for (int64_t c = 0; c < layer.fan_out; c += penalty_cols) {
          const Block block{i * tall, std::min((i + 1) * tall, layer.fan_in), c,
                            std::min(c + penalty_cols, layer.fan_out)};
          update_weights({}, rule, update, l, block, dw.block(block), true);
        }
      };
      parallel_for(worth(context, 0.3 * double(layer.weights())), (layer.fan_in + tall - 1) / tall,
                   body);
    } else {
      update_weights(context, rule, update, l, {0, layer.fan_in, 0, layer.fan_out}, dw, false);
    }
    const int64_t other = places_[l].other;
    apply(ops, context, rule, without_decay(update), parameters_, gradients_ + other, other,
          layer.others());
  }
  constrain(context, &rule, update);
  updated_ = monitored;
}

// The optimizer's step on a block of w, whole pieces of it where their squares are wanted.
template <class T>
void Network<T>::update_weights(const Context& context, const OptimizerRule<T>& rule,
                                Update<T> update, size_t l, Block block, View<const T> dw,
                                bool monitored) {
  const Ops<T>& ops = ops_of<T>(table());
  const LayerConfig& layer = layers_[l];
  const bool whole_rows = dw.cols == layer.fan_out && dw.row_stride == dw.cols;
  const int64_t tall = monitored ? layer.piece_rows() : whole_rows ? dw.rows : 1;
  for (int64_t r = 0; r < dw.rows; r += tall) {
    const int64_t row = block.r0 + r;
    if (monitored) {
      update.squares = states_[l].squares.data() + row / tall * penalty_pieces(layer.fan_out) +
                       block.c0 / penalty_cols;
    }
    apply(ops, context, rule, update, parameters_, dw.at(r, 0),
          places_[l].weight + row * layer.fan_out + block.c0,
          std::min(tall, dw.rows - r) * dw.cols);
  }
}

// The plans of steps on so many rows, kept for the last few sizes of batches.
template <class T>
typename Network<T>::Plans& Network<T>::plans_of(int64_t rows, int most_threads, bool monitored) {
  constexpr size_t kept = 6;
  for (size_t i = 0; i < plans_.size(); ++i) {
    if (plans_[i].rows == rows && plans_[i].most_threads == most_threads &&
        plans_[i].monitored == monitored) {
      std::rotate(plans_.begin() + std::ptrdiff_t(i), plans_.begin() + std::ptrdiff_t(i) + 1,
                  plans_.end());
      return plans_.back();
    }
  }
  if (plans_.size() == kept) {
    plans_.erase(plans_.begin());
  }
  plans_.push_back({rows, most_threads, monitored, 0, {}, {}, {}});
  return plans_.back();
}

template <class T>
double Network<T>::planned_step(int most_threads, bool monitored, const Dataset& data,
                                const int64_t* chosen, const OptimizerRule<T>& rule,
                                const Update<T>& update) {
  reserve(rows_, true);
  if (monitored) {
    begin_monitoring(rows_);
  }
  Plans& plans = plans_of(rows_, most_threads, monitored);
  const int threads = plans.pace.threads(most_threads);
  std::unique_ptr<TrainingStep<T>>& step = threads == 1 ? plans.alone : plans.together;
  if (!step) {
    step = std::make_unique<TrainingStep<T>>(*this, rows_, threads, monitored);
  }
  const Clock::time_point start = Clock::now();
  const double loss = step->run(data, chosen, rule, update);
  const double took = seconds_since(start);
  if (most_threads > 1) {
    plans.pace.took(took);
  }
  plans.seconds = took;
  updated_ = monitored;
  return loss;
}

template <class T>
Progress Network<T>::train(const Context& context, const Dataset& data, const Targets<T>& targets,
                           const OptimizerRule<T>& rule, const double* lr, int64_t steps_done,
                           uint64_t step, int bins_at_last, double seconds,
                           const double* penalties) {
  const Clock::time_point start = Clock::now();
  const int64_t fan_in = layers_.front().fan_in, x_stride = padded(fan_in);
  batch_x_.resize_with_zeros(with_spare(std::min(data.batch_size, data.count), x_stride));
  running_before_.resize(size_t(2 * running_count_));
  Context uninterrupted = context;
  uninterrupted.interrupted = nullptr;

  std::vector<LayerConfig> before;  // the penalties of the last step done
  Progress done;
  done.loss = data.loss;
  while (done.rows < data.count && !stopped(context)) {
    const int64_t* chosen = data.rows + done.rows;
    rows_ = std::min(data.batch_size, data.count - done.rows);
    step_ = step + uint64_t(done.steps);
    x_ = rows_of<const T>(batch_x_.data(), rows_, fan_in, x_stride);
    gather_targets(targets, chosen);
    if (penalties != nullptr) {
      before.assign(layers_.begin(), layers_.end());
      set_penalties(penalties[2 * done.steps], penalties[2 * done.steps + 1]);
    }
    const int bins = done.rows + rows_ == data.count ? bins_at_last : no_stats;
    const Update<T> constants = update_of(rule, lr[done.steps], steps_done + done.steps);
    double loss;
    if (bins <= 0 && rule.clip_norm == unlimited &&
        seconds_of_step(rows_, context.threads, bins == 0) < longest_step) {
      loss = planned_step(context.threads, bins == 0, data, chosen, rule, constants);
    } else {
      const Clock::time_point began = Clock::now();
      std::copy_n(running_mean_, running_count_, running_before_.data());
      std::copy_n(running_var_, running_count_, running_before_.data() + running_count_);
      {
        const Timed gathering(Work::gather, context.threads);
        gather(context, data, chosen, 0, rows_);
      }
      loss = loss_and_gradients(context, x_, bins, step_);
      if (stopped(context)) {
        monitored_rows_ = bins >= 0 ? 0 : monitored_rows_;
        std::copy_n(running_before_.data(), running_count_, running_mean_);
        std::copy_n(running_before_.data() + running_count_, running_count_, running_var_);
        std::copy(before.begin(), before.end(), layers_.begin());
        break;
      }
      update(uninterrupted, rule, constants, bins >= 0);
      if (bins <= 0 && rule.clip_norm == unlimited) {  // what the same step would take next time
        plans_of(rows_, context.threads, bins == 0).seconds = seconds_since(began);
      }
    }
    done.loss += loss * double(rows_);
    done.rows += rows_;
    done.steps += 1;
    if (!std::isfinite(loss) || seconds_since(start) > seconds) {
      break;
    }
  }
  rows_ = 0;  // the batch is gone: there is nothing to go back through
  return done;
}

template <class T>
double Network<T>::seconds_of_step(int64_t rows, int threads, bool monitored) const {
  for (const Plans& plans : plans_) {
    if (plans.rows == rows && plans.most_threads == threads && plans.monitored == monitored &&
        plans.seconds > 0) {
      return plans.seconds;
    }
  }
  double products = 0;
  for (const LayerConfig& layer : layers_) {
    products += 3 * double(rows) * double(layer.weights());
  }
  return products / 5e10 / threads;
}

template class Network<float>;
template class Network<double>;

}  // namespace fanin
