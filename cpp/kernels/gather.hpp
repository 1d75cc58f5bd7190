// out[i, :] = x[rows[i], :] * scale, converted to T: a shuffled mini-batch from the user's data.
#pragma once

#include "blocks.hpp"

namespace fanin {
namespace {

template <class From, class T>
void gather_from(const Context& context, const From* x, int64_t row_stride, int64_t col_stride,
                 const int64_t* rows, T scale, View<T> out) {
  auto body = [&](int64_t block, void*) {
    const int64_t end = (block + 1) * row_block;
    for (int64_t r = block * row_block; r < end && r < out.rows; ++r) {
      const From* from = x + rows[r] * row_stride;
      T* to = out.at(r, 0);
      if (col_stride == 1) {
        for (int64_t c = 0; c < out.cols; ++c) {
          to[c] = T(from[c]) * scale;
        }
      } else {
        for (int64_t c = 0; c < out.cols; ++c) {
          to[c] = T(from[c * col_stride]) * scale;
        }
      }
    }
  };
  parallel_for(worth(context, 0.2 * double(out.rows) * double(out.cols)), row_blocks(out.rows),
               body);
}

template <class T>
void gather(const Context& context, const void* x, Source source, int64_t row_stride,
            int64_t col_stride, const int64_t* rows, double scale, View<T> out) {
  switch (source) {
    case Source::uint8:
      gather_from(context, static_cast<const uint8_t*>(x), row_stride, col_stride, rows, T(scale),
                  out);
      break;
    case Source::float32:
      gather_from(context, static_cast<const float*>(x), row_stride, col_stride, rows, T(scale),
                  out);
      break;
    case Source::float64:
      gather_from(context, static_cast<const double*>(x), row_stride, col_stride, rows, T(scale),
                  out);
      break;
  }
}

}  // namespace
}  // namespace fanin
