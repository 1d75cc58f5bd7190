// An optimizer's rule and state, from what Python passes.
#pragma once

#include <tuple>

#include "../net/optimizer.hpp"
#include "arrays.hpp"

namespace fanin {

// (rule, beta1, beta2, eps, weight_decay, nesterov)
using RuleArguments = std::tuple<int, double, double, double, double, bool>;

template <class T>
OptimizerRule<T> rule_of(const RuleArguments& constants, Optional& first, Optional& second,
                         int64_t count) {
  const auto [rule, beta1, beta2, eps, weight_decay, nesterov] = constants;
  if (rule < 0 || rule > int(Rule::adam)) {
    refuse("rule", "the number of a rule");
  }
  const OptimizerRule<T> of{Rule(rule),
                            beta1,
                            beta2,
                            eps,
                            weight_decay,
                            nesterov,
                            out_vector_or_null<T>(first, "first", count),
                            out_vector_or_null<T>(second, "second", count)};
  if ((of.rule != Rule::sgd && of.second == nullptr) ||
      (of.rule == Rule::adam && of.first == nullptr)) {
    refuse("state", "the optimizer's state");
  }
  return of;
}

}  // namespace fanin
