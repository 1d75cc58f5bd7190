// The network of cpp/net on NumPy arrays. The arrays behind the flat vectors are kept alive here.
#include <algorithm>
#include <memory>

#include "../net/network.hpp"
#include "bind.hpp"
#include "network.hpp"

namespace fanin {
namespace {

// A step that takes longer, in seconds, looks for signals (Ctrl-C) on the way.
constexpr double longest_call = 0.005;

template <class T>
class BoundNetwork {
 public:
  BoundNetwork(const std::vector<LayerArguments>& layers, int output, uint64_t seed, bool bfloat16,
               uint32_t input_threshold, bool proximal, const FormArguments& form,
               py::array parameters, py::array gradients, py::array running_mean,
               py::array running_var)
      : parameters_(std::move(parameters)),
        gradients_(std::move(gradients)),
        running_mean_(std::move(running_mean)),
        running_var_(std::move(running_var)) {
    const Layers found = layers_of(layers, output, input_threshold);
    softmax_ = Output(output) == Output::softmax;
    takes_any_numbers_ = Output(output) == Output::identity;
    least_rows_ = found.running > 0 ? 2 : 1;
    network_ = std::make_unique<Network<T>>(
        found.configs,
        NetworkConfig{Output(output), seed, bfloat16, input_threshold, proximal, form_of(form)},
        out_vector<T>(parameters_, "parameters", found.parameters),
        out_vector<T>(gradients_, "gradients", found.parameters),
        out_vector<T>(running_mean_, "running_mean", found.running),
        out_vector<T>(running_var_, "running_var", found.running));
  }

  void forward(py::array x, bool training, int bins, uint64_t step, py::array out) {
    const InUse mine(in_use_);
    const View<const T> x_view = input(x);
    if (training) {
      check_training_rows(x_view.rows);
    }
    const View<T> out_view = out_matrix<T>(out, "out", x_view.rows, fan_out());
    check_apart(out, x, "out");
    if (training) {
      batch_ = x;  // backward reads it
    }
    const Computing computing;
    network_->forward(computing.context, x_view, training, bins, step, out_view);
  }

  // The outputs for rows that need no conversion, outside training; None where they do.
  py::object infer(py::handle x) {
    const InUse mine(in_use_);
    const int64_t rows = rows_if_plain<T>(x, fan_in());
    if (rows < 0) {
      return py::none();
    }
    py::array_t<T> out({rows, fan_out()});
    const View<const T> x_view = rows_of(data_of<T>(x), rows, fan_in(), fan_in());
    const View<T> out_view = rows_of(out.mutable_data(), rows, fan_out(), fan_out());
    {
      const Computing computing;
      network_->forward(computing.context, x_view, false, no_stats, 0, out_view);
    }
    return out;
  }

  void backward(const py::array& dout, std::optional<py::array> dx) {
    const InUse mine(in_use_);
    if (!network_->can_backward()) {
      refuse("backward", "a training forward before it");
    }
    const int64_t rows = network_->batch_rows();
    const View<const T> dout_view = rows_matrix<T>(dout, "dout", rows, fan_out());
    View<T> dx_view{};
    if (dx) {
      dx_view = out_matrix<T>(*dx, "dx", rows, fan_in());
      check_apart(*dx, dout, "dx");
    }
    const Computing computing;
    network_->backward(computing.context, dout_view, dx_view);
  }

  double loss_and_gradients(py::array x, const Optional& labels, const Optional& targets,
                            const Optional& sample_weight, const Optional& class_weight,
                            double label_smoothing, int bins, uint64_t step) {
    const InUse mine(in_use_);
    const View<const T> x_view = input(x);
    check_training_rows(x_view.rows);
    const Targets<T> of = targets_of(x_view.rows, labels, targets, sample_weight, class_weight,
                                     label_smoothing, nullptr, x_view.rows);
    batch_ = x;
    const Computing computing;
    return network_->loss_and_gradients(computing.context, x_view, of, bins, step);
  }

  // Proximal steps and limits of norms, after an update of this learning rate by `optimizer`, which
  // has counted it; None where there are no proximal steps to do.
  void constrain(py::handle optimizer, double lr) {
    const InUse mine(in_use_);
    BoundRule<T> bound;
    Update<T> update{};
    if (!optimizer.is_none()) {
      bound = rule_of<T>(optimizer, parameters_.size());
      update = update_of(bound.rule, lr, py::cast<int64_t>(names().steps.of(optimizer)) - 1);
    }
    const Computing computing;
    network_->constrain(computing.context, optimizer.is_none() ? nullptr : &bound.rule, update);
  }

  void set_penalties(double l1, double l2) {
    const InUse mine(in_use_);
    check_penalty(l1);
    check_penalty(l2);
    network_->set_penalties(l1, l2);
  }

  // `penalties`: l1 and l2 of all layers for each step, where they are not those of set_penalties.
  // Adds the steps done to optimizer.steps and net.step; returns (rows done, loss + the sum of each
  // step's loss * rows), or raises what a signal handler raised.
  py::tuple train(const py::array& x, double scale, const Optional& shift, const Optional& factor,
                  const py::array& rows, int64_t batch_size, const Optional& labels,
                  const Optional& targets, const Optional& sample_weight,
                  const Optional& class_weight, double label_smoothing, double loss,
                  const py::array& lr, int64_t steps_done, uint64_t step, int bins_at_last,
                  double seconds, bool on_main_thread, py::handle optimizer, py::handle net,
                  const Optional& penalties) {
    const InUse mine(in_use_);
    const int64_t count = rows.size();
    if (batch_size < 1) {
      refuse("batch_size", "a number >= 1");
    }
    if (count > 0) {
      check_training_rows(std::min(count, batch_size));
      check_training_rows((count - 1) % batch_size + 1);
    }
    if (shift.has_value() != factor.has_value()) {
      refuse("shift", "a factor with it");
    }
    const SourceMatrix from = source_matrix(x, "x", fan_in());
    const Dataset data{from.data,
                       from.source,
                       from.row_stride,
                       from.col_stride,
                       scale,
                       vector<int64_t>(rows, "rows", count),
                       count,
                       batch_size,
                       column_vector<T>(shift, "shift", from.source, fan_in()),
                       column_vector<T>(factor, "factor", from.source, fan_in()),
                       loss};
    check_rows_of(data.rows, count, from.rows);
    const Targets<T> of = targets_of(x.shape(0), labels, targets, sample_weight, class_weight,
                                     label_smoothing, data.rows, count);
    const BoundRule<T> bound = rule_of<T>(optimizer, parameters_.size());
    if (steps_done < 0) {
      refuse("steps", "a number >= 0");
    }
    const int64_t steps = (count + batch_size - 1) / batch_size;
    const double* rates = vector<double>(lr, "lr", steps);
    const double* strengths = vector_or_null<double>(penalties, "penalties", 2 * steps);
    for (int64_t i = 0; strengths != nullptr && i < 2 * steps; ++i) {
      check_penalty(strengths[i]);
    }
    Signals signals;
    Progress done;
    {
      Computing computing;
      // Python answers signals on its main thread only; to ask for the interpreter on another one
      // could end that thread, when the interpreter itself is ending.
      computing.context.interrupted = on_main_thread ? Signals::interrupted : nullptr;
      computing.context.interrupted_state = &signals;
      done = network_->train(computing.context, data, of, bound.rule, rates, steps_done, step,
                             bins_at_last, seconds, strengths);
    }
    count_steps(optimizer, steps_done + done.steps, net, int64_t(step) + done.steps);
    signals.raise();
    return py::make_tuple(done.rows, done.loss);
  }

  // One short step, on arrays that need no conversion, with an optimizer that has its state:
  // returns the loss, or None where the long way has something to convert, to prepare or to refuse.
  py::object train_step(py::handle x, py::handle y, py::handle optimizer, py::handle net,
                        bool monitor) {
    const InUse mine(in_use_);
    const int64_t rows = rows_if_plain<T>(x, fan_in());
    const py::object rate = names().lr.of(optimizer);
    // What limits and proximal steps change is not among the norms that this step would leave.
    if (rows < least_rows_ || (monitor && network_->constrains()) ||
        network_->seconds_of_step(rows, num_threads(), monitor) > longest_call ||
        !PyFloat_CheckExact(rate.ptr()) ||
        py::len(names().state.of(optimizer)) != py::len(names().moments.of(optimizer))) {
      return py::none();
    }
    Targets<T> of;
    if (softmax_ && rows_if_plain<int64_t>(y, 0) == rows) {
      of.labels = data_of<int64_t>(y);
      for (int64_t r = 0; r < rows; ++r) {
        if (of.labels[r] < 0 || of.labels[r] >= fan_out()) {
          return py::none();
        }
      }
    } else if (takes_any_numbers_ && rows_if_plain<T>(y, fan_out()) == rows) {
      of.targets = rows_of(data_of<T>(y), rows, fan_out(), fan_out());
    } else {
      return py::none();
    }
    while (int64_t(all_rows_.size()) < rows) {
      all_rows_.push_back(int64_t(all_rows_.size()));
    }
    constexpr Source source = sizeof(T) == 4 ? Source::float32 : Source::float64;
    const Dataset data{data_of<T>(x), source, fan_in(), 1, 1.0, all_rows_.data(), rows, rows};
    BoundRule<T> bound;
    int64_t steps_done, step;
    try {
      bound = rule_of<T>(optimizer, parameters_.size());
      steps_done = py::cast<int64_t>(names().steps.of(optimizer));
      step = py::cast<int64_t>(names().step.of(net));
    } catch (const std::invalid_argument&) {  // it belongs to another network
      return py::none();
    } catch (const py::cast_error&) {
      return py::none();
    }
    if (steps_done < 0 || step < 0) {
      return py::none();
    }
    const double learning_rate = PyFloat_AS_DOUBLE(rate.ptr());
    Progress done;
    {
      const Computing computing;
      done = network_->train(computing.context, data, of, bound.rule, &learning_rate, steps_done,
                             uint64_t(step), monitor ? 0 : no_stats, 1);
    }
    count_steps(optimizer, steps_done + 1, net, step + 1);
    return py::float_(done.loss / double(rows));
  }

  int64_t monitored() const { return network_->monitored(); }

  // Of a layer in the last monitored batch: (Stats, its rows, (counts, edges) of the histogram or
  // None twice); None when there is no such batch.
  py::object stats(size_t layer) {
    const InUse mine(in_use_);
    if (network_->monitored_rows() == 0) {
      return py::none();
    }
    const Stats of = [&] {
      const Computing computing;
      return network_->stats(layer);
    }();
    return stats_tuple(of, network_->layers().at(layer).fan_out, network_->monitored_rows(),
                       network_->counts(layer), network_->edges(layer));
  }

  size_t nonfinite_layer() {
    const InUse mine(in_use_);
    return network_->nonfinite_layer();
  }

  // Of a layer's weights in the last monitored step: the norms of their gradient and of what the
  // step added; None when there was no such step.
  py::object norms(size_t layer) {
    const InUse mine(in_use_);
    if (network_->monitored_rows() == 0 || !network_->updated()) {
      return py::none();
    }
    return py::make_tuple(network_->gradient_norm(layer), network_->update_norm(layer));
  }

 private:
  // The rows of an aligned, C-contiguous ndarray of Number (rows, cols), or (rows,) where cols is
  // 0; -1 for anything else.
  template <class Number>
  static int64_t rows_if_plain(py::handle object, int64_t cols) {
    if (!py::isinstance<py::array_t<Number>>(object)) {
      return -1;
    }
    const auto array = py::reinterpret_borrow<py::array>(object);
    constexpr int plain = py::array::c_style | int(py::detail::npy_api::NPY_ARRAY_ALIGNED_);
    const bool fits = (array.flags() & plain) == plain && array.ndim() == (cols == 0 ? 1 : 2) &&
                      (cols == 0 || array.shape(1) == cols);
    return fits ? array.shape(0) : -1;
  }
  template <class Number>
  static const Number* data_of(py::handle plain) {
    return static_cast<const Number*>(py::reinterpret_borrow<py::array>(plain).data());
  }

  static void check_penalty(double strength) {
    if (!(strength >= 0)) {
      refuse("penalties", "numbers >= 0");
    }
  }

  void check_training_rows(int64_t rows) const {
    if (rows < least_rows_) {
      refuse("x", "at least " + std::to_string(least_rows_) + " rows in training");
    }
  }

  int64_t fan_in() const { return network_->layers().front().fan_in; }
  int64_t fan_out() const { return network_->layers().back().fan_out; }

  View<const T> input(const py::array& x) const {
    return matrix<T>(x, "x", x.ndim() == 2 ? x.shape(0) : 0, fan_in());
  }

  // Of all rows; labels are checked where `chosen` (null: all) leads.
  Targets<T> targets_of(int64_t rows, const Optional& labels, const Optional& targets,
                        const Optional& sample_weight, const Optional& class_weight,
                        double label_smoothing, const int64_t* chosen, int64_t count) const {
    Targets<T> of;
    if (labels.has_value() == targets.has_value() || (labels && !softmax_)) {
      refuse("y", "labels (of a softmax) or targets, one of them");
    }
    if (labels) {
      of.labels = vector<int64_t>(*labels, "y", rows);
      check_labels(of.labels, chosen, count, fan_out());
    } else {
      of.targets = rows_matrix<T>(*targets, "y", rows, fan_out());
    }
    of.sample_weight = vector_or_null<T>(sample_weight, "sample_weight", rows);
    of.class_weight = vector_or_null<T>(class_weight, "class_weight", fan_out());
    of.label_smoothing = label_smoothing;
    return of;
  }

  py::array parameters_, gradients_, running_mean_, running_var_;
  py::object batch_;                                  // the last one trained on
  bool softmax_ = false, takes_any_numbers_ = false;  // as labels, as targets
  int64_t least_rows_ = 1;
  std::vector<int64_t> all_rows_;  // 0, 1, ...
  std::atomic_flag in_use_;
  std::unique_ptr<Network<T>> network_;
};

template <class T>
void bind_network_of(py::module_& module, const char* name) {
  using Bound = BoundNetwork<T>;
  py::class_<Bound>(module, name)
      .def(py::init<const std::vector<LayerArguments>&, int, uint64_t, bool, uint32_t, bool,
                    const FormArguments&, py::array, py::array, py::array, py::array>())
      .def("forward", &Bound::forward)
      .def("infer", &Bound::infer)
      .def("backward", &Bound::backward)
      .def("loss_and_gradients", &Bound::loss_and_gradients)
      .def("constrain", &Bound::constrain)
      .def("set_penalties", &Bound::set_penalties)
      .def("train", &Bound::train)
      .def("train_step", &Bound::train_step)
      .def_property_readonly("monitored", &Bound::monitored)
      .def("stats", &Bound::stats)
      .def("norms", &Bound::norms)
      .def("nonfinite_layer", &Bound::nonfinite_layer);
}

}  // namespace

void bind_network(py::module_& module) {
  bind_network_of<float>(module, "NetworkFloat32");
  bind_network_of<double>(module, "NetworkFloat64");
}

}  // namespace fanin
