// Threads: the only file, with parallel.cpp, that knows them.
//
// Work is cut into tasks by the shape of the data, never by the number of threads; threads claim
// tasks as they go. Who computes a task is left open, what it computes is not, so that results do
// not depend on the number of threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops.hpp"

namespace fanin {

// Memory that each thread has for itself while it runs a task; the same at every call, so a task
// that uses it must not call another operation.
constexpr std::size_t thread_scratch_bytes = 1 << 20;

using Task = void (*)(void* arguments, int64_t task, void* scratch);

// Calls task(arguments, i, scratch) for i in [0, tasks), by at most context.threads threads.
// Returns when all are done, or when `context.interrupted` says so. A call from within a task, or
// while another thread has the pool, runs on the calling thread alone.
void run_tasks(const Context& context, int64_t tasks, Task task, void* arguments);

// The same for a callable body(int64_t task, void* scratch).
template <class Body>
static inline void parallel_for(const Context& context, int64_t tasks, Body& body) {
  run_tasks(
      context, tasks,
      +[](void* arguments, int64_t task, void* scratch) {
        (*static_cast<Body*>(arguments))(task, scratch);
      },
      &body);
}

// `context` for work of about `nanoseconds` on one thread: below 10 microseconds it stays there, as
// handing out a task costs about one when threads are awake and many when they sleep.
static inline Context worth(const Context& context, double nanoseconds) {
  Context copy = context;
  if (nanoseconds < 10000.0) {
    copy.threads = 1;
  }
  return copy;
}

void set_num_threads(int threads);  // threads >= 1
int num_threads();
const char* parallel_kind();  // "pool" or "openmp"

}  // namespace fanin
