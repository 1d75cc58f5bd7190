// Rounding to nearest and denormals kept, whatever the caller has set: part of "one seed, one
// result". A `FloatMode` sets both for its lifetime, on the thread it lives on.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace fanin {

class FloatMode {
 public:
#if defined(__x86_64__)
  // 0x1f80: all exceptions masked, round to nearest, no flush to zero, denormals are not zero.
  FloatMode() : caller_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
  ~FloatMode() { _mm_setcsr(caller_); }
#elif defined(__aarch64__)
  FloatMode() {
    asm volatile("mrs %0, fpcr" : "=r"(caller_));
    asm volatile("msr fpcr, %0" : : "r"(uint64_t{0}));
  }
  ~FloatMode() { asm volatile("msr fpcr, %0" : : "r"(caller_)); }
#endif
  FloatMode(const FloatMode&) = delete;
  FloatMode& operator=(const FloatMode&) = delete;

 private:
#if defined(__x86_64__)
  unsigned caller_;
#else
  uint64_t caller_ = 0;
#endif
};

}  // namespace fanin
