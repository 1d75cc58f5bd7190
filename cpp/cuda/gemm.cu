// Products of matrices: out = x @ w, by cuBLASLt.
//
// cuBLASLt's matrices lie column after column. One that lies row after row is its transpose there,
// so out^T (n, m) = w^T (n, k) x^T (k, m) is asked for: A is w, B is x, and each is marked as
// transposed where its own columns are contiguous. A matrix in neither order (a slice with steps, a
// broadcast, one turned around) is copied first.
//
// The algorithm is the first that the library's heuristic names for the shape, the order of each
// matrix, the types and the alignment. It is kept, so the same product is made in the same way
// every time: parts of a sum that are made side by side are joined in order, without atomics.
#include "gemm.hpp"

#include <algorithm>
#include <array>
#include <compare>
#include <map>
#include <memory>
#include <mutex>
#include <type_traits>
#include <utility>

#include "cublaslt.hpp"
#include "device.hpp"
#include "launch.cuh"

namespace fanin::cuda {
namespace {

template <class T>
constexpr cublaslt::DataType type_of = std::is_same_v<T, double>   ? cublaslt::real_64f
                                       : std::is_same_v<T, float>  ? cublaslt::real_32f
                                       : std::is_same_v<T, __half> ? cublaslt::real_16f
                                                                   : cublaslt::real_16bf;

void check_status(cublaslt::Status status, const char* what) {
  if (status != cublaslt::success) {
    const std::string message =
        std::string(what) + ": " + cublaslt::library().status_string(status);
    if (status == cublaslt::alloc_failed) {
      throw OutOfMemory(message);
    }
    throw Error(message);
  }
}

// ---- one matrix ----

// A matrix as cuBLASLt sees it: columns `stride` elements apart.
struct Operand {
  const void* data;
  int64_t rows, cols, stride;
  bool transposed;  // it is the transpose of what is meant
};

// Alignment in bytes, as far as algorithms look at it: one, two, four, eight or sixteen.
int alignment_of(const void* data, int64_t stride_bytes) {
  const auto bits = reinterpret_cast<uintptr_t>(data) | uintptr_t(stride_bytes) | 16;
  return int(bits & (~bits + 1));
}

// The matrix whose rows, or else columns, are contiguous and do not overlap; or no data where
// neither is so. `meant` is what the product wants, column after column: x^T or w^T.
template <class T>
Operand operand_of(View<const T> m) {
  const bool by_rows = (m.cols <= 1 || m.col_stride == 1) &&
                       (m.rows <= 1 || m.row_stride >= std::max<int64_t>(m.cols, 1));
  const bool by_cols = (m.rows <= 1 || m.row_stride == 1) &&
                       (m.cols <= 1 || m.col_stride >= std::max<int64_t>(m.rows, 1));
  if (by_rows) {
    return {m.data, m.cols, m.rows, m.rows <= 1 ? m.cols : m.row_stride, false};
  }
  if (by_cols) {
    return {m.data, m.rows, m.cols, m.cols <= 1 ? m.rows : m.col_stride, true};
  }
  return {};
}

// ---- copies ----

constexpr int copy_threads = 256;

// Contiguous rows, aligned: a thread takes as many elements as 16 bytes of the smaller type hold.
template <class From, class To>
__global__ void __launch_bounds__(copy_threads) convert_packs(View<const From> from, View<To> to) {
  constexpr int items = Pack<From>::size > Pack<To>::size ? Pack<From>::size : Pack<To>::size;
  const int64_t pieces = divide_up(from.cols, items);
  for (int64_t i = int64_t(blockIdx.x) * copy_threads + threadIdx.x; i < from.rows * pieces;
       i += int64_t(gridDim.x) * copy_threads) {
    const int64_t row = i / pieces, col = i % pieces * items;
    const From* source = from.at(row, col);
    To* target = to.at(row, col);
    if (from.cols - col < items) {
      for (int j = 0; j < from.cols - col; ++j) {
        target[j] = To(source[j]);
      }
      continue;
    }
    Pack<From> in[items / Pack<From>::size];
#pragma unroll
    for (int j = 0; j < items / Pack<From>::size; ++j) {
      in[j] = load_pack(source + j * Pack<From>::size);
    }
#pragma unroll
    for (int j = 0; j < items / Pack<To>::size; ++j) {
      Pack<To> out;
#pragma unroll
      for (int l = 0; l < Pack<To>::size; ++l) {
        const int at = j * Pack<To>::size + l;
        out.v[l] = To(in[at / Pack<From>::size].v[at % Pack<From>::size]);
      }
      store_pack_whole(target + j * Pack<To>::size, out);
    }
  }
}

// Any strides: a warp's elements are neighbours in a row.
template <class From, class To>
__global__ void __launch_bounds__(copy_threads)
    convert_elements(View<const From> from, View<To> to) {
  for (int64_t i = int64_t(blockIdx.x) * copy_threads + threadIdx.x; i < from.rows * from.cols;
       i += int64_t(gridDim.x) * copy_threads) {
    *to.at(i / from.cols, i % from.cols) = To(*from.at(i / from.cols, i % from.cols));
  }
}

}  // namespace

template <class From, class To>
void convert(const Context& context, View<const From> from, View<To> to) {
  if (from.rows == 0 || from.cols == 0) {
    return;
  }
  if (from.row_stride == 1 && from.col_stride != 1) {  // neighbours are down the columns
    from = from.transposed();
    to = to.transposed();
  }
  const bool packs = from.col_stride == 1 && to.col_stride == 1 && has_packs(from) && has_packs(to);
  const int64_t items = packs ? 16 / int64_t(std::min(sizeof(From), sizeof(To))) : 1;
  const int64_t pieces = divide_up(from.rows * divide_up(from.cols, items), copy_threads);
  launch(packs ? convert_packs<From, To> : convert_elements<From, To>,
         dim3(resident_blocks(pieces, 2048 / copy_threads)), dim3(copy_threads), 0,
         stream_of(context), from, to);
}

namespace {

// ---- what is kept from call to call ----

// All that the choice of an algorithm depends on.
struct Shape {
  std::array<int64_t, 6> numbers;  // rows, columns and inner size; strides of a, b, d
  bool a_transposed, b_transposed;
  int a_alignment, b_alignment, d_alignment;
  cublaslt::DataType in, out;
  cublaslt::ComputeType compute;

  auto operator<=>(const Shape&) const = default;
};

// A product that cuBLASLt has been asked about.
struct Plan {
  cublaslt::Product* product = nullptr;
  cublaslt::Layout *a = nullptr, *b = nullptr, *d = nullptr;
  cublaslt::HeuristicResult found{};
  bool possible = false;

  Plan() = default;
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    const cublaslt::Library& library = cublaslt::library();
    for (cublaslt::Layout* layout : {a, b, d}) {
      if (layout != nullptr) {
        library.layout_destroy(layout);
      }
    }
    if (product != nullptr) {
      library.product_destroy(product);
    }
  }
};

// Memory that is for good and grows: a graph captured earlier may still use what it was before, so
// that is not given back; as it doubles, all of it is at most twice the last.
struct Room {
  void* data = nullptr;
  size_t bytes = 0;

  void* of(size_t wanted) {
    if (wanted > bytes) {
      const size_t larger = std::max(wanted, 2 * bytes);
      data = allocate_for_good(larger);
      bytes = larger;
    }
    return data;
  }
};

// What products on one stream work in; those of one stream follow one another.
struct StreamRooms {
  Room workspace;
  Room copies[3];  // of x, w and out
};

struct Device {
  cublaslt::Context* handle = nullptr;
  size_t workspace_bytes = 0;
  std::map<Shape, std::unique_ptr<Plan>> plans;
  std::map<void*, StreamRooms> streams;
};

constexpr size_t most_plans = 4096;

// Calls may come from several threads. What is kept lives as long as the process: the driver may
// be gone before destructors run.
struct Kept {
  std::mutex mutex;
  std::map<int, Device> devices;
};
Kept& kept() {
  static Kept& all = *new Kept;
  return all;
}

Device& current() {
  const int number = current_device();
  Device& device = kept().devices[number];
  if (device.handle == nullptr) {
    check_status(cublaslt::library().create(&device.handle), "cublasLtCreate");
    // what cuBLAS itself reserves: more from Hopper on
    device.workspace_bytes = size_t(properties(number).major >= 9 ? 32 : 8) << 20;
  }
  return device;
}

void make(const cublaslt::Library& library, const Device& device, const Shape& shape, Plan& plan) {
  const auto [m, n, k, a_stride, b_stride, d_stride] = shape.numbers;
  const cublaslt::DataType scale =
      shape.compute == cublaslt::compute_64f ? cublaslt::real_64f : cublaslt::real_32f;
  check_status(library.product_create(&plan.product, shape.compute, scale),
               "cublasLtMatmulDescCreate");
  const auto operation = [&](cublaslt::ProductAttribute which, bool transposed) {
    const cublaslt::Operation value = transposed ? cublaslt::transposed : cublaslt::as_it_is;
    check_status(library.product_set(plan.product, which, &value, sizeof value),
                 "cublasLtMatmulDescSetAttribute");
  };
  operation(cublaslt::operation_a, shape.a_transposed);
  operation(cublaslt::operation_b, shape.b_transposed);
  const auto layout = [&](cublaslt::Layout*& to, cublaslt::DataType type, int64_t rows,
                          int64_t cols, int64_t stride, bool transposed) {
    check_status(library.layout_create(&to, type, uint64_t(transposed ? cols : rows),
                                       uint64_t(transposed ? rows : cols), stride),
                 "cublasLtMatrixLayoutCreate");
  };
  layout(plan.a, shape.in, m, k, a_stride, shape.a_transposed);
  layout(plan.b, shape.in, k, n, b_stride, shape.b_transposed);
  layout(plan.d, shape.out, m, n, d_stride, false);

  cublaslt::Preference* preference = nullptr;
  check_status(library.preference_create(&preference), "cublasLtMatmulPreferenceCreate");
  const auto prefer = [&](cublaslt::PreferenceAttribute which, auto value) {
    check_status(library.preference_set(preference, which, &value, sizeof value),
                 "cublasLtMatmulPreferenceSetAttribute");
  };
  prefer(cublaslt::max_workspace_bytes, uint64_t(device.workspace_bytes));
  prefer(cublaslt::reduction_scheme_mask, cublaslt::reduction_in_compute_type);
  prefer(cublaslt::min_alignment_a_bytes, uint32_t(shape.a_alignment));
  prefer(cublaslt::min_alignment_b_bytes, uint32_t(shape.b_alignment));
  prefer(cublaslt::min_alignment_c_bytes, uint32_t(shape.d_alignment));
  prefer(cublaslt::min_alignment_d_bytes, uint32_t(shape.d_alignment));
  int count = 0;
  const cublaslt::Status status =
      library.heuristic(device.handle, plan.product, plan.a, plan.b, plan.d, plan.d, preference, 1,
                        &plan.found, &count);
  library.preference_destroy(preference);
  if (status != cublaslt::not_supported) {
    check_status(status, "cublasLtMatmulAlgoGetHeuristic");
  }
  plan.possible = status == cublaslt::success && count > 0 && plan.found.state == status;
}

const Plan& plan_of(const cublaslt::Library& library, Device& device, const Shape& shape) {
  const auto found = device.plans.find(shape);
  if (found != device.plans.end()) {
    return *found->second;
  }
  if (device.plans.size() >= most_plans) {  // of ever new shapes
    device.plans.clear();
  }
  auto plan = std::make_unique<Plan>();
  make(library, device, shape, *plan);
  return *(device.plans[shape] = std::move(plan));
}

// ---- the product ----

template <class T>
View<T> room_for(Room& room, int64_t rows, int64_t cols) {
  constexpr int64_t whole = 16 / int64_t(sizeof(T));
  const int64_t stride = (cols + whole - 1) / whole * whole;  // each row is aligned
  return rows_of(static_cast<T*>(room.of(size_t(rows * stride) * sizeof(T))), rows, cols, stride);
}

// The operand in memory of ours, aligned. A matrix that lies column after column stays so.
template <class In, class T>
Operand copied(const Context& context, Room& room, View<const T> from) {
  if (from.row_stride == 1 && from.col_stride != 1) {
    const View<In> to = room_for<In>(room, from.cols, from.rows);
    convert<T, In>(context, from.transposed(), to);
    return operand_of<In>(View<const In>(to).transposed());
  }
  const View<In> to = room_for<In>(room, from.rows, from.cols);
  convert<T, In>(context, from, to);
  return operand_of<In>(to);
}

template <class In, class Out>
bool multiply(const Context& context, Device& device, StreamRooms& rooms, const Operand& x,
              const Operand& w, View<Out> out, cublaslt::ComputeType compute) {
  const cublaslt::Library& library = cublaslt::library();
  const int64_t inner = x.transposed ? x.cols : x.rows;
  const int64_t d_stride = out.rows <= 1 ? out.cols : out.row_stride;
  const auto alignment = [](const Operand& of) {
    return alignment_of(of.data, of.stride * int64_t(sizeof(In)));
  };
  const Shape shape{{out.cols, out.rows, inner, w.stride, x.stride, d_stride},
                    w.transposed,
                    x.transposed,
                    alignment(w),
                    alignment(x),
                    alignment_of(out.data, d_stride * int64_t(sizeof(Out))),
                    type_of<In>,
                    type_of<Out>,
                    compute};
  const Plan& plan = plan_of(library, device, shape);
  if (!plan.possible) {
    return false;
  }
  const double one64 = 1, zero64 = 0;
  const float one32 = 1, zero32 = 0;
  const bool is64 = compute == cublaslt::compute_64f;
  const void* one = is64 ? static_cast<const void*>(&one64) : &one32;
  const void* zero = is64 ? static_cast<const void*>(&zero64) : &zero32;
  check_status(library.multiply(device.handle, plan.product, one, w.data, plan.a, x.data, plan.b,
                                zero, out.data, plan.d, out.data, plan.d, &plan.found.algorithm,
                                rooms.workspace.of(device.workspace_bytes), device.workspace_bytes,
                                context.stream),
               "cublasLtMatmul");
  return true;
}

// With inputs as they are; or, where they differ from In, or lie otherwise than the library wants,
// with copies.
template <class In, class T, class Out>
void multiply_any(const Context& context, View<const T> x, View<const T> w, View<Out> out,
                  cublaslt::ComputeType compute) {
  Device& device = current();
  StreamRooms& rooms = device.streams[context.stream];
  Operand a{}, b{};
  if constexpr (std::is_same_v<In, T>) {
    a = operand_of<T>(x);
    b = operand_of<T>(w);
  }
  if (a.data == nullptr) {
    a = copied<In, T>(context, rooms.copies[0], x);
  }
  if (b.data == nullptr) {
    b = copied<In, T>(context, rooms.copies[1], w);
  }
  if (multiply<In, Out>(context, device, rooms, a, b, out, compute)) {
    return;
  }
  // No algorithm takes matrices that lie like this: aligned ones it does.
  a = copied<In, T>(context, rooms.copies[0], x);
  b = copied<In, T>(context, rooms.copies[1], w);
  const View<Out> aligned = room_for<Out>(rooms.copies[2], out.rows, out.cols);
  if (!multiply<In, Out>(context, device, rooms, a, b, aligned, compute)) {
    throw Error("cuBLAS knows no way to multiply (" + std::to_string(out.rows) + ", " +
                std::to_string(x.cols) + ") with (" + std::to_string(x.cols) + ", " +
                std::to_string(out.cols) + ")");
  }
  convert<Out, Out>(context, aligned, out);
}

}  // namespace

template <class In, class Out>
void product(const Context& context, View<const In> x, View<const In> w, View<Out> out) {
  if (out.rows == 0 || out.cols == 0) {
    return;
  }
  if (out.cols > 1 && out.col_stride != 1) {  // column after column: out^T = w^T x^T
    product<In, Out>(context, w.transposed(), x.transposed(), out.transposed());
    return;
  }
  if (x.cols == 0) {
    const auto stride = size_t(out.rows <= 1 ? out.cols : out.row_stride) * sizeof(Out);
    check(cudaMemset2DAsync(out.data, stride, 0, size_t(out.cols) * sizeof(Out), size_t(out.rows),
                            stream_of(context)),
          "cudaMemset2DAsync");
    return;
  }
  const std::lock_guard<std::mutex> lock(kept().mutex);
  if constexpr (std::is_same_v<In, float>) {
    if (context.bfloat16) {
      multiply_any<__nv_bfloat16>(context, x, w, out, cublaslt::compute_32f);
    } else {
      multiply_any<float>(context, x, w, out,
                          context.tf32 ? cublaslt::compute_32f_fast_tf32 : cublaslt::compute_32f);
    }
  } else {
    multiply_any<In>(context, x, w, out,
                     std::is_same_v<In, double> ? cublaslt::compute_64f : cublaslt::compute_32f);
  }
}

template void product<float, float>(const Context&, View<const float>, View<const float>,
                                    View<float>);
template void product<double, double>(const Context&, View<const double>, View<const double>,
                                      View<double>);
template void product<__nv_bfloat16, __nv_bfloat16>(const Context&, View<const __nv_bfloat16>,
                                                    View<const __nv_bfloat16>, View<__nv_bfloat16>);
template void product<__nv_bfloat16, float>(const Context&, View<const __nv_bfloat16>,
                                            View<const __nv_bfloat16>, View<float>);
template void product<__half, __half>(const Context&, View<const __half>, View<const __half>,
                                      View<__half>);
template void product<__half, float>(const Context&, View<const __half>, View<const __half>,
                                     View<float>);
template void convert<float, __nv_bfloat16>(const Context&, View<const float>, View<__nv_bfloat16>);
template void convert<float, __half>(const Context&, View<const float>, View<__half>);
template void convert<__nv_bfloat16, float>(const Context&, View<const __nv_bfloat16>, View<float>);
template void convert<__half, float>(const Context&, View<const __half>, View<float>);
template void convert<int64_t, int64_t>(const Context&, View<const int64_t>, View<int64_t>);
template void convert<bool, bool>(const Context&, View<const bool>, View<bool>);
template void convert<int32_t, int64_t>(const Context&, View<const int32_t>, View<int64_t>);
template void convert<int16_t, int64_t>(const Context&, View<const int16_t>, View<int64_t>);
template void convert<int8_t, int64_t>(const Context&, View<const int8_t>, View<int64_t>);
template void convert<uint8_t, int64_t>(const Context&, View<const uint8_t>, View<int64_t>);
template void convert<float, float>(const Context&, View<const float>, View<float>);
template void convert<double, double>(const Context&, View<const double>, View<double>);
template void convert<__nv_bfloat16, __nv_bfloat16>(const Context&, View<const __nv_bfloat16>,
                                                    View<__nv_bfloat16>);
template void convert<__half, __half>(const Context&, View<const __half>, View<__half>);

}  // namespace fanin::cuda
