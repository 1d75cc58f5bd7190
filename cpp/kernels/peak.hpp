// The machine's peak rate of fused multiply-adds, measured: what GEMM is compared with.
#pragma once

#include <time.h>

#include "isa.hpp"

namespace fanin {
namespace {

inline double seconds_now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
}

// Chains of fma on registers, enough of them to hide the latency; FLOP/s, the best of many slices.
template <class T>
double fma_peak(double seconds) {
  constexpr int chains = registers == 32 ? 24 : 12;
  constexpr int64_t rounds = 20000;
  Vec<T> sum[chains];
  for (int c = 0; c < chains; ++c) {
    sum[c] = broadcast(T(1 + c));
  }
  const double start = seconds_now();
  double best = 0;
  T sink = 0;
  do {
    // Opaque to the compiler, so that the loop is not replaced by its result.
    T factor = T(0.5), term = T(1);
    asm volatile("" : "+m"(factor), "+m"(term));
    const Vec<T> x = broadcast(factor), y = broadcast(term);
    const double before = seconds_now();
    for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 24
      for (int c = 0; c < chains; ++c) {
        sum[c] = fma(sum[c], x, y);
      }
    }
    const double rate = 2.0 * rounds * chains * width<T> / (seconds_now() - before);
    best = rate > best ? rate : best;
  } while (seconds_now() - start < seconds);
  for (int c = 0; c < chains; ++c) {
    T lane[width<T>];
    store(lane, sum[c]);
    sink += lane[0];
  }
  asm volatile("" : : "m"(sink));
  return best;
}

}  // namespace
}  // namespace fanin
