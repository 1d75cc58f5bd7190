// Which optimizer, its constants and its state: what stays the same from step to step.
#pragma once

#include "../core/buffer.hpp"
#include "../core/ops.hpp"

namespace fanin {

enum class Rule : int { sgd, rmsprop, adam, adamw };

template <class T>
struct OptimizerRule {
  Rule rule;
  double beta1, beta2;  // momentum or beta1; alpha or beta2
  double eps;
  double weight_decay;  // AdamW's
  bool nesterov;
  T* first;   // (parameters) or null
  T* second;  // (parameters) or null
  double clip_norm = unlimited, clip_value = unlimited;
  bool eps_hat = false;  // Adam: eps is added to the root before that is corrected

  bool operator==(const OptimizerRule&) const = default;
};

// x^n by squaring: the same bits everywhere, which pow() does not promise.
static inline double power(double x, int64_t n) {
  double result = 1;
  for (; n > 0; n /= 2, x *= x) {
    if (n % 2 == 1) {
      result *= x;
    }
  }
  return result;
}

// Step number `steps_done` + 1 of the rule, on all parameters; `apply` cuts it down.
template <class T>
static inline Update<T> update_of(const OptimizerRule<T>& rule, double lr, int64_t steps_done) {
  Update<T> update{};
  update.lr = lr;
  update.correction = 1;
  update.step_size = lr;
  if (rule.rule == Rule::sgd) {  // a sum of gradients
    const int64_t terms = steps_done + (rule.nesterov ? 2 : 1);
    update.step_size = rule.beta1 == 1 ? lr * double(terms)
                                       : lr * (1 - power(rule.beta1, terms)) / (1 - rule.beta1);
  }
  update.beta1 = rule.beta1;
  update.beta2 = rule.beta2;
  update.eps = rule.eps;
  update.nesterov = rule.nesterov;
  update.clip_value = rule.clip_value;
  if (rule.rule == Rule::adam || rule.rule == Rule::adamw) {
    update.lr = lr / (1 - power(rule.beta1, steps_done + 1));
    const double root = __builtin_sqrt(1 - power(rule.beta2, steps_done + 1));
    if (rule.eps_hat) {
      update.lr *= root;
      update.step_size *= root;
    } else {
      update.correction = 1 / root;
    }
    update.decay = lr * rule.weight_decay;
  }
  return update;
}

// Biases, gamma and beta do not decay.
template <class T>
static inline Update<T> without_decay(Update<T> update) {
  update.decay = 0;
  return update;
}

// What clip_norm multiplies these gradients with, all there are. That of an infinite norm is 0,
// which shows as NaN where the gradient is infinite; that of NaN is NaN.
template <class T>
static inline double gradient_scale(const Ops<T>& ops, const Context& context,
                                    const OptimizerRule<T>& rule, const T* gradients, int64_t count,
                                    Buffer<double>& scratch) {
  if (rule.clip_norm == unlimited) {
    return 1;
  }
  scratch.resize(size_t(norm_pieces(count)));
  const double norm = ops.norm(context, gradients, count, rule.clip_value, scratch.data());
  return norm <= rule.clip_norm ? 1 : rule.clip_norm / norm;
}

// The part of an update for parameters [start, start + count), whose gradients begin at
// `gradients`.
template <class T>
static inline Update<T> part_of(const OptimizerRule<T>& rule, Update<T> update, T* parameters,
                                const T* gradients, int64_t start, int64_t count) {
  update.parameters = parameters + start;
  update.gradients = gradients;
  update.first = rule.first != nullptr ? rule.first + start : nullptr;
  update.second = rule.second != nullptr ? rule.second + start : nullptr;
  update.count = count;
  return update;
}

// Applies it.
template <class T>
static inline void apply(const Ops<T>& ops, const Context& context, const OptimizerRule<T>& rule,
                         Update<T> update, T* parameters, const T* gradients, int64_t start,
                         int64_t count) {
  update = part_of(rule, update, parameters, gradients, start, count);
  switch (rule.rule) {
    case Rule::sgd:
      ops.sgd(context, update);
      break;
    case Rule::rmsprop:
      ops.rmsprop(context, update);
      break;
    case Rule::adam:
    case Rule::adamw:
      ops.adam(context, update);
      break;
  }
}

}  // namespace fanin
