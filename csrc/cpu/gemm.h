// SPDX-License-Identifier: Apache-2.0
// Packed matrix products C = A B for kernels of any ISA, with products of float32, bfloat16 (sums in float32) or int8
// (sums in int32, exact, the same bits on every ISA).
//
//   PackedB b{dot, K, N, memory of b_bytes(dot, K, N)};   weights or keys: packed once, in one layout for all ISAs
//   pack_b(b, source, panel range);                       source[k * stride_k + n * stride_n]
//   PackedA a{dot, M, K, memory of a_bytes(dot, M, K)};   activations; the layout is the ISA's own
//   pack_a(a, source, panel range);                       source[m * stride_m + k * stride_k]
//   gemm_tiles<float>(a, b, begin, end, epilogue);        tiles [begin, end) of a.panels() * b.panels()
//
// epilogue(row, rows, column, columns, tile) gets finished sums in L1, tile[r * kPanel + c], and is the only one to
// write to memory: bias, activation, residual, row statistics, argmax go there. gemm(...) does all tiles on all
// threads. A tile's sums run over k in one fixed order, whatever the split over threads: the same bits for any number
// of them. micro_kernel(...) is the product of one A panel with part of one B panel, for kernels with a loop order of
// their own.
//
// Layouts. B is cut into panels of kPanel = 32 columns; a panel holds for each step (1, 2 or 4 values of k: 4 bytes)
// the 32 columns side by side, 128 bytes. Where K is no multiple of the step, zeros fill up; so do columns beyond N.
// A is cut into panels of at most kRows rows, evenly; a panel holds, line by line, 64 bytes of each of its rows.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../dtype.h"
#include "parallel.h"

#ifndef PRESTISSIMO_ISA
#error "gemm.h is for kernels that are compiled once per ISA"
#endif

namespace prestissimo::cpu::PRESTISSIMO_ISA {

enum class Dot : uint8_t { float32, bfloat16, int8 };

constexpr int kPanel = 32;       // columns of a B panel
constexpr int kStepBytes = 128;  // of one step of a B panel
constexpr int kLineBytes = 64;   // of one row in one line of an A panel
#if defined(__AVX512F__)
constexpr int kRows = 14;  // at most, of an A panel: 28 sums of 16 lanes stay in registers
#elif defined(__AVX2__)
constexpr int kRows = 6;
#else
constexpr int kRows = 4;
#endif
// Without the dot product of its type an ISA widens: bfloat16 to float32, int8 to int16, each 8 bytes a step in A.
#if defined(__AVX512BF16__) && defined(__AVX512VNNI__)
constexpr bool kDotProducts = true;
#else
constexpr bool kDotProducts = false;
#endif

constexpr int step_size(Dot d) { return d == Dot::float32 ? 1 : d == Dot::bfloat16 ? 2 : 4; }
constexpr int64_t step_count(Dot d, int64_t K) { return (K + step_size(d) - 1) / step_size(d); }
constexpr int a_step_bytes(Dot d) { return d == Dot::float32 || kDotProducts ? 4 : 8; }

// A view of packed columns. For int8, behind the panels: int32 [panels * kPanel], -128 times the sum of each column,
// which is what unsigned activations (a + 128) add too much.
struct PackedB {
  Dot dot;
  int64_t K, N;
  void* data;

  int64_t steps() const { return step_count(dot, K); }
  int64_t panels() const { return (N + kPanel - 1) / kPanel; }
  int64_t panel_bytes() const { return steps() * kStepBytes; }
  char* panel(int64_t p) const { return static_cast<char*>(data) + p * panel_bytes(); }
  int columns(int64_t p) const { return static_cast<int>(N - p * kPanel < kPanel ? N - p * kPanel : kPanel); }
  int32_t* offsets() const { return reinterpret_cast<int32_t*>(panel(panels())); }
};
constexpr int64_t b_bytes(Dot d, int64_t K, int64_t N) {
  return (N + kPanel - 1) / kPanel * (step_count(d, K) * kStepBytes + (d == Dot::int8 ? kPanel * 4 : 0));
}

// A view of packed rows: panel p holds rows [first(p), first(p + 1)).
struct PackedA {
  Dot dot;
  int64_t M, K;
  void* data;

  int64_t steps() const { return step_count(dot, K); }
  int64_t lines() const { return (steps() * a_step_bytes(dot) + kLineBytes - 1) / kLineBytes; }
  int64_t panels() const { return (M + kRows - 1) / kRows; }
  int64_t first(int64_t p) const { return p * M / panels(); }
  int rows(int64_t p) const { return static_cast<int>(first(p + 1) - first(p)); }
  char* panel(int64_t p) const { return static_cast<char*>(data) + first(p) * lines() * kLineBytes; }
};
constexpr int64_t a_bytes(Dot d, int64_t M, int64_t K) {
  return M * ((step_count(d, K) * a_step_bytes(d) + kLineBytes - 1) / kLineBytes) * kLineBytes;
}

// A matrix in memory: element (i, k) at data[i * stride + k * stride_k], i a row of A or a column of B. Float types are
// rounded or widened to those of the product; int8 goes with int8 alone. stride_k = 1 and stride = 1 are fast.
struct Source {
  const void* data;
  DType dtype;
  int64_t stride, stride_k;
};
void pack_b(const PackedB&, const Source&, int64_t first_panel, int64_t last_panel);
void pack_a(const PackedA&, const Source&, int64_t first_panel, int64_t last_panel);

// Rows of floats (stride_k 1) to int8 on the way into A: scales[m] = max|row| / 127, values are x * (127 / max|row|)
// rounded to nearest even. A row of zeros has scale 0, one with infinities or NaN has scale NaN.
void quantize_a(const PackedA&, const Source&, float* scales, int64_t first_panel, int64_t last_panel);

// c[r * c_stride + j] = start[r * start_stride + j] + sum over `steps` of a's row r times b's column j, for r < rows
// and at least all j < columns <= kPanel; columns are rounded up to whole vectors, which c and start must have room
// for. start may be c (sums that go on) or one row for all (stride 0); null is zero. c is float, or int32 for int8. For
// int8, a holds a + 128 where kDotProducts: start with PackedB::offsets() of the panel. See gemm_start.
void micro_kernel(Dot, int rows, int columns, int64_t steps, const void* a, const void* b, const void* start,
                  int64_t start_stride, void* c, int64_t c_stride);

// What the sums of panel p begin with.
inline const void* gemm_start(const PackedB& b, int64_t p) {
  return b.dot == Dot::int8 && kDotProducts ? b.offsets() + p * kPanel : nullptr;
}

// Panels of B that stay in half of a 1 MB second-level cache while all panels of A pass.
inline int64_t b_block(const PackedB& b) {
  const int64_t n = (int64_t{512} << 10) / (b.panel_bytes() + 1);
  return n < 1 ? 1 : n;
}

// Tiles in the order: blocks of B panels, in each all A panels, in each the panels of the block.
template <class Sum, class Epilogue>
void gemm_tiles(const PackedA& a, const PackedB& b, int64_t begin, int64_t end, const Epilogue& epilogue) {
  alignas(64) Sum tile[kRows * kPanel];
  const int64_t block = b_block(b), rows_of_tiles = a.panels(), per_block = block * rows_of_tiles, steps = b.steps();
  for (int64_t t = begin; t < end; ++t) {
    const int64_t first = t / per_block * block, rest = t - t / per_block * per_block;
    const int64_t width = b.panels() - first < block ? b.panels() - first : block;
    const int64_t m = rest / width, n = first + rest % width;
    const int rows = a.rows(m), columns = b.columns(n);
    micro_kernel(a.dot, rows, columns, steps, a.panel(m), b.panel(n), gemm_start(b, n), 0, tile, kPanel);
    epilogue(a.first(m), rows, n * kPanel, columns, tile);
  }
}

template <class Sum, class Epilogue>
void gemm(const PackedA& a, const PackedB& b, const Epilogue& epilogue) {
  if (a.M == 0 || b.N == 0) return;
  parallel_for(a.panels() * b.panels(), 1 + 65536 / (b.panel_bytes() + 1),
               [&](int64_t begin, int64_t end) { gemm_tiles<Sum>(a, b, begin, end, epilogue); });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
