// A shuffled mini-batch from the user's data, converted to T:
//
//   out[i, :] = x[rows[i], :] * scale                 in T
//   out[i, :] = (x[rows[i], :] - shift) * factor      in the wider of T and the type of x
//
// Each operation is rounded (nothing is fused), so NumPy gets the same bits.
#pragma once

#include "blocks.hpp"

namespace fanin {
namespace {

// The wider of the type of x and T; bytes fit into either.
template <class From, class T>
struct WiderOf {
  using Type = T;
};
template <class T>
struct WiderOf<double, T> {
  using Type = double;
};

// out[i, c] = convert(x[rows[i], c], c)
template <class From, class T, class Convert>
void gather_by(const Context& context, const Gather<T>& gather, const Convert& convert) {
  const View<T> out = gather.out;
  const int64_t stride = gather.col_stride;
  auto body = [&](int64_t block, void*) {
    const Convert own = convert;  // as in for_elements
    const int64_t end = (block + 1) * row_block;
    for (int64_t r = block * row_block; r < end && r < out.rows; ++r) {
      const From* from = static_cast<const From*>(gather.x) + gather.rows[r] * gather.row_stride;
      T* to = out.at(r, 0);
      if (stride == 1) {
        for (int64_t c = 0; c < out.cols; ++c) {
          to[c] = own(from[c], c);
        }
      } else {
        for (int64_t c = 0; c < out.cols; ++c) {
          to[c] = own(from[c * stride], c);
        }
      }
    }
  };
  parallel_for(worth(context, 0.2 * double(out.rows) * double(out.cols)), row_blocks(out.rows),
               body);
}

template <class From, class T>
void gather_from(const Context& context, const Gather<T>& gather) {
  using Wide = typename WiderOf<From, T>::Type;
  if (gather.shift == nullptr) {
    const T scale = T(gather.scale);
    gather_by<From, T>(context, gather, [=](From x, int64_t) __attribute__((always_inline)) {
      return T(x) * scale;
    });
  } else {
    const Wide* shift = static_cast<const Wide*>(gather.shift);
    const Wide* factor = static_cast<const Wide*>(gather.factor);
    gather_by<From, T>(context, gather, [=](From x, int64_t c) __attribute__((always_inline)) {
      return T((Wide(x) - shift[c]) * factor[c]);
    });
  }
}

template <class T>
void gather(const Context& context, const Gather<T>& gather) {
  visit(gather.source, [&]<class From>() { gather_from<From>(context, gather); });
}

}  // namespace
}  // namespace fanin
