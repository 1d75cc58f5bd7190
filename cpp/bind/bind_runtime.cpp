// The machine: instruction sets, threads, build, measured peaks.
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "../core/buffer.hpp"
#include "../core/cpu.hpp"
#include "../net/breakdown.hpp"
#include "arrays.hpp"
#include "bind.hpp"

namespace fanin {
namespace {

// The sum over threads of FLOP/s, each thread busy with fused multiply-adds on registers.
double fma_peak(const std::string& isa, const std::string& dtype, int threads, double seconds) {
  const Table& of = find_table(isa);
  auto* peak = dtype == "float32"   ? of.fma_peak_float32
               : dtype == "float64" ? of.fma_peak_float64
                                    : nullptr;
  if (peak == nullptr) {
    refuse("dtype", "float32 or float64, got '" + dtype + "'");
  }
  std::vector<double> rates(size_t(threads), 0.0);
  Computing computing;
  computing.context.threads = threads;
  auto body = [&](int64_t i, void*) { rates[size_t(i)] = peak(seconds); };
  parallel_for(computing.context, threads, body);
  double sum = 0;
  for (const double rate : rates) {
    sum += rate;
  }
  return sum / 1e9;
}

// Bytes read and written per second by copies far larger than the caches, over all threads.
double memory_peak(int threads, double seconds) {
  constexpr size_t chunk = size_t(1) << 20, chunks = 256;
  const Buffer<char> from(chunk * chunks), to(chunk * chunks);
  Computing computing;
  computing.context.threads = threads;
  std::memset(from.data(), 1, chunk * chunks);
  std::memset(to.data(), 0, chunk * chunks);
  auto body = [&](int64_t i, void*) {
    std::memcpy(to.data() + size_t(i) * chunk, from.data() + size_t(i) * chunk, chunk);
  };
  using Clock = std::chrono::steady_clock;
  double best = 0;
  const Clock::time_point start = Clock::now();
  do {
    const Clock::time_point before = Clock::now();
    parallel_for(computing.context, int64_t(chunks), body);
    const double taken = std::chrono::duration<double>(Clock::now() - before).count();
    best = std::max(best, 2.0 * double(chunk * chunks) / taken);
  } while (std::chrono::duration<double>(Clock::now() - start).count() < seconds);
  return best / 1e9;
}

// Seconds of all threads by what they did in training steps since the last call; counts from now
// on, or not.
py::dict step_breakdown(bool count) {
  py::dict seconds;
  for (int work = 0; work < work_count; ++work) {
    seconds[work_names[work]] = double(breakdown.nanoseconds[work].exchange(0)) / 1e9;
  }
  breakdown.counting = count;
  return seconds;
}

py::dict build_info() {
  py::dict info;
  info["version"] = FANIN_VERSION;
#if defined(__clang__)
  info["compiler"] = "clang " __clang_version__;
#else
  info["compiler"] = "gcc " __VERSION__;
#endif
  info["flags"] = FANIN_FLAGS;
  info["sanitizers"] = FANIN_SANITIZE;
  info["isas_built"] = built_isas();
  info["parallel"] = parallel_kind();
  return info;
}

py::tuple limit() {
  const ThreadLimit found = thread_limit();
  return py::make_tuple(found.threads, found.reason);
}

}  // namespace

void bind_runtime(py::module_& module) {
  module.def("isa", [] { return std::string(table().name); });
  module.def("set_isa", &set_isa, py::arg("name"));
  module.def("available_isas", &available_isas);
  module.def("build_info", &build_info);
  module.def("num_threads", &num_threads);
  module.def("set_num_threads", &set_num_threads, py::arg("threads"));
  module.def("thread_limit", &limit);
  module.def("fma_peak", &fma_peak, py::arg("isa"), py::arg("dtype"), py::arg("threads"),
             py::arg("seconds"));
  module.def("step_breakdown", &step_breakdown, py::arg("count"));
  module.def("memory_peak", &memory_peak, py::arg("threads"), py::arg("seconds"));
}

}  // namespace fanin
