// One thread or all of them for the next step? Decided by what steps took, as it depends on more
// than their size: on how far apart the cores are (a cache line takes 50 ns from one to the other,
// or 300), and on what else runs on them. Results do not depend on it.
#pragma once

#include <algorithm>
#include <cstdint>

namespace fanin {

class Pace {
 public:
  // How many threads the next step should have, `most` or 1.
  int threads(int most) const { return alone_ != trying() ? 1 : most; }

  // What that step took.
  void took(double seconds) {
    if (trying()) {
      if (seconds > 3 * usual_) {  // no need to know more
        tried_ = seconds;
        trial_left_ = 0;
        decide();
        return;
      }
      // The first step of a trial finds caches and threads as the others left them.
      tried_ = trial_left_ == trial_steps ? 0 : tried_ + seconds / (trial_steps - 1);
      if (--trial_left_ == 0) {
        decide();
      }
      return;
    }
    usual_ = usual_ == 0 ? seconds : usual_ + (std::min(seconds, 4 * usual_) - usual_) / 8;
    best_ = best_ == 0 ? usual_ : std::min(best_, usual_);
    const bool due = --until_trial_ <= 0 && (alone_ || usual_ < longest_tried);
    if (due || usual_ > slower * best_) {  // somebody else may have come
      trial_left_ = trial_steps;
    }
  }

 private:
  static constexpr int trial_steps = 3, shortest = 16, longest = 512;
  static constexpr double slower = 1.5;  // one step in the way of another program is not enough
  static constexpr double longest_tried = 0.005;  // seconds; longer steps gain by all threads

  bool trying() const { return trial_left_ > 0; }

  void decide() {
    if (tried_ < 0.95 * usual_) {
      alone_ = !alone_;
      usual_ = tried_;
      until_trial_ = shortest;
    } else {  // so that trials cost 0.3 %, or as little as `longest` allows
      const double lost = trial_steps * (tried_ / usual_ - 1);
      until_trial_ = int(std::clamp<double>(lost / 0.003, shortest, longest));
    }
    best_ = usual_;
  }

  bool alone_ = false;
  double usual_ = 0, tried_ = 0;  // seconds a step takes as it is done now, and the other way
  double best_ = 0;               // of usual_ since the last trial
  int trial_left_ = 0, until_trial_ = shortest;
};

}  // namespace fanin
