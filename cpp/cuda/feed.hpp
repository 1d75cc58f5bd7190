// Rows on their way from the host to the device: packed into pinned memory, where the device
// fetches them while it computes on those before.
#pragma once

#include <cstdint>
#include <cstring>

#include "device.hpp"

namespace fanin::cuda {

// Elements of some size in the host's memory, one row after the other.
struct HostRows {
  const void* data = nullptr;                        // null: none
  int64_t cols = 1, row_stride = 1, col_stride = 1;  // strides in elements
  int64_t element = 1;                               // bytes

  int64_t row_bytes() const { return cols * element; }
  // Copies rows `chosen` (null: the first), without gaps.
  void pack(const int64_t* chosen, int64_t count, void* to) const {
    auto* out = static_cast<unsigned char*>(to);
    for (int64_t i = 0; i < count; ++i) {
      const auto* row = static_cast<const unsigned char*>(data) +
                        (chosen != nullptr ? chosen[i] : i) * row_stride * element;
      if (col_stride == 1) {
        std::memcpy(out, row, size_t(row_bytes()));
      } else {
        for (int64_t c = 0; c < cols; ++c) {
          std::memcpy(out + c * element, row + c * col_stride * element, size_t(element));
        }
      }
      out += row_bytes();
    }
  }
};

// Room for some rows, pinned and on the device; filled again when the device has fetched them.
class Slot {
 public:
  // Packs rows and queues their copy. Waits for the copy before.
  void fill(const HostRows& rows, const int64_t* chosen, int64_t count, void* stream) {
    const int64_t bytes = count * rows.row_bytes();
    copied_.synchronize();
    if (bytes > pinned_.size()) {
      pinned_ = Pinned<unsigned char>(bytes);
    }
    memory_.reserve(bytes, stream);
    rows.pack(chosen, count, pinned_.data());
    copy(memory_.data(), pinned_.data(), size_t(bytes), stream);
    copied_.record(stream);
  }

  template <class E>
  const E* data() const {
    return reinterpret_cast<const E*>(memory_.data());
  }

 private:
  Pinned<unsigned char> pinned_;
  Memory<unsigned char> memory_;
  Event copied_;
};

}  // namespace fanin::cuda
