// Memory aligned to a cache line, owned: the only allocation there is.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

namespace fanin {

constexpr std::size_t cache_line = 64;

template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t count) { resize(count); }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Buffer() { std::free(data_); }

  // Room for `count` elements; what was there is lost when it has to grow.
  void resize(std::size_t count) {
    if (count <= capacity_) {
      return;
    }
    if (count > (std::size_t(-1) - cache_line) / sizeof(T)) {
      throw std::bad_alloc();
    }
    const std::size_t bytes = (count * sizeof(T) + cache_line - 1) / cache_line * cache_line;
    void* fresh = std::aligned_alloc(cache_line, bytes);
    if (fresh == nullptr) {
      throw std::bad_alloc();
    }
    std::free(data_);
    data_ = static_cast<T*>(fresh);
    capacity_ = count;
  }

  // The same, with zeros where it grows.
  void resize_with_zeros(std::size_t count) {
    if (count > capacity_) {
      resize(count);
      std::memset(data_, 0, count * sizeof(T));
    }
  }

  T* data() const { return data_; }

 private:
  void swap(Buffer& other) {
    std::swap(data_, other.data_);
    std::swap(capacity_, other.capacity_);
  }

  T* data_ = nullptr;
  std::size_t capacity_ = 0;
};

}  // namespace fanin
