// SPDX-License-Identifier: Apache-2.0
// The weight of a convolution as it lies in memory, [O][C][kernel] or, transposed, [C][O][kernel], laid out for
// micro_kernel a block at a time: a thread reads it once, from where it lies, and what it lays out stays in its cache.
#pragma once
#include "gemm_plain.h"
#include "storage.h"
#include "transpose.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

struct ConvWeight {
  const void* data;  // value (o, c, k) at o stride_o + c stride_c + k
  int64_t outputs, channels, kernel, stride_o, stride_c;
  int64_t taps, phases;  // of a window; its outputs: 1, or the stride of a transposed convolution
  bool transposed;       // window w gives output w phases + r from k = r + (taps - 1 - tap) phases

  // A block has phases * taps parts, phase by phase; this is k's.
  int64_t part(int64_t k) const { return transposed ? k % phases * taps + taps - 1 - k / phases : k; }
  int64_t parts() const { return phases * taps; }
  int64_t panels() const { return (outputs + kPanel - 1) / kPanel; }  // of outputs, each of all phases
  // What lay_block reads for some panels.
  Ahead ahead(int64_t first_p, int64_t last_p, int64_t c0, int64_t c1, int64_t item) const {
    const int64_t o = first_p * kPanel, end = last_p * kPanel, n = (outputs < end ? outputs : end) - o;
    const auto* at = static_cast<const char*>(data) + (o * stride_o + c0 * stride_c) * item;
    if (stride_c < stride_o) return {at, n, ((c1 - c0 - 1) * stride_c + kernel) * item, stride_o * item};
    return {at, c1 - c0, ((n - 1) * stride_o + kernel) * item, stride_c * item};
  }
  int64_t after() const { return (outputs - 1) * stride_o + (channels - 1) * stride_c + kernel; }  // the last value
};

// Steps of sixteen neighbours: a value each or, of bfloat16, one with the next channel's above it. Fewer than sixteen
// are there at the end of the weight.
inline void dwords(const float* x, const float*, int64_t there, uint32_t* out) {
  if (there >= 16)
    memcpy(out, x, 64);
  else
    memcpy(out, x, sizeof(float) * static_cast<size_t>(there));
}
inline void dwords(const float16* x, const float16*, int64_t there, uint32_t* out) {
  auto* to = reinterpret_cast<float*>(out);
  for_lanes(
      there < 16 ? there : 16, [&](int64_t i) { store(to + i, load(x + i)); },
      [&](int64_t i, int k) { store(to + i, load(x + i, k), k); });
}
inline void dwords(const bfloat16* x, const bfloat16* next, int64_t there, uint32_t* out) {
  bfloat16 low[16] = {}, high[16] = {};
  if (there >= 16 && next) return interleave(x, next, out);
  const size_t bytes = sizeof(bfloat16) * static_cast<size_t>(there < 16 ? there : 16);
  memcpy(low, x, bytes);
  if (next) memcpy(high, next, bytes);
  interleave(low, high, out);
}
template <class T>
constexpr int64_t kValuesOfStep = 1;
template <>
constexpr int64_t kValuesOfStep<bfloat16> = 2;

// Panel p of the outputs, channels [c0, c1), in parts of `steps` steps; zeros where there is no output, channel or k.
template <class T>
void lay_block(const ConvWeight& w, int64_t p, int64_t c0, int64_t c1, int64_t steps, char* out) {
  constexpr int64_t kWide = 112, kOf = kValuesOfStep<T>;  // dwords of a row at once; seven k of sixteen steps
  const int64_t o = p * kPanel, K = w.kernel, filled = (c1 - c0 + kOf - 1) / kOf, part_bytes = steps * kStepBytes;
  const int columns = static_cast<int>(w.outputs - o < kPanel ? w.outputs - o : kPanel);
  const T *data = static_cast<const T*>(w.data), *after = data + w.after(),
          *x = data + o * w.stride_o + c0 * w.stride_c;
  if (filled < steps || K < w.parts()) memset(out, 0, static_cast<size_t>(w.parts() * part_bytes));
  alignas(64) uint32_t staged[kPanel][kWide + 16], tile[16][kPanel];
  if (columns < kPanel) memset(staged, 0, sizeof staged);
  for (int64_t k0 = 0; k0 < K; k0 += kWide) {
    const int64_t n = K - k0 < kWide ? K - k0 : kWide;
    int64_t place[kWide], at_once = kWide / n;
    for (int64_t k = 0; k < n; ++k) place[k] = w.part(k0 + k) * part_bytes;
    if (at_once > 16) at_once = at_once / 16 * 16;  // whole squares
    for (int64_t step = 0; step < filled; step += at_once) {
      const int64_t count = filled - step < at_once ? filled - step : at_once, width = count * n;
      const T* of_step = x + step * kOf * w.stride_c + k0;
      const bool one_run = w.stride_c == n,
                 as_it_is = sizeof(T) == 4 && columns == kPanel && width % 16 == 0 && (one_run || n % 16 == 0);
      for (int j = 0; j < columns && !as_it_is; ++j) {
        const T* row = of_step + j * w.stride_o;
        int64_t c = c0 + step * kOf;
        for (uint32_t *to = staged[j], *end = to + width; to < end; to += n, row += kOf * w.stride_c, c += kOf)
          for (int64_t k = 0; k < n; k += 16) {
            const T* next = kOf == 2 && c + 1 < c1 ? row + w.stride_c + k : nullptr;
            dwords(row + k, next, after - (next ? next : row + k), to + k);
          }
      }
      int64_t k = 0;
      char* to = out + step * kStepBytes;
      for (int64_t i = 0; i < width; i += 16) {
        const T* from = of_step + (one_run ? i : k);
        transpose(as_it_is ? reinterpret_cast<const uint32_t*>(from) : staged[0] + i,
                  as_it_is ? w.stride_o : kWide + 16, kPanel, 16, tile[0], kPanel);
        for (int64_t j = 0; j < 16 && i + j < width; ++j) {
          memcpy(to + place[k], tile[j], kStepBytes);
          if (++k == n) k = 0, to += kStepBytes, of_step += one_run ? 0 : w.stride_c;
        }
      }
    }
  }
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
