// Every operation of core/ops.hpp on arrays of a CUDA device, queued on the caller's stream.
//
// As bind_ops.cpp: outputs are arrays of the caller's, each function checks what would be unsafe
// (cuda_array.hpp) and calls the table. Scratch is taken and given back in the order of the stream,
// and nothing waits for the device but what returns numbers to the host. The interpreter is kept
// while work is queued, which takes microseconds, and released while the host waits.
#include <pybind11/stl.h>

#include <map>

#include "../cuda/dropout.hpp"
#include "../cuda/error.hpp"
#include "../cuda/gemm.hpp"
#include "../cuda/table.hpp"
#include "bind_cuda.hpp"
#include "cuda_array.hpp"
#include "layer.hpp"
#include "optimizer.hpp"

namespace fanin::cuda {
namespace {

// How float32 products are made: 0 in float32, 1 of inputs rounded to TF32, 2 to bfloat16.
int product_precision = 0;

template <class T>
const Ops<T>& ops() {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return table().bf16;
  } else if constexpr (std::is_same_v<T, __half>) {
    return table().f16;
  } else {
    return ops_of<T>(table().table);
  }
}

// An entry of the table, which leaves out what makes no sense in 16 bits.
template <class Entry>
Entry given(Entry entry, const char* name) {
  if (entry == nullptr) {
    refuse(name, "an array of float32 or float64: 16 bits are too few to compute this in");
  }
  return entry;
}

Context context_of(uintptr_t stream) {
  Context context{};
  context.stream = reinterpret_cast<void*>(stream);
  context.tf32 = product_precision == 1;
  context.bfloat16 = product_precision == 2;
  return context;
}

// What reads the host's memory now, or waits for the device, cannot be part of a graph.
void refuse_capture(void* stream, const char* what) {
  if (is_capturing(stream)) {
    throw Error(std::string(what) + " cannot be captured into a CUDA graph");
  }
}

View<uint16_t> mask_of(const Dropout& dropout, const Array* mask, int64_t rows, int64_t cols) {
  if (dropout.threshold == 0) {
    return {};
  }
  if (mask == nullptr) {
    refuse("mask", "an array, with dropout");
  }
  const int64_t words = mask_words(cols);
  // PyTorch and JAX without 64 bits have int16 where they have no uint16
  int16_t* bits = out_vector<int16_t>(*mask, "mask", rows * words);
  return as_matrix(reinterpret_cast<uint16_t*>(bits), rows, words);
}

int64_t rows_in(const Array& array) { return array.shape.empty() ? 0 : array.shape[0]; }
int64_t cols_in(const Array& array) { return array.ndim() == 2 ? array.shape[1] : 0; }

// Statistics being made on the device, and what the host is told of them.
template <class T>
class StatsOnDevice {
 public:
  using Number = std::conditional_t<std::is_same_v<T, double>, double, float>;

  StatsOnDevice(bool wanted, int64_t rows, int64_t cols, void* stream)
      : cols_(cols), stream_(stream) {
    if (!wanted) {
      return;
    }
    refuse_capture(stream, "statistics");
    memory_.reserve(moments_size<Number>(rows, cols), stream);
    moments = moments_in<Number>(memory_.data(), rows, cols);
    results_.reserve(bytes(), stream);
    start_.unit_mean = reinterpret_cast<double*>(results_.data() + sizeof(Stats));
    start_.unit_zeros = reinterpret_cast<int64_t*>(start_.unit_mean + cols);
    copy(results_.data(), &start_, sizeof start_, stream);
  }

  Stats* on_device() const { return reinterpret_cast<Stats*>(results_.data()); }

  // Waits for the device; None where nothing was wanted.
  py::object result() const {
    if (results_.data() == nullptr) {
      return py::none();
    }
    std::vector<unsigned char> host(static_cast<size_t>(bytes()));
    {
      const Released released;
      copy(host.data(), results_.data(), host.size(), stream_);
      synchronize(stream_);
    }
    Stats stats;
    std::memcpy(&stats, host.data(), sizeof stats);
    py::array_t<double> unit_mean(cols_);
    py::array_t<int64_t> unit_zeros(cols_);
    const unsigned char* units = host.data() + sizeof(Stats);
    std::memcpy(unit_mean.mutable_data(), units, size_t(cols_) * sizeof(double));
    std::memcpy(unit_zeros.mutable_data(), units + size_t(cols_) * sizeof(double),
                size_t(cols_) * sizeof(int64_t));
    return py::make_tuple(stats.mean, stats.std, stats.min, stats.max, stats.zeros, stats.saturated,
                          unit_mean, unit_zeros);
  }

  Moments<T> moments;

 private:
  int64_t bytes() const { return int64_t(sizeof(Stats)) + cols_ * 16; }

  int64_t cols_;
  void* stream_;
  Stats start_{};  // kept until the device has read it
  Memory<Number> memory_;
  Memory<unsigned char> results_;
};

// ---- the operations --------------------------------------------------------------------------

void gemm(const Array& x, const Array& w, const Array& out, uintptr_t stream) {
  with_dtype(x, "x", [&]<class T>() {
    const View<const T> x_view = matrix<T>(x, "x");
    const View<const T> w_view = matrix<T>(w, "w", x_view.cols, cols_in(w));
    const View<T> out_view = writable(matrix<T>(out, "out", x_view.rows, w_view.cols), out, "out");
    check_apart(out, x, "out");
    check_apart(out, w, "out");
    ops<T>().gemm(context_of(stream), x_view, w_view, out_view);
  });
}

py::object dense_forward(const Array& x, const Array& w, const Array* b, const Array& a,
                         const Array* z, int activation, const DropoutArguments& dropout_arguments,
                         const Array* mask, bool with_stats, uintptr_t stream) {
  return with_dtype(x, "x", [&]<class T>() {
    const Context context = context_of(stream);
    DenseForward<T> layer{};
    layer.x = matrix<T>(x, "x");
    layer.w = matrix<T>(w, "w", layer.x.cols, cols_in(w));
    const int64_t rows = layer.x.rows, cols = layer.w.cols;
    layer.b = vector_or_null<T>(b, "b", cols);
    layer.a = out_matrix<T>(a, "a", rows, cols);
    layer.z = as_matrix(out_vector_or_null<T>(z, "z", rows * cols), rows, cols);
    layer.activation = activation_of(activation);
    layer.dropout = dropout_of(dropout_arguments);
    layer.mask = mask_of(layer.dropout, mask, rows, cols);
    check_apart(a, x, "a");
    check_apart(a, w, "a");
    const StatsOnDevice<T> stats(with_stats, rows, cols, context.stream);
    layer.moments = stats.moments;
    ops<T>().dense_forward(context, layer);
    if (with_stats) {
      ops<T>().join_moments(context, stats.moments, rows, cols, stats.on_device());
    }
    return stats.result();
  });
}

// z and a may be the same array.
void activation_forward(const Array& z, const Array& a, int activation,
                        const DropoutArguments& dropout_arguments, const Array* mask,
                        uintptr_t stream) {
  with_dtype(z, "z", [&]<class T>() {
    ActivationForward<T> layer{};
    layer.a = out_matrix<T>(a, "a", rows_in(z), cols_in(z));
    layer.z = rows_matrix<T>(z, "z", layer.a.rows, layer.a.cols);
    layer.activation = activation_of(activation);
    layer.dropout = dropout_of(dropout_arguments);
    layer.mask = mask_of(layer.dropout, mask, layer.a.rows, layer.a.cols);
    ops<T>().activation_forward(context_of(stream), layer);
  });
}

void activation_backward(const Array& da, const Array& saved, const Array& dz, const Array* db,
                         int activation, const DropoutArguments& dropout_arguments,
                         const Array* mask, uintptr_t stream) {
  with_dtype(da, "da", [&]<class T>() {
    const Context context = context_of(stream);
    ActivationBackward<T> layer{};
    layer.dz = out_matrix<T>(dz, "dz", rows_in(da), cols_in(da));
    const int64_t rows = layer.dz.rows, cols = layer.dz.cols;
    layer.da = rows_matrix<T>(da, "da", rows, cols);
    layer.saved = rows_matrix<T>(saved, "saved", rows, cols);
    layer.activation = activation_of(activation);
    layer.dropout = dropout_of(dropout_arguments);
    layer.mask = mask_of(layer.dropout, mask, rows, cols);
    layer.db = out_vector_or_null<T>(db, "db", cols);
    const Memory<double> scratch(db != nullptr ? column_sum_scratch(rows, cols) : 0,
                                 context.stream);
    layer.db_scratch = scratch.data();
    ops<T>().activation_backward(context, layer);
  });
}

// dz of the layer below from dz of this one, whose weights are w.
void dense_backward(const Array& dz, const Array& w, const Array& saved, const Array& below,
                    const Array* db, int activation, const DropoutArguments& dropout_arguments,
                    const Array* mask, uintptr_t stream) {
  with_dtype(dz, "dz", [&]<class T>() {
    const Context context = context_of(stream);
    DenseBackward<T> layer{};
    layer.dz = matrix<T>(dz, "dz");
    layer.w = matrix<T>(w, "w", rows_in(w), layer.dz.cols);
    const int64_t rows = layer.dz.rows, cols = layer.w.rows;
    layer.below.dz = out_matrix<T>(below, "below", rows, cols);
    layer.below.saved = rows_matrix<T>(saved, "saved", rows, cols);
    layer.below.activation = activation_of(activation);
    layer.below.dropout = dropout_of(dropout_arguments);
    layer.below.mask = mask_of(layer.below.dropout, mask, rows, cols);
    layer.below.db = out_vector_or_null<T>(db, "db", cols);
    const Memory<double> scratch(db != nullptr ? column_sum_scratch(rows, cols) : 0,
                                 context.stream);
    layer.below.db_scratch = scratch.data();
    check_apart(below, dz, "below");
    check_apart(below, w, "below");
    ops<T>().dense_backward(context, layer);
  });
}

void column_sums(const Array& x, const Array& sums, uintptr_t stream) {
  with_dtype(x, "x", [&]<class T>() {
    const View<const T> view = rows_matrix<T>(x, "x", rows_in(x), cols_in(x));
    ops<T>().column_sums(context_of(stream), view, out_vector<T>(sums, "sums", view.cols));
  });
}

void batch_norm_forward(const Array& x, const Array& gamma, const Array& beta,
                        const Array& running_mean, const Array& running_var, const Array& y,
                        const Array* x_hat, const Array& inv_std, bool training, double momentum,
                        double eps, uintptr_t stream) {
  with_dtype(x, "x", [&]<class T>() {
    const Context context = context_of(stream);
    auto* entry = given(ops<T>().batch_norm_forward, "x");
    BatchNormForward<T> layer{};
    layer.y = out_matrix<T>(y, "y", rows_in(x), cols_in(x));
    const int64_t rows = layer.y.rows, cols = layer.y.cols;
    layer.x = rows_matrix<T>(x, "x", rows, cols);
    layer.gamma = vector<T>(gamma, "gamma", cols);
    layer.beta = vector<T>(beta, "beta", cols);
    // Inference only reads them.
    layer.running_mean = const_cast<T*>(vector<T>(running_mean, "running_mean", cols));
    layer.running_var = const_cast<T*>(vector<T>(running_var, "running_var", cols));
    if (training && (running_mean.read_only || running_var.read_only)) {
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
    const Memory<T> scratch(training ? moments_size<T>(rows, cols) : 0, context.stream);
    layer.scratch = scratch.data();
    entry(context, layer);
  });
}

void batch_norm_backward(const Array& dy, const Array& x_hat, const Array& gamma,
                         const Array& inv_std, const Array& dx, const Array& dgamma,
                         const Array& dbeta, bool training, uintptr_t stream) {
  with_dtype(dy, "dy", [&]<class T>() {
    const Context context = context_of(stream);
    auto* entry = given(ops<T>().batch_norm_backward, "dy");
    BatchNormBackward<T> layer{};
    layer.dx = out_matrix<T>(dx, "dx", rows_in(dy), cols_in(dy));
    const int64_t rows = layer.dx.rows, cols = layer.dx.cols;
    layer.dy = rows_matrix<T>(dy, "dy", rows, cols);
    layer.x_hat = as_matrix(vector<T>(x_hat, "x_hat", rows * cols), rows, cols);
    layer.gamma = vector<T>(gamma, "gamma", cols);
    layer.inv_std = vector<T>(inv_std, "inv_std", cols);
    layer.dgamma = out_vector<T>(dgamma, "dgamma", cols);
    layer.dbeta = out_vector<T>(dbeta, "dbeta", cols);
    layer.training = training;
    const Memory<T> scratch(2 * column_sum_scratch(rows, cols), context.stream);
    layer.scratch = scratch.data();
    entry(context, layer);
  });
}

py::object stats(const Array& a, double lo, double hi, uintptr_t stream) {
  return with_dtype(a, "a", [&]<class T>() {
    const Context context = context_of(stream);
    const View<const T> view = matrix<T>(a, "a");
    if (view.col_stride != 1 || view.rows == 0 || view.cols == 0) {
      refuse("a", "contiguous rows and at least one element");
    }
    const StatsOnDevice<T> result(true, view.rows, view.cols, context.stream);
    ops<T>().stats(context, view, T(lo), T(hi), result.moments, result.on_device());
    return result.result();
  });
}

// Of bins between `edges`, which come from the host; counts too are the host's, so it waits.
void histogram(const Array& a, const py::array& edges, py::array counts, uintptr_t stream) {
  with_dtype(a, "a", [&]<class T>() {
    const Context context = context_of(stream);
    const View<const T> view = matrix<T>(a, "a");
    const int64_t bins = counts.size();
    int64_t* out = fanin::out_vector<int64_t>(counts, "counts", bins);
    const double* at = fanin::vector<double>(edges, "edges", bins + 1);
    if (bins == 0) {
      refuse("counts", "at least one bin");
    }
    const Memory<double> edges_there(bins + 1, context.stream);
    const Memory<int64_t> counts_there(bins, context.stream);
    copy(edges_there.data(), at, size_t(bins + 1) * sizeof(double), context.stream);
    copy(counts_there.data(), out, size_t(bins) * sizeof(int64_t), context.stream);
    ops<T>().histogram(context, view, edges_there.data(), int(bins), counts_there.data());
    const Released released;
    copy(out, counts_there.data(), size_t(bins) * sizeof(int64_t), context.stream);
    synchronize(context.stream);
  });
}

// One of the three losses; `labels` or `targets`, `dz` null for the loss alone. The loss is written
// to `number`.
template <class Member>
void loss(Member member, bool takes_labels, const Array& z, const Array* labels,
          const Array* targets, const Array* sample_weight, const Array* class_weight,
          double label_smoothing, double divisor, const FormArguments& form, const Array* dz,
          const Array& number, uintptr_t stream) {
  with_dtype(z, "z", [&]<class T>() {
    Context context = context_of(stream);
    Loss<T> of{};
    of.z = rows_matrix<T>(z, "z", rows_in(z), cols_in(z));
    const int64_t rows = of.z.rows, cols = of.z.cols;
    of.labels = vector_or_null<int64_t>(labels, "labels", rows);
    if ((labels == nullptr) == (targets == nullptr) || (labels != nullptr && !takes_labels)) {
      refuse("labels", "labels (of a softmax) or targets, one of them");
    }
    if (targets != nullptr) {
      of.targets = rows_matrix<T>(*targets, "targets", rows, cols);
    }
    of.sample_weight = vector_or_null<T>(sample_weight, "sample_weight", rows);
    of.class_weight = vector_or_null<T>(class_weight, "class_weight", cols);
    of.label_smoothing = label_smoothing;
    of.divisor = divisor;
    of.form = form_of(form);
    if (dz != nullptr) {
      of.dz = out_matrix<T>(*dz, "dz", rows, cols);
    }
    check_elements<double>(number, "number");
    if (number.size() != 1 || number.read_only) {
      refuse("number", "a writeable array of one number");
    }
    context.number = static_cast<double*>(number.data);
    const Memory<double> row_loss(rows + 1, context.stream);
    of.row_loss = row_loss.data();
    member.template operator()<T>(ops<T>(), context, of);
  });
}

void softmax(const Array& z, const Array& p, uintptr_t stream) {
  with_dtype(z, "z", [&]<class T>() {
    const View<T> out = out_matrix<T>(p, "p", rows_in(z), cols_in(z));
    const View<const T> in = rows_matrix<T>(z, "z", out.rows, out.cols);
    ops<T>().softmax(context_of(stream), in, out);
  });
}

// `first` and `second` are the moments that the rule has, in the optimizer's order.
void optimizer_update(py::handle optimizer, double lr, int64_t steps_done, const Array& parameters,
                      const Array& gradients, const Array* first, const Array* second,
                      const Array* decay_mask, uintptr_t stream) {
  with_dtype(parameters, "parameters", [&]<class T>() {
    if constexpr (std::is_same_v<T, float> || std::is_same_v<T, double>) {
      Context context = context_of(stream);
      const int64_t count = parameters.size();
      T* p = out_vector<T>(parameters, "parameters", count);
      const T* g = vector<T>(gradients, "gradients", count);
      OptimizerRule<T> rule = settings_of<T>(optimizer);
      const MomentNames names = moments_of(rule);
      rule.first = out_vector_or_null<T>(first, "state", count);
      rule.second = out_vector_or_null<T>(second, "state", count);
      if ((names.needs_first && first == nullptr) ||
          (names.second != nullptr) != (second != nullptr)) {
        refuse("state", "the optimizer's state");
      }
      Update<T> update = update_of(rule, lr, steps_done);
      update.decay_mask =
          reinterpret_cast<const uint8_t*>(vector_or_null<bool>(decay_mask, "decay_mask", count));
      const bool clips = rule.clip_norm < unlimited;
      const Memory<double> squares(clips ? norm_pieces(count) : 0, context.stream);
      const Memory<double> norm(clips ? 1 : 0, context.stream);
      if (clips) {
        context.number = norm.data();
        ops<T>().norm(context, g, count, rule.clip_value, squares.data());
        update.norm = norm.data();
        update.clip_norm = rule.clip_norm;
      }
      apply(ops<T>(), context, rule, update, p, g, 0, count);
    } else {
      refuse("parameters",
             "an array of float32 or float64: a small step would be lost in 16 bits; keep such "
             "parameters in float32 and round a copy");
    }
  });
}

void function(const std::string& name, const Array& x, const Array& out, uintptr_t stream) {
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
  with_dtype(x, "x", [&]<class T>() {
    const T* in = vector<T>(x, "x", x.size());
    T* to = out_vector<T>(out, "out", x.size());
    given(ops<T>().function, "x")(context_of(stream), found->second, in, to, x.size());
  });
}

// The norm is written to `number`.
void norm(const Array& values, const Array& number, uintptr_t stream) {
  with_dtype(values, "values", [&]<class T>() {
    Context context = context_of(stream);
    auto* entry = given(ops<T>().norm, "values");
    const int64_t count = values.size();
    const T* data = vector<T>(values, "values", count);
    check_elements<double>(number, "number");
    if (number.size() != 1 || number.read_only) {
      refuse("number", "a writeable array of one number");
    }
    context.number = static_cast<double*>(number.data);
    const Memory<double> squares(norm_pieces(count), context.stream);
    entry(context, data, count, unlimited, squares.data());
  });
}

void random_words(uint64_t seed, uint64_t step, uint32_t layer, uint32_t words_stream,
                  const Array& out, int64_t start, uintptr_t stream) {
  if (start < 0) {
    refuse("start", "a number >= 0");
  }
  const OnDevice device(out.device);
  uint64_t* to = out_vector<uint64_t>(out, "out", out.size());
  table().table.random_words(context_of(stream), seed, step, layer, words_stream, start, out.size(),
                             to);
}

// kept (m, n), or (n) for one row: true where an element is kept.
void dropout_mask(const DropoutArguments& arguments, const Array& kept, uintptr_t stream) {
  const OnDevice device(kept.device);
  const Context context = context_of(stream);
  const int64_t rows = kept.ndim() == 2 ? kept.shape[0] : 1, cols = kept.shape.back();
  bool* to = out_vector<bool>(kept.reshaped({rows * cols}), "kept", rows * cols);
  const Dropout dropout = dropout_of(arguments);
  const int64_t words = mask_words(cols);
  const Memory<uint16_t> mask(rows * words, context.stream);
  table().table.dropout_mask(context, dropout, rows, cols, mask.data());
  unpack_mask(context, as_matrix<const uint16_t>(mask.data(), rows, words), cols, to);
}

// ---- copies
// --------------------------------------------------------------------------------------

// out[i][j] = x[i][j]: into another order, or integers as int64.
void convert_array(const Array& x, const Array& out, uintptr_t stream) {
  const OnDevice device(x.device);
  const Context context = context_of(stream);
  const auto as = [&]<class From, class To>() {
    const View<const From> from = matrix<From>(x, "x");
    convert<From, To>(context, from,
                      writable(matrix<To>(out, "out", from.rows, from.cols), out, "out"));
  };
  if (x.type == Type::int64) {
    as.template operator()<int64_t, int64_t>();
  } else if (x.type == Type::boolean) {
    as.template operator()<bool, bool>();
  } else if (x.type == out.type) {
    with_dtype(x, "x", [&]<class T>() { as.template operator()<T, T>(); });
  } else if (x.type == Type::int32) {
    as.template operator()<int32_t, int64_t>();
  } else if (x.type == Type::int16) {
    as.template operator()<int16_t, int64_t>();
  } else if (x.type == Type::int8) {
    as.template operator()<int8_t, int64_t>();
  } else if (x.type == Type::uint8) {
    as.template operator()<uint8_t, int64_t>();
  } else {
    refuse("x", std::string("integers of at most 32 bits, or the type of the result; got ") +
                    name_of(x.type));
  }
}

// Between contiguous arrays of as many bytes; the host's is NumPy's. Both wait for the device: a
// copy from memory that is not pinned may go on after the call that queued it.
void upload(const py::array& from, const Array& to, uintptr_t stream) {
  const OnDevice device(to.device);
  if (!to.contiguous() || !(from.flags() & py::array::c_style) ||
      from.nbytes() != to.size() * bytes_of(to.type)) {
    refuse("to", "contiguous memory of as many bytes");
  }
  refuse_capture(reinterpret_cast<void*>(stream), "a copy from the host");
  const void* data = from.data();
  const auto bytes = size_t(from.nbytes());
  const Released released;
  copy(to.data, data, bytes, reinterpret_cast<void*>(stream));
  synchronize(reinterpret_cast<void*>(stream));
}

void download(const Array& from, py::array to, uintptr_t stream) {
  const OnDevice device(from.device);
  if (!from.contiguous() || !(to.flags() & py::array::c_style) ||
      to.nbytes() != from.size() * bytes_of(from.type)) {
    refuse("from", "contiguous memory of as many bytes");
  }
  refuse_capture(reinterpret_cast<void*>(stream), "a copy to the host");
  void* data = to.mutable_data();
  const auto bytes = size_t(to.nbytes());
  const Released released;
  copy(data, from.data, bytes, reinterpret_cast<void*>(stream));
  synchronize(reinterpret_cast<void*>(stream));
}

}  // namespace

void bind_ops(py::module_& module) {
  module.def("set_precision", [](int precision) { product_precision = precision; });
  module.def("gemm", &gemm);
  module.def("dense_forward", &dense_forward);
  module.def("activation_forward", &activation_forward);
  module.def("activation_backward", &activation_backward);
  module.def("dense_backward", &dense_backward);
  module.def("column_sums", &column_sums);
  module.def("batch_norm_forward", &batch_norm_forward);
  module.def("batch_norm_backward", &batch_norm_backward);
  module.def("stats", &stats);
  module.def("histogram", &histogram);
  const auto def_loss = [&](const char* name, bool takes_labels, auto member) {
    module.def(name, [=](const Array& z, const Array* labels, const Array* targets,
                         const Array* sample_weight, const Array* class_weight,
                         double label_smoothing, double divisor, const FormArguments& form,
                         const Array* dz, const Array& number, uintptr_t stream) {
      loss(member, takes_labels, z, labels, targets, sample_weight, class_weight, label_smoothing,
           divisor, form, dz, number, stream);
    });
  };
  def_loss("softmax_cross_entropy", true,
           []<class T>(const Ops<T>& of, const Context& context, const Loss<T>& loss) {
             of.softmax_cross_entropy(context, loss);
           });
  def_loss("sigmoid_cross_entropy", false,
           []<class T>(const Ops<T>& of, const Context& context, const Loss<T>& loss) {
             of.sigmoid_cross_entropy(context, loss);
           });
  def_loss("mean_squared_error", false,
           []<class T>(const Ops<T>& of, const Context& context, const Loss<T>& loss) {
             of.mean_squared_error(context, loss);
           });
  module.def("softmax", &softmax);
  module.def("optimizer_update", &optimizer_update);
  module.def("function", &function);
  module.def("norm", &norm);
  module.def("random_words", &random_words);
  module.def("dropout_mask", &dropout_mask);
  module.def("convert", &convert_array);
  module.def("upload", &upload);
  module.def("download", &download);
}

}  // namespace fanin::cuda
