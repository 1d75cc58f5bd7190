// The device, and its memory; see device.hpp.
#include "device.hpp"

#include <cuda_runtime.h>

#include <atomic>
#include <map>
#include <mutex>
#include <vector>

#include "launch.cuh"

namespace fanin::cuda {
namespace {

constexpr int most_devices = 64;

cudaStream_t stream_of(void* stream) { return static_cast<cudaStream_t>(stream); }

// A kernel whose presence in this build can be asked for.
__global__ void probe() {}

cudaMemPool_t pool_of(int device) {
  cudaMemPool_t pool;
  check(cudaDeviceGetDefaultMemPool(&pool, device), "cudaDeviceGetDefaultMemPool");
  return pool;
}

// The first request keeps the pool from giving memory back at every synchronisation.
void prepare_pool() {
  static std::atomic<bool> prepared[most_devices];
  const int device = current_device();
  if (device >= most_devices || prepared[device].exchange(true)) {
    return;
  }
  uint64_t all = ~uint64_t(0);
  check(cudaMemPoolSetAttribute(pool_of(device), cudaMemPoolAttrReleaseThreshold, &all),
        "cudaMemPoolSetAttribute");
}

// While it lives, calls that a capture elsewhere in the process forbids are allowed: they belong to
// no stream.
class OutsideOfCaptures {
 public:
  OutsideOfCaptures() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~OutsideOfCaptures() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  OutsideOfCaptures(const OutsideOfCaptures&) = delete;
  OutsideOfCaptures& operator=(const OutsideOfCaptures&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

// Streams of each device that nobody uses now, for as long as the process.
struct IdleStreams {
  std::mutex mutex;
  std::map<int, std::vector<void*>> on;
};
IdleStreams& idle_streams() {
  static IdleStreams& all = *new IdleStreams;
  return all;
}

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

}  // namespace

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string unavailable() {
  int driver = 0, runtime = 0, count = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (driver == 0) {
    cudaGetLastError();
    return "no NVIDIA driver is installed";
  }
  const cudaError_t status = cudaGetDeviceCount(&count);
  cudaGetLastError();  // so that no later call reports it
  if (status == cudaErrorInsufficientDriver) {
    return "the NVIDIA driver is too old: it runs CUDA " + version_text(driver) +
           ", fanin was built with " + version_text(runtime);
  }
  if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0)) {
    return "no NVIDIA GPU is there, or CUDA_VISIBLE_DEVICES hides it";
  }
  if (status != cudaSuccess) {
    return std::string("CUDA does not start: ") + cudaGetErrorString(status);
  }
  cudaFuncAttributes attributes;
  const cudaError_t found = cudaFuncGetAttributes(&attributes, probe);
  cudaGetLastError();
  if (found != cudaSuccess) {
    const int device = current_device();
    return "this build has no code for the GPU's sm_" +
           std::to_string(attribute(cudaDevAttrComputeCapabilityMajor, device)) +
           std::to_string(attribute(cudaDevAttrComputeCapabilityMinor, device)) + " (" +
           cudaGetErrorString(found) + "): build with CMAKE_CUDA_ARCHITECTURES";
  }
  return "";
}

int device_count() {
  int count = 0;
  check(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
  return count;
}

Properties properties(int device) {
  cudaDeviceProp found;
  check(cudaGetDeviceProperties(&found, device), "cudaGetDeviceProperties");
  size_t free = 0, total = 0;
  {
    const OnDevice on(device);
    check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  }
  Properties all{};
  all.name = found.name;
  all.major = found.major;
  all.minor = found.minor;
  all.multiprocessors = found.multiProcessorCount;
  all.memory = int64_t(total);
  all.free_memory = int64_t(free);
  all.shared_memory = int64_t(found.sharedMemPerBlockOptin);
  all.l2_cache = int64_t(found.l2CacheSize);
  check(cudaDriverGetVersion(&all.driver), "cudaDriverGetVersion");
  check(cudaRuntimeGetVersion(&all.runtime), "cudaRuntimeGetVersion");
  return all;
}

int64_t available_memory() {
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  const cudaMemPool_t pool = pool_of(current_device());
  const auto number = [&](cudaMemPoolAttr which) {
    uint64_t bytes = 0;
    check(cudaMemPoolGetAttribute(pool, which, &bytes), "cudaMemPoolGetAttribute");
    return int64_t(bytes);
  };
  return int64_t(free) + number(cudaMemPoolAttrReservedMemCurrent) -
         number(cudaMemPoolAttrUsedMemCurrent);
}

void trim_pool() { check(cudaMemPoolTrimTo(pool_of(current_device()), 0), "cudaMemPoolTrimTo"); }

int device_of(const void* memory) {
  cudaPointerAttributes found{};
  check(cudaPointerGetAttributes(&found, memory), "cudaPointerGetAttributes");
  return found.type == cudaMemoryTypeDevice ? found.device : -1;
}

int current_device() {
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  return device;
}

OnDevice::OnDevice(int device) : before_(current_device()), now_(device) {
  if (now_ != before_) {
    check(cudaSetDevice(now_), "cudaSetDevice");
  }
}
OnDevice::~OnDevice() {
  if (now_ != before_) {
    cudaSetDevice(before_);
  }
}

void* own_stream() {
  static std::atomic<void*> streams[most_devices];
  const int device = current_device();
  if (device >= most_devices) {
    throw Error("fanin knows the first " + std::to_string(most_devices) + " devices");
  }
  void* stream = streams[device].load();
  if (stream == nullptr) {
    cudaStream_t fresh;
    check(cudaStreamCreateWithFlags(&fresh, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    if (streams[device].compare_exchange_strong(stream, fresh)) {
      stream = fresh;
    } else {
      cudaStreamDestroy(fresh);  // another thread was first
    }
  }
  return stream;
}

void synchronize(void* stream) {
  check(cudaStreamSynchronize(stream_of(stream)), "cudaStreamSynchronize");
}

bool is_capturing(void* stream) {
  cudaStreamCaptureStatus status;
  check(cudaStreamIsCapturing(stream_of(stream), &status), "cudaStreamIsCapturing");
  return status != cudaStreamCaptureStatusNone;
}

void* allocate(size_t bytes, void* stream) {
  if (bytes == 0) {
    return nullptr;
  }
  prepare_pool();
  void* memory = nullptr;
  check(cudaMallocAsync(&memory, bytes, stream_of(stream)), "cudaMallocAsync");
  return memory;
}

void release(void* memory, void* stream) noexcept {
  if (memory != nullptr) {
    cudaFreeAsync(memory, stream_of(stream));
  }
}

void* allocate_pinned(size_t bytes) {
  if (bytes == 0) {
    return nullptr;
  }
  const OutsideOfCaptures outside;
  void* memory = nullptr;
  check(cudaMallocHost(&memory, bytes), "cudaMallocHost");
  return memory;
}

void release_pinned(void* memory) noexcept {
  if (memory != nullptr) {
    const OutsideOfCaptures outside;
    cudaFreeHost(memory);
  }
}

void* allocate_for_good(size_t bytes) {
  const OutsideOfCaptures outside;
  void* memory = nullptr;
  check(cudaMalloc(&memory, bytes), "cudaMalloc");
  return memory;
}

void copy(void* to, const void* from, size_t bytes, void* stream) {
  if (bytes > 0) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_of(stream)),
          "cudaMemcpyAsync");
  }
}

void clear(void* to, size_t bytes, void* stream) {
  if (bytes > 0) {
    check(cudaMemsetAsync(to, 0, bytes, stream_of(stream)), "cudaMemsetAsync");
  }
}

void wait_for(void* stream, void* other) {
  if (stream != other) {
    Event now;
    now.record(other);
    now.hold_back(stream);
  }
}

Stream::Stream() : device_(current_device()) {
  IdleStreams& idle = idle_streams();
  const std::lock_guard<std::mutex> lock(idle.mutex);
  std::vector<void*>& here = idle.on[device_];
  if (!here.empty()) {
    stream_ = here.back();
    here.pop_back();
    return;
  }
  cudaStream_t stream;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  stream_ = stream;
}
Stream::~Stream() {
  IdleStreams& idle = idle_streams();
  const std::lock_guard<std::mutex> lock(idle.mutex);
  idle.on[device_].push_back(stream_);
}

Event::Event() {
  cudaEvent_t event;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  event_ = event;
}
Event::~Event() {
  if (event_ != nullptr) {
    cudaEventDestroy(static_cast<cudaEvent_t>(event_));
  }
}
void Event::record(void* stream) {
  check(cudaEventRecord(static_cast<cudaEvent_t>(event_), stream_of(stream)), "cudaEventRecord");
}
void Event::hold_back(void* stream) const {
  check(cudaStreamWaitEvent(stream_of(stream), static_cast<cudaEvent_t>(event_), 0),
        "cudaStreamWaitEvent");
}
void Event::synchronize() const {
  check(cudaEventSynchronize(static_cast<cudaEvent_t>(event_)), "cudaEventSynchronize");
}

}  // namespace fanin::cuda
