// The network of cpp/cuda: its vectors are arrays in device memory, known by their
// __cuda_array_interface__ and kept alive here; data come from NumPy arrays or from the device.
#include <algorithm>
#include <array>
#include <exception>
#include <memory>
#include <optional>

#include "../cuda/error.hpp"
#include "../cuda/feed.hpp"
#include "../cuda/network.hpp"
#include "bind_cuda.hpp"
#include "network.hpp"

namespace fanin::cuda {
namespace {

constexpr int64_t bytes_at_once = int64_t{1} << 24;  // of rows on their way to the device
constexpr int64_t most_steps = 1024;                 // queued at once
constexpr double share_of_memory = 0.9;              // free, that a data set may take
constexpr int64_t large_data = int64_t{1} << 28;     // bytes that others want back

// ---- arrays in device memory

// A vector or a matrix; strides in elements.
struct DeviceArray {
  void* data;
  std::string dtype;  // "<f4"
  int64_t rows, cols, row_stride, col_stride;
  bool readonly;
};

template <class E>
constexpr const char* typestr() {
  if constexpr (std::is_same_v<E, float>) {
    return "<f4";
  } else if constexpr (std::is_same_v<E, double>) {
    return "<f8";
  } else {
    return "|u1";
  }
}

bool on_device(py::handle object) { return py::hasattr(object, "__cuda_array_interface__"); }

// What is queued on `stream` from now on sees what its library has queued for the array.
DeviceArray device_array(py::handle object, const char* name, void* stream) {
  const auto found = py::cast<py::dict>(object.attr("__cuda_array_interface__"));
  const auto shape = py::cast<std::vector<int64_t>>(found["shape"]);
  const auto [pointer, readonly] = py::cast<std::pair<std::uintptr_t, bool>>(found["data"]);
  DeviceArray array{reinterpret_cast<void*>(pointer),
                    py::cast<std::string>(found["typestr"]),
                    shape.empty() ? 0 : shape[0],
                    shape.size() == 2 ? shape[1] : 1,
                    shape.size() == 2 ? shape[1] : 1,
                    1,
                    readonly};
  if (shape.size() != 1 && shape.size() != 2) {
    refuse(name, "1 or 2 dimensions");
  }
  if (found.contains("strides") && !found["strides"].is_none()) {
    const auto strides = py::cast<std::vector<int64_t>>(found["strides"]);
    const int64_t size = array.dtype.back() - '0';
    for (const int64_t stride : strides) {
      if (stride % size != 0) {
        refuse(name, "strides that are multiples of the element size");
      }
    }
    array.row_stride = array.rows > 1 ? strides[0] / size : array.cols;
    array.col_stride = shape.size() == 2 && array.cols > 1 ? strides[1] / size : 1;
  }
  if (array.data != nullptr) {
    const int device = device_of(array.data);
    if (device >= 0 && device != current_device()) {  // a kernel would be stopped there, for good
      refuse(name, "an array on CUDA device " + std::to_string(current_device()) +
                       " like the network, got one on device " + std::to_string(device));
    }
  }
  // 1 is the legacy stream, which most libraries compute on; only some say which.
  const bool tells = found.contains("stream") && !found["stream"].is_none();
  const auto theirs = tells ? py::cast<std::uintptr_t>(found["stream"]) : std::uintptr_t{1};
  if (is_capturing(reinterpret_cast<void*>(theirs))) {
    throw Error("a call of a network cannot be captured into a CUDA graph");
  }
  wait_for(stream, reinterpret_cast<void*>(theirs));
  return array;
}

// Contiguous memory of (rows, cols), or of a vector with cols 1.
template <class E>
E* device_memory(py::handle object, const char* name, int64_t rows, int64_t cols, void* stream,
                 bool written) {
  const DeviceArray array = device_array(object, name, stream);
  if (array.dtype != typestr<E>() || array.rows != rows || array.cols != cols) {
    refuse(name, "shape (" + std::to_string(rows) + ", " + std::to_string(cols) +
                     ") of the network's dtype on the device");
  }
  if ((cols > 1 && array.col_stride != 1) || (rows > 1 && array.row_stride != cols) ||
      (written && array.readonly)) {
    refuse(name, "a contiguous array, writeable where it is written");
  }
  return static_cast<E*>(array.data);
}

// ---- the network

template <class T>
class BoundNetwork {
 public:
  BoundNetwork(const std::vector<LayerArguments>& layers, int output, uint64_t seed, int precision,
               uint32_t input_threshold, bool proximal, const FormArguments& form,
               const std::vector<std::pair<double, double>>& saturation, py::object parameters,
               py::object gradients, py::object running_mean, py::object running_var)
      : device_(current_device()),
        vectors_{std::move(parameters), std::move(gradients), std::move(running_mean),
                 std::move(running_var)} {
    const Layers found = layers_of(layers, output, input_threshold);
    if (precision < 0 || precision > 2 || saturation.size() != found.configs.size()) {
      refuse("precision", "a known one, and saturation bounds for each layer");
    }
    softmax_ = Output(output) == Output::softmax;
    least_rows_ = found.running > 0 ? 2 : 1;
    count_ = found.parameters;
    void* const stream = own_stream();
    network_ = Network<T>::make(
        found.configs,
        {Output(output), seed, Precision(precision), input_threshold, proximal, form_of(form)},
        saturation, device_memory<T>(vectors_[0], "parameters", found.parameters, 1, stream, true),
        device_memory<T>(vectors_[1], "gradients", found.parameters, 1, stream, true),
        device_memory<T>(vectors_[2], "running_mean", found.running, 1, stream, true),
        device_memory<T>(vectors_[3], "running_var", found.running, 1, stream, true));
    feed_.emplace();  // behind the network's own, as it is given up before: pairs stay pairs
    synchronize(stream);
  }

  // out: a NumPy array or one on the device, (m, n).
  void forward(py::object x, bool training, int bins, uint64_t step, py::object out) {
    const Call call(*this);
    Rows<T> rows = input(x);
    const int64_t count = rows_in_;
    if (training) {
      check_training_rows(count);
    }
    const bool direct = on_device(out);
    T* const to = direct ? device_memory<T>(out, "out", count, fan_out(), stream(), true)
                         : result_.memory(count * fan_out(), stream());
    network_->forward(rows, count, training, bins, step, to);
    give(direct, out, to, count, fan_out());
  }

  void backward(py::object dout, py::object dx) {
    const Call call(*this);
    const int64_t count = network_->batch_rows();
    if (count == 0) {
      refuse("backward", "a training forward before it");
    }
    const T* from;
    if (on_device(dout)) {
      from = device_memory<T>(dout, "dout", count, fan_out(), stream(), false);
    } else {
      const auto array = py::cast<py::array>(dout);
      const View<const T> view = matrix<T>(array, "dout", count, fan_out());
      slots_[0].y.fill(host_rows(view), nullptr, count, stream());
      from = slots_[0].y.template data<T>();
    }
    if (dx.is_none()) {
      network_->backward(from, nullptr);
      synchronize(stream());
      return;
    }
    const bool direct = on_device(dx);
    T* const to = direct ? device_memory<T>(dx, "dx", count, fan_in(), stream(), true)
                         : result_.memory(count * fan_in(), stream());
    network_->backward(from, to);
    give(direct, dx, to, count, fan_in());
  }

  double loss_and_gradients(py::object x, const Optional& labels, const Optional& targets,
                            const Optional& sample_weight, const Optional& class_weight,
                            double label_smoothing, int bins, uint64_t step) {
    const Call call(*this);
    Rows<T> rows = input(x);
    const int64_t count = rows_in_;
    check_training_rows(count);
    const Wanted wanted = wanted_of(count, labels, targets, sample_weight, nullptr, count);
    set_weights(rows, class_weight, label_smoothing);
    fill(slots_[0], {}, wanted, nullptr, count, rows, stream());
    const Released released;
    return network_->loss_and_gradients(rows, count, bins, step);
  }

  // One update by the gradients as they are, of this learning rate, after so many.
  void update(py::handle optimizer, double lr, int64_t steps_done) {
    const Call call(*this);
    const OptimizerRule<T> rule = rule_on_device(optimizer);
    const Released released;
    network_->update(rule, rates_of(rule, lr, steps_done));
  }
  void limit_norms() {
    const Call call(*this);
    const Released released;
    network_->limit_norms();
  }

  void set_penalties(double l1, double l2) {
    const Call call(*this);
    if (!(l1 >= 0 && l2 >= 0)) {
      refuse("penalties", "numbers >= 0");
    }
    network_->set_penalties(l1, l2);
  }

  // Takes a whole data set to the device, for calls of `train` with x None, and returns True; False
  // where there is no room for it beside batches of this size.
  bool keep(const py::array& x, const Optional& labels, const Optional& targets,
            const Optional& sample_weight, int64_t batch_size) {
    const Call call(*this);
    const SourceMatrix from = source_matrix(x, "x", fan_in());
    const Wanted wanted = wanted_of(from.rows, labels, targets, sample_weight, nullptr, from.rows);
    const HostRows rows = host_rows(from);
    const Released released;
    network_->reserve(std::min(batch_size, from.rows), true);
    const int64_t bytes = from.rows * (rows.row_bytes() + wanted.row_bytes() + 8);
    if (double(bytes) > share_of_memory * double(available_memory())) {
      return false;
    }
    Kept kept;
    try {
      kept.x.reserve(from.rows * rows.row_bytes(), stream());
      kept.labels.reserve(wanted.labels.data != nullptr ? from.rows : 0, stream());
      kept.targets.reserve(wanted.targets.data != nullptr ? from.rows * fan_out() : 0, stream());
      kept.weight.reserve(wanted.weight.data != nullptr ? from.rows : 0, stream());
    } catch (const OutOfMemory&) {
      return false;
    }
    take(rows, from.rows, kept.x.data());
    take(wanted.labels, from.rows, kept.labels.data());
    take(wanted.targets, from.rows, kept.targets.data());
    take(wanted.weight, from.rows, kept.weight.data());
    synchronize(stream());
    kept.rows = from.rows;
    kept.source = from.source;
    kept_ = std::move(kept);
    return true;
  }
  void forget() {
    const Call call(*this);
    const bool large = kept_.x.size() > large_data;
    kept_ = {};
    order_ = {};
    if (large) {
      synchronize(stream());
      trim_pool();
    }
  }

  // As the method of _core's network; x None: of the data set that is kept.
  py::tuple train(py::object x, double scale, const Optional& shift, const Optional& factor,
                  const py::array& rows, int64_t batch_size, const Optional& labels,
                  const Optional& targets, const Optional& sample_weight,
                  const Optional& class_weight, double label_smoothing, double loss,
                  const py::array& lr, int64_t steps_done, uint64_t step, int bins_at_last,
                  double seconds, bool on_main_thread, py::handle optimizer, py::handle net,
                  const Optional& penalties) {
    const Call call(*this);
    if (penalties) {
      refuse("penalties", "those of set_penalties for all steps of a network on CUDA");
    }
    const int64_t count = rows.size();
    if (batch_size < 1 || steps_done < 0) {
      refuse("batch_size", "a number >= 1, and steps >= 0");
    }
    if (count > 0) {
      check_training_rows(std::min(count, batch_size));
      check_training_rows((count - 1) % batch_size + 1);
    }
    if (shift.has_value() != factor.has_value()) {
      refuse("shift", "a factor with it");
    }
    Plan plan{vector<int64_t>(rows, "rows", count),
              count,
              batch_size,
              vector<double>(lr, "lr", (count + batch_size - 1) / batch_size),
              steps_done,
              step,
              bins_at_last,
              rule_on_device(optimizer)};
    Rows<T> data{};
    HostRows host;
    Wanted wanted;
    if (x.is_none()) {
      if (kept_.rows == 0) {
        refuse("x", "rows, or a data set that is kept");
      }
      check_rows_of(plan.rows, count, kept_.rows);
      data = kept_.data(fan_in());
    } else if (on_device(x)) {
      data = input(x);
      check_rows_of(plan.rows, count, rows_in_);
      wanted = wanted_of(rows_in_, labels, targets, sample_weight, plan.rows, count);
    } else {
      const auto array = py::cast<py::array>(x);
      const SourceMatrix from = source_matrix(array, "x", fan_in());
      check_rows_of(plan.rows, count, from.rows);
      wanted = wanted_of(from.rows, labels, targets, sample_weight, plan.rows, count);
      host = host_rows(from);
      data.source = from.source;
      data.row_stride = fan_in();
      data.col_stride = 1;
    }
    data.scale = scale;
    const int64_t wide = data.source == Source::float64 ? 8 : int64_t(sizeof(T));
    data.shift = columns(shift, "shift", data.source, wide, shift_);
    data.factor = columns(factor, "factor", data.source, wide, factor_);
    set_weights(data, class_weight, label_smoothing);
    plan.seconds = seconds;

    Signals signals;
    Progress done;
    done.loss = loss;
    std::exception_ptr thrown;
    {
      const Released released;
      Context context;
      context.interrupted = on_main_thread ? Signals::interrupted : nullptr;
      context.interrupted_state = &signals;
      try {
        if (host.data == nullptr && wanted.labels.data == nullptr &&
            wanted.targets.data == nullptr) {
          train_on_device(data, plan, context, done);
        } else {
          stream_rows(data, host, wanted, plan, context, done);
        }
      } catch (...) {  // the steps before count
        thrown = std::current_exception();
      }
    }
    count_steps(optimizer, steps_done + done.steps, net, int64_t(step) + done.steps);
    if (thrown) {
      std::rethrow_exception(thrown);
    }
    signals.raise();
    return py::make_tuple(done.rows, done.loss);
  }

  int64_t monitored() const { return network_->monitored(); }

  py::object stats(size_t layer) {
    const InUse mine(in_use_);
    if (network_->monitored_rows() == 0) {
      return py::none();
    }
    const LayerStats& of = network_->stats(layer);
    return stats_tuple(of.stats, network_->layers().at(layer).fan_out, network_->monitored_rows(),
                       of.counts, of.edges);
  }

  py::object norms(size_t layer) {
    const InUse mine(in_use_);
    if (network_->monitored_rows() == 0 || !network_->updated()) {
      return py::none();
    }
    return py::make_tuple(network_->stats(layer).gradient_norm, network_->stats(layer).update_norm);
  }

  size_t nonfinite_layer() {
    const Call call(*this);
    return network_->nonfinite_layer();
  }
  void set_replays(bool replays) { network_->set_replays(replays); }

 private:
  // While it lives: nobody else uses the network, this thread's device is its own, and it has seen
  // what was queued for its vectors elsewhere. Where a call fails, what it has queued is waited
  // for: the caller's arrays may go now.
  class Call {
   public:
    explicit Call(BoundNetwork& network)
        : mine_(network.in_use_),
          on_(network.device_),
          stream_(network.stream()),
          before_(std::uncaught_exceptions()) {
      device_array(network.vectors_[0], "parameters", stream_);
      network.network_->refresh();
    }
    ~Call() {
      if (std::uncaught_exceptions() > before_) {
        try {
          synchronize(stream_);
        } catch (const Error&) {  // the first one is on its way
        }
      }
    }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

   private:
    InUse mine_;
    OnDevice on_;
    void* const stream_;
    const int before_;
  };

  // What rows are to reproduce, on the host.
  struct Wanted {
    HostRows labels, targets, weight;
    int64_t row_bytes() const {
      const auto of = [](const HostRows& rows) {
        return rows.data != nullptr ? rows.row_bytes() : 0;
      };
      return of(labels) + of(targets) + of(weight);
    }
  };
  // A data set on the device.
  struct Kept {
    Memory<unsigned char> x;
    Memory<int64_t> labels;
    Memory<T> targets, weight;
    int64_t rows = 0;
    Source source{};

    Rows<T> data(int64_t fan_in) const {
      Rows<T> data{};
      data.x = x.data();
      data.source = source;
      data.row_stride = fan_in;
      data.col_stride = 1;
      data.labels = labels.data();
      data.targets = targets.data();
      data.sample_weight = weight.data();
      return data;
    }
  };
  // Rows on their way.
  struct Slots {
    Slot x, y, weight;
  };
  // Device memory that grows, for a result on its way to the host.
  struct Result {
    Memory<T> there;
    T* memory(int64_t count, void* stream) {
      there.reserve(count, stream);
      return there.data();
    }
  };
  // What a call of `train` is to do.
  struct Plan {
    const int64_t* rows;
    int64_t count, batch_size;
    const double* lr;
    int64_t steps_done;
    uint64_t step;
    int bins_at_last;
    OptimizerRule<T> rule;
    double seconds = 0;
  };

  void* stream() const { return network_->stream(); }
  int64_t fan_in() const { return network_->layers().front().fan_in; }
  int64_t fan_out() const { return network_->layers().back().fan_out; }

  void check_training_rows(int64_t rows) const {
    if (rows < least_rows_) {
      refuse("x", "at least " + std::to_string(least_rows_) + " rows in training");
    }
  }

  template <class E>
  static HostRows host_rows(View<const E> view) {
    return {view.data, view.cols, view.row_stride, view.col_stride, int64_t(sizeof(E))};
  }
  HostRows host_rows(const SourceMatrix& from) const {
    const int64_t size = from.source == Source::uint8 ? 1 : from.source == Source::float32 ? 4 : 8;
    return {from.data, fan_in(), from.row_stride, from.col_stride, size};
  }

  // A batch of rows as it is, with no more to do than a cast: on the device, or copied there.
  Rows<T> input(const py::object& x) {
    Rows<T> rows{};
    rows.source = sizeof(T) == 4 ? Source::float32 : Source::float64;
    if (on_device(x)) {
      const DeviceArray array = device_array(x, "x", stream());
      rows.source = array.dtype == "|u1"   ? Source::uint8
                    : array.dtype == "<f4" ? Source::float32
                                           : Source::float64;
      if (array.cols != fan_in() ||
          (array.dtype != "|u1" && array.dtype != "<f4" && array.dtype != "<f8")) {
        refuse("x", std::to_string(fan_in()) + " columns of uint8, float32 or float64");
      }
      rows.x = array.data;
      rows.row_stride = array.row_stride;
      rows.col_stride = array.col_stride;
      rows_in_ = array.rows;
    } else {
      const auto array = py::cast<py::array>(x);
      const View<const T> view =
          matrix<T>(array, "x", array.ndim() == 2 ? array.shape(0) : 0, fan_in());
      slots_[0].x.fill(host_rows(view), nullptr, view.rows, stream());
      rows.x = slots_[0].x.template data<void>();
      rows.row_stride = fan_in();
      rows.col_stride = 1;
      rows_in_ = view.rows;
    }
    rows.order = first_rows(rows_in_);
    return rows;
  }

  // 0, 1, ... on the device.
  const int64_t* first_rows(int64_t count) {
    if (count > first_rows_.size()) {
      std::vector<int64_t> numbers(static_cast<size_t>(count));
      for (int64_t i = 0; i < count; ++i) {
        numbers[size_t(i)] = i;
      }
      first_rows_.reserve(count, stream());
      copy(first_rows_.data(), numbers.data(), numbers.size() * sizeof(int64_t), stream());
      synchronize(stream());
    }
    return first_rows_.data();
  }

  Wanted wanted_of(int64_t rows, const Optional& labels, const Optional& targets,
                   const Optional& sample_weight, const int64_t* chosen, int64_t count) const {
    if (labels.has_value() == targets.has_value() || (labels && !softmax_)) {
      refuse("y", "labels (of a softmax) or targets, one of them");
    }
    Wanted wanted;
    if (labels) {
      const int64_t* found = vector<int64_t>(*labels, "y", rows);
      check_labels(found, chosen, count, fan_out());
      wanted.labels = {found, 1, 1, 1, 8};
    } else {
      wanted.targets = host_rows(rows_matrix<T>(*targets, "y", rows, fan_out()));
    }
    if (sample_weight) {
      wanted.weight = {vector<T>(*sample_weight, "sample_weight", rows), 1, 1, 1,
                       int64_t(sizeof(T))};
    }
    return wanted;
  }

  void set_weights(Rows<T>& rows, const Optional& class_weight, double label_smoothing) {
    rows.label_smoothing = label_smoothing;
    if (class_weight) {
      const T* found = vector<T>(*class_weight, "class_weight", fan_out());
      class_weight_.reserve(fan_out(), stream());
      copy(class_weight_.data(), found, size_t(fan_out()) * sizeof(T), stream());
      synchronize(stream());
      rows.class_weight = class_weight_.data();
    }
  }

  // A number for each column, on the device, or null.
  const void* columns(const Optional& array, const char* name, Source source, int64_t wide,
                      Memory<double>& memory) {
    const void* found = array ? column_vector<T>(array, name, source, fan_in()) : nullptr;
    if (found == nullptr) {
      return nullptr;
    }
    memory.reserve(fan_in(), stream());
    copy(memory.data(), found, size_t(fan_in() * wide), stream());
    synchronize(stream());
    return memory.data();
  }

  OptimizerRule<T> rule_on_device(py::handle optimizer) try {
    OptimizerRule<T> rule = settings_of<T>(optimizer);
    const auto arrays = py::cast<py::dict>(names().state.of(optimizer));
    const MomentNames moments = moments_of(rule);
    const auto moment = [&](const Name* name, bool needed) -> T* {
      const py::object found = name != nullptr ? name->object_in(arrays) : py::object();
      if (!found && needed) {
        refuse("state", "the optimizer's state");
      }
      return found ? device_memory<T>(found, "state", count_, 1, stream(), true) : nullptr;
    };
    rule.first = moment(moments.first, moments.needs_first);
    rule.second = moment(moments.second, moments.second != nullptr);
    return rule;
  } catch (const py::cast_error&) {
    refuse("optimizer", "settings that are numbers, and a dict of arrays as its state");
  }

  static Rates rates_of(const OptimizerRule<T>& rule, double lr, int64_t steps_done) {
    const Update<T> update = update_of(rule, lr, steps_done);
    return {update.lr, update.correction, update.step_size, update.decay};
  }

  // To the host, if that is where it belongs; then all is done.
  void give(bool direct, py::object& out, const T* from, int64_t rows, int64_t cols) {
    if (!direct) {
      auto array = py::cast<py::array>(out);
      const View<T> to = out_matrix<T>(array, "out", rows, cols);
      if (to.rows > 1 && to.row_stride != cols) {
        refuse("out", "a contiguous array");
      }
      copy(to.data, from, size_t(rows * cols) * sizeof(T), stream());
    }
    const Released released;
    synchronize(stream());
  }

  // All rows of a data set to the device, by pieces.
  template <class E>
  void take(HostRows rows, int64_t count, E* to) {
    if (rows.data == nullptr || count == 0) {
      return;
    }
    const int64_t at_once = std::max<int64_t>(bytes_at_once / rows.row_bytes(), 1);
    for (int64_t start = 0, turn = 0; start < count; start += at_once, ++turn) {
      HostRows piece = rows;
      piece.data =
          static_cast<const unsigned char*>(rows.data) + start * rows.row_stride * rows.element;
      const int64_t here = std::min(at_once, count - start);
      Slot& slot = slots_[size_t(turn % 2)].x;
      slot.fill(piece, nullptr, here, stream());
      copy(reinterpret_cast<unsigned char*>(to) + start * rows.row_bytes(),
           slot.template data<void>(), size_t(here * rows.row_bytes()), stream());
    }
  }

  // Copies rows that a step needs to the device; `to` then says where they are.
  void fill(Slots& slots, const HostRows& x, const Wanted& wanted, const int64_t* chosen,
            int64_t count, Rows<T>& to, void* on) {
    if (x.data != nullptr) {
      slots.x.fill(x, chosen, count, on);
      to.x = slots.x.template data<void>();
    }
    if (wanted.labels.data != nullptr) {
      slots.y.fill(wanted.labels, chosen, count, on);
      to.labels = slots.y.template data<int64_t>();
    } else if (wanted.targets.data != nullptr) {
      slots.y.fill(wanted.targets, chosen, count, on);
      to.targets = slots.y.template data<T>();
    }
    if (wanted.weight.data != nullptr) {
      slots.weight.fill(wanted.weight, chosen, count, on);
      to.sample_weight = slots.weight.template data<T>();
    }
  }

  // The next steps behind `done`: equal ones, at most `most` rows; the monitored one is alone.
  Steps next_steps(const Plan& plan, const Progress& done, int64_t most) const {
    const int64_t left = plan.count - done.rows;
    const int64_t all = (left + plan.batch_size - 1) / plan.batch_size;
    const int64_t rows = std::min(plan.batch_size, left);
    const double seconds = network_->seconds_of_step(rows);
    const double fit = seconds > 0 ? 0.5 * plan.seconds / seconds : 1;
    int64_t steps = std::clamp<int64_t>(int64_t(std::min(fit, double(most_steps))), 1,
                                        std::max<int64_t>(most / rows, 1));
    steps = std::min(steps, std::max<int64_t>(left / plan.batch_size, 1));
    Steps next{done.rows, rows, {}, plan.step + uint64_t(done.steps), no_stats};
    if (plan.bins_at_last >= 0) {
      next.bins = all == 1 ? plan.bins_at_last : no_stats;
      steps = std::min(steps, std::max<int64_t>(all - 1, 1));
    }
    for (int64_t i = 0; i < steps; ++i) {
      const int64_t at = done.steps + i;
      next.rates.push_back(rates_of(plan.rule, plan.lr[at], plan.steps_done + at));
    }
    return next;
  }

  // Waits for the steps that are queued; returns whether to go on.
  bool finish(const Plan& plan, int64_t rows, double until, const Context& context,
              Progress& done) {
    for (const double loss : network_->losses()) {
      done.loss += loss * double(rows);
      done.rows += rows;
      done.steps += 1;
      if (!std::isfinite(loss)) {
        return false;
      }
    }
    const bool stopped =
        context.interrupted != nullptr && context.interrupted(context.interrupted_state);
    return !stopped && done.rows < plan.count && now() < until;
  }
  static double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }

  // Steps on rows that are on the device already.
  void train_on_device(Rows<T> data, const Plan& plan, const Context& context, Progress& done) {
    const double until = now() + plan.seconds;
    order_.reserve(plan.count, stream());
    copy(order_.data(), plan.rows, size_t(plan.count) * sizeof(int64_t), stream());
    data.order = order_.data();
    while (done.rows < plan.count) {
      const Steps steps = next_steps(plan, done, plan.count);
      network_->begin(data, plan.rule, steps);
      if (!finish(plan, steps.rows, until, context, done)) {
        break;
      }
    }
  }

  // Steps on rows that the host packs while the device computes on those before.
  void stream_rows(Rows<T> data, const HostRows& host, const Wanted& wanted, const Plan& plan,
                   const Context& context, Progress& done) {
    const double until = now() + plan.seconds;
    const int64_t row_bytes = wanted.row_bytes() + (host.data != nullptr ? host.row_bytes() : 0);
    const int64_t most = std::max<int64_t>(bytes_at_once / row_bytes, 1);
    const bool gathered = host.data != nullptr;  // else x lies on the device, in its own order
    // Enough for all steps that are queued at once: it may not move under those that are.
    const int64_t* const order = first_rows(std::min(plan.count, std::max(most, plan.batch_size)));
    const auto prepare = [&](const Steps& steps, size_t slot) {
      Rows<T> there = data;
      const int64_t count = steps.rows * int64_t(steps.rates.size());
      there.order = order;
      fill(slots_[slot], host, wanted, plan.rows + steps.first_row, count, there, feed_->get());
      return there;
    };
    for (int64_t i = 0; !gathered && i < plan.count; ++i) {
      if (plan.rows[i] != i || plan.count > plan.batch_size) {
        throw std::invalid_argument("rows: expected all, in one batch, of x on the device");
      }
    }
    Steps steps = next_steps(plan, done, most);
    Rows<T> there = prepare(steps, 0);
    for (size_t slot = 0;; slot = 1 - slot) {
      Steps queued = steps;
      queued.first_row = 0;
      wait_for(stream(), feed_->get());
      network_->begin(there, plan.rule, queued);
      Progress then = done;
      then.rows += steps.rows * int64_t(steps.rates.size());
      then.steps += int64_t(steps.rates.size());
      const int64_t rows = steps.rows;
      const bool more = then.rows < plan.count;
      std::exception_ptr thrown;
      if (more) {
        steps = next_steps(plan, then, most);
        try {
          there = prepare(steps, 1 - slot);
        } catch (...) {  // the steps that are queued count all the same
          thrown = std::current_exception();
        }
      }
      const bool goes_on = finish(plan, rows, until, context, done);
      if (thrown) {
        std::rethrow_exception(thrown);
      }
      if (!goes_on || !more) {
        break;
      }
    }
  }

  const int device_;
  std::array<py::object, 4> vectors_;
  bool softmax_ = false;
  int64_t least_rows_ = 1, count_ = 0;
  int64_t rows_in_ = 0;  // of `input`
  std::atomic_flag in_use_;
  std::unique_ptr<Network<T>> network_;  // its stream outlives what lies on it
  std::optional<Stream> feed_;           // on which rows come while the network computes
  std::array<Slots, 2> slots_;
  Kept kept_;
  Result result_;
  Memory<int64_t> first_rows_, order_;
  Memory<T> class_weight_;
  Memory<double> shift_, factor_;
};

template <class T>
void bind_network_of(py::module_& module, const char* name) {
  using Bound = BoundNetwork<T>;
  py::class_<Bound>(module, name)
      .def(py::init<const std::vector<LayerArguments>&, int, uint64_t, int, uint32_t, bool,
                    const FormArguments&, const std::vector<std::pair<double, double>>&, py::object,
                    py::object, py::object, py::object>())
      .def("forward", &Bound::forward)
      .def("backward", &Bound::backward)
      .def("loss_and_gradients", &Bound::loss_and_gradients)
      .def("update", &Bound::update)
      .def("limit_norms", &Bound::limit_norms)
      .def("set_penalties", &Bound::set_penalties)
      .def("keep", &Bound::keep)
      .def("forget", &Bound::forget)
      .def("train", &Bound::train)
      .def_property_readonly("monitored", &Bound::monitored)
      .def("stats", &Bound::stats)
      .def("norms", &Bound::norms)
      .def("nonfinite_layer", &Bound::nonfinite_layer)
      .def("set_replays", &Bound::set_replays);
}

}  // namespace

void bind_network(py::module_& module) {
  bind_network_of<float>(module, "NetworkFloat32");
  bind_network_of<double>(module, "NetworkFloat64");
}

}  // namespace fanin::cuda
