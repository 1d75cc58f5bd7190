// The kernels of cpp/cuda/fused.cu on NumPy arrays, which are copied to the device and back: for
// tests, and to see one kernel alone in a profiler. A network's own steps call them in C++.
#include <pybind11/stl.h>

#include <array>
#include <tuple>
#include <vector>

#include "../cuda/device.hpp"
#include "../cuda/fused.hpp"
#include "arrays.hpp"
#include "bind_cuda.hpp"

namespace fanin::cuda {
namespace {

// A copy of `count` elements on the device; null of null.
template <class T>
Memory<T> on_device(const T* from, int64_t count, void* stream) {
  Memory<T> memory(from != nullptr ? count : 0, stream);
  copy(memory.data(), from, size_t(memory.size()) * sizeof(T), stream);
  return memory;
}

// fan_in, fan_out, activation, dropout threshold
using FusedLayerArguments = std::tuple<int, int, int, uint32_t>;

FusedNetwork fused_network(const std::vector<FusedLayerArguments>& layers, int product,
                           uint64_t seed, uint32_t input_threshold) {
  if (layers.empty() || layers.size() > fused_deepest) {
    refuse("layers", "1 to " + std::to_string(fused_deepest));
  }
  if (product < 0 || product > int(FusedProduct::float16)) {
    refuse("product", "0 to 3: float32, tf32, bfloat16, float16");
  }
  FusedNetwork network{};
  for (const auto& [fan_in, fan_out, activation, threshold] : layers) {
    if (activation < 0 || activation >= activation_count || threshold > 65535) {
      refuse("layers", "numbers of activations, and thresholds below 65536");
    }
    network.layers[network.count++] = {fan_in, fan_out, Activation(activation), threshold};
  }
  network.product = FusedProduct(product);
  network.seed = seed;
  network.input_threshold = input_threshold;
  return network;
}

int64_t parameter_count(const FusedNetwork& network) {
  int64_t count = 0;
  for (int l = 0; l < network.count; ++l) {
    count += int64_t(network.layers[l].fan_in + 1) * network.layers[l].fan_out;
  }
  return count;
}

void check_supported(const FusedNetwork& network) {
  if (!fused_supports(network)) {
    refuse("layers", "a network that fused_supports");
  }
}

// x and what it is converted with, on the device. Whole rows of what NumPy has in any order.
class Inputs {
 public:
  Inputs(const py::array& x, const Optional& rows, double scale, const Optional& shift,
         const Optional& factor, int64_t count, int64_t cols, void* stream) {
    const py::array packed = py::array::ensure(x, py::array::c_style);
    const SourceMatrix from = source_matrix(packed, "x", cols);
    const auto size = int64_t(packed.itemsize());
    if (!rows && from.rows != count) {
      refuse("x", std::to_string(count) + " rows");
    }
    data_ =
        on_device(static_cast<const unsigned char*>(from.data), from.rows * cols * size, stream);
    const int64_t* chosen = rows ? vector<int64_t>(*rows, "rows", rows->shape(0)) : nullptr;
    if (rows) {
      check_rows_of(chosen, rows->shape(0), from.rows);
      rows_ = on_device(chosen, rows->shape(0), stream);
    }
    const int64_t wide = from.source == Source::float64 ? 8 : 4;
    const auto column = [&](const Optional& of, const char* name) {
      return on_device(
          static_cast<const unsigned char*>(column_vector<float>(of, name, from.source, cols)),
          cols * wide, stream);
    };
    shift_ = column(shift, "shift");
    factor_ = column(factor, "factor");
    gather = {data_.data(),
              from.source,
              cols,
              1,
              rows_.data(),
              scale,
              shift_.data(),
              factor_.data(),
              {nullptr, count, cols, cols, 1}};
  }
  Gather<float> gather{};

 private:
  Memory<unsigned char> data_, shift_, factor_;
  Memory<int64_t> rows_;
};

py::array_t<float> bound_forward(const std::vector<FusedLayerArguments>& layers, int product,
                                 const py::array& parameters, const py::array& x,
                                 const Optional& rows, double scale, const Optional& shift,
                                 const Optional& factor) {
  const FusedNetwork network = fused_network(layers, product, 0, 0);
  check_supported(network);
  void* stream = own_stream();
  const int64_t count = rows ? rows->shape(0) : x.shape(0);
  const int64_t fan_out = network.layers[network.count - 1].fan_out;
  const int64_t length = parameter_count(network);
  const Memory<float> flat =
      on_device(vector<float>(parameters, "parameters", length), length, stream);
  const Inputs inputs(x, rows, scale, shift, factor, count, network.layers[0].fan_in, stream);
  const Memory<float> out(count * fan_out, stream);
  Context context;
  context.stream = stream;
  fused_forward(context, network, flat.data(), inputs.gather,
                rows_of(out.data(), count, fan_out, fan_out));
  py::array_t<float> result({count, fan_out});
  copy(result.mutable_data(), out.data(), size_t(count * fan_out) * sizeof(float), stream);
  synchronize(stream);
  return result;
}

// The rule and its settings: number of FusedRule; lr, beta1, beta2, eps, correction, decay,
// clip_value; nesterov.
using UpdateArguments = std::tuple<int, std::array<double, 7>, bool>;

// The loss and the gradients; with an update, parameters and moments are changed. `state`: the
// batch's first row and the step's index, from which on the device reads all that changes.
std::pair<double, py::array_t<float>> bound_step(
    const std::vector<FusedLayerArguments>& layers, int product, uint64_t seed,
    uint32_t input_threshold, py::array& parameters, const py::array& x, const Optional& rows,
    double scale, const Optional& shift, const Optional& factor, int64_t batch_rows, int loss,
    const Optional& labels, const Optional& targets, const Optional& sample_weight,
    const Optional& class_weight, double label_smoothing, const FormArguments& form, uint64_t step,
    const std::optional<UpdateArguments>& update, Optional& first, Optional& second,
    const std::optional<std::pair<int64_t, int64_t>>& state) {
  const FusedNetwork network = fused_network(layers, product, seed, input_threshold);
  check_supported(network);
  void* stream = own_stream();
  const int64_t given = rows ? rows->shape(0) : x.shape(0), all = x.shape(0);
  const int64_t fan_out = network.layers[network.count - 1].fan_out;
  const int64_t length = parameter_count(network);
  if (batch_rows < 1 || (state ? state->first : 0) + batch_rows > given) {
    refuse("batch_rows", "rows that there are");
  }
  if (loss < 0 || loss > int(FusedLoss::softmax) || !(labels || targets)) {
    refuse("loss", "0 to 2: squared, sigmoid, softmax; and labels or targets");
  }
  float* host = out_vector<float>(parameters, "parameters", length);
  float* host_first = out_vector_or_null<float>(first, "first", length);
  float* host_second = out_vector_or_null<float>(second, "second", length);
  Memory<float> flat = on_device(host, length, stream);
  Memory<float> mean = on_device(host_first, length, stream);
  Memory<float> square = on_device(host_second, length, stream);
  Memory<float> gradients(length, stream);
  Memory<double> number(1, stream);
  const Inputs inputs(x, rows, scale, shift, factor, given, network.layers[0].fan_in, stream);
  const auto label =
      on_device(vector_or_null<int64_t>(labels, "labels", all), labels ? all : 0, stream);
  const py::array packed = targets ? py::array::ensure(*targets, py::array::c_style) : py::array();
  const auto target =
      on_device(targets ? rows_matrix<float>(packed, "targets", all, fan_out).data : nullptr,
                all * fan_out, stream);
  const auto weight =
      on_device(vector_or_null<float>(sample_weight, "sample_weight", all), all, stream);
  const auto of_class =
      on_device(vector_or_null<float>(class_weight, "class_weight", fan_out), fan_out, stream);
  const FusedTargets wanted{
      FusedLoss(loss), label.data(),    rows_of<const float>(target.data(), all, fan_out, fan_out),
      weight.data(),   of_class.data(), label_smoothing,
      form_of(form)};
  Gather<float> batch = inputs.gather;
  batch.out.rows = batch_rows;
  FusedUpdate rule{};
  if (update) {
    const auto& [kind, settings, nesterov] = *update;
    rule.rule = FusedRule(kind);
    rule.update.lr = settings[0];
    rule.update.beta1 = settings[1];
    rule.update.beta2 = settings[2];
    rule.update.eps = settings[3];
    rule.update.correction = settings[4];
    rule.update.decay = settings[5];
    rule.update.clip_value = settings[6];
    rule.update.nesterov = nesterov;
    rule.update.first = mean.data();
    rule.update.second = square.data();
  }
  Context context;
  context.stream = stream;
  context.number = number.data();
  Memory<StepState> at(1, stream);
  Memory<Rates> rates(state ? state->second + 1 : 1, stream);
  const StepState now{state ? state->first : 0, state ? state->second : 0, step};
  const Rates rate{rule.update.lr, rule.update.correction, 0, rule.update.decay};
  if (state) {
    copy(at.data(), &now, sizeof now, stream);
    copy(rates.data() + state->second, &rate, sizeof rate, stream);
    context.state = at.data();
    context.rates = rates.data();
    rule.update.lr = rule.update.correction = rule.update.decay = 0;
    step = 0;
  }
  const Memory<unsigned char> scratch(fused_scratch(network, batch_rows), stream);
  fused_step(context, network, flat.data(), batch, wanted, step, gradients.data(),
             update ? &rule : nullptr, scratch.data());
  py::array_t<float> result(length);
  double value = 0;
  const auto back = [&](auto* to, const auto& from) {
    copy(to, from.data(), size_t(from.size()) * sizeof(*to), stream);
  };
  back(&value, number);
  back(result.mutable_data(), gradients);
  back(host, flat);
  back(host_first, mean);
  back(host_second, square);
  synchronize(stream);
  return {value, result};
}

}  // namespace

void bind_fused(py::module_& module) {
  module.def(
      "fused_supports",
      [](const std::vector<FusedLayerArguments>& layers, int product) {
        return layers.size() <= fused_deepest &&
               fused_supports(fused_network(layers, product, 0, 0));
      },
      py::arg("layers"), py::arg("product"));
  module.def("fused_forward", bound_forward, py::arg("layers"), py::arg("product"),
             py::arg("parameters"), py::arg("x"), py::arg("rows") = py::none(),
             py::arg("scale") = 1.0, py::arg("shift") = py::none(), py::arg("factor") = py::none());
  module.def("fused_step", bound_step, py::kw_only(), py::arg("layers"), py::arg("product"),
             py::arg("seed"), py::arg("input_threshold"), py::arg("parameters").noconvert(),
             py::arg("x"), py::arg("rows") = py::none(), py::arg("scale") = 1.0,
             py::arg("shift") = py::none(), py::arg("factor") = py::none(), py::arg("batch_rows"),
             py::arg("loss"), py::arg("labels") = py::none(), py::arg("targets") = py::none(),
             py::arg("sample_weight") = py::none(), py::arg("class_weight") = py::none(),
             py::arg("label_smoothing") = 0.0,
             py::arg("form") = FormArguments{1, 1, 0, -unlimited, unlimited}, py::arg("step") = 0,
             py::arg("update") = py::none(), py::arg("first") = py::none(),
             py::arg("second") = py::none(), py::arg("state") = py::none());
}

}  // namespace fanin::cuda
