// SPDX-License-Identifier: Apache-2.0
#include "gemm.h"

#include "gemm_lanes.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

// Sums over this many steps are finished before they are added to those before: the error of a long sum of numbers
// whose mean is not zero grows with its length (K = 4096 in one sum: twelve times MKL's error; in blocks: less than
// twice). Plain code rounds every product too.
#if defined(__AVX2__)
constexpr int64_t kBlockSteps = 256;
#else
constexpr int64_t kBlockSteps = 64;
#endif

// A line of A's rows and how many its group still has, this one included.
struct Place {
  const char* a;
  int64_t left;

  void advance(const Lines& lines, int64_t count) {
    for (; count >= left; count -= left, left = lines.group) a += (left - 1) * lines.stride + lines.leap;
    a += count * lines.stride, left -= count;
  }
};

// kRowsOfA times kVectors registers of sums: B's vectors are loaded once for all rows, A's dwords once
// for all vectors. Three sums a register deep are enough to hide the latency of a dot product. kPanelOfA: A is a panel,
// its lines behind one another, so that strides are constants (through `lines` float32 products took 2 to 3 % longer).
template <class P, bool kPanelOfA, int kRowsOfA, int kVectors>
void product(int64_t steps, const Lines& lines, const Place& place, const char* b, const char* start,
             int64_t start_stride, char* c, int64_t c_stride) {
  constexpr int kWidth = P::lanes * 4, kStep = P::parts == 1 ? 4 : 8, kSteps = kLineBytes / kStep;
  typename P::Register sum[kRowsOfA][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRowsOfA; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[r][v] = P::zero();
  const char* a = place.a;
  const int64_t stride = kPanelOfA ? kRowsOfA * kLineBytes : lines.stride;
  const int64_t ahead = kPanelOfA ? kLinesAhead * kRowsOfA * kLineBytes : lines.ahead;
  for (int64_t left = place.left; steps > 0; steps -= kSteps) {
#pragma GCC unroll 16
    for (int r = 0; r < kRowsOfA; ++r) __builtin_prefetch(a + ahead + r * kLineBytes);
    const char* step = a;
    const char* const end = a + (steps < kSteps ? steps : kSteps) * kStep;
    for (; step < end; step += kStep, b += kStepBytes) {
#pragma GCC unroll 4
      for (int part = 0; part < P::parts; ++part) {
        decltype(P::b(b, part)) columns[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) columns[v] = P::b(b + v * kWidth, part);
#pragma GCC unroll 16
        for (int r = 0; r < kRowsOfA; ++r) {
          const auto row = P::a(step + r * kLineBytes, part);
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) sum[r][v] = P::add(sum[r][v], row, columns[v]);
        }
      }
    }
    if (kPanelOfA || --left > 0)
      a += stride;
    else
      a += lines.leap, left = lines.group;
  }
  if (start)
#pragma GCC unroll 16
    for (int r = 0; r < kRowsOfA; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] = P::plus(sum[r][v], P::load(start + r * start_stride + v * kWidth));
#pragma GCC unroll 16
  for (int r = 0; r < kRowsOfA; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) P::store(c + r * c_stride + v * kWidth, sum[r][v]);
}

using Product = void (*)(int64_t, const Lines&, const Place&, const char*, const char*, int64_t, char*, int64_t);

// Products<P, kPanelOfA>::table[rows - 1][vectors - 1]
template <class P, bool kPanelOfA>
struct Products {
#define PRESTISSIMO_ROWS(n) {product<P, kPanelOfA, n, 1>, product<P, kPanelOfA, n, 2>}
  static constexpr Product table[kRows][2] = {
      PRESTISSIMO_ROWS(1),  PRESTISSIMO_ROWS(2),  PRESTISSIMO_ROWS(3),  PRESTISSIMO_ROWS(4),
#if defined(__AVX2__)
      PRESTISSIMO_ROWS(5),  PRESTISSIMO_ROWS(6),
#endif
#if defined(__AVX512F__)
      PRESTISSIMO_ROWS(7),  PRESTISSIMO_ROWS(8),  PRESTISSIMO_ROWS(9),  PRESTISSIMO_ROWS(10),
      PRESTISSIMO_ROWS(11), PRESTISSIMO_ROWS(12), PRESTISSIMO_ROWS(13), PRESTISSIMO_ROWS(14),
#endif
  };
#undef PRESTISSIMO_ROWS
};

template <class P>
void run(int rows, int columns, int64_t steps, const Lines& a, const char* b, const char* start, int64_t start_stride,
         char* c, int64_t c_stride) {
  constexpr int kPair = 2 * P::lanes;  // columns of one call
  constexpr int kStep = P::parts == 1 ? 4 : 8;
  const bool panel = a.group == INT64_MAX && a.stride == rows * kLineBytes;
  const auto& table = panel ? Products<P, true>::table : Products<P, false>::table;
  Place place{static_cast<const char*>(a.data), a.group};
  for (int64_t done = 0; done == 0 || done < steps; done += kBlockSteps) {
    for (int j = 0; j < columns; j += kPair)
      table[rows - 1][columns - j > P::lanes](steps - done < kBlockSteps ? steps - done : kBlockSteps, a, place,
                                              b + j * 4, start ? start + j * 4 : nullptr, start_stride * 4, c + j * 4,
                                              c_stride * 4);
    place.advance(a, kBlockSteps * kStep / kLineBytes), b += kBlockSteps * kStepBytes;
    start = c, start_stride = c_stride;
  }
}

}  // namespace

void micro_kernel(Dot dot, int rows, int columns, int64_t steps, const Lines& a, const void* b, const void* start,
                  int64_t start_stride, void* c, int64_t c_stride) {
  const auto *pb = static_cast<const char*>(b), *ps = static_cast<const char*>(start);
  auto* pc = static_cast<char*>(c);
  switch (dot) {
    case Dot::float32: return run<FloatProducts>(rows, columns, steps, a, pb, ps, start_stride, pc, c_stride);
    case Dot::bfloat16: return run<Bfloat16Products>(rows, columns, steps, a, pb, ps, start_stride, pc, c_stride);
    case Dot::int8: return run<Int8Products>(rows, columns, steps, a, pb, ps, start_stride, pc, c_stride);
  }
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
