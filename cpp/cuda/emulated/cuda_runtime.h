// What fanin uses of CUDA's runtime and device language, on the CPU: the kernels are tested where
// there is no GPU. Found before the toolkit's header of this name in a build with
// FANIN_CUDA=EMULATED; whoever needs more of CUDA adds it here.
//
//   * One device. Its memory is the host's, filled with 0xFF (NaN in every floating type) when it
//     is taken and when it is given back, with guards before and behind that are looked at when it
//     is given back: a kernel that wrote there ends the program. Built with -fsanitize=address, so
//     does one that reads there.
//   * `FANIN_EMULATED_MEMORY` (bytes), or `emulated::limit_memory`, says how much there is.
//   * Streams run at once; `emulated::waits` says which were made to wait for which. A captured
//     stream records what it is given and runs nothing of it.
//   * No atomics on floating numbers: fanin has none.
//   * `FANIN_EMULATED_DEVICES=0`: a machine without a GPU.
#pragma once

#include <math.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(begin, bytes)
#define ASAN_UNPOISON_MEMORY_REGION(begin, bytes)
#endif

#include "threads.hpp"

#define FANIN_CUDA_EMULATED 1
#define CUDART_VERSION 12040

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

// ---- numbers of several components; a load of one may read what is of another type

#define FANIN_VECTORS(type, name, bytes2, bytes4)                         \
  struct [[gnu::may_alias]] alignas(bytes2) name##2 { type x, y; };       \
  struct [[gnu::may_alias]] alignas(bytes4) name##4 { type x, y, z, w; }; \
  inline name##2 make_##name##2(type x, type y) { return {x, y}; }        \
  inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
FANIN_VECTORS(int, int, 8, 16)
FANIN_VECTORS(unsigned, uint, 8, 16)
FANIN_VECTORS(short, short, 4, 8)
FANIN_VECTORS(unsigned short, ushort, 4, 8)
FANIN_VECTORS(signed char, char, 2, 4)
FANIN_VECTORS(unsigned char, uchar, 2, 4)
FANIN_VECTORS(float, float, 8, 16)
FANIN_VECTORS(double, double, 16, 16)
FANIN_VECTORS(long long, longlong, 16, 16)
FANIN_VECTORS(unsigned long long, ulonglong, 16, 16)
#undef FANIN_VECTORS

// ---- functions of the device

inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
#define __expf expf  // the C library has functions of these names
#define __logf logf
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1 / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __ddiv_rn(double x, double y) { return x / y; }
inline double __dsqrt_rn(double x) { return sqrt(x); }
inline double __fma_rn(double x, double y, double z) { return fma(x, y, z); }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }
inline float normcdff(float x) { return 0.5f * erfcf(-x * 0.70710678118654752f); }
inline double normcdf(double x) { return 0.5 * erfc(-x * 0.70710678118654752440); }
inline float __int2float_rn(int x) { return float(x); }
inline int __float2int_rn(float x) { return int(nearbyintf(x)); }
inline int __float2int_rd(float x) { return int(floorf(x)); }

inline unsigned __umulhi(unsigned x, unsigned y) { return unsigned(uint64_t(x) * y >> 32); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(unsigned(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __brev(unsigned x) {
  unsigned bits = 0;
  for (int i = 0; i < 32; ++i) {
    bits |= (x >> i & 1) << (31 - i);
  }
  return bits;
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t both = uint64_t(y) << 32 | x;
  unsigned out = 0;
  for (int i = 0; i < 4; ++i) {
    out |= unsigned(both >> (selector >> 4 * i & 7) * 8 & 0xFF) << 8 * i;
  }
  return out;
}
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }
inline int __double2hiint(double x) { return int(std::bit_cast<uint64_t>(x) >> 32); }
inline int __double2loint(double x) { return int(std::bit_cast<uint64_t>(x)); }
inline double __hiloint2double(int hi, int lo) {
  return std::bit_cast<double>(uint64_t(unsigned(hi)) << 32 | unsigned(lo));
}

#define FANIN_MIN_MAX(type)                                    \
  constexpr type min(type x, type y) { return x < y ? x : y; } \
  constexpr type max(type x, type y) { return x > y ? x : y; }
FANIN_MIN_MAX(int)
FANIN_MIN_MAX(unsigned)
FANIN_MIN_MAX(long)
FANIN_MIN_MAX(unsigned long)
FANIN_MIN_MAX(long long)
FANIN_MIN_MAX(unsigned long long)
#undef FANIN_MIN_MAX
inline float min(float x, float y) { return fminf(x, y); }
inline float max(float x, float y) { return fmaxf(x, y); }
inline double min(double x, double y) { return fmin(x, y); }
inline double max(double x, double y) { return fmax(x, y); }

// Loads and stores with a hint to the cache.
template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcs(const T* p) {
  return *p;
}
template <class T>
T __ldcg(const T* p) {
  return *p;
}
template <class T>
T __ldca(const T* p) {
  return *p;
}
template <class T>
void __stwb(T* p, T value) {
  *p = value;
}
template <class T>
void __stcs(T* p, T value) {
  *p = value;
}
template <class T>
void __stcg(T* p, T value) {
  *p = value;
}

inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
inline void __nanosleep(unsigned) {}
[[noreturn]] inline void __trap() { emulated::fail("__trap"); }
inline long long clock64() { return std::chrono::steady_clock::now().time_since_epoch().count(); }

#define FANIN_ATOMIC(name, expression)    \
  template <class T, class U>             \
  T name(T* p, U value) {                 \
    static_assert(std::is_integral_v<T>); \
    const T old = *p, x = T(value);       \
    *p = (expression);                    \
    return old;                           \
  }
FANIN_ATOMIC(atomicAdd, T(old + x))
FANIN_ATOMIC(atomicSub, T(old - x))
FANIN_ATOMIC(atomicMax, old > x ? old : x)
FANIN_ATOMIC(atomicMin, old < x ? old : x)
FANIN_ATOMIC(atomicOr, T(old | x))
FANIN_ATOMIC(atomicAnd, T(old& x))
FANIN_ATOMIC(atomicXor, T(old ^ x))
FANIN_ATOMIC(atomicExch, x)
FANIN_ATOMIC(atomicInc, old >= x ? T(0) : T(old + 1))
#undef FANIN_ATOMIC
template <class T>
T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  const T old = *p;
  *p = old == expected ? value : old;
  return old;
}

// ---- the runtime

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorInvalidResourceHandle = 400,
  cudaErrorNotReady = 600,
  cudaErrorIllegalAddress = 700,
  cudaErrorNotSupported = 801,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901,
  cudaErrorUnknown = 999,
};
inline const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
    default:
      return "cudaError (emulated)";
  }
}
inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    default:
      return "an error of the emulated runtime";
  }
}

struct CUstream_st;

namespace emulated {

inline cudaError_t last_error = cudaSuccess;
inline cudaError_t set(cudaError_t error) {
  if (error != cudaSuccess) {
    last_error = error;
  }
  return error;
}

struct Capture {
  std::vector<std::function<void()>> nodes;
  std::vector<CUstream_st*> joined;
};

}  // namespace emulated

struct CUstream_st {
  emulated::Capture* capture = nullptr;
  bool began = false;  // the capture is its own
};
struct CUevent_st {
  std::chrono::steady_clock::time_point at{};
  emulated::Capture* capture = nullptr;
  CUstream_st* stream = nullptr;  // that it was recorded on
};
struct CUgraph_st {
  emulated::Capture work;
};
struct CUgraphExec_st {
  emulated::Capture work;
};
using cudaStream_t = CUstream_st*;
using cudaEvent_t = CUevent_st*;
using cudaGraph_t = CUgraph_st*;
using cudaGraphExec_t = CUgraphExec_st*;
#define cudaStreamLegacy (reinterpret_cast<cudaStream_t>(uintptr_t{1}))
#define cudaStreamPerThread (reinterpret_cast<cudaStream_t>(uintptr_t{2}))

namespace emulated {

inline Capture* capture_of(cudaStream_t stream) {
  return uintptr_t(stream) <= 2 ? nullptr : stream->capture;
}

// Runs, or records where the stream is captured.
template <class F>
void queue(cudaStream_t stream, F work) {
  if (Capture* capture = capture_of(stream)) {
    capture->nodes.push_back(work);
  } else {
    work();
  }
}

// The dynamic shared memory that a kernel may be launched with: 48 KB less its static arrays until
// it was asked for more. Their size is not known here: 1 KB is kept for them.
class SharedLimits {
 public:
  static SharedLimits& get() {
    static SharedLimits limits;
    return limits;
  }
  void set(const void* kernel, size_t bytes) {
    const std::lock_guard<std::mutex> lock(turn_);
    asked_[kernel] = bytes;
  }
  size_t of(const void* kernel) {
    const std::lock_guard<std::mutex> lock(turn_);
    const auto found = asked_.find(kernel);
    return found != asked_.end() ? found->second : size_t{47} << 10;
  }

 private:
  std::mutex turn_;
  std::map<const void*, size_t> asked_;
};

// kernel<<<grid, block, shared_bytes, stream>>>(arguments...)
template <class K, class... A>
void launch(K kernel, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
            A... arguments) {
  const size_t threads = size_t(block.x) * block.y * block.z;
  if (threads == 0 || threads > 1024 || grid.x == 0 || grid.y == 0 || grid.z == 0 ||
      grid.y > 65535 || grid.z > 65535 || grid.x > 2147483647u ||
      shared_bytes > SharedLimits::get().of(reinterpret_cast<const void*>(kernel))) {
    set(cudaErrorInvalidValue);
    return;
  }
  queue(stream, [=] { run(grid, block, shared_bytes, [=] { kernel(arguments...); }); });
}

inline size_t environment(const char* name, size_t otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr ? size_t(std::strtoull(value, nullptr, 10)) : otherwise;
}

// The device's memory. Each piece lies between two guards.
class DeviceMemory {
 public:
  static DeviceMemory& get() {
    static DeviceMemory* memory = new DeviceMemory;  // outlives whoever frees late
    return *memory;
  }

  void* take(size_t bytes) {
    const std::lock_guard<std::mutex> lock(turn_);
    if (bytes > limit_ || used_ > limit_ - bytes) {
      return nullptr;
    }
    auto* whole = static_cast<unsigned char*>(
        std::aligned_alloc(guard, (bytes + 3 * guard - 1) / guard * guard));
    if (whole == nullptr) {
      return nullptr;
    }
    std::memset(whole, guard_byte, guard);
    std::memset(whole + guard, 0xFF, bytes);
    std::memset(whole + guard + bytes, guard_byte, guard);
    ASAN_POISON_MEMORY_REGION(whole, guard);
    ASAN_POISON_MEMORY_REGION(whole + guard + bytes, guard);
    pieces_[whole + guard] = bytes;
    used_ += bytes;
    return whole + guard;
  }

  bool give_back(void* data) {
    const std::lock_guard<std::mutex> lock(turn_);
    const auto found = pieces_.find(static_cast<unsigned char*>(data));
    if (found == pieces_.end()) {
      return false;
    }
    const auto [begin, bytes] = *found;
    ASAN_UNPOISON_MEMORY_REGION(begin - guard, guard + bytes + guard);
    for (size_t i = 0; i < guard; ++i) {
      if (begin[-1 - ptrdiff_t(i)] != guard_byte || begin[bytes + i] != guard_byte) {
        fail("something was written before or behind a piece of device memory");
      }
    }
    std::memset(begin, 0xFF, bytes);
    used_ -= bytes;
    pieces_.erase(found);
    std::free(begin - guard);
    return true;
  }

  bool holds(const void* data) {
    const std::lock_guard<std::mutex> lock(turn_);
    auto* at = static_cast<unsigned char*>(const_cast<void*>(data));
    auto found = pieces_.upper_bound(at);
    return found != pieces_.begin() && at < (--found)->first + found->second;
  }
  void limit(size_t bytes) { limit_ = bytes; }
  size_t total() const { return limit_; }
  size_t left() const { return limit_ > used_ ? limit_ - used_ : 0; }

 private:
  static constexpr size_t guard = 256;
  static constexpr unsigned char guard_byte = 0xA5;

  std::mutex turn_;
  std::map<unsigned char*, size_t> pieces_;
  size_t used_ = 0;
  size_t limit_ = environment("FANIN_EMULATED_MEMORY", size_t{4} << 30);
};

inline void limit_memory(size_t bytes) { DeviceMemory::get().limit(bytes); }

// The latest waits of a stream for another: (the one that waits, the other).
class RecordOfWaits {
 public:
  using Pairs = std::vector<std::pair<uintptr_t, uintptr_t>>;
  void add(cudaStream_t stream, cudaStream_t other) {
    const std::lock_guard<std::mutex> lock(turn_);
    if (pairs_.size() == most) {
      pairs_.erase(pairs_.begin());
    }
    pairs_.emplace_back(uintptr_t(stream), uintptr_t(other));
  }
  Pairs take() {
    const std::lock_guard<std::mutex> lock(turn_);
    return std::exchange(pairs_, {});
  }

 private:
  static constexpr size_t most = 64;
  std::mutex turn_;
  Pairs pairs_;
};
inline RecordOfWaits waits;

inline int captures = 0;  // that are under way and forbid what would wait for the device
inline thread_local bool relaxed = false;  // of this thread: it may take memory all the same

inline int device_count() { return int(environment("FANIN_EMULATED_DEVICES", 1)); }

}  // namespace emulated

inline cudaError_t cudaGetLastError() { return std::exchange(emulated::last_error, cudaSuccess); }
inline cudaError_t cudaPeekAtLastError() { return emulated::last_error; }

// ---- devices

enum cudaDeviceAttr {
  cudaDevAttrMaxSharedMemoryPerBlock = 8,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrMaxThreadsPerMultiProcessor = 39,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
  cudaDevAttrL2CacheSize = 38,
  cudaDevAttrMemoryPoolsSupported = 115,
};
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = 48 << 10;
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = 4;
      return cudaSuccess;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = 2048;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = 228 << 10;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = 227 << 10;
      return cudaSuccess;
    case cudaDevAttrL2CacheSize:
      *value = 50 << 20;
      return cudaSuccess;
    case cudaDevAttrMemoryPoolsSupported:
      *value = 1;
      return cudaSuccess;
  }
  return emulated::set(cudaErrorInvalidValue);
}
struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem, sharedMemPerBlock, sharedMemPerBlockOptin, sharedMemPerMultiprocessor;
  int major, minor, multiProcessorCount, maxThreadsPerMultiProcessor, l2CacheSize;
};
inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = emulated::device_count();
  return *count > 0 ? cudaSuccess : emulated::set(cudaErrorNoDevice);
}
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device < 0 || device >= emulated::device_count()) {
    return emulated::set(cudaErrorInvalidDevice);
  }
  *properties = {"emulated on the CPU",
                 emulated::DeviceMemory::get().total(),
                 size_t{48} << 10,
                 size_t{227} << 10,
                 size_t{228} << 10,
                 9,
                 0,
                 4,
                 2048,
                 50 << 20};
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : emulated::set(cudaErrorInvalidDevice);
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDriverGetVersion(int* version) {
  *version = emulated::device_count() > 0 ? CUDART_VERSION : 0;
  return cudaSuccess;
}
inline cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceSynchronize() {
  return emulated::captures > 0 ? emulated::set(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}
inline cudaError_t cudaMemGetInfo(size_t* left, size_t* total) {
  *left = emulated::DeviceMemory::get().left();
  *total = emulated::DeviceMemory::get().total();
  return cudaSuccess;
}
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaFuncAttributePreferredSharedMemoryCarveout = 9,
};
template <class K>
cudaError_t cudaFuncSetAttribute(K kernel, cudaFuncAttribute attribute, int value) {
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    if (value < 0 || value > 227 << 10) {
      return emulated::set(cudaErrorInvalidValue);
    }
    emulated::SharedLimits::get().set(reinterpret_cast<const void*>(kernel), size_t(value));
  }
  return cudaSuccess;
}
struct cudaFuncAttributes {
  int numRegs;
};
template <class K>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, K) {
  *attributes = {};
  return cudaSuccess;
}
template <class K>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, K, int threads, size_t) {
  *blocks = std::max(1, 2048 / threads);
  return cudaSuccess;
}

// ---- memory

enum cudaMemcpyKind {
  cudaMemcpyHostToHost = 0,
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost = 2,
  cudaMemcpyDeviceToDevice = 3,
  cudaMemcpyDefault = 4,
};
constexpr unsigned cudaHostAllocDefault = 0;

template <class T>
cudaError_t cudaMalloc(T** data, size_t bytes) {
  *data = nullptr;
  if (emulated::captures > 0 && !emulated::relaxed) {
    return emulated::set(cudaErrorStreamCaptureUnsupported);
  }
  *data = bytes == 0 ? nullptr : static_cast<T*>(emulated::DeviceMemory::get().take(bytes));
  return bytes == 0 || *data != nullptr ? cudaSuccess : emulated::set(cudaErrorMemoryAllocation);
}
inline cudaError_t cudaFree(void* data) {
  return data == nullptr || emulated::DeviceMemory::get().give_back(data)
             ? cudaSuccess
             : emulated::set(cudaErrorInvalidValue);
}
// On a GPU a captured stream may take memory, as a node of the graph; nothing of fanin's does.
template <class T>
cudaError_t cudaMallocAsync(T** data, size_t bytes, cudaStream_t stream) {
  *data = nullptr;
  return emulated::capture_of(stream) != nullptr ? emulated::set(cudaErrorStreamCaptureUnsupported)
                                                 : cudaMalloc(data, bytes);
}
inline cudaError_t cudaFreeAsync(void* data, cudaStream_t stream) {
  return emulated::capture_of(stream) != nullptr ? emulated::set(cudaErrorStreamCaptureUnsupported)
                                                 : cudaFree(data);
}
template <class T>
cudaError_t cudaHostAlloc(T** data, size_t bytes, unsigned) {
  *data = static_cast<T*>(std::malloc(bytes == 0 ? 1 : bytes));
  if (*data == nullptr) {
    return emulated::set(cudaErrorMemoryAllocation);
  }
  std::memset(static_cast<void*>(*data), 0xFF, bytes);
  return cudaSuccess;
}
template <class T>
cudaError_t cudaMallocHost(T** data, size_t bytes) {
  return cudaHostAlloc(data, bytes, cudaHostAllocDefault);
}
inline cudaError_t cudaFreeHost(void* data) {
  std::free(data);
  return cudaSuccess;
}

inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                                   cudaStream_t stream = nullptr) {
  emulated::queue(stream, [=] {
    if (bytes > 0) {
      std::memmove(to, from, bytes);
    }
  });
  return cudaSuccess;
}
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  return cudaMemcpyAsync(to, from, bytes, kind);
}
inline cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                                     size_t width, size_t height, cudaMemcpyKind,
                                     cudaStream_t stream = nullptr) {
  emulated::queue(stream, [=] {
    for (size_t row = 0; row < height && width > 0; ++row) {
      std::memmove(static_cast<char*>(to) + row * to_pitch,
                   static_cast<const char*>(from) + row * from_pitch, width);
    }
  });
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes,
                                   cudaStream_t stream = nullptr) {
  emulated::queue(stream, [=] {
    if (bytes > 0) {
      std::memset(to, value, bytes);
    }
  });
  return cudaSuccess;
}
inline cudaError_t cudaMemset2DAsync(void* to, size_t pitch, int value, size_t width, size_t height,
                                     cudaStream_t stream = nullptr) {
  emulated::queue(stream, [=] {
    for (size_t row = 0; row < height && width > 0; ++row) {
      std::memset(static_cast<char*>(to) + row * pitch, value, width);
    }
  });
  return cudaSuccess;
}
inline cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  return cudaMemsetAsync(to, value, bytes);
}

enum cudaMemoryType {
  cudaMemoryTypeUnregistered = 0,
  cudaMemoryTypeHost = 1,
  cudaMemoryTypeDevice = 2,
  cudaMemoryTypeManaged = 3,
};
struct cudaPointerAttributes {
  cudaMemoryType type;
  int device;
  void *devicePointer, *hostPointer;
};
inline cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* data) {
  const bool device = emulated::DeviceMemory::get().holds(data);
  void* pointer = const_cast<void*>(data);
  *attributes = {device ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered, device ? 0 : -1,
                 device ? pointer : nullptr, device ? nullptr : pointer};
  return cudaSuccess;
}

struct CUmemPoolHandle_st {};
using cudaMemPool_t = CUmemPoolHandle_st*;
enum cudaMemPoolAttr {
  cudaMemPoolAttrReleaseThreshold = 4,
  cudaMemPoolAttrReservedMemCurrent = 5,
  cudaMemPoolAttrUsedMemCurrent = 7,
};
inline cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
  static CUmemPoolHandle_st only;
  *pool = &only;
  return cudaSuccess;
}
inline cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) {
  return cudaSuccess;
}
inline cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr, void* value) {
  *static_cast<uint64_t*>(value) = 0;  // what is given back is free at once
  return cudaSuccess;
}
inline cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return cudaSuccess; }

// ---- streams and events

constexpr unsigned cudaStreamDefault = 0, cudaStreamNonBlocking = 1;
constexpr unsigned cudaEventDefault = 0, cudaEventBlockingSync = 1, cudaEventDisableTiming = 2;

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new CUstream_st;
  return cudaSuccess;
}
inline cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (stream->capture != nullptr) {
    std::erase(stream->capture->joined, stream);
  }
  delete stream;
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return emulated::capture_of(stream) != nullptr ? emulated::set(cudaErrorStreamCaptureUnsupported)
                                                 : cudaSuccess;
}
inline cudaError_t cudaStreamQuery(cudaStream_t stream) { return cudaStreamSynchronize(stream); }
using cudaHostFn_t = void (*)(void*);
inline cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* argument) {
  emulated::queue(stream, [=] { function(argument); });
  return cudaSuccess;
}

inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
inline cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, cudaEventDefault);
}
inline cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream = nullptr) {
  event->capture = emulated::capture_of(stream);
  event->stream = stream;
  event->at = std::chrono::steady_clock::now();
  return cudaSuccess;
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return event->capture != nullptr ? emulated::set(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}
inline cudaError_t cudaEventQuery(cudaEvent_t event) { return cudaEventSynchronize(event); }
inline cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  *milliseconds = std::chrono::duration<float, std::milli>(to->at - from->at).count();
  return cudaSuccess;
}
// A stream that waits for an event of a capture joins the capture.
inline cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned = 0) {
  if (event->capture != nullptr && emulated::capture_of(stream) == nullptr) {
    if (uintptr_t(stream) <= 2) {
      return emulated::set(cudaErrorStreamCaptureUnsupported);
    }
    stream->capture = event->capture;
    stream->capture->joined.push_back(stream);
  }
  emulated::waits.add(stream, event->stream);
  return cudaSuccess;
}

// ---- graphs

enum cudaStreamCaptureMode {
  cudaStreamCaptureModeGlobal = 0,
  cudaStreamCaptureModeThreadLocal = 1,
  cudaStreamCaptureModeRelaxed = 2,
};
enum cudaStreamCaptureStatus {
  cudaStreamCaptureStatusNone = 0,
  cudaStreamCaptureStatusActive = 1,
};
inline cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  const bool before = std::exchange(emulated::relaxed, *mode == cudaStreamCaptureModeRelaxed);
  *mode = before ? cudaStreamCaptureModeRelaxed : cudaStreamCaptureModeGlobal;
  return cudaSuccess;
}
inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (uintptr_t(stream) <= 2 || stream->capture != nullptr) {
    return emulated::set(cudaErrorStreamCaptureUnsupported);
  }
  stream->capture = new emulated::Capture;
  stream->began = true;
  ++emulated::captures;
  return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  if (uintptr_t(stream) <= 2 || !stream->began) {
    return emulated::set(cudaErrorInvalidValue);
  }
  for (cudaStream_t joined : stream->capture->joined) {
    joined->capture = nullptr;
  }
  *graph = new CUgraph_st{std::move(*stream->capture)};
  delete std::exchange(stream->capture, nullptr);
  stream->began = false;
  --emulated::captures;
  return cudaSuccess;
}
inline cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = emulated::capture_of(stream) != nullptr ? cudaStreamCaptureStatusActive
                                                    : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph,
                                        unsigned long long = 0) {
  *exec = new CUgraphExec_st{graph->work};
  return cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  for (const auto& node : exec->work.nodes) {
    emulated::queue(stream, node);
  }
  return cudaSuccess;
}
inline cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaGraphGetNodes(cudaGraph_t graph, void*, size_t* count) {
  *count = graph->work.nodes.size();
  return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
