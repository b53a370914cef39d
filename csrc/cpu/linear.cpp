// SPDX-License-Identifier: Apache-2.0
#include "../ops/linear.h"

#include "gemm.h"
#include "gemm_lanes.h"
#include "scratch.h"
#include "transpose.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

constexpr int64_t kPackedAtOnce = int64_t{8} << 20;  // bytes of x a thread packs: any number of rows, bounded memory
constexpr int64_t kGrainElements = 16384;            // a thread's share of packing outweighs the start of a region

Dot own_dot(DType t) { return t == DType::bfloat16 ? Dot::bfloat16 : Dot::float32; }
Dot dot_of(const LinearArgs& a) {
  switch (a.packing) {
    case Packing::none: return own_dot(a.dtype);
    case Packing::float32: return Dot::float32;
    case Packing::bfloat16: return Dot::bfloat16;
    case Packing::int8: return Dot::int8;
  }
  return Dot::float32;
}

template <class Packed, class Pack>
void pack_panels(const Packed& p, const Pack& pack) {
  const int64_t elements = (p.steps() * step_size(p.dot) + 1) * 32;
  parallel_for(p.panels(), kGrainElements / elements + 1, [&](int64_t begin, int64_t end) { pack(begin, end); });
}
void pack_all(const PackedA& a, const Source& s) {
  pack_panels(a, [&](int64_t begin, int64_t end) { pack_a(a, s, begin, end); });
}
void pack_all(const PackedB& b, const Source& s) {
  pack_panels(b, [&](int64_t begin, int64_t end) { pack_b(b, s, begin, end); });
}

// Memory and contents of an operand that lives for one call.
struct Rows {
  Scratch memory;
  PackedA packed;
  Rows(Dot dot, int64_t M, int64_t K) : memory(a_bytes(dot, M, K)), packed{dot, M, K, memory.need<char>()} {}
  Rows(Dot dot, int64_t M, int64_t K, const Source& s) : Rows(dot, M, K) { pack_all(packed, s); }
};
struct Columns {
  Scratch memory;
  PackedB packed;
  Columns(Dot dot, int64_t K, int64_t N, const Source& s)
      : memory(b_bytes(dot, K, N)), packed{dot, K, N, memory.need<char>()} {
    pack_all(packed, s);
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
    alignas(64) float offset[kPanel] = {};
    const auto lanes = [&](const auto& body) { for_lanes(columns, [&](int64_t i) { body(i, Vec::lanes); }, body); };
    if (bias) lanes([&](int64_t i, int k) { store(offset + i, load(bias + column + i, k)); });
    const Vec by = broadcast(scale);
    for (int r = 0; r < rows; ++r, tile += kPanel) {
      T* out = y + (row + r) * stride + column;
      lanes([&](int64_t i, int k) { store(out + i, fma(load(tile + i), by, load(offset + i)), k); });
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

template <class T>
void multiply(const PackedA& a, const PackedB& b, const Side& side, const Writer<T>& out) {
  gemm<float>(a, b, Finish<T>{side, out});
}

// What all threads read.
struct Weights {
  PackedB main, down, up;
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
  const bool dense = a.packing == Packing::none;
  const Scratch memory(dense ? b_bytes(dot, a.K, a.N) : 0);
  const PackedB main{dot, a.K, a.N, dense ? memory.need<void>() : const_cast<void*>(a.weight)};
  if (dense) pack_all(main, {a.weight, a.dtype, a.weight_stride_n, a.weight_stride_k});
  const int64_t rank = a.down ? a.rank : 0;
  const Columns down(own, a.K, rank, {a.down, a.dtype, a.K, 1}),
      up(own, rank, rank ? a.N : 0, {a.up, a.dtype, rank, 1});
  const auto* scales = reinterpret_cast<const float*>(static_cast<const char*>(a.weight) + packed_scales(a.N, a.K));
  const Weights w{main, down.packed, up.packed, scales, rank};

  const int64_t chunk = kPackedAtOnce / (a_bytes(dot, 1, a.K) + 1) / kRows * kRows + kRows;
  bool failed = false;
  for_cells(gemm_grid(a.M, main), a.M, main.panels(), [&](int64_t m0, int64_t m1, int64_t n0, int64_t n1) {
    for (int64_t first = m0; first < m1; first += chunk)
      if (!forward_cell<T>(a, w, first, m1 - first < chunk ? m1 - first : chunk, n0, n1))
        return __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
  });
  if (failed) out_of_memory();
}

// ---- backward

// A packed weight, row by row in T, as it stands after rounding.
template <class T>
void unpack(const LinearArgs& a, T* out) {
  const PackedB b{dot_of(a), a.K, a.N, const_cast<void*>(a.weight)};
  const auto* scales = reinterpret_cast<const float*>(static_cast<const char*>(a.weight) + packed_scales(a.N, a.K));
  const int values = 16 * step_size(b.dot);
  const auto line = [&](const char* from, int64_t n, int64_t k) {
    const int64_t count = a.K - k < values ? a.K - k : values;
    for (int64_t i = 0; i < count; ++i) {
      T* to = out + n * a.K + k + i;
      switch (b.dot) {
        case Dot::float32: *to = narrow<T>(reinterpret_cast<const float*>(from)[i]); break;
        case Dot::bfloat16: *to = narrow<T>(widen(reinterpret_cast<const bfloat16*>(from)[i])); break;
        case Dot::int8: *to = narrow<T>(static_cast<float>(static_cast<int8_t>(from[i])) * scales[n]); break;
      }
    }
  };
  pack_panels(b, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p)
      for (int64_t done = 0; done < b.steps(); done += 16) {
        alignas(64) uint32_t steps[16][kPanel] = {}, lines[kPanel][16];
        const int64_t n = b.steps() - done < 16 ? b.steps() - done : 16;
        memcpy(steps, b.panel(p) + done * kStepBytes, static_cast<size_t>(n) * kStepBytes);
        transpose(steps[0], kPanel, 16, kPanel, lines[0], 16);
        for (int j = 0; j < b.columns(p); ++j)
          line(reinterpret_cast<const char*>(lines[j]), p * kPanel + j, done * step_size(b.dot));
      }
  });
}

// out[n] = sum over rows of dy, in blocks of 64 rows, in their order.
template <class T>
void sum_rows(const T* dy, int64_t M, int64_t N, T* out) {
  parallel_for((N + kPanel - 1) / kPanel, 1 + kGrainElements / (kPanel * (M + 1)), [&](int64_t begin, int64_t end) {
    const int64_t last = end * kPanel < N ? end * kPanel : N;
    const auto columns = [&](int64_t n, int k) {
      Vec total = zero();
      for (int64_t first = 0; first < M; first += 64) {
        Vec sum = zero();
        for (int64_t m = first; m < M && m < first + 64; ++m) sum = sum + load(dy + m * N + n, k);
        total = total + sum;
      }
      store(out + n, total, k);
    };
    const int64_t from = begin * kPanel;
    for_lanes(
        last - from, [&](int64_t i) { columns(from + i, Vec::lanes); },
        [&](int64_t i, int k) { columns(from + i, k); });
  });
}

template <class T>
void backward(const LinearBackwardArgs& a) {
  const LinearArgs& f = a.forward;
  const Dot dot = own_dot(f.dtype);
  const int64_t M = f.M, N = f.N, K = f.K, rank = f.down ? f.rank : 0;
  const Source dy{a.dy, f.dtype, N, 1}, x{f.x, f.dtype, f.x_stride, 1};
  const Source dy_across{a.dy, f.dtype, 1, N}, x_across{f.x, f.dtype, 1, f.x_stride};

  const Scratch low_memory(M * rank * 4);  // u = lora_scale dy up
  float* u = low_memory.need<float>();
  const Rows dy_rows(dot, a.dx || (rank && a.ddown) ? M : 0, N, dy);
  if (rank && (a.dx || a.ddown))
    multiply(dy_rows.packed, Columns(dot, N, rank, {f.up, f.dtype, 1, rank}).packed, {},
             Writer<float>{u, rank, f.lora_scale});

  if (a.dx) {
    const bool dense = f.packing == Packing::none;
    const Scratch unpacked(dense ? 0 : N * K * static_cast<int64_t>(sizeof(T)));
    if (!dense) unpack(f, unpacked.need<T>());
    const Source w = dense ? Source{f.weight, f.dtype, f.weight_stride_k, f.weight_stride_n}
                           : Source{unpacked.need<T>(), f.dtype, 1, K};
    const Columns columns(dot, N, K, w), down(dot, rank, rank ? K : 0, {f.down, f.dtype, 1, K});
    const Rows u_rows(dot, rank ? M : 0, rank, {u, DType::float32, rank, 1});
    const Side side = rank ? Side{&u_rows.packed, &down.packed} : Side{};
    multiply(dy_rows.packed, columns.packed, side, Writer<T>{static_cast<T*>(a.dx), K});
  }
  if (a.dweight || (rank && a.ddown)) {
    const Columns columns(dot, M, K, x_across);
    if (a.dweight)
      multiply(Rows(dot, N, M, dy_across).packed, columns.packed, {}, Writer<T>{static_cast<T*>(a.dweight), K});
    if (rank && a.ddown)
      multiply(Rows(dot, rank, M, {u, DType::float32, 1, rank}).packed, columns.packed, {},
               Writer<T>{static_cast<T*>(a.ddown), K});
  }
  if (rank && a.dup) {
    const Scratch memory(M * rank * 4);  // x down^T
    float* low = memory.need<float>();
    multiply(Rows(dot, M, K, x).packed, Columns(dot, K, rank, {f.down, f.dtype, K, 1}).packed, {},
             Writer<float>{low, rank});
    multiply(Rows(dot, N, M, dy_across).packed, Columns(dot, M, rank, {low, DType::float32, 1, rank}).packed, {},
             Writer<T>{static_cast<T*>(a.dup), rank, f.lora_scale});
  }
  if (a.dbias) sum_rows(static_cast<const T*>(a.dy), M, N, static_cast<T*>(a.dbias));
}

}  // namespace

void linear(const LinearArgs& a) {
  switch (a.dtype) {
    case DType::bfloat16: return forward<bfloat16>(a);
    case DType::float16: return forward<float16>(a);
    default: return forward<float>(a);
  }
}

void linear_backward(const LinearBackwardArgs& a) {
  switch (a.forward.dtype) {
    case DType::bfloat16: return backward<bfloat16>(a);
    case DType::float16: return backward<float16>(a);
    default: return backward<float>(a);
  }
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
