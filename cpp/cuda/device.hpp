// The device: whether there is one, what it is, and its memory.
//
// Nothing here needs CUDA's headers: a stream is a cudaStream_t, an event a cudaEvent_t. Memory
// belongs to a stream: it is there for what is queued after the request, and what was queued before
// the release still has it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace fanin::cuda {

// Why nothing can run here, or "".
std::string unavailable();

// 12040 as "12.4".
std::string version_text(int version);

struct Properties {
  std::string name;
  int major, minor;  // compute capability
  int multiprocessors;
  int64_t memory, free_memory;  // bytes
  int64_t shared_memory;        // bytes that one block may have
  int64_t l2_cache;             // bytes
  int driver, runtime;          // 1000 * major + 10 * minor of CUDA
};
int device_count();
Properties properties(int device);
// Bytes that can be had on the current device: free ones, and those that its pool keeps for later.
int64_t available_memory();
// Gives back what the pool of the current device keeps: CuPy's and PyTorch's memory is another.
void trim_pool();
// The device that memory lies on; -1 for the host's, and what every device may use.
int device_of(const void* memory);

int current_device();
// While it lives, this thread's device is this one.
class OnDevice {
 public:
  explicit OnDevice(int device);
  ~OnDevice();  // calls nothing where the device was this one already
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  const int before_, now_;
};

// fanin's own stream on the current device, which lives as long as the process.
void* own_stream();
void synchronize(void* stream);
bool is_capturing(void* stream);

// All of these throw OutOfMemory (launch.cuh) when there is not enough; null for no bytes.
void* allocate(size_t bytes, void* stream);
void release(void* memory, void* stream) noexcept;
void* allocate_pinned(size_t bytes);
void release_pinned(void* memory) noexcept;
// Memory for the rest of the process, also while a stream is being captured.
void* allocate_for_good(size_t bytes);

// Between any two memories, or zeros; queued.
void copy(void* to, const void* from, size_t bytes, void* stream);
void clear(void* to, size_t bytes, void* stream);

// What is queued on `stream` from now on waits for what is queued on `other` now.
void wait_for(void* stream, void* other);

// `count` elements on the device.
template <class T>
class Memory {
 public:
  Memory() = default;
  Memory(int64_t count, void* stream) { reserve(count, stream); }
  Memory(Memory&& other) noexcept { swap(other); }
  Memory& operator=(Memory&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Memory() { release(data_, stream_); }

  // Room for `count` elements; what was there is lost when it has to grow.
  void reserve(int64_t count, void* stream) {
    if (count > size_) {
      void* fresh = allocate(size_t(count) * sizeof(T), stream);
      release(data_, stream_);
      data_ = static_cast<T*>(fresh);
      size_ = count;
      stream_ = stream;
    }
  }

  T* data() const { return data_; }
  int64_t size() const { return size_; }

 private:
  void swap(Memory& other) {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(stream_, other.stream_);
  }

  T* data_ = nullptr;
  int64_t size_ = 0;
  void* stream_ = nullptr;
};

// `count` elements on the host that the device copies from and to without a detour.
template <class T>
class Pinned {
 public:
  Pinned() = default;
  explicit Pinned(int64_t count)
      : data_(static_cast<T*>(allocate_pinned(size_t(count) * sizeof(T)))), size_(count) {}
  Pinned(Pinned&& other) noexcept { swap(other); }
  Pinned& operator=(Pinned&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Pinned() { release_pinned(data_); }

  T* data() const { return data_; }
  int64_t size() const { return size_; }

 private:
  void swap(Pinned& other) {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }

  T* data_ = nullptr;
  int64_t size_ = 0;
};

// A stream of one's own, on the current device. One that is given up goes to the next who asks:
// what is kept for each stream is kept for no more than were in use at once.
class Stream {
 public:
  Stream();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  void* get() const { return stream_; }

 private:
  const int device_;
  void* stream_;
};

// A point in a stream.
class Event {
 public:
  Event();
  Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  Event& operator=(Event&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  ~Event();
  void record(void* stream);
  void hold_back(void* stream) const;  // until the point is reached
  void synchronize() const;

 private:
  void* event_ = nullptr;
};

}  // namespace fanin::cuda
