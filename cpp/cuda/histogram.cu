// counts[i] += elements with edges[i] <= a < edges[i + 1], the last bin closed. The bin is guessed
// from even spacing and then moved to where the edges say, as numpy.histogram does.
//
// Each block counts in its shared memory, where the bins fit there, and adds what it has found; the
// sums of integers are the same in any order.
#include "histogram.hpp"

#include "launch.cuh"

namespace fanin::cuda {
namespace {

constexpr int threads = 256;
constexpr int most_shared_bins = 8192;

// -1 for a number outside of all bins, or none.
__device__ int bin_of(double value, const double* edges, int bins, double per_unit) {
  const double first = edges[0];
  if (!(value >= first && value <= edges[bins])) {
    return -1;
  }
  const double guess = (value - first) * per_unit;
  int bin = guess < double(bins) ? int(guess) : bins - 1;
  while (bin > 0 && value < edges[bin]) {
    --bin;
  }
  while (bin < bins - 1 && value >= edges[bin + 1]) {
    ++bin;
  }
  return bin;
}

using Count = unsigned long long;  // as atomicAdd has it

template <bool shared, class T>
__global__ void __launch_bounds__(threads)
    count_elements(View<const T> a, const double* edges, int bins, Count* counts) {
  unsigned* own = shared ? dynamic_shared<unsigned>() : nullptr;
  if constexpr (shared) {
    for (int i = threadIdx.x; i < bins; i += threads) {
      own[i] = 0;
    }
    __syncthreads();
  }
  const double width = edges[bins] - edges[0];
  const double per_unit = width > 0 ? double(bins) / width : 0;
  for (int64_t r = blockIdx.x; r < a.rows; r += gridDim.x) {
    for (int64_t c = threadIdx.x; c < a.cols; c += threads) {
      const int bin = bin_of(double(Wide<T>(*a.at(r, c))), edges, bins, per_unit);
      if (bin < 0) {
        continue;
      }
      if constexpr (shared) {
        atomicAdd(own + bin, 1u);
      } else {
        atomicAdd(counts + bin, Count{1});
      }
    }
  }
  if constexpr (shared) {
    __syncthreads();
    for (int i = threadIdx.x; i < bins; i += threads) {
      if (own[i] != 0) {
        atomicAdd(counts + i, Count{own[i]});
      }
    }
  }
}

}  // namespace

template <class T>
void histogram(const Context& context, View<const T> a, const double* edges, int bins,
               int64_t* counts) {
  const dim3 grid(resident_blocks(a.rows, 4));
  auto* to = reinterpret_cast<Count*>(counts);
  if (bins <= most_shared_bins) {
    launch(count_elements<true, T>, grid, dim3(threads), size_t(bins) * sizeof(unsigned),
           stream_of(context), a, edges, bins, to);
  } else {
    launch(count_elements<false, T>, grid, dim3(threads), 0, stream_of(context), a, edges, bins,
           to);
  }
}

#define FANIN_HISTOGRAM(T) \
  template void histogram(const Context&, View<const T>, const double*, int, int64_t*)
FANIN_HISTOGRAM(float);
FANIN_HISTOGRAM(double);
FANIN_HISTOGRAM(bfloat16);
FANIN_HISTOGRAM(float16);

}  // namespace fanin::cuda
