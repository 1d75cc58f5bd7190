// What ../tensor_core.cuh says, on the CPU: lanes hand one another what they hold.
#pragma once

namespace fanin::cuda {

inline tf32 to_tf32(float x) {
  const uint32_t bits = __float_as_uint(x);
  const bool finite = (bits & 0x7F800000) != 0x7F800000;
  return {finite ? __uint_as_float((bits + 0x1000) & ~0x1FFFu) : x};
}

inline const char tensor_core_operations[3] = {};  // their addresses tell them apart

template <bool transposed, class T>
void load_matrices(uint32_t (&m)[4], const T* row) {
  static_assert(sizeof(T) == 2);
  if (uintptr_t(row) % 16 != 0) {
    emulated::fail("load_matrices: a row that does not begin at a multiple of 16 bytes");
  }
  const emulated::Exchange<const T*> rows(&tensor_core_operations[0], all_lanes, row);
  const unsigned lane = emulated::Block::get().lane();
  for (unsigned i = 0; i < 4; ++i) {
    T two[2];
    for (unsigned h = 0; h < 2; ++h) {
      const unsigned across = lane % 4 * 2 + h, along = lane / 4;
      two[h] = transposed ? rows.read(8 * i + across)[along] : rows.read(8 * i + along)[across];
    }
    std::memcpy(&m[i], two, sizeof two);
  }
}

template <class In>
void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const emulated::Exchange<uint4> all_a(&tensor_core_operations[1], all_lanes,
                                        {a[0], a[1], a[2], a[3]});
  uint32_t of_a[32][4], of_b[32][2];
  for (unsigned lane = 0; lane < 32; ++lane) {
    const uint4 held = all_a.read(lane);
    std::memcpy(of_a[lane], &held, sizeof held);
  }
  const emulated::Exchange<uint2> all_b(&tensor_core_operations[2], all_lanes, {b0, b1});
  for (unsigned lane = 0; lane < 32; ++lane) {
    const uint2 held = all_b.read(lane);
    std::memcpy(of_b[lane], &held, sizeof held);
  }
  constexpr unsigned packed = 4 / sizeof(In), depth = 8 * packed;
  // Element p of a row of a, or of a column of b, out of what each lane holds of it in [slot].
  const auto element = [](uint32_t word, unsigned p) {
    if constexpr (packed == 1) {
      return __uint_as_float(word);
    } else {
      return float(std::bit_cast<In>(uint16_t(word >> 16 * (p % 2))));
    }
  };
  const unsigned self = emulated::Block::get().lane();
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = self / 4 + i / 2 * 8, col = self % 4 * 2 + i % 2;
    for (unsigned p = 0; p < depth; ++p) {
      const unsigned holder = p / packed % 4, half = p / packed / 4;
      const float x = element(of_a[row % 8 * 4 + holder][row / 8 + 2 * half], p);
      const float y = element(of_b[col * 4 + holder][half], p);
      c[i] = fmaf(x, y, c[i]);
    }
  }
}

inline void prefetch(const void*) {}

}  // namespace fanin::cuda
