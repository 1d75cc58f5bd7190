// Where the time of training steps goes: nanoseconds of all threads by what they did, counted while
// somebody wants to know.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace fanin {

enum class Work : int { gather, forward, loss, backward, weights, update, waiting };
constexpr int work_count = 7;
constexpr const char* work_names[work_count] = {"gather",  "forward", "loss",   "backward",
                                                "weights", "update",  "waiting"};

struct Breakdown {
  std::atomic<bool> counting{false};
  std::atomic<int64_t> nanoseconds[work_count]{};
};
inline Breakdown breakdown;

// Counts the time from here to the end of the scope, for as many threads.
class Timed {
 public:
  explicit Timed(Work work, int threads = 1)
      : work_(work), threads_(breakdown.counting.load(std::memory_order_relaxed) ? threads : 0) {
    if (threads_ > 0) {
      start_ = Clock::now();
    }
  }
  ~Timed() {
    if (threads_ > 0) {
      const auto taken = std::chrono::nanoseconds(Clock::now() - start_).count() * threads_;
      breakdown.nanoseconds[int(work_)].fetch_add(taken, std::memory_order_relaxed);
    }
  }
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  Work work_;
  int threads_;  // 0: nobody wants to know
  Clock::time_point start_;
};

}  // namespace fanin
