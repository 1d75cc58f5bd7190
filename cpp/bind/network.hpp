// What the bindings of networks share, on whatever device these compute.
#pragma once

#include <pybind11/stl.h>

#include <atomic>
#include <chrono>
#include <optional>
#include <tuple>
#include <vector>

#include "../net/layers.hpp"
#include "arrays.hpp"
#include "optimizer.hpp"

namespace fanin {

// Asks Python every 10 ms whether a signal (Ctrl-C) has come, and keeps what its handler raised.
class Signals {
 public:
  static bool interrupted(void* self) { return static_cast<Signals*>(self)->check(); }
  void raise() const {
    if (error_) {
      throw py::error_already_set(*error_);
    }
  }

 private:
  bool check() {
    const Clock::time_point now = Clock::now();
    if (!error_ && now >= next_) {
      const py::gil_scoped_acquire held;
      if (PyErr_CheckSignals() != 0) {
        error_.emplace();
      }
      next_ = now + std::chrono::milliseconds(10);
    }
    return error_.has_value();
  }

  using Clock = std::chrono::steady_clock;
  Clock::time_point next_ = Clock::now() + std::chrono::milliseconds(10);
  std::optional<py::error_already_set> error_;
};

// A network does one thing at a time; the lock in Python lets the same thread in twice, as from the
// handler of a signal that came during a step.
class InUse {
 public:
  explicit InUse(std::atomic_flag& flag) : flag_(flag) {
    if (flag_.test_and_set()) {
      throw std::runtime_error(
          "this network is computing already: it was called from a signal "
          "handler during one of its own steps");
    }
  }
  ~InUse() { flag_.clear(); }
  InUse(const InUse&) = delete;
  InUse& operator=(const InUse&) = delete;

 private:
  std::atomic_flag& flag_;
};

constexpr int64_t most_weights = int64_t{1} << 48;  // far from overflow

using LayerArguments = std::tuple<int64_t, int64_t, int, uint32_t, int, double, double, double>;

// The layers of a network and the lengths of its flat vectors.
struct Layers {
  std::vector<LayerConfig> configs;
  int64_t parameters = 0, running = 0;
};

inline Layers layers_of(const std::vector<LayerArguments>& layers, int output,
                        uint32_t input_threshold) {
  Layers found;
  for (const auto& [fan_in, fan_out, activation, threshold, batch_norm, l1, l2, max_norm] :
       layers) {
    if (fan_in < 1 || fan_out < 1 || activation < 0 || activation >= activation_count ||
        threshold > 65535 || batch_norm < 0 || batch_norm > 2 ||
        (!found.configs.empty() && found.configs.back().fan_out != fan_in)) {
      refuse("layers", "sizes that meet, known activations, thresholds below 65536");
    }
    found.configs.push_back({fan_in, fan_out, Activation(activation), threshold,
                             BatchNorm(batch_norm), l1, l2, max_norm});
    if (fan_in > most_weights / fan_out) {
      refuse("layers", "at most 2^48 weights each");
    }
    found.parameters += found.configs.back().parameters();
    found.running += found.configs.back().normalised() ? fan_out : 0;
  }
  if (found.configs.empty() || output < 0 || output > 2 || input_threshold > 65535) {
    refuse("layers", "at least one layer, a known output, a threshold below 65536");
  }
  const LayerConfig& last = found.configs.back();
  if (last.activation != Activation::identity || last.dropout_threshold > 0 || last.normalised()) {
    refuse("layers", "a last layer without activation, dropout and batch norm");
  }
  return found;
}

// Throws where the labels of so many rows, those `chosen` (null: the first), are no classes.
inline void check_labels(const int64_t* labels, const int64_t* chosen, int64_t count,
                         int64_t classes) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t label = labels[chosen == nullptr ? i : chosen[i]];
    if (label < 0 || label >= classes) {
      refuse("y", "classes in [0, " + std::to_string(classes) + ")");
    }
  }
}

// The attributes of an optimizer, and of a network, that a step reads and sets.
struct StepNames {
  Name lr{"lr"}, steps{"steps"}, state{"state"}, moments{"moments"}, step{"step"};
};
inline const StepNames& names() {
  static const StepNames all;
  return all;
}

// Not left to the caller: Python looks for signals as soon as a call has returned, and the
// parameters would then have taken steps that nobody counted.
inline void count_steps(py::handle optimizer, int64_t steps_done, py::handle net, int64_t step) {
  names().steps.set(optimizer, steps_done);
  names().step.set(net, step);
}

template <class Number>
py::object array_or_none(const std::vector<Number>& numbers) {
  if (numbers.empty()) {
    return py::none();
  }
  return py::array_t<Number>(py::ssize_t(numbers.size()), numbers.data());
}

// Statistics as Python takes them: (Stats, rows, (counts, edges) of the histogram or None twice).
inline py::object stats_tuple(const Stats& of, py::ssize_t units, int64_t rows,
                              const std::vector<int64_t>& counts,
                              const std::vector<double>& edges) {
  return py::make_tuple(py::make_tuple(of.mean, of.std, of.min, of.max, of.zeros, of.saturated,
                                       py::array_t<double>(units, of.unit_mean),
                                       py::array_t<int64_t>(units, of.unit_zeros)),
                        rows, py::make_tuple(array_or_none(counts), array_or_none(edges)));
}

}  // namespace fanin
