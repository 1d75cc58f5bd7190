// One training step as a flow of tasks: gather, forward, loss, backward, and the optimizer's step
// on each weight as soon as its gradient is there.
//
// Nothing waits for the whole of a stage where it needs a part only, and the weights of one layer
// are worked on while the next layer waits. In a network of small layers a group of rows goes all
// the way from x to the first dz as one task: threads then meet once, before the weights.
#pragma once

#include <utility>
#include <vector>

#include "../core/flow.hpp"
#include "network.hpp"

namespace fanin {

template <class T>
class TrainingStep {
 public:
  TrainingStep(Network<T>& net, int64_t rows, int threads, bool monitored);

  // A step on these rows of data; the network knows their targets. Returns the loss.
  double run(const Dataset& data, const int64_t* chosen, const OptimizerRule<T>& rule,
             const Update<T>& update);

  const int64_t rows;
  const int threads;
  const bool monitored;

 private:
  bool layers_are_small() const;
  void await(Flow::Stage stage) const;
  void await(Flow::Stage stage, int64_t group) const;
  void add_rows();
  void add_layers();
  void add_weights(size_t layer, Flow::Stage dz, Flow::Stage readers);
  void add_limits();
  Upcoming upcoming_update(size_t layer, Block block) const;
  void gather(int64_t r0, int64_t r1);
  void update(size_t layer, Block block, View<const T> dw);

  Network<T>& net_;
  Flow flow_;
  std::vector<std::pair<size_t, Flow::Stage>> updates_;  // of the weights of each layer
  // Of the step under way.
  const Dataset* data_ = nullptr;
  const int64_t* chosen_ = nullptr;
  const OptimizerRule<T>* rule_ = nullptr;
  Update<T> update_{};
};

}  // namespace fanin
