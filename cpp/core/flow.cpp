#include "flow.hpp"

#include <thread>
#include <utility>

namespace fanin {

Flow::Stage Flow::add(int64_t groups, int64_t per_group, Body body) {
  parts_.push_back({groups, per_group, std::move(body), std::make_unique<Counter[]>(size_t(groups)),
                    std::make_unique<Counter[]>(size_t(threads_))});
  return {parts_.size() - 1};
}

void Flow::await(Stage stage, int64_t group) const {
  const Part& part = parts_[stage.number];
  const std::atomic<uint64_t>& finished = part.finished[size_t(group)].count;
  const uint64_t wanted = runs_ * uint64_t(part.per_group);
  for (int spin = 0; finished.load(std::memory_order_acquire) < wanted; ++spin) {
    spin < waiting_spins ? pause() : std::this_thread::yield();
  }
}

void Flow::await(Stage stage) const {
  for (int64_t group = 0; group < parts_[stage.number].groups; ++group) {
    await(stage, group);
  }
}

// A task of this stage that nobody has, of this thread's share first; -1 when all are taken.
int64_t Flow::take(const Part& part, int thread) const {
  const int64_t tasks = part.groups * part.per_group;
  for (int i = 0; i < threads_; ++i) {
    const int owner = (thread + i) % threads_;
    const int64_t begin = tasks * owner / threads_, end = tasks * (owner + 1) / threads_;
    std::atomic<uint64_t>& taken = part.taken[size_t(owner)].count;
    uint64_t seen = taken.load(std::memory_order_relaxed);
    while (begin + int64_t(seen) < end) {
      if (taken.compare_exchange_weak(seen, seen + 1, std::memory_order_relaxed)) {
        return begin + int64_t(seen);
      }
    }
  }
  return -1;
}

void Flow::work(int thread, void* scratch) {
  for (Part& part : parts_) {
    for (int64_t task; (task = take(part, thread)) >= 0;) {
      part.body(task, static_cast<std::byte*>(scratch) + operation_scratch_bytes);
      part.finished[size_t(task / part.per_group)].count.fetch_add(1, std::memory_order_release);
    }
  }
}

void Flow::run() {
  ++runs_;
  for (Part& part : parts_) {
    for (int thread = 0; thread < threads_; ++thread) {
      part.taken[size_t(thread)].count.store(0, std::memory_order_relaxed);
    }
  }
  auto everyone = [this](int64_t, void* scratch) { work(thread_number() % threads_, scratch); };
  Context context;
  context.threads = threads_;
  parallel_for(context, threads_, everyone);
}

}  // namespace fanin
