// A whole training step as one job: tasks in stages, claimed in order, each waiting for what it
// needs instead of all threads waiting for one another between stages.
//
// A task may wait for tasks of earlier stages only. Tasks are claimed in order, so these are done
// or in the hands of threads that wait for nothing later: every wait ends.
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

  // Adds a stage of `groups` groups of `per_group` tasks each: task i is in group i / per_group.
  Stage add(int64_t groups, int64_t per_group, Body body);

  // Called by a task: waits until this group, or all groups, of an earlier stage are done.
  void await(Stage stage, int64_t group) const;
  void await(Stage stage) const;

  // Runs all tasks, without interruption.
  void run(int threads);

 private:
  struct alignas(64) Counter {  // a cache line each: threads do not disturb each other
    std::atomic<int64_t> done{0};
  };
  struct Part {
    int64_t first, groups, per_group;
    Body body;
    std::unique_ptr<Counter[]> finished;  // tasks of each group
  };

  std::vector<Part> parts_;
  int64_t tasks_ = 0;
};

}  // namespace fanin
