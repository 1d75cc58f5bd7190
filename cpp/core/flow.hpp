// A whole training step as one job: tasks in stages, each waiting for what it needs instead of all
// threads waiting for one another between stages.
//
// Each thread has a share of every stage, the same one from run to run, so that it finds in its
// caches what it left there; who is done with his own helps the others. A task may wait for tasks
// of earlier stages only. A thread goes on to a stage when all tasks of the one before are taken,
// so what a task waits for is done or in the hands of threads that wait for nothing later: every
// wait ends.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "parallel.hpp"

namespace fanin {

class Flow {
 public:
  // What a task does; it has task_scratch_bytes of its thread's memory for itself.
  using Body = std::function<void(int64_t task, void* scratch)>;
  struct Stage {
    size_t number;
  };

  explicit Flow(int threads) : threads_(threads) {}

  // Adds a stage of `groups` groups of `per_group` tasks each: task i is in group i / per_group.
  Stage add(int64_t groups, int64_t per_group, Body body);

  // Called by a task: waits until this group, or all groups, of an earlier stage are done.
  void await(Stage stage, int64_t group) const;
  void await(Stage stage) const;

  // Runs all tasks, without interruption.
  void run();

 private:
  struct alignas(64) Counter {  // a cache line each: threads do not disturb each other
    std::atomic<uint64_t> count{0};
  };
  struct Part {
    int64_t groups, per_group;
    Body body;
    std::unique_ptr<Counter[]> finished;  // tasks of each group, of all runs together
    std::unique_ptr<Counter[]> taken;     // of each thread's share, in this run
  };

  int64_t take(const Part& part, int thread) const;
  void work(int thread, void* scratch);

  const int threads_;
  std::vector<Part> parts_;
  uint64_t runs_ = 0;
};

}  // namespace fanin
