// Which optimizer, its constants and its state: what stays the same from step to step.
#pragma once

#include "../core/ops.hpp"

namespace fanin {

enum class Rule : int { sgd, rmsprop, adam };

template <class T>
struct OptimizerRule {
  Rule rule;
  double beta1, beta2;  // momentum or beta1; alpha or beta2
  double eps;
  double weight_decay;  // AdamW's
  bool nesterov;
  T* first;   // (parameters) or null
  T* second;  // (parameters) or null
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

// Step number `steps_done` + 1 of the rule, on elements [start, start + count) of the flat vectors.
template <class T>
static inline void apply_rule(const Ops<T>& ops, const Context& context,
                              const OptimizerRule<T>& rule, double lr, int64_t steps_done,
                              T* parameters, const T* gradients, int64_t start, int64_t count,
                              bool decays, const uint8_t* decay_mask) {
  Update<T> update{};
  update.parameters = parameters + start;
  update.gradients = gradients + start;
  update.first = rule.first != nullptr ? rule.first + start : nullptr;
  update.second = rule.second != nullptr ? rule.second + start : nullptr;
  update.count = count;
  update.lr = lr;
  update.beta1 = rule.beta1;
  update.beta2 = rule.beta2;
  update.eps = rule.eps;
  update.nesterov = rule.nesterov;
  switch (rule.rule) {
    case Rule::sgd:
      ops.sgd(context, update);
      break;
    case Rule::rmsprop:
      ops.rmsprop(context, update);
      break;
    case Rule::adam:
      update.lr = lr / (1 - power(rule.beta1, steps_done + 1));
      update.correction = 1 / __builtin_sqrt(1 - power(rule.beta2, steps_done + 1));
      update.decay = decays ? lr * rule.weight_decay : 0;
      update.decay_mask = decay_mask != nullptr ? decay_mask + start : nullptr;
      ops.adam(context, update);
      break;
  }
}

}  // namespace fanin
