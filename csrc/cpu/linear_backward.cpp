// SPDX-License-Identifier: Apache-2.0
#include "linear_tiles.h"
#include "storage.h"
#include "transpose.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

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
  constexpr int64_t kColumns = 1024;  // their sums lie in L1 while the rows are read along
  parallel_for(
      (N + kColumns - 1) / kColumns, 1 + kGrainElements / (kColumns * (M + 1)), [&](int64_t begin, int64_t end) {
        alignas(64) float sums[kColumns], totals[kColumns];
        for (int64_t c = begin; c < end; ++c) {
          const int64_t n = N - c * kColumns < kColumns ? N - c * kColumns : kColumns;
          const auto each = [&](const auto& body) { for_lanes(n, [&](int64_t i) { body(i, Vec::lanes); }, body); };
          memset(totals, 0, sizeof totals);
          for (int64_t first = 0; first < M; first += 64) {
            memset(sums, 0, sizeof sums);
            for (int64_t m = first; m < M && m < first + 64; ++m)
              each([&](int64_t i, int k) {
                store(sums + i, load(sums + i, k) + load(dy + m * N + c * kColumns + i, k), k);
              });
            each([&](int64_t i, int k) { store(totals + i, load(totals + i, k) + load(sums + i, k), k); });
          }
          each([&](int64_t i, int k) { store(out + c * kColumns + i, load(totals + i, k), k); });
        }
      });
}

// A product of operands that lie plain in memory, [M, K] times [K, N], and what is added to it: side rows [M, rank]
// times a packed [rank, N].
struct Product {
  Dot dot;
  int64_t M, K, N;
  Source rows, columns;
  Source side_rows = {};
  const PackedB* side = nullptr;
};

Source below(Source s, int64_t rows) {
  s.data = static_cast<const char*>(s.data) + rows * s.stride * item_size(s.dtype);
  return s;
}

// Rows [first, first + rows) times panels [first_n, last_n), on one thread; false where memory ran out.
template <class T>
bool multiply_cell(const Product& p, const PackedB& b, Writer<T> out, int64_t first, int64_t rows, int64_t first_n,
                   int64_t last_n) {
  const int64_t rank = p.side ? p.side->K : 0;
  const Scratch memory(a_bytes(p.dot, rows, p.K)), side_memory(a_bytes(p.dot, rows, rank));
  if (!memory.ready() || !side_memory.ready()) return false;
  const PackedA a{p.dot, rows, p.K, memory.as<void>()}, side_rows{p.dot, rows, rank, side_memory.as<void>()};
  pack_a(a, below(p.rows, first), 0, a.panels());
  if (rank) pack_a(side_rows, below(p.side_rows, first), 0, a.panels());
  out.y += first * out.stride;
  return gemm_plain(a, b, p.columns, first_n, last_n, Finish<T>{rank ? Side{&side_rows, p.side} : Side{}, out});
}

template <class T>
void multiply(const Product& p, const Writer<T>& out) {
  const PackedB b{p.dot, p.K, p.N, nullptr};
  bool failed = false;
  for_cells(gemm_grid(p.M, b), p.M, b.panels(), [&](int64_t m0, int64_t m1, int64_t n0, int64_t n1) {
    const RowChunks chunks(p.dot, p.K, m1 - m0, kPlainAtOnce);
    for (int64_t i = 0; i < chunks.count; ++i)
      if (!multiply_cell(p, b, out, m0 + chunks.first(i), chunks.rows(i), n0, n1))
        return __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
  });
  if (failed) out_of_memory();
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
  if (rank && (a.dx || a.ddown))
    multiply({dot, M, N, rank, dy, {f.up, f.dtype, 1, rank}}, Writer<float>{u, rank, f.lora_scale});

  if (a.dx) {
    const bool plain = f.packing == Packing::none;
    const Scratch unpacked(plain ? 0 : N * K * static_cast<int64_t>(sizeof(T)));
    if (!plain) unpack(f, unpacked.need<T>());
    const Source w = plain ? Source{f.weight, f.dtype, f.weight_stride_k, f.weight_stride_n}
                           : Source{unpacked.need<T>(), f.dtype, 1, K};
    const Columns down(dot, rank, rank ? K : 0, {f.down, f.dtype, 1, K});
    multiply({dot, M, N, K, dy, w, {u, DType::float32, rank, 1}, rank ? &down.packed : nullptr},
             Writer<T>{static_cast<T*>(a.dx), K});
  }
  if (a.dweight) multiply({dot, N, M, K, dy_across, x_across}, Writer<T>{static_cast<T*>(a.dweight), K});
  if (rank && a.ddown)
    multiply({dot, rank, M, K, {u, DType::float32, 1, rank}, x_across}, Writer<T>{static_cast<T*>(a.ddown), K});
  if (rank && a.dup) {
    const Scratch memory(M * rank * 4);  // x down^T
    float* low = memory.need<float>();
    multiply({dot, M, K, rank, x, {f.down, f.dtype, K, 1}}, Writer<float>{low, rank});
    multiply({dot, N, M, rank, dy_across, {low, DType::float32, 1, rank}},
             Writer<T>{static_cast<T*>(a.dup), rank, f.lora_scale});
  }
  if (a.dbias) sum_rows(static_cast<const T*>(a.dy), M, N, static_cast<T*>(a.dbias));
}

}  // namespace

void linear_backward(const LinearBackwardArgs& a) {
  with_type(a.forward.dtype, [&](auto t) { backward<decltype(t)>(a); });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
