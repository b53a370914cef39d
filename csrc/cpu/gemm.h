// SPDX-License-Identifier: Apache-2.0
// Packed matrix products C = A B for kernels of any ISA, with products of float32, bfloat16 (sums in float32) or int8
// (sums in int32, exact, the same bits on every ISA).
//
//   PackedB b{dot, K, N, memory of b_bytes(dot, K, N)};   weights or keys: packed once, in one layout for all ISAs
//   pack_b(b, source, panel range);                       source[k * stride_k + n * stride_n]
//   PackedA a{dot, M, K, memory of a_bytes(dot, M, K)};   activations; the layout is the ISA's own
//   pack_a(a, source, panel range);                       source[m * stride_m + k * stride_k]
//   gemm<float>(a, b, epilogue);                          all of it, on all threads
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

// Where micro_kernel reads rows of A: line 0 of them, side by side, at data; the next line `stride` bytes on, but from
// the last of every `group` lines `leap` bytes on. Windows of a convolution over steps that are packed once: a group is
// a tap, and the leap goes back to the first line, of later steps. A line is asked for when one `ahead` bytes before it
// is read.
struct Lines {
  const void* data;
  int64_t stride, ahead, group = INT64_MAX, leap = 0;
};

// A comes from the third-level cache once it is larger than the second, and its next line is asked for in one burst of
// misses that the hardware does not foresee: without a prefetch float32 at K = 2048 ran at 80 GFLOP/s instead of 111
// (one Zen 4 core, peak 117; with it K = 6144 keeps 95 % of the peak, so that no blocks over K are needed). Prefetching
// B gained nothing.
constexpr int64_t kLinesAhead = 4;
inline Lines lines_of_panel(const void* panel, int rows) {
  return {panel, rows * kLineBytes, kLinesAhead * rows * kLineBytes};
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
  Lines lines_of(int64_t p) const { return lines_of_panel(panel(p), rows(p)); }
};
constexpr int64_t a_bytes(Dot d, int64_t M, int64_t K) {
  return M * ((step_count(d, K) * a_step_bytes(d) + kLineBytes - 1) / kLineBytes) * kLineBytes;
}

// A matrix in memory: element (i, k) at data[i * stride + k * stride_k], i a row of A or a column of B. Float types are
// rounded or widened to those of the product; int8 goes with int8 alone. stride_k = 1 and stride = 1 are fast.
// Rows of A with stride_k = 1 may lie in groups, `group` values of k together and group_stride from one to the next:
// the windows of a dilated convolution.
struct Source {
  const void* data;
  DType dtype;
  int64_t stride, stride_k;
  int64_t group = 0, group_stride = 0;

  int64_t place(int64_t k) const { return group ? k / group * group_stride + k % group : k * stride_k; }
  // Whether `count` values from k on are neighbours.
  bool together(int64_t k, int64_t count) const { return stride_k == 1 && (group == 0 || k % group + count <= group); }
};
void pack_b(const PackedB&, const Source&, int64_t first_panel, int64_t last_panel);
void pack_a(const PackedA&, const Source&, int64_t first_panel, int64_t last_panel);
// All rows of A side by side, line l of them at out + l * M * kLineBytes: a single panel, for Lines.
void pack_lines(Dot, const Source&, int64_t M, int64_t K, void* out);

// Rows of floats (stride_k 1) to int8 on the way into A: scales[m] = max|row| / 127, values are x * (127 / max|row|)
// rounded to nearest even. A row of zeros has scale 0, one with infinities or NaN has scale NaN.
void quantize_a(const PackedA&, const Source&, float* scales, int64_t first_panel, int64_t last_panel);

// c[r * c_stride + j] = start[r * start_stride + j] + sum over `steps` of a's row r times b's column j, for r < rows
// and at least all j < columns <= kPanel; columns are rounded up to whole vectors, which c and start must have room
// for. start may be c (sums that go on) or one row for all (stride 0); null is zero. Floats are summed in blocks of 256
// steps (64 in plain code), each added to what is there. c is float, or int32 for int8. For int8, a holds a + 128 where
// kDotProducts: start with PackedB::offsets() of the panel. See gemm_start.
void micro_kernel(Dot, int rows, int columns, int64_t steps, const Lines& a, const void* b, const void* start,
                  int64_t start_stride, void* c, int64_t c_stride);
inline void micro_kernel(Dot dot, int rows, int columns, int64_t steps, const void* panel, const void* b,
                         const void* start, int64_t start_stride, void* c, int64_t c_stride) {
  micro_kernel(dot, rows, columns, steps, lines_of_panel(panel, rows), b, start, start_stride, c, c_stride);
}

// What the sums of panel p begin with.
inline const void* gemm_start(const PackedB& b, int64_t p) {
  return b.dot == Dot::int8 && kDotProducts ? b.offsets() + p * kPanel : nullptr;
}

// Panels of B that stay in half of a 1 MB second-level cache while all panels of A pass.
inline int64_t b_block(const PackedB& b) {
  const int64_t n = (int64_t{512} << 10) / (b.panel_bytes() + 1);
  return n < 1 ? 1 : n;
}

// A panels [first_m, last_m) times B panels [first_n, last_n), on the calling thread; blocks of B panels, in each all A
// panels, in each the panels of the block. A is a PackedA or has its first, rows and lines_of.
template <class Sum, class A, class Epilogue>
void gemm_block(const A& a, int64_t first_m, int64_t last_m, const PackedB& b, int64_t first_n, int64_t last_n,
                const Epilogue& epilogue) {
  alignas(64) Sum tile[kRows * kPanel];
  const int64_t width = b_block(b), steps = b.steps();
  for (int64_t block = first_n; block < last_n; block += width)
    for (int64_t m = first_m; m < last_m; ++m)
      for (int64_t n = block; n < last_n && n < block + width; ++n) {
        const int rows = a.rows(m), columns = b.columns(n);
        micro_kernel(b.dot, rows, columns, steps, a.lines_of(m), b.panel(n), gemm_start(b, n), 0, tile, kPanel);
        epilogue(a.first(m), rows, n * kPanel, columns, tile);
      }
}

// How M rows and the panels of B are shared between threads: in parts_m * parts_n cells.
struct Grid {
  int64_t parts_m, parts_n;
};

// The grid whose cells take the shortest. A cell of r rows and p panels takes for each step 2 r p cycles of products,
// and, roughly, `row` r to pack its rows and `panel` p to fetch its panels. Threads are worth starting for 20000 cycles
// each.
inline Grid gemm_grid(int64_t M, int64_t P, int64_t steps, double row, double panel) {
  const int64_t most = M * P * 2 * (steps + 1) / 20000;
  int64_t threads = max_threads();
  threads = threads < most ? threads : most < 1 ? 1 : most;
  Grid best{1, 1};
  double least = 0;
  for (int64_t parts = 1; parts <= threads; ++parts) {
    if (threads % parts) continue;
    const auto r = static_cast<double>((M + parts - 1) / parts);
    const auto p = static_cast<double>((P + threads / parts - 1) / (threads / parts));
    const double cycles = 2 * r * p + row * r + panel * p;
    if (parts == 1 || cycles < least) least = cycles, best = {parts, threads / parts};
  }
  return best;
}
inline Grid gemm_grid(int64_t M, const PackedB& b) { return gemm_grid(M, b.panels(), b.steps(), 0.75, 4); }

// body(first_m, last_m, first_n, last_n) on disjoint ranges that cover [0, M) times [0, N), cell by cell.
template <class Body>
void for_cells(const Grid& grid, int64_t M, int64_t N, const Body& body) {
  const int64_t pm = grid.parts_m, pn = grid.parts_n;
  parallel_for(pm * pn, 1, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const int64_t i = c / pn, j = c % pn;
      if (i * M / pm < (i + 1) * M / pm && j * N / pn < (j + 1) * N / pn)
        body(i * M / pm, (i + 1) * M / pm, j * N / pn, (j + 1) * N / pn);
    }
  });
}

template <class Sum, class Epilogue>
void gemm(const PackedA& a, const PackedB& b, const Epilogue& epilogue) {
  for_cells(gemm_grid(a.M, b), a.panels(), b.panels(),
            [&](int64_t m0, int64_t m1, int64_t n0, int64_t n1) { gemm_block<Sum>(a, m0, m1, b, n0, n1, epilogue); });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
