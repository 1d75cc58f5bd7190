#include "flow.hpp"

#include <thread>
#include <utility>

namespace fanin {

Flow::Stage Flow::add(int64_t groups, int64_t per_group, Body body) {
  parts_.push_back(
      {tasks_, groups, per_group, std::move(body), std::make_unique<Counter[]>(size_t(groups))});
  tasks_ += groups * per_group;
  return {parts_.size() - 1};
}

void Flow::await(Stage stage, int64_t group) const {
  const Part& part = parts_[stage.number];
  const std::atomic<int64_t>& done = part.finished[size_t(group)].done;
  for (int spin = 0; done.load(std::memory_order_acquire) < part.per_group; ++spin) {
    spin < waiting_spins ? pause() : std::this_thread::yield();
  }
}

void Flow::await(Stage stage) const {
  for (int64_t group = 0; group < parts_[stage.number].groups; ++group) {
    await(stage, group);
  }
}

void Flow::run(int threads) {
  for (Part& part : parts_) {
    for (int64_t group = 0; group < part.groups; ++group) {
      part.finished[size_t(group)].done.store(0, std::memory_order_relaxed);
    }
  }
  auto task = [this](int64_t number, void* scratch) {
    size_t low = 0, high = parts_.size();
    while (high - low > 1) {
      const size_t middle = (low + high) / 2;
      (parts_[middle].first <= number ? low : high) = middle;
    }
    const Part& part = parts_[low];
    const int64_t i = number - part.first;
    part.body(i, static_cast<std::byte*>(scratch) + operation_scratch_bytes);
    part.finished[size_t(i / part.per_group)].done.fetch_add(1, std::memory_order_release);
  };
  Context context;
  context.threads = threads;
  parallel_for(context, tasks_, task);
}

}  // namespace fanin
