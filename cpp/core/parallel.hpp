// Threads: the only file, with parallel.cpp, that knows them.
//
// Work is cut into tasks, which threads claim as they go. Who computes a task is left open, and how
// work is cut changes no result: sums are cut by the shape of the data alone (ops.hpp), so that
// nothing depends on the number of threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops.hpp"

namespace fanin {

// Memory that each thread has for itself while it runs a task; the same at every call. The first
// part belongs to operations, so a task that calls one may use the second only.
constexpr std::size_t operation_scratch_bytes = 1 << 20, task_scratch_bytes = 1 << 20;

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

// Waits a moment in a loop that watches what another thread writes. A wait spins at most so often,
// about 30 microseconds, before it gives the core away: long enough to stay awake between the
// operations of a training step, short enough not to disturb other programs.
constexpr int waiting_spins = 2000;

static inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Which of the threads this is: 0 for whoever calls, 1, 2, ... for those that help; the same one
// from call to call.
int thread_number();

void set_num_threads(int threads);  // threads >= 1
int num_threads();
const char* parallel_kind();  // "pool" or "openmp"

}  // namespace fanin
