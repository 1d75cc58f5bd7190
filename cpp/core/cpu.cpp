#include "cpu.hpp"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <thread>

namespace fanin {

bool cpu_has(const char* isa) {
#if defined(__x86_64__)
  if (std::strcmp(isa, "baseline") == 0) {
    return true;
  }
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (std::strcmp(isa, "avx2") == 0) {
    return avx2;
  }
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl");
  if (std::strcmp(isa, "avx512") == 0) {
    return avx512;
  }
  if (std::strcmp(isa, "avx512_bf16") == 0) {
    return avx512 && __builtin_cpu_supports("avx512bf16");
  }
  return false;
#else
  return std::strcmp(isa, "neon") == 0;
#endif
}

namespace {

// CPU time the cgroup grants, in CPUs; 0 when there is no quota.
double cgroup_cpus() {
  std::ifstream v2("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (v2 >> quota >> period && quota != "max" && period > 0) {
    return std::atof(quota.c_str()) / period;
  }
  std::ifstream v1_quota("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
  std::ifstream v1_period("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  double microseconds = 0;
  if (v1_quota >> microseconds && v1_period >> period && microseconds > 0 && period > 0) {
    return microseconds / period;
  }
  return 0;
}

}  // namespace

ThreadLimit thread_limit() {
  const int cores = std::max(1, int(std::thread::hardware_concurrency()));
  ThreadLimit limit{cores, "cores"};
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    const int allowed = CPU_COUNT(&set);
    if (allowed > 0) {
      if (allowed < cores) {
        limit.reason = "CPU affinity";
      }
      limit.threads = allowed;
    }
  }
  const double quota = cgroup_cpus();
  if (quota > 0 && std::ceil(quota) < limit.threads) {
    limit = {std::max(1, int(std::ceil(quota))), "cgroup quota"};
  }
  if (const char* text = std::getenv("OMP_NUM_THREADS")) {
    char* end = nullptr;
    const long asked = std::strtol(text, &end, 10);  // "4,2": the first level counts
    if (end != text && asked >= 1 && asked < limit.threads) {
      limit = {int(asked), "OMP_NUM_THREADS"};
    }
  }
  return limit;
}

}  // namespace fanin
