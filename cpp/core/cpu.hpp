// What this machine can do: instruction sets, and how many threads it grants us.
#pragma once

#include <string>

namespace fanin {

// True when the processor and the operating system offer the named set.
bool cpu_has(const char* isa);

struct ThreadLimit {
  int threads;         // at least 1
  std::string reason;  // "OMP_NUM_THREADS", "CPU affinity", "cgroup quota", or "cores"
};

// The smallest of OMP_NUM_THREADS, the CPUs of the affinity mask and the cgroup's CPU quota.
ThreadLimit thread_limit();

}  // namespace fanin
