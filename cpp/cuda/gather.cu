// A shuffled mini-batch from the user's data, converted to T:
//
//   out[i, :] = x[rows[i], :] * scale                 in T
//   out[i, :] = (x[rows[i], :] - shift) * factor      in the wider of T and the type of x
//
// Each operation is rounded (nothing is fused), so NumPy gets the same bits. 16-bit types are float
// until they are stored. The rows are rows[0], rows[1], ... or those from state->first_row on.
#include "gather.hpp"

#include "lanes.cuh"

namespace fanin::cuda {
namespace {

constexpr int threads = 256;

// What is computed in; bytes fit into either.
template <class From, class T>
using Computed = std::conditional_t<std::is_same_v<From, double>, double, Wide<T>>;

template <class From, int W, class T>
__global__ void __launch_bounds__(threads) gather_rows(Gather<T> gather, const StepState* state) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
  if (i >= gather.out.rows) {
    return;
  }
  const int64_t row = gather.rows[(state != nullptr ? state->first_row : 0) + i];
  const From* from = static_cast<const From*>(gather.x) + row * gather.row_stride;
  using Number = Computed<From, T>;
  const Wide<T> scale = Wide<T>(gather.scale);
  const auto* shift = static_cast<const Number*>(gather.shift);
  const auto* factor = static_cast<const Number*>(gather.factor);
  for (int64_t c = int64_t(threadIdx.x) * W; c < gather.out.cols; c += int64_t(blockDim.x) * W) {
    const Lanes<From, W> x = load_lanes<W>(from + c * gather.col_stride);
    Lanes<T, W> out;
#pragma unroll
    for (int k = 0; k < W; ++k) {
      if (shift != nullptr) {
        out.v[k] = T(Wide<T>((Number(x.v[k]) - shift[c + k]) * factor[c + k]));
      } else {
        out.v[k] = T(Wide<T>(x.v[k]) * scale);
      }
    }
    store_lanes<W>(gather.out.at(i, c), out);
  }
}

template <class From, int W, class T>
void launch_rows(const Context& context, const Gather<T>& gather) {
  unsigned wide = 1;  // threads for a row
  while (wide < threads && int64_t(wide) * W < gather.out.cols) {
    wide *= 2;
  }
  const unsigned rows = threads / wide;
  launch(gather_rows<From, W, T>, dim3(unsigned(divide_up(gather.out.rows, rows))),
         dim3(wide, rows), 0, stream_of(context), gather, context.state);
}

template <class From, class T>
void gather_from(const Context& context, const Gather<T>& gather) {
  constexpr int W = pack_size<T>;
  const bool in_packs = holds_lanes<W>(gather.out) &&
                        holds_lanes<W>(static_cast<const From*>(gather.x)) &&
                        gather.col_stride == 1 && gather.row_stride % W == 0;
  if (in_packs) {
    launch_rows<From, W>(context, gather);
  } else {
    launch_rows<From, 1>(context, gather);
  }
}

}  // namespace

template <class T>
void gather(const Context& context, const Gather<T>& gather) {
  visit(gather.source, [&]<class From>() { gather_from<From>(context, gather); });
}

template void gather(const Context&, const Gather<float>&);
template void gather(const Context&, const Gather<double>&);
template void gather(const Context&, const Gather<bfloat16>&);
template void gather(const Context&, const Gather<float16>&);

}  // namespace fanin::cuda
