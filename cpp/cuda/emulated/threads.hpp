// The threads of a kernel on the CPU: the blocks of a grid one after the other, each thread of a
// block a fiber that runs until it waits.
//
//     run      a grid of blocks
//     wait     of a thread, for its block (__syncthreads) or for the lanes of its warp that a mask
//              names (__shfl_sync and its like, which give a value to one another there)
//
// Warps take turns: the lanes of one go on until each of them waits or has ended; then those are
// woken whose partners have all come. A warp that cannot go on is left out until the block has met.
// When it never does, the kernel would hang on a GPU, and the program ends here with a message.
//
// `FANIN_EMULATED_ORDER` says in which order blocks, warps and lanes come, so that what a missing
// barrier breaks is likely to show:
//
//     forward     from the first to the last, a turn for each warp (as without it)
//     backward    from the last to the first
//     random      in any, one warp having many turns before another has one
//     random:N    the same with the seed N instead of 1; each launch is ordered differently
//
// Memory: dynamic shared memory is one buffer, filled with 0xFF (NaN in every floating type) before
// each block; static shared memory is static memory and keeps what the block before left there.
#pragma once

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};

// Of the thread that runs now.
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace emulated {

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr,
               "CUDA emulator: %s (block %u %u %u of %u %u %u, thread %u %u %u of %u %u %u)\n",
               what, blockIdx.x, blockIdx.y, blockIdx.z, gridDim.x, gridDim.y, gridDim.z,
               threadIdx.x, threadIdx.y, threadIdx.z, blockDim.x, blockDim.y, blockDim.z);
  std::abort();
}

// A GPU refuses accesses of several bytes at once elsewhere; this CPU might not.
inline void need_alignment(const void* address, size_t bytes) {
  if (uintptr_t(address) % bytes != 0) {
    fail("an access to memory that is not aligned");
  }
}

// What a thread has given in a warp operation.
struct Value {
  alignas(16) unsigned char bytes[16];
};

enum class Waits : uint8_t { no, for_block, for_warp, ended };

struct Thread {
  uint3 index;
  Waits waits = Waits::ended;
  const void* operation = nullptr;  // a warp operation's: all lanes of a mask must wait in the same
  unsigned mask = 0;
  Value given, received;  // `received` is what was given when its lanes met
  jmp_buf place;          // where it goes on
  ucontext_t first{};     // where it begins
  void* stack = nullptr;
};

constexpr size_t stack_bytes = size_t{256} << 10;

// In which order blocks, warps and lanes run.
class Order {
 public:
  Order() {
    const char* set = std::getenv("FANIN_EMULATED_ORDER");
    const std::string order = set != nullptr ? set : "forward";
    backward_ = order == "backward";
    const size_t name = std::strlen("random:");
    const bool seeded = order.size() > name && order.starts_with("random:") &&
                        order.find_first_not_of("0123456789", name) == std::string::npos;
    if (!backward_ && order != "random" && !seeded && order != "forward") {
      fail("FANIN_EMULATED_ORDER: expected forward, backward, random or random:SEED");
    }
    random_ = order == "random" || seeded;
    if (seeded) {
      generator_.seed(std::strtoul(order.c_str() + name, nullptr, 10));
    }
  }

  // The numbers below `count`, as they are to be taken.
  void arrange(std::vector<unsigned>& numbers, size_t count) {
    numbers.resize(count);
    std::iota(numbers.begin(), numbers.end(), 0u);
    if (backward_) {
      std::reverse(numbers.begin(), numbers.end());
    } else if (random_) {
      std::shuffle(numbers.begin(), numbers.end(), generator_);
    }
  }

  // Whose turn is next of `count`, after `now`, who may have another: in random order all but one
  // in twenty of its turns are followed by one.
  size_t next(size_t now, size_t count) {
    if (!random_) {
      return now + 1 < count ? now + 1 : 0;
    }
    return generator_() % 20 == 0 ? generator_() % count : now;
  }

 private:
  bool backward_ = false, random_ = false;
  std::minstd_rand generator_{1};
};

class Block {
 public:
  static Block& get() {
    static Block block;
    return block;
  }

  void run(dim3 grid, dim3 size, size_t shared_bytes, const std::function<void()>& kernel) {
    const std::lock_guard<std::mutex> lock(turn_);
    gridDim = grid;
    blockDim = size;
    kernel_ = &kernel;
    shared_.resize(shared_bytes + 16);
    make_threads(size_t(size.x) * size.y * size.z);
    order_.arrange(blocks_, size_t(grid.x) * grid.y * grid.z);
    for (const unsigned i : blocks_) {
      blockIdx = {i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y};
      std::memset(shared_.data(), 0xFF, shared_.size());
      run_block();
    }
  }

  // The running thread waits.
  void wait(Waits waits, const void* operation, unsigned mask) {
    Thread& self = *running_;
    self.waits = waits;
    self.operation = operation;
    self.mask = mask;
    leave(self);
  }

  Thread& self() { return *running_; }
  unsigned lane() const { return place_ % 32; }
  // A lane of the running thread's warp; null where the block has none.
  Thread* in_warp(unsigned lane) {
    const size_t place = place_ / 32 * 32 + lane;
    return place < count_ ? threads_[place].get() : nullptr;
  }
  void* shared() { return reinterpret_cast<void*>((uintptr_t(shared_.data()) + 15) / 16 * 16); }

 private:
  // Neither of these may be inlined: setjmp.
  __attribute__((noinline)) static void leave(Thread& thread) {
    if (_setjmp(thread.place) == 0) {
      _longjmp(get().scheduler_, 1);
    }
  }
  __attribute__((noinline)) void enter(Thread& thread) {
    if (_setjmp(scheduler_) == 0) {
      _longjmp(thread.place, 1);
    }
  }

  // A fiber's life: one kernel after the other.
  static void live() {
    Block& block = get();
    leave(*block.running_);
    for (;;) {
      (*block.kernel_)();
      block.running_->waits = Waits::ended;
      leave(*block.running_);
    }
  }

  void make_threads(size_t count) {
    count_ = count;
    while (threads_.size() < count) {
      auto thread = std::make_unique<Thread>();
      thread->stack = mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (thread->stack == MAP_FAILED) {
        fail("no memory for a stack");
      }
      running_ = thread.get();
      begin(*thread);
      threads_.push_back(std::move(thread));
    }
    for (size_t i = 0; i < count; ++i) {
      const unsigned x = unsigned(i);
      threads_[i]->index = {x % blockDim.x, x / blockDim.x % blockDim.y,
                            x / blockDim.x / blockDim.y};
    }
  }
  __attribute__((noinline)) void begin(Thread& thread) {
    getcontext(&thread.first);
    thread.first.uc_stack.ss_sp = thread.stack;
    thread.first.uc_stack.ss_size = stack_bytes;
    thread.first.uc_link = nullptr;
    makecontext(&thread.first, live, 0);
    if (_setjmp(scheduler_) == 0) {
      setcontext(&thread.first);
    }
  }

  void run_block() {
    for (size_t i = 0; i < count_; ++i) {
      threads_[i]->waits = Waits::no;
    }
    do {
      order_.arrange(warps_, (count_ + 31) / 32);
      size_t now = 0;
      while (!warps_.empty()) {
        if (take_turn(warps_[now])) {
          now = order_.next(now, warps_.size());
        } else {
          warps_.erase(warps_.begin() + ptrdiff_t(now));
          now = now < warps_.size() ? now : 0;
        }
      }
    } while (meet());
  }

  // Of one warp's lanes; whether some of them can go on.
  bool take_turn(unsigned warp) {
    const size_t first = size_t(warp) * 32, lanes = std::min<size_t>(count_ - first, 32);
    order_.arrange(lanes_, lanes);
    for (const unsigned lane : lanes_) {
      place_ = first + lane;
      running_ = threads_[place_].get();
      if (running_->waits == Waits::no) {
        threadIdx = running_->index;
        enter(*running_);
      }
    }
    bool woken = false;
    for (size_t i = first; i < first + lanes; ++i) {
      if (threads_[i]->waits == Waits::for_warp) {
        woken = wake_lanes(i) || woken;
      }
    }
    return woken;
  }

  // Wakes the block, all of whose threads wait for it or have ended; false when all have ended.
  bool meet() {
    size_t ended = 0, at_barrier = 0;
    for (size_t i = 0; i < count_; ++i) {
      ended += threads_[i]->waits == Waits::ended;
      at_barrier += threads_[i]->waits == Waits::for_block;
    }
    if (ended + at_barrier < count_) {
      fail("threads wait for others that do not come: a barrier or a warp operation in a branch");
    }
    for (size_t i = 0; i < count_; ++i) {
      if (threads_[i]->waits == Waits::for_block) {
        threads_[i]->waits = Waits::no;
      }
    }
    return at_barrier > 0;
  }

  // Those who meet the thread in its operation, if all have come; threads that ended need not.
  bool wake_lanes(size_t place) {
    const Thread& first = *threads_[place];
    const size_t warp = place / 32 * 32;
    const unsigned mask = first.mask;
    const void* operation = first.operation;
    if ((mask >> (place - warp) & 1) == 0) {
      fail("a thread is not in the mask of its own warp operation");
    }
    for (unsigned lane = 0; lane < 32 && warp + lane < count_; ++lane) {
      const Thread& other = *threads_[warp + lane];
      if ((mask >> lane & 1) && other.waits != Waits::ended &&
          !(other.waits == Waits::for_warp && other.mask == mask && other.operation == operation)) {
        return false;
      }
    }
    for (unsigned lane = 0; lane < 32 && warp + lane < count_; ++lane) {
      Thread& other = *threads_[warp + lane];
      if (mask >> lane & 1) {
        if (other.waits == Waits::ended) {
          std::memset(&other.received, 0xFF, sizeof(Value));
        } else {
          other.waits = Waits::no;
          other.received = other.given;
        }
      }
    }
    return true;
  }

  std::mutex turn_;
  std::vector<std::unique_ptr<Thread>> threads_;
  size_t count_ = 0, place_ = 0;
  Thread* running_ = nullptr;
  const std::function<void()>* kernel_ = nullptr;
  std::vector<unsigned char> shared_;
  jmp_buf scheduler_;
  Order order_;
  std::vector<unsigned> blocks_, warps_, lanes_;
};

inline void run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel) {
  Block::get().run(grid, block, shared_bytes, kernel);
}

// Gives `value` to the lanes of `mask`; `read(lane)` is then what that lane gave.
template <class T>
struct Exchange {
  static_assert(sizeof(T) <= sizeof(Value) && std::is_trivially_copyable_v<T>);
  Exchange(const void* operation, unsigned mask, T value) : mask(mask) {
    Block& block = Block::get();
    std::memset(&block.self().given, 0, sizeof(Value));
    std::memcpy(&block.self().given, &value, sizeof value);
    block.wait(Waits::for_warp, operation, mask);
  }
  T read(unsigned lane) const {
    const Thread* from = Block::get().in_warp(lane);
    T value;
    if (from == nullptr || (mask >> lane & 1) == 0) {
      std::memset(static_cast<void*>(&value), 0xFF, sizeof value);  // undefined on a GPU
    } else {
      std::memcpy(static_cast<void*>(&value), &from->received, sizeof value);
    }
    return value;
  }
  unsigned mask;
};

}  // namespace emulated

inline void __syncthreads() { emulated::Block::get().wait(emulated::Waits::for_block, nullptr, 0); }

inline void __syncwarp(unsigned mask = 0xFFFFFFFF) {
  static const char operation = 0;
  emulated::Exchange<int>(&operation, mask, 0);
}

namespace emulated {

// Lane `source` of the running thread's part of the warp, `width` wide; itself where outside.
template <class T, class Source>
T shuffle(const void* operation, unsigned mask, T value, int width, Source source) {
  const Exchange<T> exchange(operation, mask, value);
  const int lane = int(Block::get().lane()), base = lane & ~(width - 1);
  const int from = source(lane, base);
  return from < 0 || from >= base + width ? value : exchange.read(unsigned(from));
}

inline const char shuffles[4] = {};  // their addresses tell the operations apart
inline const char votes[1] = {};

}  // namespace emulated

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  return emulated::shuffle(&emulated::shuffles[0], mask, value, width,
                           [&](int, int base) { return base + (source & (width - 1)); });
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return emulated::shuffle(&emulated::shuffles[1], mask, value, width, [&](int lane, int base) {
    return lane - int(delta) < base ? lane : lane - int(delta);
  });
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return emulated::shuffle(&emulated::shuffles[2], mask, value, width,
                           [&](int lane, int) { return lane + int(delta); });
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32) {
  return emulated::shuffle(&emulated::shuffles[3], mask, value, width,
                           [&](int lane, int) { return lane ^ lane_mask; });
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const emulated::Exchange<int> exchange(&emulated::votes[0], mask, predicate != 0);
  unsigned bits = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if ((mask >> lane & 1) && exchange.read(lane) == 1) {
      bits |= 1u << lane;
    }
  }
  return bits;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }
