// Every operation of core/ops.hpp on NumPy arrays, on the instruction set in use.
//
// Outputs are arrays of the caller's, or, of matmul and dense_forward, new. Each function checks
// what would be unsafe (arrays.hpp), releases the interpreter and calls the table.
#include <pybind11/stl.h>

#include "../core/buffer.hpp"
#include "arrays.hpp"
#include "bind.hpp"
#include "layer.hpp"
#include "optimizer.hpp"

namespace fanin {
namespace {

View<uint16_t> mask_of(const Dropout& dropout, Optional& mask, int64_t rows, int64_t cols) {
  if (dropout.threshold == 0) {
    return {};
  }
  if (!mask) {
    refuse("mask", "an array, with dropout");
  }
  return mask_in(out_vector<uint16_t>(*mask, "mask", mask_size(rows, cols)), rows, cols);
}

// Statistics being made, and what is returned of them.
template <class T>
struct StatsResult {
  StatsResult(bool wanted, int64_t rows, int64_t cols) : wanted(wanted) {
    if (wanted) {
      unit_mean = py::array_t<double>(cols);
      unit_zeros = py::array_t<int64_t>(cols);
      stats.unit_mean = unit_mean.mutable_data();
      stats.unit_zeros = unit_zeros.mutable_data();
      memory.resize(size_t(moments_size<T>(rows, cols)));
      moments = moments_in(memory.data(), rows, cols);
    }
  }
  py::object result() const {
    if (!wanted) {
      return py::none();
    }
    return py::make_tuple(stats.mean, stats.std, stats.min, stats.max, stats.zeros, stats.saturated,
                          unit_mean, unit_zeros);
  }

  bool wanted;
  py::array_t<double> unit_mean;
  py::array_t<int64_t> unit_zeros;
  Stats stats{};
  Buffer<T> memory;
  Moments<T> moments;
};

void gemm(const py::array& x, const py::array& w, py::array out) {
  with_dtype(x, "x", [&]<class T>() {
    const View<const T> x_view = matrix<T>(x, "x");
    const View<const T> w_view = matrix<T>(w, "w", x_view.cols, w.ndim() == 2 ? w.shape(1) : 0);
    const View<T> out_view = writable(matrix<T>(out, "out", x_view.rows, w_view.cols), out, "out");
    if (out_view.row_stride != 1 && out_view.col_stride != 1) {
      refuse("out", "contiguous rows or columns");
    }
    check_apart(out, x, "out");
    check_apart(out, w, "out");
    const Computing computing;
    ops_of<T>(table()).gemm(computing.context, x_view, w_view, out_view);
  });
}

bool is_plain(py::handle array) {
  static const PyTypeObject* const plain = py::detail::npy_api::get().PyArray_Type_;
  return Py_TYPE(array.ptr()) == plain;
}

// Whether x (m, k) and w (k, n) are plain arrays, and out and b, where they are not None.
bool plain_arrays(py::handle x, py::handle w, py::handle out, py::handle b = py::none()) {
  if (!is_plain(x) || !is_plain(w) || !(out.is_none() || is_plain(out)) ||
      !(b.is_none() || is_plain(b))) {
    return false;
  }
  const auto left = py::reinterpret_borrow<py::array>(x),
             right = py::reinterpret_borrow<py::array>(w);
  return left.ndim() == 2 && right.ndim() == 2 && left.shape(1) == right.shape(0);
}

// `out`, or where that is None a new array for x @ w.
py::array out_or_new(py::handle out, const py::array& x, const py::array& w) {
  return out.is_none() ? py::array(x.dtype(), {x.shape(0), w.shape(1)})
                       : py::reinterpret_borrow<py::array>(out);
}

// x @ w for plain arrays that fit, into out, or a new array where that is None; None for anything
// else, which the long way then refuses by name.
py::object matmul(py::handle x, py::handle w, py::handle out) {
  if (!plain_arrays(x, w, out)) {
    return py::none();
  }
  const auto x_array = py::reinterpret_borrow<py::array>(x);
  const auto w_array = py::reinterpret_borrow<py::array>(w);
  try {
    py::array result = out_or_new(out, x_array, w_array);
    gemm(x_array, w_array, result);
    return result;
  } catch (const std::invalid_argument&) {
    return py::none();
  }
}

// (a, z, mask, statistics) of a layer, as matmul: a is out or new, None for arrays that do not fit.
// z is None where a is enough for the backward pass, mask and statistics where there are none.
py::object dense_forward(py::handle x, py::handle w, py::handle b, py::handle out, int activation,
                         const DropoutArguments& dropout_arguments, bool with_stats) {
  if (!plain_arrays(x, w, out, b)) {
    return py::none();
  }
  const auto x_array = py::reinterpret_borrow<py::array>(x);
  const auto w_array = py::reinterpret_borrow<py::array>(w);
  const auto make = [&]<class T>() -> py::object {
    DenseForward<T> layer{};
    layer.x = matrix<T>(x_array, "x");
    layer.w = matrix<T>(w_array, "w");
    const int64_t rows = layer.x.rows, cols = layer.w.cols;
    if (with_stats && (rows == 0 || cols == 0 || layer.x.cols == 0)) {
      refuse("x", "at least one row and one column");
    }
    if (!b.is_none()) {
      layer.b = vector<T>(py::reinterpret_borrow<py::array>(b), "b", cols);
    }
    py::array a = out_or_new(out, x_array, w_array);
    layer.a = out_matrix<T>(a, "out", rows, cols);
    for (const py::handle in : {x, w, b}) {
      if (!in.is_none()) {
        check_apart(a, py::reinterpret_borrow<py::array>(in), "out");
      }
    }
    layer.activation = activation_of(activation);
    layer.dropout = dropout_of(dropout_arguments);
    py::object z = py::none(), mask = py::none();
    if (needs_z(layer.activation)) {
      py::array_t<T> kept({rows, cols});
      layer.z = as_matrix(kept.mutable_data(), rows, cols);
      z = std::move(kept);
    }
    if (layer.dropout.threshold > 0) {
      py::array_t<uint16_t> words(mask_size(rows, cols));
      layer.mask = mask_in(words.mutable_data(), rows, cols);
      mask = std::move(words);
    }
    StatsResult<T> stats(with_stats, rows, cols);
    layer.moments = stats.moments;
    {
      const Computing computing;
      ops_of<T>(table()).dense_forward(computing.context, layer);
      if (with_stats) {
        ops_of<T>(table()).join_moments(computing.context, stats.moments, rows, cols, &stats.stats);
      }
    }
    return py::make_tuple(a, z, mask, stats.result());
  };
  try {
    return with_dtype(x_array, "x", make);
  } catch (const std::invalid_argument&) {
    return py::none();
  }
}

// z and a may be the same array.
void activation_forward(const py::array& z, py::array a, int activation,
                        const DropoutArguments& dropout_arguments, Optional mask) {
  with_dtype(z, "z", [&]<class T>() {
    ActivationForward<T> layer{};
    layer.a = out_matrix<T>(a, "a", z.shape(0), z.ndim() == 2 ? z.shape(1) : 0);
    layer.z = rows_matrix<T>(z, "z", layer.a.rows, layer.a.cols);
    layer.activation = activation_of(activation);
    layer.dropout = dropout_of(dropout_arguments);
    layer.mask = mask_of(layer.dropout, mask, layer.a.rows, layer.a.cols);
    const Computing computing;
    ops_of<T>(table()).activation_forward(computing.context, layer);
  });
}

void activation_backward(const py::array& da, const py::array& saved, py::array dz, Optional db,
                         int activation, const DropoutArguments& dropout_arguments, Optional mask) {
  with_dtype(da, "da", [&]<class T>() {
    ActivationBackward<T> layer{};
    layer.dz = out_matrix<T>(dz, "dz", da.shape(0), da.ndim() == 2 ? da.shape(1) : 0);
    const int64_t rows = layer.dz.rows, cols = layer.dz.cols;
    layer.da = rows_matrix<T>(da, "da", rows, cols);
    layer.saved = rows_matrix<T>(saved, "saved", rows, cols);
    T* sums = out_vector_or_null<T>(db, "db", cols);
    layer.activation = activation_of(activation);
    layer.dropout = dropout_of(dropout_arguments);
    layer.mask = mask_of(layer.dropout, mask, rows, cols);
    const Computing computing;
    const Ops<T>& ops = ops_of<T>(table());
    ops.activation_backward(computing.context, layer);
    if (sums != nullptr) {
      ops.column_sums(computing.context, layer.dz, sums);
    }
  });
}

void batch_norm_forward(const py::array& x, const py::array& gamma, const py::array& beta,
                        py::array running_mean, py::array running_var, py::array y, Optional x_hat,
                        py::array inv_std, bool training, double momentum, double eps) {
  with_dtype(x, "x", [&]<class T>() {
    BatchNormForward<T> layer{};
    layer.y = out_matrix<T>(y, "y", x.shape(0), x.ndim() == 2 ? x.shape(1) : 0);
    const int64_t rows = layer.y.rows, cols = layer.y.cols;
    layer.x = rows_matrix<T>(x, "x", rows, cols);
    layer.gamma = vector<T>(gamma, "gamma", cols);
    layer.beta = vector<T>(beta, "beta", cols);
    // Inference only reads them.
    layer.running_mean = const_cast<T*>(vector<T>(running_mean, "running_mean", cols));
    layer.running_var = const_cast<T*>(vector<T>(running_var, "running_var", cols));
    if (training && !(running_mean.writeable() && running_var.writeable())) {
      refuse("running_mean", "writeable arrays running_mean and running_var");
    }
    layer.x_hat = as_matrix(out_vector_or_null<T>(x_hat, "x_hat", rows * cols), rows, cols);
    layer.inv_std = out_vector<T>(inv_std, "inv_std", cols);
    if (training && rows < 2) {
      refuse("x", "at least 2 rows in training");
    }
    layer.training = training;
    layer.momentum = momentum;
    layer.eps = eps;
    const Buffer<T> scratch(size_t(training ? moments_size<T>(rows, cols) : 0));
    layer.scratch = scratch.data();
    const Computing computing;
    ops_of<T>(table()).batch_norm_forward(computing.context, layer);
  });
}

void batch_norm_backward(const py::array& dy, const py::array& x_hat, const py::array& gamma,
                         const py::array& inv_std, py::array dx, py::array dgamma, py::array dbeta,
                         bool training) {
  with_dtype(dy, "dy", [&]<class T>() {
    BatchNormBackward<T> layer{};
    layer.dx = out_matrix<T>(dx, "dx", dy.shape(0), dy.ndim() == 2 ? dy.shape(1) : 0);
    const int64_t rows = layer.dx.rows, cols = layer.dx.cols;
    layer.dy = rows_matrix<T>(dy, "dy", rows, cols);
    layer.x_hat = as_matrix(vector<T>(x_hat, "x_hat", rows * cols), rows, cols);
    layer.gamma = vector<T>(gamma, "gamma", cols);
    layer.inv_std = vector<T>(inv_std, "inv_std", cols);
    layer.dgamma = out_vector<T>(dgamma, "dgamma", cols);
    layer.dbeta = out_vector<T>(dbeta, "dbeta", cols);
    layer.training = training;
    const Buffer<T> scratch(size_t(2 * column_sum_scratch(rows, cols)));
    layer.scratch = scratch.data();
    const Computing computing;
    ops_of<T>(table()).batch_norm_backward(computing.context, layer);
  });
}

py::object stats(const py::array& a, double lo, double hi) {
  return with_dtype(a, "a", [&]<class T>() {
    const View<const T> view = matrix<T>(a, "a");
    if (view.col_stride != 1 || view.rows == 0 || view.cols == 0) {
      refuse("a", "contiguous rows and at least one element");
    }
    StatsResult<T> result(true, view.rows, view.cols);
    {
      const Computing computing;
      ops_of<T>(table()).stats(computing.context, view, T(lo), T(hi), result.moments,
                               &result.stats);
    }
    return result.result();
  });
}

void histogram(const py::array& a, const py::array& edges, py::array counts) {
  with_dtype(a, "a", [&]<class T>() {
    const View<const T> view = matrix<T>(a, "a");
    const int64_t bins = counts.size();
    int64_t* out = out_vector<int64_t>(counts, "counts", bins);
    const double* at = vector<double>(edges, "edges", bins + 1);
    if (bins == 0) {
      refuse("counts", "at least one bin");
    }
    const Computing computing;
    ops_of<T>(table()).histogram(computing.context, view, at, int(bins), out);
  });
}

// One of the three losses; `labels` or `targets`, `dz` null for the loss alone.
template <auto Member32, auto Member64>
double loss(const py::array& z, const Optional& labels, const Optional& targets,
            const Optional& sample_weight, const Optional& class_weight, double label_smoothing,
            double divisor, const FormArguments& form, Optional dz) {
  return with_dtype(z, "z", [&]<class T>() {
    Loss<T> of{};
    of.z = rows_matrix<T>(z, "z", z.shape(0), z.ndim() == 2 ? z.shape(1) : 0);
    const int64_t rows = of.z.rows, cols = of.z.cols;
    of.labels = vector_or_null<int64_t>(labels, "labels", rows);
    for (int64_t r = 0; of.labels != nullptr && r < rows; ++r) {
      if (of.labels[r] < 0 || of.labels[r] >= cols) {
        refuse("labels", "classes in [0, " + std::to_string(cols) + ")");
      }
    }
    constexpr bool takes_labels = Member32 == &Ops<float>::softmax_cross_entropy;
    if (labels.has_value() == targets.has_value() || (labels && !takes_labels)) {
      refuse("labels", "labels (of a softmax) or targets, one of them");
    }
    if (targets) {
      of.targets = rows_matrix<T>(*targets, "targets", rows, cols);
    }
    of.sample_weight = vector_or_null<T>(sample_weight, "sample_weight", rows);
    of.class_weight = vector_or_null<T>(class_weight, "class_weight", cols);
    of.label_smoothing = label_smoothing;
    of.divisor = divisor;
    of.form = form_of(form);
    if (dz) {
      of.dz = out_matrix<T>(*dz, "dz", rows, cols);
    }
    const Buffer<double> row_loss(size_t(rows) + 1);
    of.row_loss = row_loss.data();
    const Computing computing;
    if constexpr (std::is_same_v<T, float>) {
      return (table().float32.*Member32)(computing.context, of);
    } else {
      return (table().float64.*Member64)(computing.context, of);
    }
  });
}

void softmax(const py::array& z, py::array p) {
  with_dtype(z, "z", [&]<class T>() {
    const View<T> out = out_matrix<T>(p, "p", z.shape(0), z.ndim() == 2 ? z.shape(1) : 0);
    const View<const T> in = rows_matrix<T>(z, "z", out.rows, out.cols);
    const Computing computing;
    ops_of<T>(table()).softmax(computing.context, in, out);
  });
}

void optimizer_update(py::handle optimizer, double lr, int64_t steps_done, py::array parameters,
                      const py::array& gradients, const Optional& decay_mask) {
  with_dtype(parameters, "parameters", [&]<class T>() {
    const int64_t count = parameters.size();
    T* p = out_vector<T>(parameters, "parameters", count);
    const T* g = vector<T>(gradients, "gradients", count);
    const BoundRule<T> bound = rule_of<T>(optimizer, count);
    const OptimizerRule<T>& of = bound.rule;
    const auto* mask =
        reinterpret_cast<const uint8_t*>(vector_or_null<bool>(decay_mask, "decay_mask", count));
    const Computing computing;
    Update<T> update = update_of(of, lr, steps_done);
    update.decay_mask = mask;
    Buffer<double> scratch;
    update.gradient_scale =
        gradient_scale(ops_of<T>(table()), computing.context, of, g, count, scratch);
    apply(ops_of<T>(table()), computing.context, of, update, p, g, 0, count);
  });
}

py::array function(const std::string& name, const py::array& x) {
  static const std::map<std::string, Function> functions = {{"exp", Function::exp},
                                                            {"log", Function::log},
                                                            {"tanh", Function::tanh},
                                                            {"sigmoid", Function::sigmoid},
                                                            {"erf", Function::erf},
                                                            {"softplus", Function::softplus},
                                                            {"normal_cdf", Function::normal_cdf}};
  const auto found = functions.find(name);
  if (found == functions.end()) {
    refuse("name", "the name of a function, got '" + name + "'");
  }
  return with_dtype(x, "x", [&]<class T>() -> py::array {
    const T* in = vector<T>(x, "x", x.size());
    py::array_t<T> out(x.size());
    T* to = out.mutable_data();
    const int64_t count = x.size();
    {
      const Computing computing;
      ops_of<T>(table()).function(computing.context, found->second, in, to, count);
    }
    return out;
  });
}

py::array_t<uint32_t> philox(const std::array<uint32_t, 4>& counter,
                             const std::array<uint32_t, 2>& key, int64_t count) {
  if (count < 0) {
    refuse("count", "a number >= 0");
  }
  py::array_t<uint32_t> out({count, int64_t{4}});
  table().philox({}, counter.data(), key.data(), count, out.mutable_data());
  return out;
}

py::array_t<bool> dropout_mask(int64_t rows, int64_t cols, const DropoutArguments& arguments) {
  if (rows < 0 || cols < 0) {
    refuse("shape", "sizes >= 0");
  }
  const Dropout dropout = dropout_of(arguments);
  py::array_t<bool> out({rows, cols});
  bool* kept = out.mutable_data();
  const Buffer<uint16_t> words(size_t(mask_size(rows, cols)) + 1);
  const View<const uint16_t> mask = mask_in<const uint16_t>(words.data(), rows, cols);
  const Computing computing;
  table().dropout_mask(computing.context, dropout, rows, cols, words.data());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      kept[r * cols + c] = *mask.at(r, c / 16) >> (c % 16) & 1;
    }
  }
  return out;
}

// The Euclidean norm of a vector, summed in double.
double norm(const py::array& values) {
  return with_dtype(values, "values", [&]<class T>() {
    const int64_t count = values.size();
    const T* data = vector<T>(values, "values", count);
    Buffer<double> squares;
    squares.resize(size_t(norm_pieces(count)));
    const Computing computing;
    return ops_of<T>(table()).norm(computing.context, data, count, unlimited, squares.data());
  });
}

// out[i] = (x[rows[i]] - shift) * factor.
void gather(const py::array& x, const py::array& rows, const py::array& shift,
            const py::array& factor, py::array out) {
  const int64_t cols = x.ndim() == 2 ? x.shape(1) : 0;
  const SourceMatrix from = source_matrix(x, "x", cols);
  const int64_t count = rows.size();
  const int64_t* chosen = vector<int64_t>(rows, "rows", count);
  check_rows_of(chosen, count, from.rows);
  with_dtype(out, "out", [&]<class T>() {
    const View<T> to = out_matrix<T>(out, "out", count, cols);
    const Gather<T> how{from.data,
                        from.source,
                        from.row_stride,
                        from.col_stride,
                        chosen,
                        1.0,
                        column_vector<T>(shift, "shift", from.source, cols),
                        column_vector<T>(factor, "factor", from.source, cols),
                        to};
    check_apart(out, x, "out");
    const Computing computing;
    ops_of<T>(table()).gather(computing.context, how);
  });
}

// 64-bit words of (seed, step, layer) in a stream.
py::array_t<uint64_t> random_words(uint64_t seed, uint64_t step, uint32_t layer, uint32_t stream,
                                   int64_t count, int64_t start) {
  if (count < 0 || start < 0) {
    refuse("count", "numbers >= 0");
  }
  py::array_t<uint64_t> out(count);
  uint64_t* to = out.mutable_data();
  const Computing computing;
  table().random_words(computing.context, seed, step, layer, stream, start, count, to);
  return out;
}

}  // namespace

void bind_ops(py::module_& module) {
  module.def("gemm", &gemm);
  module.def("matmul", &matmul);
  module.def("dense_forward", &dense_forward);
  module.def("activation_forward", &activation_forward);
  module.def("activation_backward", &activation_backward);
  module.def("batch_norm_forward", &batch_norm_forward);
  module.def("batch_norm_backward", &batch_norm_backward);
  module.def("stats", &stats);
  module.def("histogram", &histogram);
  module.def("softmax_cross_entropy",
             &loss<&Ops<float>::softmax_cross_entropy, &Ops<double>::softmax_cross_entropy>);
  module.def("sigmoid_cross_entropy",
             &loss<&Ops<float>::sigmoid_cross_entropy, &Ops<double>::sigmoid_cross_entropy>);
  module.def("mean_squared_error",
             &loss<&Ops<float>::mean_squared_error, &Ops<double>::mean_squared_error>);
  module.def("softmax", &softmax);
  module.def("optimizer_update", &optimizer_update);
  module.def("norm", &norm);
  module.def("gather", &gather);
  module.def("function", &function);
  module.def("philox", &philox);
  module.def("dropout_mask", &dropout_mask);
  module.def("random_words", &random_words);
}

}  // namespace fanin
