// SPDX-License-Identifier: Apache-2.0
// What happens to the tiles of a linear layer's products, forward and backward.
#pragma once
#include "../ops/linear.h"
#include "gemm_plain.h"
#include "store_two.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

inline Dot own_dot(DType t) { return t == DType::bfloat16 ? Dot::bfloat16 : Dot::float32; }
inline Dot dot_of(const LinearArgs& a) {
  switch (a.packing) {
    case Packing::none: return own_dot(a.dtype);
    case Packing::float32: return Dot::float32;
    case Packing::bfloat16: return Dot::bfloat16;
    case Packing::int8: return Dot::int8;
  }
  return Dot::float32;
}

constexpr int64_t kGrainElements = 16384;  // a thread's share of packing outweighs the start of a region

// pack(begin, end) on ranges of the panels of a packed operand.
template <class Packed, class Pack>
void pack_panels(const Packed& p, const Pack& pack) {
  const int64_t elements = (p.steps() * step_size(p.dot) + 1) * kPanel;
  parallel_for(p.panels(), kGrainElements / elements + 1, pack);
}

// A small weight that all threads read, packed for one call.
struct Columns {
  Scratch memory;
  PackedB packed;
  Columns(Dot dot, int64_t K, int64_t N, const Source& s)
      : memory(b_bytes(dot, K, N)), packed{dot, K, N, memory.need<char>()} {
    pack_panels(packed, [&](int64_t begin, int64_t end) { pack_b(packed, s, begin, end); });
  }
};

// A second product, added to the tiles of a first one that has the same rows and columns.
struct Side {
  const PackedA* a = nullptr;
  const PackedB* b = nullptr;

  void add(int64_t row, int rows, int64_t column, int columns, float* tile) const {
    if (!a) return;
    const char* panel = static_cast<const char*>(a->data) + row * a->lines() * kLineBytes;
    micro_kernel(a->dot, rows, columns, b->steps(), panel, b->panel(column / kPanel), tile, kPanel, tile, kPanel);
  }
};

// y = tile * scale + bias, in T.
template <class T>
struct Writer {
  T* y;
  int64_t stride;
  float scale = 1.0f;
  const T* bias = nullptr;

  void write(int64_t row, int rows, int64_t column, int columns, const float* tile) const {
    constexpr int L = Vec::lanes;
    alignas(64) float offset[kPanel] = {};
    if (bias) {
      const auto widen_bias = [&](int64_t i, int k) { store(offset + i, load(bias + column + i, k)); };
      for_lanes(columns, [&](int64_t i) { widen_bias(i, L); }, widen_bias);
    }
    const Vec by = broadcast(scale);
    for (int r = 0; r < rows; ++r, tile += kPanel) {
      T* out = y + (row + r) * stride + column;
      const auto value = [&](int64_t i) { return fma(load(tile + i), by, load(offset + i)); };
      int i = 0;
      for (; i + 2 * L <= columns; i += 2 * L) store_two(out + i, value(i), value(i + L));
      for (; i < columns; i += L) store(out + i, value(i), columns - i < L ? columns - i : L);
    }
  }
};

// What happens to a tile of sums.
template <class T>
struct Finish {
  Side side;
  Writer<T> out;

  void operator()(int64_t row, int rows, int64_t column, int columns, float* tile) const {
    side.add(row, rows, column, columns, tile);
    out.write(row, rows, column, columns, tile);
  }
};

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
