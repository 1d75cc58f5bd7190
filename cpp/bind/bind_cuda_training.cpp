// fanin._cuda.host: what a training step does beside its products, on NumPy arrays.
//
// Each call copies its arrays to the device, as far as they reach and to addresses as far from
// multiples of 16 bytes as theirs; runs the one operation; and copies back those that it wrote. So
// every operation can be compared with the reference where only NumPy is there. A float16 array is
// Ops<float16>'s, one of uint16 holds the bits of bfloat16; other names and arguments are _core's,
// but for what is CUDA's alone: rates, states and norms in device memory.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "../cuda/error.hpp"
#include "../cuda/table.hpp"
#include "bind_cuda.hpp"

namespace fanin::cuda {
namespace {

namespace py = pybind11;
using Optional = std::optional<py::array>;

[[noreturn]] void refuse(const char* name, const std::string& expected) {
  throw std::invalid_argument(std::string(name) + ": expected " + expected);
}

template <class T>
bool holds(const py::array& array) {
  if constexpr (std::is_same_v<T, __half>) {
    return array.dtype().kind() == 'f' && array.itemsize() == 2;
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return py::isinstance<py::array_t<uint16_t>>(array);
  } else {
    return py::isinstance<py::array_t<T>>(array);
  }
}

template <class T>
const Ops<T>& device_ops() {
  if constexpr (std::is_same_v<T, __half>) {
    return table().f16;
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return table().bf16;
  } else {
    return ops_of<T>(table().table);
  }
}

// Calls body.operator()<T>() for the array's dtype: float32, float64, and the 16-bit ones if
// wanted.
template <bool narrow, class Body>
auto with_dtype(const py::array& array, const char* name, const Body& body) {
  if (holds<float>(array)) {
    return body.template operator()<float>();
  }
  if (holds<double>(array)) {
    return body.template operator()<double>();
  }
  if constexpr (narrow) {
    if (holds<__half>(array)) {
      return body.template operator()<__half>();
    }
    if (holds<__nv_bfloat16>(array)) {
      return body.template operator()<__nv_bfloat16>();
    }
  }
  refuse(name, narrow ? "an array of float32, float64, float16 or uint16 (bfloat16)"
                      : "an array of float32 or float64");
}

// The device's copies of the arrays of one call.
class Stage {
 public:
  Stage() = default;
  Stage(const Stage&) = delete;
  Stage& operator=(const Stage&) = delete;
  ~Stage() {
    for (const auto& [begin, copy] : copies_) {
      cudaFree(copy.memory);
    }
  }

  // The same memory has one copy, so that outputs can alias inputs.
  template <class T>
  View<const T> matrix(const py::array& array, const char* name, int64_t rows, int64_t cols) {
    if (!holds<T>(array) || array.ndim() != 2) {
      refuse(name, "a matrix of the dtype of this call");
    }
    if (array.shape(0) != rows || array.shape(1) != cols) {
      refuse(name, "shape (" + std::to_string(rows) + ", " + std::to_string(cols) + ")");
    }
    const auto size = py::ssize_t(sizeof(T));
    const bool empty = rows == 0 || cols == 0;  // strides mean nothing then
    return {static_cast<const T*>(device(array)), rows, cols,
            rows > 1 && !empty ? array.strides(0) / size : cols,
            cols > 1 && !empty ? array.strides(1) / size : 1};
  }
  template <class T>
  View<const T> rows_matrix(const py::array& array, const char* name, int64_t rows, int64_t cols) {
    const View<const T> view = matrix<T>(array, name, rows, cols);
    if (view.col_stride != 1) {
      refuse(name, "contiguous rows");
    }
    return view;
  }
  template <class T>
  View<T> out_matrix(const py::array& array, const char* name, int64_t rows, int64_t cols) {
    const View<const T> view = rows_matrix<T>(array, name, rows, cols);
    write(array, name);
    return {const_cast<T*>(view.data), rows, cols, view.row_stride, 1};
  }
  template <class T>
  const T* vector(const Optional& array, const char* name, int64_t count) {
    if (!array) {
      return nullptr;
    }
    if (!holds<T>(*array) || array->ndim() != 1 || array->shape(0) != count ||
        (count > 1 && array->strides(0) != py::ssize_t(sizeof(T)))) {
      refuse(name, "a contiguous vector of " + std::to_string(count) + " of the right dtype");
    }
    return static_cast<const T*>(device(*array));
  }
  template <class T>
  T* out_vector(const Optional& array, const char* name, int64_t count) {
    const T* data = vector<T>(array, name, count);
    if (array) {
      write(*array, name);
    }
    return const_cast<T*>(data);
  }
  // Memory that holds these, and scratch, whose first content is nobody's.
  template <class T>
  T* holding(const T& value) {
    T* data = scratch<T>(1);
    check(cudaMemcpy(data, &value, sizeof(T), cudaMemcpyHostToDevice), "copying to the device");
    return data;
  }
  template <class T>
  T* scratch(int64_t count) {
    void* memory = nullptr;
    check(cudaMalloc(&memory, size_t(count > 0 ? count : 1) * sizeof(T)), "taking memory");
    copies_.emplace(static_cast<char*>(memory), Copy{memory, nullptr, 0});
    return static_cast<T*>(memory);
  }
  template <class T>
  T read(const T* from) {
    T value;
    check(cudaMemcpy(&value, from, sizeof(T), cudaMemcpyDeviceToHost), "copying from the device");
    return value;
  }

  Context context{};
  void finish() {
    check(cudaDeviceSynchronize(), "running the operation");
    for (const auto& [begin, copy] : copies_) {
      if (copy.written) {
        check(cudaMemcpy(begin, copy.data, copy.bytes, cudaMemcpyDeviceToHost),
              "copying from the device");
      }
    }
  }
  // For operations that leave a number.
  double finish_with_number() {
    finish();
    return read(context.number);
  }

 private:
  struct Copy {
    void* memory;
    char* data;
    size_t bytes;
    bool written = false;
  };

  // All memory from the first to the last element of an array.
  static std::pair<char*, size_t> extent(const py::array& array) {
    auto* low = static_cast<char*>(const_cast<void*>(array.data()));
    py::ssize_t reach = array.itemsize();
    for (py::ssize_t axis = 0; axis < array.ndim(); ++axis) {
      if (array.shape(axis) == 0) {
        return {low, 0};
      }
      const py::ssize_t along = (array.shape(axis) - 1) * array.strides(axis);
      low += along < 0 ? along : 0;
      reach += along < 0 ? -along : along;
    }
    return {low, size_t(reach)};
  }

  const void* device(const py::array& array) {
    const auto [begin, bytes] = extent(array);
    auto found = copies_.find(begin);
    if (found == copies_.end()) {
      const size_t offset = uintptr_t(begin) % 16;
      void* memory = nullptr;
      check(cudaMalloc(&memory, offset + (bytes > 0 ? bytes : 1)), "taking memory");
      Copy copy{memory, static_cast<char*>(memory) + offset, bytes};
      found = copies_.emplace(begin, copy).first;
      check(cudaMemcpy(copy.data, begin, bytes, cudaMemcpyHostToDevice), "copying to the device");
    } else if (found->second.bytes != bytes) {
      refuse("arrays", "those that share memory to be the same");
    }
    return found->second.data + (static_cast<const char*>(array.data()) - begin);
  }
  void write(const py::array& array, const char* name) {
    if (!array.writeable()) {
      refuse(name, "a writeable array");
    }
    copies_.at(extent(array).first).written = true;
  }

  std::map<char*, Copy> copies_;  // by where the array begins on the host; scratch by its own
};

int64_t cols_of(const py::array& array) { return array.ndim() == 2 ? array.shape(1) : 0; }

void batch_norm_forward(const py::array& x, const py::array& gamma, const py::array& beta,
                        const py::array& running_mean, const py::array& running_var,
                        const py::array& y, const Optional& x_hat, const py::array& inv_std,
                        bool training, double momentum, double eps) {
  with_dtype<false>(x, "x", [&]<class T>() {
    Stage stage;
    const int64_t m = x.shape(0), n = cols_of(x);
    BatchNormForward<T> layer{};
    layer.x = stage.rows_matrix<T>(x, "x", m, n);
    layer.gamma = stage.vector<T>(gamma, "gamma", n);
    layer.beta = stage.vector<T>(beta, "beta", n);
    layer.running_mean = stage.out_vector<T>(running_mean, "running_mean", n);
    layer.running_var = stage.out_vector<T>(running_var, "running_var", n);
    layer.y = stage.out_matrix<T>(y, "y", m, n);
    if (x_hat) {
      layer.x_hat = stage.out_matrix<T>(*x_hat, "x_hat", m, n);
    }
    layer.inv_std = stage.out_vector<T>(inv_std, "inv_std", n);
    layer.training = training;
    layer.momentum = momentum;
    layer.eps = eps;
    layer.scratch = stage.scratch<T>(training ? moments_size<T>(m, n) : 0);
    device_ops<T>().batch_norm_forward(stage.context, layer);
    stage.finish();
  });
}

void batch_norm_backward(const py::array& dy, const py::array& x_hat, const py::array& gamma,
                         const py::array& inv_std, const py::array& dx, const py::array& dgamma,
                         const py::array& dbeta, bool training) {
  with_dtype<false>(dy, "dy", [&]<class T>() {
    Stage stage;
    const int64_t m = dy.shape(0), n = cols_of(dy);
    BatchNormBackward<T> layer{};
    layer.dy = stage.rows_matrix<T>(dy, "dy", m, n);
    layer.x_hat = stage.rows_matrix<T>(x_hat, "x_hat", m, n);
    layer.gamma = stage.vector<T>(gamma, "gamma", n);
    layer.inv_std = stage.vector<T>(inv_std, "inv_std", n);
    layer.dx = stage.out_matrix<T>(dx, "dx", m, n);
    layer.dgamma = stage.out_vector<T>(dgamma, "dgamma", n);
    layer.dbeta = stage.out_vector<T>(dbeta, "dbeta", n);
    layer.training = training;
    layer.scratch = stage.scratch<T>(2 * column_sum_scratch(m, n));
    device_ops<T>().batch_norm_backward(stage.context, layer);
    stage.finish();
  });
}

enum class Which { softmax, sigmoid, squared };

template <Which which>
double loss(const py::array& z, const Optional& labels, const Optional& targets,
            const Optional& sample_weight, const Optional& class_weight, double label_smoothing,
            double divisor, const std::array<double, 5>& form, const Optional& dz) {
  return with_dtype<true>(z, "z", [&]<class T>() {
    Stage stage;
    const int64_t m = z.shape(0), n = cols_of(z);
    if (labels.has_value() == targets.has_value() || (labels && which != Which::softmax)) {
      refuse("labels", "labels (of a softmax) or targets, one of them");
    }
    Loss<T> of{};
    of.z = stage.rows_matrix<T>(z, "z", m, n);
    of.labels = stage.vector<int64_t>(labels, "labels", m);
    if (targets) {
      of.targets = stage.rows_matrix<T>(*targets, "targets", m, n);
    }
    of.sample_weight = stage.vector<T>(sample_weight, "sample_weight", m);
    of.class_weight = stage.vector<T>(class_weight, "class_weight", n);
    of.label_smoothing = label_smoothing;
    of.divisor = divisor;
    of.form = {form[0], form[1], form[2], form[3], form[4]};
    if (dz) {
      of.dz = stage.out_matrix<T>(*dz, "dz", m, n);
    }
    of.row_loss = stage.scratch<double>(m);
    stage.context.number = stage.scratch<double>(1);
    const Ops<T>& ops = device_ops<T>();
    const auto operation = which == Which::softmax   ? ops.softmax_cross_entropy
                           : which == Which::sigmoid ? ops.sigmoid_cross_entropy
                                                     : ops.mean_squared_error;
    operation(stage.context, of);
    return stage.finish_with_number();
  });
}

void softmax(const py::array& z, const py::array& p) {
  with_dtype<true>(z, "z", [&]<class T>() {
    Stage stage;
    const View<const T> in = stage.rows_matrix<T>(z, "z", z.shape(0), cols_of(z));
    const View<T> out = stage.out_matrix<T>(p, "p", in.rows, in.cols);
    device_ops<T>().softmax(stage.context, in, out);
    stage.finish();
  });
}

void histogram(const py::array& a, const py::array& edges, const py::array& counts) {
  with_dtype<true>(a, "a", [&]<class T>() {
    Stage stage;
    const View<const T> in = stage.matrix<T>(a, "a", a.shape(0), cols_of(a));
    const double* at = stage.vector<double>(edges, "edges", edges.size());
    int64_t* out = stage.out_vector<int64_t>(counts, "counts", edges.size() - 1);
    device_ops<T>().histogram(stage.context, in, at, int(edges.size() - 1), out);
    stage.finish();
  });
}

// rates: (steps, 4) of lr, correction, step_size, decay; the step is number `index`.
void set_rates(Stage& stage, const Optional& rates, int64_t index) {
  if (rates) {
    static_assert(sizeof(Rates) == 4 * sizeof(double));
    stage.context.rates = reinterpret_cast<const Rates*>(
        stage.rows_matrix<double>(*rates, "rates", rates->shape(0), 4).data);
    stage.context.state = stage.holding(StepState{0, index, 0});
  }
}

// Returns the 16 sums of squares of gradients and of changes where they are wanted.
py::object update(const std::string& rule, const py::array& parameters, const py::array& gradients,
                  const Optional& first, const Optional& second,
                  const std::map<std::string, double>& numbers, const Optional& decay_mask,
                  bool nesterov, std::optional<double> norm, const Optional& rates, int64_t index,
                  bool with_squares) {
  return with_dtype<false>(parameters, "parameters", [&]<class T>() -> py::object {
    Stage stage;
    const int64_t count = parameters.size();
    Update<T> update{};
    update.parameters = stage.out_vector<T>(parameters, "parameters", count);
    update.gradients = stage.vector<T>(gradients, "gradients", count);
    update.first = stage.out_vector<T>(first, "first", count);
    update.second = stage.out_vector<T>(second, "second", count);
    update.decay_mask =
        reinterpret_cast<const uint8_t*>(stage.vector<bool>(decay_mask, "decay_mask", count));
    update.count = count;
    update.nesterov = nesterov;
    const std::map<std::string, double*> places = {{"lr", &update.lr},
                                                   {"beta1", &update.beta1},
                                                   {"beta2", &update.beta2},
                                                   {"eps", &update.eps},
                                                   {"correction", &update.correction},
                                                   {"step_size", &update.step_size},
                                                   {"decay", &update.decay},
                                                   {"clip_value", &update.clip_value},
                                                   {"clip_norm", &update.clip_norm},
                                                   {"gradient_scale", &update.gradient_scale}};
    for (const auto& [name, number] : numbers) {
      const auto place = places.find(name);
      if (place == places.end()) {
        refuse("numbers", "the numbers of an update, got '" + name + "'");
      }
      *place->second = number;
    }
    if (norm) {
      update.norm = stage.holding(*norm);
    }
    set_rates(stage, rates, index);
    if (with_squares) {
      update.squares = stage.scratch<Squares<T>>(1);
    }
    const Ops<T>& ops = device_ops<T>();
    if (rule == "sgd") {
      ops.sgd(stage.context, update);
    } else if (rule == "rmsprop") {
      ops.rmsprop(stage.context, update);
    } else if (rule == "adam") {
      ops.adam(stage.context, update);
    } else {
      refuse("rule", "sgd, rmsprop or adam");
    }
    stage.finish();
    if (!with_squares) {
      return py::none();
    }
    const Squares<T> squares = stage.read(update.squares);
    return py::make_tuple(py::array_t<double>(16, squares.gradient),
                          py::array_t<T>(16, squares.change));
  });
}

void shrink(const py::array& parameters, const Optional& second, double l1, double step_size,
            double correction, double eps, const Optional& rates, int64_t index) {
  with_dtype<false>(parameters, "parameters", [&]<class T>() {
    Stage stage;
    Update<T> update{};
    update.count = parameters.size();
    update.parameters = stage.out_vector<T>(parameters, "parameters", update.count);
    update.second = const_cast<T*>(stage.vector<T>(second, "second", update.count));
    update.step_size = step_size;
    update.correction = correction;
    update.eps = eps;
    set_rates(stage, rates, index);
    device_ops<T>().shrink(stage.context, update, l1);
    stage.finish();
  });
}

double norm(const py::array& values, double clip_value) {
  return with_dtype<false>(values, "values", [&]<class T>() {
    Stage stage;
    const int64_t count = values.size();
    const T* data = stage.vector<T>(values, "values", count);
    stage.context.number = stage.scratch<double>(1);
    device_ops<T>().norm(stage.context, data, count, clip_value,
                         stage.scratch<double>(norm_pieces(count)));
    return stage.finish_with_number();
  });
}

void regularise(const py::array& w, const py::array& dw, double l1, double l2, double l1_slope,
                const py::array& penalties) {
  with_dtype<false>(w, "w", [&]<class T>() {
    Stage stage;
    const int64_t k = w.shape(0), n = cols_of(w);
    const View<const T> from = stage.rows_matrix<T>(w, "w", k, n);
    const View<T> to = stage.out_matrix<T>(dw, "dw", k, n);
    device_ops<T>().regularise(
        stage.context, from, to, l1, l2, l1_slope,
        stage.out_matrix<double>(penalties, "penalties", k, penalty_pieces(n)));
    stage.finish();
  });
}

void limit_norms(const py::array& w, double max_norm) {
  with_dtype<false>(w, "w", [&]<class T>() {
    Stage stage;
    device_ops<T>().limit_norms(stage.context, stage.out_matrix<T>(w, "w", w.shape(0), cols_of(w)),
                                max_norm);
    stage.finish();
  });
}

// `first_row`: where the rows begin that are to be gathered, read from device memory; or None.
void gather(const py::array& x, const py::array& rows, double scale, const Optional& shift,
            const Optional& factor, const py::array& out, std::optional<int64_t> first_row) {
  with_dtype<true>(out, "out", [&]<class T>() {
    Stage stage;
    const int64_t count = x.ndim() == 2 ? x.shape(0) : 0, cols = cols_of(x);
    Gather<T> how{};
    const auto from = [&](auto number, Source source) {
      const auto view = stage.matrix<decltype(number)>(x, "x", count, cols);
      how.x = view.data;
      how.source = source;
      how.row_stride = view.row_stride;
      how.col_stride = view.col_stride;
    };
    const auto columns = [&](auto number) {
      using Number = decltype(number);
      how.shift = stage.vector<Number>(shift, "shift", cols);
      how.factor = stage.vector<Number>(factor, "factor", cols);
    };
    holds<uint8_t>(x) ? from(uint8_t{}, Source::uint8)
    : holds<float>(x) ? from(float{}, Source::float32)
                      : from(double{}, Source::float64);
    using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;
    how.source == Source::float64 ? columns(double{}) : columns(Wide{});
    how.rows = stage.vector<int64_t>(rows, "rows", rows.size());
    how.scale = scale;
    how.out = stage.out_matrix<T>(out, "out", out.shape(0), cols);
    if (first_row.value_or(0) < 0 || first_row.value_or(0) + how.out.rows > rows.size()) {
      refuse("rows", "one for each row of out");
    }
    const auto* chosen = static_cast<const int64_t*>(rows.data());
    for (int64_t i = 0; i < rows.size(); ++i) {
      if (chosen[i] < 0 || chosen[i] >= count) {
        refuse("rows", "rows of x");
      }
    }
    if (first_row) {
      stage.context.state = stage.holding(StepState{*first_row, 0, 0});
    }
    device_ops<T>().gather(stage.context, how);
    stage.finish();
  });
}

void function(int which, const py::array& x, const py::array& out) {
  with_dtype<false>(x, "x", [&]<class T>() {
    Stage stage;
    if (which < 0 || which >= function_count) {
      refuse("which", "the number of a function");
    }
    const int64_t count = x.size();
    const T* in = stage.vector<T>(x, "x", count);
    T* to = stage.out_vector<T>(out, "out", count);
    device_ops<T>().function(stage.context, Function(which), in, to, count);
    stage.finish();
  });
}

}  // namespace

void bind_training(py::module_& module) {
  py::module_ host = module.def_submodule("host");
  host.def("batch_norm_forward", &batch_norm_forward);
  host.def("batch_norm_backward", &batch_norm_backward);
  host.def("softmax_cross_entropy", &loss<Which::softmax>);
  host.def("sigmoid_cross_entropy", &loss<Which::sigmoid>);
  host.def("mean_squared_error", &loss<Which::squared>);
  host.def("softmax", &softmax);
  host.def("histogram", &histogram);
  host.def("update", &update);
  host.def("shrink", &shrink);
  host.def("norm", &norm);
  host.def("regularise", &regularise);
  host.def("limit_norms", &limit_norms);
  host.def("gather", &gather);
  host.def("function", &function);
}

}  // namespace fanin::cuda
