// float16 (IEEE binary16) on the CPU, rounded to nearest, ties to even.
#pragma once

#include "cuda_runtime.h"

namespace emulated {

inline unsigned short half_from(float value) {
  const unsigned bits = std::bit_cast<unsigned>(value), magnitude = bits & 0x7FFFFFFF;
  const auto sign = (unsigned short)(bits >> 16 & 0x8000);
  if (magnitude > 0x7F800000) {
    return 0x7FFF;
  }
  if (magnitude >= 0x477FF000) {  // 65520 and above: infinity
    return sign | 0x7C00;
  }
  if (magnitude < 0x38800000) {  // below 2^-14: a multiple of 2^-24, as adding 0.5 rounds it
    const float moved = std::bit_cast<float>(magnitude) + 0.5f;
    return sign | (unsigned short)(std::bit_cast<unsigned>(moved) - 0x3F000000);
  }
  const unsigned rounded = magnitude + 0xFFF + (magnitude >> 13 & 1);
  return sign | (unsigned short)((rounded - (112u << 23)) >> 13);
}

inline float half_to(unsigned short half) {
  const unsigned sign = unsigned(half & 0x8000) << 16, magnitude = half & 0x7FFF;
  if (magnitude >= 0x7C00) {
    return std::bit_cast<float>(sign | 0x7F800000 | (magnitude & 0x3FF) << 13);
  }
  if (magnitude < 0x400) {
    const float value = float(magnitude) * 0x1p-24f;
    return sign != 0 ? -value : value;
  }
  return std::bit_cast<float>(sign | ((magnitude << 13) + (112u << 23)));
}

}  // namespace emulated

struct alignas(2) __half_raw {
  unsigned short x;
};

struct alignas(2) __half {
  __half() = default;
  __half(float value) : bits_(emulated::half_from(value)) {}
  __half(double value) : __half(float(value)) {}
  __half(int value) : __half(float(value)) {}
  operator float() const { return emulated::half_to(bits_); }

 private:
  unsigned short bits_;
};
using half = __half;

struct alignas(4) __half2 {
  __half x, y;
};
using half2 = __half2;

inline __half __float2half(float x) { return x; }
inline __half __float2half_rn(float x) { return x; }
inline __half __double2half(double x) { return x; }
inline float __half2float(__half x) { return x; }
inline __half2 __floats2half2_rn(float x, float y) { return {x, y}; }
inline __half2 __float22half2_rn(float2 v) { return {v.x, v.y}; }
inline float2 __half22float2(__half2 v) { return {v.x, v.y}; }
inline unsigned short __half_as_ushort(__half x) { return std::bit_cast<unsigned short>(x); }
inline __half __ushort_as_half(unsigned short x) { return std::bit_cast<__half>(x); }
