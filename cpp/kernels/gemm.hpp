// out = x @ w, x (m, k), w (k, n), out (m, n); any strides for x and w, unit stride along rows
// or columns for out.
//
// One element of the product, on every instruction set with fma, is exactly
//
//     total = 0
//     for each block of 512 k, in order:
//         sum = 0
//         for k in block: sum = fma(x[i, k], w[k, j], sum)
//         total = total + sum          (the first block: total = sum)
//
// How it is fast: `tile` keeps R rows x V vectors of sums in registers and runs down a block of k,
// loading V vectors of w and broadcasting R elements of x at each k. A panel is the V vectors of
// columns that a tile covers, for one block of k; it is used by all rows of a task. Where w is not
// laid out that way (transposed, any strides, or too large to be read in place without missing the
// TLB), or where its last vector would reach behind the rows, the panel is first copied to scratch,
// where its rows follow each other. A transposed x is copied where its columns lie a multiple of
// 2 KiB apart: at each k a tile reads from another column, and all of them fall into the same few
// sets of the caches. The low tiles of 16 registers would use too little of each line that they
// bring, so for them it is copied wherever it is not small. With few columns of w most of a vector
// would be empty: then the lanes are rows of out, in a product turned as a whole or made by
// gemm_narrow.hpp.
//
// Tasks are blocks of rows x panels; how they are cut changes no sum.
#pragma once

#include "blocks.hpp"
#include "gemm_narrow.hpp"

namespace fanin {
namespace {

// Rows of the largest tile with V vectors: R * V sums, V of w and one of x share the registers, 32
// of AVX-512 and NEON, 16 of AVX2 and SSE2. With 32, 8 x 3 reaches 97 % of the FMA peak from the
// first cache, and its 8 rows stay inside 12 ways at power-of-two strides where 12 rows do not.
constexpr int most_tile_vectors = 8, most_tile_rows = 12;
constexpr int tile_rows(int vectors) {
  constexpr int many[most_tile_vectors] = {12, 12, 8, 6, 4, 4, 3, 3};
  constexpr int few[most_tile_vectors] = {8, 6, 4, 3, 2, 2, 1, 1};
  return (registers == 32 ? many : few)[vectors - 1];
}

// Vectors of a panel for so many rows: 3, or what keeps the sums many where the rows are few.
inline int panel_vectors(int64_t rows) {
  int vectors = most_tile_vectors;
  while (vectors > 3 && tile_rows(vectors) < rows) {
    --vectors;
  }
  return vectors;
}

// A panel of w for one block of k: k rows of V vectors.
template <class T>
struct Panel {
  const T* data;
  int64_t stride;  // between rows
};

// Memory that will be needed next, rows of some cache lines, fetched a line at a time while tiles
// compute; from the start again when all is there.
class Ahead {
 public:
  Ahead() = default;
  Ahead(const void* data, int64_t rows, int64_t row_bytes, int64_t stride_bytes, bool to_write)
      : start_(static_cast<const char*>(data)),
        rows_(rows),
        lines_((row_bytes + line_bytes - 1) / line_bytes + 1),  // rows may begin inside a line
        jump_(stride_bytes - lines_ * line_bytes),
        to_write_(to_write) {
    restart();
  }
  [[gnu::always_inline]] void fetch_line() {
    to_write_ ? prefetch_to_write(at_) : prefetch(at_);
    at_ += line_bytes;
    if (--lines_left_ == 0) {
      lines_left_ = lines_;
      at_ += jump_;
      if (--rows_left_ == 0) {
        restart();
      }
    }
  }

 private:
  static constexpr int64_t line_bytes = 64;
  [[gnu::always_inline]] void restart() {
    at_ = start_;
    rows_left_ = rows_;
    lines_left_ = lines_;
  }

  const char* start_ = nullptr;
  int64_t rows_ = 1, lines_ = 1, jump_ = 0;
  bool to_write_ = false;
  const char* at_ = nullptr;
  int64_t rows_left_ = 1, lines_left_ = 1;
};

// out (R rows, V vectors of columns) = x @ panel, or += when `accumulate`. The last vector of out
// has `last` columns; the panel has whole vectors.
template <class T, int R, int V>
void tile(int64_t k, const T* x, int64_t x_row, int64_t x_col, Panel<T> panel, T* out,
          int64_t out_row, int last, bool accumulate, Ahead& ahead) {
  constexpr int W = width<T>;
  Ahead next = ahead;
  Vec<T> sum[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      sum[r][v] = zero<T>();
    }
  }
  // Three rows from one pointer: x86 addresses p, p + stride and p + 2 stride in one instruction.
  const T* rows[(R + 2) / 3];
#pragma GCC unroll 16
  for (int r = 0; r < R; r += 3) {
    rows[r / 3] = x + r * x_row;
  }
  const T* w = panel.data;
  const auto add_products = [&]() __attribute__((always_inline)) {
    Vec<T> w_vectors[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      w_vectors[v] = load(w + v * W);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vec<T> x_element = broadcast(rows[r / 3][r % 3 * x_row]);
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) {
        sum[r][v] = fma(x_element, w_vectors[v], sum[r][v]);
      }
    }
    w += panel.stride;
#pragma GCC unroll 16
    for (int r = 0; r < R; r += 3) {
      rows[r / 3] += x_col;
    }
  };
  // With 16 registers there are few multiply-adds at each k: what else is done there counts, more
  // than that short products do not fetch all that comes next.
  constexpr int64_t k_per_line = registers == 16 ? 8 : 1;
  for (int64_t i = 0; i < k;) {
    next.fetch_line();
    if constexpr (k_per_line == 1) {
      add_products();
      ++i;
    } else {
      const int64_t end = i + k_per_line < k ? i + k_per_line : k;
#pragma GCC unroll 1
      for (; i < end; ++i) {
        add_products();
      }
    }
  }
  ahead = next;
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    T* row = out + r * out_row;
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      if (v < V - 1 || last == W) {
        store(row + v * W, accumulate ? load(row + v * W) + sum[r][v] : sum[r][v]);
      } else {
        const Vec<T> before = accumulate ? load_first(row + v * W, last) : zero<T>();
        store_first(row + v * W, accumulate ? before + sum[r][v] : sum[r][v], last);
      }
    }
  }
}

template <class T>
using Tile = void (*)(int64_t, const T*, int64_t, int64_t, Panel<T>, T*, int64_t, int, bool,
                      Ahead&);

template <class T, int R, int V>
constexpr Tile<T> tile_or_null() {
  if constexpr (R <= tile_rows(V)) {
    return tile<T, R, V>;
  } else {
    return nullptr;
  }
}

template <class T, int R>
struct TilesOf {
  static constexpr Tile<T> by_vectors[most_tile_vectors] = {
      tile_or_null<T, R, 1>(), tile_or_null<T, R, 2>(), tile_or_null<T, R, 3>(),
      tile_or_null<T, R, 4>(), tile_or_null<T, R, 5>(), tile_or_null<T, R, 6>(),
      tile_or_null<T, R, 7>(), tile_or_null<T, R, 8>()};
};

template <class T>
Tile<T> tile_of(int rows, int vectors) {
  static constexpr const Tile<T>* tiles[most_tile_rows] = {
      TilesOf<T, 1>::by_vectors,  TilesOf<T, 2>::by_vectors,  TilesOf<T, 3>::by_vectors,
      TilesOf<T, 4>::by_vectors,  TilesOf<T, 5>::by_vectors,  TilesOf<T, 6>::by_vectors,
      TilesOf<T, 7>::by_vectors,  TilesOf<T, 8>::by_vectors,  TilesOf<T, 9>::by_vectors,
      TilesOf<T, 10>::by_vectors, TilesOf<T, 11>::by_vectors, TilesOf<T, 12>::by_vectors};
  return tiles[rows - 1][vectors - 1];
}

// How a product of (rows, k) and (k, cols) is cut into tasks of whole row blocks by whole groups of
// 16 columns (statistics are made by row blocks, mask words hold 16 columns), as equal as can be.
struct ProductPlan {
  int64_t row_tasks, col_tasks;
  bool copies_panels, copies_x;
  bool whole_vectors;  // as in Context
  bool turns;          // makes out^T = w^T @ x^T, the same sums, and turns it
  bool narrow;         // gemm_narrow.hpp
};

// Elements of x that are copied at a time: half of the second cache in float64.
constexpr int64_t most_copied = 2 * row_block * product_block;

// Columns of a product that may be made as rows.
template <class T>
constexpr int64_t most_turned = registers == 16 ? 2 * width<T> : 32;
// Row blocks of a task that does not copy x.
constexpr int64_t most_task_blocks = 8;

template <class T>
ProductPlan plan_product(const Context& context, View<const T> x, View<const T> w) {
  ProductPlan plan;
  plan.whole_vectors = context.whole_vectors;
  plan.copies_x =
      x.row_stride == 1 && x.col_stride != 1 && x.rows >= 16 && x.cols >= 16 && w.cols >= 64 &&
      (registers == 16 || (x.rows >= 128 && x.col_stride * int64_t(sizeof(T)) % 2048 == 0));
  // In place where each row of a panel is contiguous, and few enough rows use it, or few enough
  // pages are touched, for a copy not to pay. Tiles of 16 registers are low: they read a panel so
  // often that it should fill no more lines of the first cache than it must; beside copied x its
  // rows are one line wide at most, and more of them must use a copy.
  const int64_t bytes = w.rows * w.cols * int64_t(sizeof(T));
  const bool pays =
      registers == 16 ? x.rows >= (plan.copies_x ? 96 : 48) && x.cols >= 64 : bytes > 512 * 784 * 4;
  plan.copies_panels = w.col_stride != 1 || (x.rows > 2 * most_tile_rows && pays);
  // A good part of each vector of a few columns is empty, as of dw in a layer with few outputs. To
  // turn a product pays where it saves a tenth of the vectors, or a fifth with low tiles; to turn
  // squares of x where there are some to a row.
  constexpr int W = width<T>;
  const int64_t vectors = (w.cols + W - 1) / W * x.rows;
  const int64_t turned_vectors = (x.rows + W - 1) / W * w.cols;
  plan.turns = x.row_stride == 1 && w.col_stride == 1 && !plan.copies_x &&
               w.cols <= most_turned<T> &&
               10 * turned_vectors <= (registers == 16 ? 8 : 9) * vectors;
  plan.narrow = !plan.turns && x.col_stride == 1 && w.cols <= most_narrow<T> && x.rows >= W &&
                x.cols >= 4 * W;
  const int64_t blocks = row_blocks(x.rows);
  const int64_t groups = (w.cols + patch_cols - 1) / patch_cols;
  const double flops = 2.0 * double(x.rows) * double(x.cols) * double(w.cols);
  if (plan.copies_x) {
    // Each task copies its part of x, and of w: one for one thread, or as many as keep 16 busy;
    // more only where the scratch holds no more rows. Of 128 columns at least, or of 64 rather than
    // too few.
    const int64_t depth = x.cols < product_block ? x.cols : product_block;
    const int64_t most_blocks = most_copied / depth / row_block;
    const int64_t fewest = (blocks + most_blocks - 1) / most_blocks;
    const int64_t enough = flops < 16 * 4e6 ? int64_t(flops / 4e6) + 1 : 16;
    const int64_t wanted = context.threads == 1 ? 1 : enough;
    const auto at_most = [](int64_t n, int64_t most) { return n < most ? n : most; };
    const auto divided = [](int64_t n, int64_t by) { return (n + by - 1) / by; };
    plan.col_tasks = at_most(divided(wanted, fewest), divided(groups, 8));
    const int64_t rows_wanted = at_most(divided(wanted, plan.col_tasks), blocks);
    plan.row_tasks = rows_wanted < fewest ? fewest : rows_wanted;
    if (2 * plan.row_tasks * plan.col_tasks < wanted) {
      plan.col_tasks = at_most(divided(wanted, plan.row_tasks), divided(groups, 4));
    }
  } else {
    // A copied panel should serve many rows (1024^3 on one thread, AVX-512: 83 % of the FMA peak
    // with 4 blocks a task, 89 % with 8); one read in place need not.
    const int64_t blocks_per_task = plan.copies_panels ? most_task_blocks : 2;
    plan.row_tasks = (blocks + blocks_per_task - 1) / blocks_per_task;
    // About 2 MFLOP a task (10 to 20 microseconds), so that a late thread costs little.
    const int64_t wanted = int64_t(flops / 2e6 / double(plan.row_tasks));
    const int64_t most = (groups + 2) / 3;
    plan.col_tasks = wanted < 1 ? 1 : wanted > most ? most : wanted;
  }
  // Not eleven: of two threads one would have to do the sixth while the other waits.
  if (plan.row_tasks % 2 == 1 && plan.col_tasks % 2 == 1 && plan.col_tasks > 1) {
    --plan.col_tasks;
  }
  return plan;
}

// Copies w[k0:k1, c0:c1], c1 - c0 <= vectors * W, into rows of `vectors` vectors, zeros behind.
template <class T>
void copy_panel(View<const T> w, int64_t k0, int64_t k1, int64_t c0, int64_t c1, int vectors,
                T* panel) {
  constexpr int W = width<T>;
  const int64_t stride = vectors * W;
  if (w.col_stride == 1) {
    const int64_t left = (vectors - 1) * W;  // of the last vector
    const int last = int(c1 - c0 - left);
    for (int64_t k = k0; k < k1; ++k, panel += stride) {
      const T* row = w.at(k, c0);
      for (int64_t c = 0; c < left; c += W) {
        store(panel + c, load(row + c));
      }
      store(panel + left, load_lanes(row + left, last));
    }
  } else if (w.row_stride == 1) {
    for (int v = 0; v < vectors; ++v) {
      const int64_t c = c0 + v * W;
      const int lanes = int(c1 - c < W ? c1 - c : W);
      for (int64_t k = k0; k < k1; k += W) {
        const int depth = int(k1 - k < W ? k1 - k : W);
        Vec<T> square[W];
        for (int i = 0; i < W; ++i) {
          square[i] = i >= lanes   ? zero<T>()
                      : depth == W ? load(w.at(k, c + i))
                                   : load_first(w.at(k, c + i), depth);
        }
        transpose(square);
        for (int i = 0; i < depth; ++i) {
          store(panel + (k - k0 + i) * stride + v * W, square[i]);
        }
      }
    }
  } else {
    for (int64_t k = k0; k < k1; ++k, panel += stride) {
      for (int64_t c = c0; c < c0 + stride; ++c) {
        panel[c - c0] = c < c1 ? *w.at(k, c) : T(0);
      }
    }
  }
}

// Copied x lies in strips, k after k: the rows of one tile, or of as many as fill a vector. With 16
// registers panels are narrow beside it, so that at 256 k in float32 both fit the first cache.
constexpr int strip_vectors = registers == 32 ? 3 : 2, strip_tile = tile_rows(strip_vectors);
template <class T>
constexpr int strip_rows = width<T> % strip_tile == 0 ? width<T> : strip_tile;

// Elements from strip to strip: behind each is room for the end of the last vector.
template <class T>
int64_t strip_stride(int64_t depth) {
  return depth * strip_rows<T> + width<T>;
}

// Copies x[r0:r1, k0:k1], a transposed matrix, into strips. What a vector writes behind the rows of
// its strip is overwritten at the next k.
template <class T>
void copy_strips(View<const T> x, int64_t k0, int64_t k1, int64_t r0, int64_t r1, T* strips) {
  constexpr int W = width<T>, high = strip_rows<T>;
  for (int64_t k = k0; k < k1; ++k) {
    T* to = strips + (k - k0) * high;
    for (int64_t r = r0; r < r1; r += high, to += strip_stride<T>(k1 - k0)) {
#pragma GCC unroll 8
      for (int i = 0; i < high; i += W) {
        const int64_t left = r1 - r - i;
        store(to + i, left >= W ? load(x.at(r + i, k))
                                : load_first(x.at(r + i, k), left > 0 ? int(left) : 0));
      }
    }
  }
}

// w[k0:k1, c0:c1], row by row as it lies in memory.
template <class T>
Ahead ahead_of(View<const T> w, int64_t k0, int64_t k1, int64_t c0, int64_t c1) {
  if (c0 >= c1) {
    return {};
  }
  constexpr int64_t size = sizeof(T);
  return w.col_stride == 1
             ? Ahead(w.at(k0, c0), k1 - k0, (c1 - c0) * size, w.row_stride * size, false)
             : Ahead(w.at(k0, c0), c1 - c0, (k1 - k0) * size, w.col_stride * size, false);
}

// out = x^T; rows of x are whole vectors.
template <class T>
void store_turned(View<const T> x, View<T> out) {
  constexpr int W = width<T>;
  for (int64_t c0 = 0; c0 < out.cols; c0 += W) {
    const int lanes = int(out.cols - c0 < W ? out.cols - c0 : W);
    for (int64_t r0 = 0; r0 < out.rows; r0 += W) {
      Vec<T> square[W];
      for (int i = 0; i < W; ++i) {
        square[i] = i < lanes ? load(x.at(c0 + i, r0)) : zero<T>();
      }
      transpose(square);
      for (int i = 0; i < W && r0 + i < out.rows; ++i) {
        store_first(out.at(r0 + i, c0), square[i], lanes);
      }
    }
  }
}

// out[r0:r1, c0:c1] = x[r0:r1] @ w[:, c0:c1], by one thread.
template <class T>
void product_of_block(const Upcoming* upcoming, View<const T> x, View<const T> w, View<T> out,
                      int64_t r0, int64_t r1, int64_t c0, int64_t c1, const ProductPlan& plan,
                      T* scratch) {
  constexpr int W = width<T>;
  T* const strips = scratch + product_block * most_tile_vectors * W;
  if (plan.narrow) {
    narrow_product(x.row_range(r0, r1), w.col_range(c0, c1), out.block({r0, r1, c0, c1}));
    return;
  }
  if (plan.turns) {
    const View<T> turned = rows_of(strips, c1 - c0, r1 - r0, round_up(r1 - r0, W));
    product_of_block<T>(upcoming, w.transposed().row_range(c0, c1),
                        x.transposed().col_range(r0, r1), turned, 0, c1 - c0, 0, r1 - r0,
                        {1, 1, false, false, plan.whole_vectors, false, false}, scratch);
    store_turned<T>(turned, out.block({r0, r1, c0, c1}));
    return;
  }
  const int64_t k = x.cols;
  const int64_t vectors = (c1 - c0 + W - 1) / W;
  const int widest = plan.copies_x ? strip_vectors : panel_vectors(r1 - r0);
  const int64_t panels = (vectors + widest - 1) / widest;
  Ahead other[3];
  int others = 0, done = 0;
  while (upcoming != nullptr && others < 3 && upcoming->data[others] != nullptr) {
    other[others] = Ahead(upcoming->data[others], upcoming->rows, upcoming->row_bytes,
                          upcoming->stride_bytes, true);
    ++others;
  }
  for (int64_t r = r0; k == 0 && r < r1; ++r) {
    for (int64_t c = c0; c < c1; ++c) {
      *out.at(r, c) = T(0);
    }
  }
  for (int64_t k0 = 0; k0 < k; k0 += product_block) {
    const int64_t k1 = k0 + product_block < k ? k0 + product_block : k;
    if (plan.copies_x) {
      copy_strips(x, k0, k1, r0, r1, strips);
    }
    for (int64_t p = 0; p < panels; ++p) {
      const int64_t v0 = part(vectors, panels, p);
      const int wide = int(part(vectors, panels, p + 1) - v0);
      const int64_t left = c0 + v0 * W;
      const int64_t right = left + wide * W < c1 ? left + wide * W : c1;
      const int last = int(right - left - (wide - 1) * W);
      Panel<T> panel{w.at(k0, left), w.row_stride};
      if (plan.copies_panels || (last < W && !plan.whole_vectors)) {
        copy_panel(w, k0, k1, left, right, wide, scratch);
        panel = {scratch, int64_t(wide) * W};
      }
      Ahead panel_ahead = ahead_of(w, k0, k1, right, right + wide * W < c1 ? right + wide * W : c1);
      const auto tile_at = [&](int64_t row, int rows, const T* x_tile, int64_t x_row,
                               int64_t x_col) {
        tile_of<T>(rows, wide)(k1 - k0, x_tile, x_row, x_col, panel, out.at(row, left),
                               out.row_stride, last, k0 > 0,
                               others > 0 ? other[done++ % others] : panel_ahead);
      };
      if (plan.copies_x) {
        constexpr int high = strip_rows<T>;
        for (int64_t row = r0; row < r1; row += strip_tile) {
          const int64_t i = row - r0;
          tile_at(row, int(r1 - row < strip_tile ? r1 - row : strip_tile),
                  strips + i / high * strip_stride<T>(k1 - k0) + i % high, 1, high);
        }
      } else {
        const int64_t tiles = (r1 - r0 + tile_rows(wide) - 1) / tile_rows(wide);
        for (int64_t t = 0; t < tiles; ++t) {
          const int64_t row = r0 + part(r1 - r0, tiles, t);
          tile_at(row, int(r0 + part(r1 - r0, tiles, t + 1) - row), x.at(row, k0), x.row_stride,
                  x.col_stride);
        }
      }
    }
  }
}

// A task of n strips has n * strip_stride elements of copied x. n * strip_rows exceeds its rows by
// less than a strip, and a strip's spare vector is at most a 12th of 16 k: an eighth is enough.
// Later blocks of k are no deeper.
static_assert((product_block * most_tile_vectors * width<double> + most_copied * 9 / 8) *
                  sizeof(double) <=
              operation_scratch_bytes);
static_assert(most_turned<double> * most_task_blocks * row_block <= most_copied);

// Row and column of a task. As many rows of tasks as there are threads go along the columns
// together. Where there are so many, threads side by side then read the same columns of w, and
// hardly ever write to a cache line of out that another one writes to.
struct TaskPlace {
  int64_t i, j;
};
inline TaskPlace place_of(int64_t task, int64_t threads, int64_t row_tasks, int64_t col_tasks) {
  const int64_t first = task / (threads * col_tasks) * threads;
  const int64_t rows = row_tasks - first < threads ? row_tasks - first : threads;
  const int64_t within = task - first * col_tasks;
  return {first + within % rows, within / rows};
}

// gemm_bf16.hpp.
template <class Then>
void product_bf16(const Context& context, View<const float> x, View<const float> w, View<float> out,
                  Then&& then);

// The product, and after each task `then(r0, r1, c0, c1)` on the block of out that is now finished
// and in cache: r0 is a multiple of row_block, c0 of patch_cols.
template <class T, class Then>
void product(const Context& context, View<const T> x, View<const T> w, View<T> out, Then&& then) {
  if (out.rows == 0 || out.cols == 0) {
    return;
  }
  if constexpr (sizeof(T) == sizeof(float)) {
    if (context.bfloat16) {
      product_bf16(context, x, w, out, then);
      return;
    }
  }
  const ProductPlan plan = plan_product(context, x, w);
  const int64_t blocks = row_blocks(out.rows);
  const int64_t groups = (out.cols + patch_cols - 1) / patch_cols;
  auto body = [&](int64_t task, void* scratch) {
    const auto [i, j] = place_of(task, context.threads, plan.row_tasks, plan.col_tasks);
    const int64_t r0 = part(blocks, plan.row_tasks, i) * row_block;
    const int64_t r1 = part(blocks, plan.row_tasks, i + 1) * row_block;
    const int64_t c0 = part(groups, plan.col_tasks, j) * patch_cols;
    const int64_t c1 = part(groups, plan.col_tasks, j + 1) * patch_cols;
    const int64_t r_end = r1 < out.rows ? r1 : out.rows;
    const int64_t c_end = c1 < out.cols ? c1 : out.cols;
    product_of_block(context.upcoming, x, w, out, r0, r_end, c0, c_end, plan,
                     static_cast<T*>(scratch));
    then(r0, r_end, c0, c_end);
  };
  const double nanoseconds = double(x.rows) * double(x.cols) * double(w.cols) / 100.0;
  parallel_for(worth(context, nanoseconds), plan.row_tasks * plan.col_tasks, body);
}

template <class T>
void gemm(const Context& context, View<const T> x, View<const T> w, View<T> out) {
  if (out.col_stride != 1 && out.row_stride == 1) {  // out^T = w^T @ x^T: the same sums
    gemm<T>(context, w.transposed(), x.transposed(), out.transposed());
    return;
  }
  product(context, x, w, out, [](int64_t, int64_t, int64_t, int64_t) {});
}

}  // namespace
}  // namespace fanin
