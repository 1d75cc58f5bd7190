// An optimizer's rule, constants and state, read from the Python object.
#pragma once

#include "../net/optimizer.hpp"
#include "arrays.hpp"

namespace fanin {

// An attribute's name, made once: a step of a small network takes as long as fifty of these.
class Name {
 public:
  explicit Name(const char* text) : text_(PyUnicode_InternFromString(text)) {}
  py::object of(py::handle object) const {
    PyObject* value = PyObject_GetAttr(object.ptr(), text_);
    if (value == nullptr) {
      throw py::error_already_set();
    }
    return py::reinterpret_steal<py::object>(value);
  }
  void set(py::handle object, int64_t value) const {
    if (PyObject_SetAttr(object.ptr(), text_, py::int_(value).ptr()) != 0) {
      throw py::error_already_set();
    }
  }
  double number_of(py::handle object) const { return number(of(object)); }
  // A limit that may be None: there is none.
  double limit_of(py::handle object) const {
    const py::object value = of(object);
    if (value.is_none()) {
      return unlimited;
    }
    const double limit = number(value);
    if (!(limit > 0)) {
      refuse(PyUnicode_AsUTF8(text_), "None or a number > 0");
    }
    return limit;
  }
  // What a dict has under this name, or nothing.
  py::object object_in(const py::dict& dict) const {
    PyObject* value = PyDict_GetItemWithError(dict.ptr(), text_);
    return value == nullptr ? py::object() : py::reinterpret_borrow<py::object>(value);
  }
  // The array of this name in a dict, or nothing.
  Optional in(const py::dict& arrays) const {
    const py::object value = object_in(arrays);
    if (!value) {
      return {};
    }
    if (!py::isinstance<py::array>(value)) {
      refuse("state", "arrays");
    }
    return py::reinterpret_borrow<py::array>(value);
  }

 private:
  static double number(const py::object& value) {
    return PyFloat_CheckExact(value.ptr()) ? PyFloat_AS_DOUBLE(value.ptr())
                                           : py::cast<double>(value);
  }

  PyObject* text_;  // lives as long as the process
};

// An optimizer's rule and constants; its state, and which arrays of it there must be, are left.
template <class T>
OptimizerRule<T> settings_of(py::handle optimizer) {
  static const Name number("number"), momentum("momentum"), nesterov("nesterov"), alpha("alpha"),
      betas("betas"), eps("eps"), eps_hat("eps_hat"), weight_decay("weight_decay"),
      clip_norm("clip_norm"), clip_value("clip_value");
  OptimizerRule<T> rule{};
  rule.rule = Rule(py::cast<int>(number.of(optimizer)));
  switch (rule.rule) {
    case Rule::sgd:
      rule.beta1 = momentum.number_of(optimizer);
      rule.nesterov = py::cast<bool>(nesterov.of(optimizer));
      break;
    case Rule::rmsprop:
      rule.beta2 = alpha.number_of(optimizer);
      rule.eps = eps.number_of(optimizer);
      break;
    case Rule::adam:
    case Rule::adamw: {
      const auto both = py::cast<std::pair<double, double>>(betas.of(optimizer));
      rule.beta1 = both.first;
      rule.beta2 = both.second;
      rule.eps = eps.number_of(optimizer);
      rule.eps_hat = py::cast<bool>(eps_hat.of(optimizer));
      rule.weight_decay = rule.rule == Rule::adamw ? weight_decay.number_of(optimizer) : 0;
      break;
    }
    default:
      refuse("optimizer", "one of fanin's");
  }
  rule.clip_norm = clip_norm.limit_of(optimizer);
  rule.clip_value = clip_value.limit_of(optimizer);
  return rule;
}

// The names of a rule's moments in its state, null where it has none; whether it needs the first.
struct MomentNames {
  const Name *first, *second;
  bool needs_first;
};
template <class T>
MomentNames moments_of(const OptimizerRule<T>& rule) {
  static const Name momentum("momentum"), mean("mean"), square("square");
  switch (rule.rule) {
    case Rule::sgd:
      return {&momentum, nullptr, rule.beta1 != 0};
    case Rule::rmsprop:
      return {nullptr, &square, false};
    default:
      return {&mean, &square, true};
  }
}

// A rule and the arrays behind its pointers, which Python code may take out of the optimizer while
// a step is under way.
template <class T>
struct BoundRule {
  OptimizerRule<T> rule{};
  Optional first, second;
};

// Throws when the state is not that of `count` parameters of this dtype.
template <class T>
BoundRule<T> rule_of(py::handle optimizer, int64_t count) try {
  static const Name state("state");
  BoundRule<T> bound;
  auto& [rule, first, second] = bound;
  rule = settings_of<T>(optimizer);
  const auto arrays = py::cast<py::dict>(state.of(optimizer));
  const MomentNames names = moments_of(rule);
  first = names.first != nullptr ? names.first->in(arrays) : Optional{};
  second = names.second != nullptr ? names.second->in(arrays) : Optional{};
  rule.first = out_vector_or_null<T>(first, "state", count);
  rule.second = out_vector_or_null<T>(second, "state", count);
  if ((names.needs_first && !first) || (names.second != nullptr && !second)) {
    refuse("state", "the optimizer's state");
  }
  return bound;
} catch (const py::cast_error&) {
  refuse("optimizer", "settings that are numbers, and a dict of arrays as its state");
}

}  // namespace fanin
