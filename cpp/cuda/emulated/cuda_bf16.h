// bfloat16 on the CPU: the upper half of a float, rounded to nearest, ties to even.
#pragma once

#include "cuda_runtime.h"

struct alignas(2) __nv_bfloat16_raw {
  unsigned short x;
};

struct alignas(2) __nv_bfloat16 {
  __nv_bfloat16() = default;
  __nv_bfloat16(float value) {
    const unsigned bits = std::bit_cast<unsigned>(value);
    bits_ = (bits & 0x7FFFFFFF) > 0x7F800000
                ? 0x7FFF
                : (unsigned short)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
  }
  __nv_bfloat16(double value) : __nv_bfloat16(float(value)) {}
  __nv_bfloat16(int value) : __nv_bfloat16(float(value)) {}
  operator float() const { return std::bit_cast<float>(unsigned(bits_) << 16); }

 private:
  unsigned short bits_;
};

struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};

inline __nv_bfloat16 __float2bfloat16(float x) { return x; }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return x; }
inline __nv_bfloat16 __double2bfloat16(double x) { return x; }
inline float __bfloat162float(__nv_bfloat16 x) { return x; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {x, y}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 v) { return {v.x, v.y}; }
inline float2 __bfloat1622float2(__nv_bfloat162 v) { return {v.x, v.y}; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) {
  return std::bit_cast<unsigned short>(x);
}
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short x) {
  return std::bit_cast<__nv_bfloat16>(x);
}
