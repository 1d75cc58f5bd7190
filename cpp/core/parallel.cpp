#include "parallel.hpp"

#include <pthread.h>
#if defined(FANIN_OPENMP)
#include <omp.h>
#endif

#include <atomic>
#include <mutex>
#include <system_error>
#include <thread>

#include "buffer.hpp"
#include "cpu.hpp"
#include "float_mode.hpp"

namespace fanin {
namespace {

std::atomic<int> chosen_threads{0};
thread_local bool inside_task = false;
thread_local int number_of_this_thread = 0;

void* thread_scratch() {
  thread_local Buffer<std::byte> scratch(operation_scratch_bytes + task_scratch_bytes);
  return scratch.data();
}

void run_alone(const Context& context, int64_t tasks, Task task, void* arguments) {
  void* scratch = thread_scratch();
  for (int64_t i = 0; i < tasks; ++i) {
    task(arguments, i, scratch);
    if (context.interrupted != nullptr && context.interrupted(context.interrupted_state)) {
      return;
    }
  }
}

}  // namespace

int thread_number() { return number_of_this_thread; }

void set_num_threads(int threads) { chosen_threads = threads; }

int num_threads() {
  int threads = chosen_threads;
  if (threads == 0) {
    threads = thread_limit().threads;
    chosen_threads = threads;
  }
  return threads;
}

#if defined(FANIN_OPENMP)

const char* parallel_kind() { return "openmp"; }

namespace {

// OpenMP runtimes do not survive a fork (GNU's waits for ever for threads the child does not have),
// so a child of a process that has used threads runs alone.
std::atomic<bool> in_forked_child{false};
std::once_flag fork_watched;

}  // namespace

void run_tasks(const Context& context, int64_t tasks, Task task, void* arguments) {
  if (context.threads <= 1 || tasks <= 1 || inside_task || in_forked_child) {
    run_alone(context, tasks, task, arguments);
    return;
  }
  std::call_once(fork_watched,
                 [] { pthread_atfork(nullptr, nullptr, [] { in_forked_child = true; }); });
  const int threads = int(tasks < context.threads ? tasks : context.threads);
  const std::thread::id caller = std::this_thread::get_id();
  std::atomic<bool> stop{false};
#pragma omp parallel for schedule(monotonic : dynamic) num_threads(threads)
  for (int64_t i = 0; i < tasks; ++i) {
    if (!stop.load(std::memory_order_relaxed)) {
      const FloatMode mode;
      inside_task = true;
      number_of_this_thread = omp_get_thread_num();
      task(arguments, i, thread_scratch());
      inside_task = false;
      if (context.interrupted != nullptr && std::this_thread::get_id() == caller &&
          context.interrupted(context.interrupted_state)) {
        stop = true;
      }
    }
  }
}

#else

const char* parallel_kind() { return "pool"; }

namespace {

// A pool of threads that run one job at a time.
//
// `ticket_` holds the job's number in its high half and the next unclaimed task in its low half. A
// task is claimed by a compare-and-swap on both, so a thread that wakes up late and has read the
// fields of an older job cannot claim a task of it: its number is gone. The fields are written
// while the ticket is closed (no task left) and published by the store that opens it.
class Pool {
 public:
  static constexpr uint64_t closed = 0xffffffff;

  std::mutex one_job;
  std::atomic<bool> abandoned{false};  // we are a forked child: the other threads are not here

  void run(const Context& context, int64_t tasks, Task task, void* arguments) {
    const int threads = start(int(tasks < context.threads ? tasks : context.threads));
    const uint32_t job = job_.load(std::memory_order_relaxed) + 1;
    ticket_.store(uint64_t{job} << 32 | closed);
    task_.store(task, std::memory_order_relaxed);
    arguments_.store(arguments, std::memory_order_relaxed);
    tasks_.store(tasks, std::memory_order_relaxed);
    invited_.store(threads - 1, std::memory_order_relaxed);
    unfinished_.store(tasks, std::memory_order_relaxed);
    ticket_.store(uint64_t{job} << 32, std::memory_order_release);
    job_.store(job);
    if (sleepers_.load() > 0) {
      job_.notify_all();
    }

    inside_task = true;
    claim(job, &context);
    inside_task = false;
    for (int spin = 0; unfinished_.load(std::memory_order_acquire) > 0 && !abandoned;) {
      if (spin < waiting_spins) {
        ++spin;
        pause();
      } else {
        std::this_thread::yield();
      }
    }
  }

 private:
  // Starts what is missing to `threads`, the caller among them; returns how many there are, fewer
  // when the system refuses more.
  int start(int threads) {
    try {
      while (started_ < threads - 1) {
        std::thread([this, index = started_] { work(index); }).detach();
        ++started_;
      }
    } catch (const std::system_error&) {
    }
    return threads < started_ + 1 ? threads : started_ + 1;
  }

  // Runs tasks of `job` until none is left. `context` is the caller's, null on other threads.
  void claim(uint32_t job, const Context* context) {
    void* scratch = thread_scratch();
    for (;;) {
      uint64_t ticket = ticket_.load(std::memory_order_acquire);
      const Task task = task_.load(std::memory_order_relaxed);
      void* arguments = arguments_.load(std::memory_order_relaxed);
      const int64_t tasks = tasks_.load(std::memory_order_relaxed);
      const int64_t next = int64_t(ticket & 0xffffffff);
      if (ticket >> 32 != job || next >= tasks) {
        return;
      }
      if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) {
        continue;
      }
      task(arguments, next, scratch);
      unfinished_.fetch_sub(1, std::memory_order_release);
      if (context != nullptr && context->interrupted != nullptr &&
          context->interrupted(context->interrupted_state)) {
        abandon(job);
        return;
      }
    }
  }

  // Nobody claims another task of `job`; those never claimed are counted as finished.
  void abandon(uint32_t job) {
    uint64_t ticket = ticket_.exchange(uint64_t{job} << 32 | closed);
    const int64_t tasks = tasks_.load(std::memory_order_relaxed);
    const int64_t next = int64_t(ticket & 0xffffffff);
    unfinished_.fetch_sub(next < tasks ? tasks - next : 0, std::memory_order_release);
  }

  void work(int index) {
    const FloatMode mode;
    inside_task = true;
    number_of_this_thread = index + 1;
    uint32_t seen = 0;
    for (;;) {
      for (int spin = 0; job_.load(std::memory_order_acquire) == seen && spin < waiting_spins;
           ++spin) {
        pause();
      }
      while (job_.load(std::memory_order_acquire) == seen) {
        sleepers_.fetch_add(1);
        job_.wait(seen);
        sleepers_.fetch_sub(1);
      }
      seen = job_.load(std::memory_order_acquire);
      if (index < invited_.load(std::memory_order_relaxed)) {
        claim(seen, nullptr);
      }
    }
  }

  int started_ = 0;
  alignas(cache_line) std::atomic<uint64_t> ticket_{closed};
  alignas(cache_line) std::atomic<int64_t> unfinished_{0};
  alignas(cache_line) std::atomic<uint32_t> job_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<Task> task_{nullptr};
  std::atomic<void*> arguments_{nullptr};
  std::atomic<int64_t> tasks_{0};
  std::atomic<int> invited_{0};
};

// Never destroyed: its threads may outlive every static object. A child of fork() has none of the
// threads, so it starts with a fresh pool; the old one is left behind, locked or not. (A handler
// that locked it before the fork would wait for a thread that may be waiting for the interpreter.)
std::atomic<Pool*> the_pool{nullptr};
std::once_flag pool_made;

Pool& pool() {
  std::call_once(pool_made, [] {
    the_pool = new Pool;
    pthread_atfork(nullptr, nullptr, [] {
      the_pool.load()->abandoned = true;
      the_pool = new Pool;
    });
  });
  return *the_pool.load();
}

}  // namespace

void run_tasks(const Context& context, int64_t tasks, Task task, void* arguments) {
  if (context.threads <= 1 || tasks <= 1 || inside_task) {
    run_alone(context, tasks, task, arguments);
    return;
  }
  Pool& shared = pool();
  std::unique_lock<std::mutex> mine(shared.one_job, std::try_to_lock);
  if (mine.owns_lock()) {
    shared.run(context, tasks, task, arguments);
  } else {
    run_alone(context, tasks, task, arguments);
  }
}

#endif

}  // namespace fanin
