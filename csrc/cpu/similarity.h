// SPDX-License-Identifier: Apache-2.0
// Products of all rows of X [M, K] with all rows of Y [N, K], S = X Y^T, for ops that reduce S and never store it.
//
// S is made in strips of about kStripRows rows; within a strip by blocks of one panel, kPanel columns, which lie in
// a thread's first two caches while an op works on them. Threads share the panels of a strip. Whatever they sum over
// columns of S is one thread's business strip by strip, and whatever they sum over rows goes through fixed chunks of
// panels, so that no number of threads changes a bit.
#pragma once
#include "gemm.h"
#include "scratch.h"
#include "vec.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

constexpr int kStripRows = 224 / kRows * kRows;

// products[r * kPanel + c] of rows [row, row + rows) and columns [column, column + columns); zeros in the columns
// beyond, which are padding.
struct Block {
  float* products;
  int64_t row, column;
  int rows, columns;

  float* operator[](int r) const { return products + r * kPanel; }
};

inline Dot dot_of(DType t) { return t == DType::bfloat16 ? Dot::bfloat16 : Dot::float32; }

struct Matrix {
  Source source;  // rows, stride_k = 1
  int64_t rows;

  Source from(int64_t row) const {
    const auto* first = static_cast<const char*>(source.data) + row * source.stride * item_size(source.dtype);
    return {first, source.dtype, source.stride, source.stride_k};
  }
};

// Both matrices, Y packed as columns of the product.
class Products {
 public:
  const Matrix x, y;
  const int64_t K;
  const Dot dot;

  Products(const Matrix& left, const Matrix& right, int64_t depth, int64_t strip_rows = kStripRows)
      : x(left),
        y(right),
        K(depth),
        dot(dot_of(x.source.dtype)),
        strip_rows_(strip_rows),
        y_memory_(b_bytes(dot, K, y.rows)),
        x_memory_(a_bytes(dot, strip_rows, K)),
        y_{dot, K, y.rows, y_memory_.need<void>()},
        x_{dot, 0, K, x_memory_.need<void>()} {
    parallel_for(y_.panels(), grain(), [&](int64_t begin, int64_t end) { pack_b(y_, y.source, begin, end); });
  }

  int64_t panels() const { return y_.panels(); }
  int64_t strips() const { return (x.rows + strip_rows_ - 1) / strip_rows_; }
  int64_t first_row(int64_t strip) const { return strip * strip_rows_; }
  int rows(int64_t strip) const {
    const int64_t left = x.rows - first_row(strip);
    return static_cast<int>(left < strip_rows_ ? left : strip_rows_);
  }

  // Panels that sums over rows go through together: some thirty chunks, where there are so many panels.
  int64_t chunk_panels() const { return panels() < 64 ? 1 : panels() < 256 ? 2 : 8; }
  int64_t chunks() const { return (panels() + chunk_panels() - 1) / chunk_panels(); }
  int64_t chunk_begin(int64_t chunk) const { return chunk * chunk_panels(); }
  int64_t chunk_end(int64_t chunk) const {
    const int64_t end = (chunk + 1) * chunk_panels();
    return end < panels() ? end : panels();
  }

  // Packs a strip of X; outside parallel regions.
  void begin_strip(int64_t strip) {
    strip_ = strip;
    x_.M = rows(strip);
    const Source s = x.from(first_row(strip));
    parallel_for(x_.panels(), 1 + 65536 / (kRows * (K + 1)),
                 [&](int64_t begin, int64_t end) { pack_a(x_, s, begin, end); });
  }

  // The block of the strip begun last and of one panel, into block_bytes().
  Block block(int64_t panel, float* products) const {
    for (int64_t m = 0; m < x_.panels(); ++m)
      micro_kernel(dot, x_.rows(m), kPanel, y_.steps(), x_.panel(m), y_.panel(panel), nullptr, 0,
                   products + x_.first(m) * kPanel, kPanel);
    return {products, first_row(strip_), panel * kPanel, static_cast<int>(x_.M), y_.columns(panel)};
  }

  int64_t block_bytes() const { return strip_rows_ * kPanel * 4; }

  // Calls body(chunk, memory) for all chunks of the strip begun last, on all threads; memory of `bytes` for each.
  // A thread that is done does not take over another's chunks: tried, it gained nothing (two threads, B 4096, E 512 of
  // info_nce; B 512, S 30 of segment_similarity).
  template <class Body>
  void for_chunks(int64_t bytes, const Body& body) const {
    const int64_t work = x_.M * chunk_panels() * kPanel * (K + 16);
    bool ready = true;
    parallel_for(chunks(), 1 + (int64_t{1} << 20) / work, [&](int64_t begin, int64_t end) {
      const Scratch memory(bytes);
      if (!memory.ready()) return __atomic_store_n(&ready, false, __ATOMIC_RELAXED);
      for (int64_t chunk = begin; chunk < end; ++chunk) body(chunk, memory.as<char>());
    });
    if (!ready) out_of_memory();
  }

 private:
  int64_t grain() const { return 1 + 16384 / (kPanel * (K + 1)); }

  int64_t strip_rows_, strip_ = 0;
  Scratch y_memory_, x_memory_;
  PackedB y_;
  PackedA x_;
};

// Gradients of X and Y from G = dL/dS: dX = G Y and dY = G^T X, each where wanted.
//
// A strip's G is kept in the packed form of a left operand for dX; a block of it is a panel of a right operand for
// dY^T, which is summed panel by panel, [panels][K][kPanel], over the strips in their order.
//
//   transform(block)             products to G, in place, zeros in the padding; called by the thread that owns the
//   panel write_x(row, dx), write_y(column, dy)   receive K finished floats
template <class Transform, class WriteX, class WriteY>
void product_gradients(Products& s, bool wants_x, bool wants_y, const Transform& transform, const WriteX& write_x,
                       const WriteY& write_y) {
  const int64_t K = s.K, N = s.y.rows, panels = s.panels(), wide_K = (K + kPanel - 1) / kPanel * kPanel;
  const Dot dot = s.dot;
  const int strip_rows = s.strips() ? s.rows(0) : 0;
  // lines of 64 bytes that kPanel columns of one row of G make
  const int64_t lines = step_count(dot, kPanel) * a_step_bytes(dot) / kLineBytes;

  const Scratch y_rows(wants_x ? b_bytes(dot, N, K) : 0),
      g_strip(wants_x ? a_bytes(dot, strip_rows, panels * kPanel) : 0), dx_strip(wants_x ? strip_rows * wide_K * 4 : 0),
      x_columns(wants_y ? a_bytes(dot, K, strip_rows) : 0), dy_panels(wants_y ? panels * K * kPanel * 4 : 0);
  const PackedB y{dot, N, K, y_rows.need<void>()};
  auto *dx = dx_strip.need<float>(), *dy = dy_panels.need<float>();
  if (wants_x) {
    const Source rows{s.y.source.data, s.y.source.dtype, 1, s.y.source.stride};
    parallel_for(y.panels(), 1, [&](int64_t begin, int64_t end) { pack_b(y, rows, begin, end); });
  }

  for (int64_t strip = 0; strip < s.strips(); ++strip) {
    s.begin_strip(strip);
    const int rows = s.rows(strip);
    const PackedA g{dot, rows, panels * kPanel, g_strip.need<void>()};
    const PackedA x{dot, K, rows, x_columns.need<void>()};
    if (wants_y) {
      const Source from = s.x.from(s.first_row(strip)), columns{from.data, from.dtype, 1, from.stride};
      parallel_for(x.panels(), 1, [&](int64_t begin, int64_t end) { pack_a(x, columns, begin, end); });
    }
    s.for_chunks(s.block_bytes() + b_bytes(dot, strip_rows, kPanel), [&](int64_t chunk, char* memory) {
      auto* products = reinterpret_cast<float*>(memory);
      char* rounded = memory + s.block_bytes();
      for (int64_t p = s.chunk_begin(chunk); p < s.chunk_end(chunk); ++p) {
        const Block block = s.block(p, products);
        transform(block);
        if (wants_x)
          for (int64_t m = 0; m < g.panels(); ++m)
            pack_a(PackedA{dot, g.rows(m), kPanel, g.panel(m) + p * lines * g.rows(m) * kLineBytes},
                   Source{block[static_cast<int>(g.first(m))], DType::float32, kPanel, 1}, 0, 1);
        if (wants_y) {
          const PackedB b{dot, rows, kPanel, dot == Dot::float32 ? static_cast<void*>(products) : rounded};
          if (dot != Dot::float32) pack_b(b, Source{products, DType::float32, 1, kPanel}, 0, 1);
          for (int64_t k = 0; k < x.panels(); ++k) {
            float* c = dy + (p * K + x.first(k)) * kPanel;
            micro_kernel(dot, x.rows(k), kPanel, b.steps(), x.panel(k), b.data, strip ? c : nullptr, kPanel, c, kPanel);
          }
        }
      }
    });
    if (!wants_x) continue;
    // A thread's tiles of dX, part of the sum after part: G's part stays in the second cache for all columns of Y.
    constexpr int64_t kPart = 512;
    const int64_t line_steps = kLineBytes / a_step_bytes(dot);
    parallel_for(y.panels() * g.panels(), 1 + (int64_t{1} << 20) / (kRows * kPanel * (N + 1)),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t k = 0; k < y.steps(); k += kPart)
                     for (int64_t t = begin; t < end; ++t) {
                       const int64_t m = t % g.panels(), n = t / g.panels();
                       float* c = dx + g.first(m) * wide_K + n * kPanel;
                       micro_kernel(dot, g.rows(m), kPanel, y.steps() - k < kPart ? y.steps() - k : kPart,
                                    g.panel(m) + k / line_steps * g.rows(m) * kLineBytes, y.panel(n) + k * kStepBytes,
                                    k ? c : nullptr, wide_K, c, wide_K);
                     }
                 });
    parallel_for(rows, 1 + 16384 / (K + 1), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) write_x(s.first_row(strip) + r, dx + r * wide_K);
    });
  }
  if (!wants_y) return;
  bool ready = true;
  parallel_for(panels, 1 + 16384 / (kPanel * (K + 1)), [&](int64_t begin, int64_t end) {
    const Scratch transposed(kPanel * K * 4);
    if (!transposed.ready()) return __atomic_store_n(&ready, false, __ATOMIC_RELAXED);
    auto* t = transposed.as<float>();
    for (int64_t p = begin; p < end; ++p) {
      const float* c = dy + p * K * kPanel;
      for (int64_t k = 0; k < K; ++k)
        for (int j = 0; j < kPanel; ++j) t[j * K + k] = c[k * kPanel + j];
      for (int j = 0; j < kPanel && p * kPanel + j < N; ++j) write_y(p * kPanel + j, t + j * K);
    }
  });
  if (!ready) out_of_memory();
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
