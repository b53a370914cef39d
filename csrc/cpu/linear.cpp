// SPDX-License-Identifier: Apache-2.0
#include "gemm_lanes.h"
#include "linear_tiles.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

constexpr int64_t kPackedAtOnce = int64_t{8} << 20;  // bytes of x a thread packs: any number of rows, bounded memory

template <class T>
struct FinishInt8 {
  const float *row_scales, *column_scales;
  Finish<T> rest;

  void operator()(int64_t row, int rows, int64_t column, int columns, const int32_t* sums) const {
    alignas(64) float tile[kRows * kPanel];
    for (int i = 0; i < columns; i += Vec::lanes) {
      const Vec by = load(column_scales + column + i);
      for (int r = 0; r < rows; ++r)
        store(tile + r * kPanel + i, from_int32(sums + r * kPanel + i) * broadcast(row_scales[row + r]) * by);
    }
    rest(row, rows, column, columns, tile);
  }
};

// What all threads read.
struct Weights {
  PackedB main, down, up;
  Source plain;                // where main is not packed
  const float* column_scales;  // int8
  int64_t rank;                // 0 without a side path
};

// Rows [first, first + rows) of x times panels [first_n, last_n) of the weight, on one thread; false where memory ran
// out. x goes through the thread's second-level cache: packed, multiplied, forgotten.
template <class T>
bool forward_cell(const LinearArgs& a, const Weights& w, int64_t first, int64_t rows, int64_t first_n, int64_t last_n) {
  const Dot dot = w.main.dot, own = own_dot(a.dtype);
  const Source x{static_cast<const T*>(a.x) + first * a.x_stride, a.dtype, a.x_stride, 1};
  const bool apart = w.rank && dot != own;  // the side path reads x in a form of its own
  const Scratch memory(a_bytes(dot, rows, a.K)), scales(dot == Dot::int8 ? rows * 4 : 0),
      own_memory(apart ? a_bytes(own, rows, a.K) : 0), low(rows * w.rank * 4), low_memory(a_bytes(own, rows, w.rank));
  if (!memory.ready() || !scales.ready() || !own_memory.ready() || !low.ready() || !low_memory.ready()) return false;
  const PackedA packed{dot, rows, a.K, memory.as<void>()}, low_packed{own, rows, w.rank, low_memory.as<void>()};
  const int64_t panels = packed.panels();
  if (dot == Dot::int8)
    quantize_a(packed, x, scales.as<float>(), 0, panels);
  else
    pack_a(packed, x, 0, panels);

  Side side;
  if (w.rank) {
    const PackedA again{own, rows, a.K, own_memory.as<void>()};
    if (apart) pack_a(again, x, 0, panels);
    const Writer<float> to_low{low.as<float>(), w.rank, a.lora_scale};
    gemm_block<float>(apart ? again : packed, 0, panels, w.down, 0, w.down.panels(), Finish<float>{{}, to_low});
    pack_a(low_packed, {low.as<float>(), DType::float32, w.rank, 1}, 0, panels);
    side = {&low_packed, &w.up};
  }
  const Writer<T> out{static_cast<T*>(a.y) + first * a.N, a.N, 1.0f, static_cast<const T*>(a.bias)};
  if (w.plain.data) return gemm_plain(packed, w.main, w.plain, first_n, last_n, Finish<T>{side, out});
  if (dot == Dot::int8)
    gemm_block<int32_t>(packed, 0, panels, w.main, first_n, last_n,
                        FinishInt8<T>{scales.as<float>(), w.column_scales, {side, out}});
  else
    gemm_block<float>(packed, 0, panels, w.main, first_n, last_n, Finish<T>{side, out});
  return true;
}

template <class T>
void forward(const LinearArgs& a) {
  const Dot dot = dot_of(a), own = own_dot(a.dtype);
  const bool plain = a.packing == Packing::none;
  const PackedB main{dot, a.K, a.N, const_cast<void*>(a.weight)};
  const int64_t rank = a.down ? a.rank : 0;
  const Columns down(own, a.K, rank, {a.down, a.dtype, a.K, 1}),
      up(own, rank, rank ? a.N : 0, {a.up, a.dtype, rank, 1});
  const auto* scales = reinterpret_cast<const float*>(static_cast<const char*>(a.weight) + packed_scales(a.N, a.K));
  const Source source{plain ? a.weight : nullptr, a.dtype, a.weight_stride_n, a.weight_stride_k};
  const Weights w{main, down.packed, up.packed, source, scales, rank};

  bool failed = false;
  for_cells(gemm_grid(a.M, main), a.M, main.panels(), [&](int64_t m0, int64_t m1, int64_t n0, int64_t n1) {
    const RowChunks chunks(dot, a.K, m1 - m0, plain ? kPlainAtOnce : kPackedAtOnce);
    for (int64_t i = 0; i < chunks.count; ++i)
      if (!forward_cell<T>(a, w, m0 + chunks.first(i), chunks.rows(i), n0, n1))
        return __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
  });
  if (failed) out_of_memory();
}

}  // namespace

void linear(const LinearArgs& a) {
  switch (a.dtype) {
    case DType::bfloat16: return forward<bfloat16>(a);
    case DType::float16: return forward<float16>(a);
    default: return forward<float>(a);
  }
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
