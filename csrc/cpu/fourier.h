// SPDX-License-Identifier: Apache-2.0
// Tables of a real Fourier transform of n = 2^k samples, shared by every ISA.
#pragma once
#include <cstdint>

namespace prestissimo::cpu {

// The n samples of a frame are m = n / 2 complex numbers z[i] = x[2 i] + i x[2 i + 1]; those are `parts` interleaved
// sequences of `points` numbers, z[parts p + q] being number p of sequence q. Each has a transform of its own, as
// rows x columns, and a transform over q puts them together.
struct FourierTables {
  int n, m, parts, points, rows, columns;
  const float *twiddle_re, *twiddle_im;  // exp(-2 pi i r c / points) at [r * columns + c]
  const float *join_re, *join_im;        // exp(-2 pi i q k / m) at [q * (points / 2 + 1) + k], k = 0 ... points / 2
  const float *cosine, *sine;            // of 2 pi k / n, k = 0 ... m
  const float* hann;                     // sin(pi i / n)^2, i = 0 ... n - 1
};

constexpr int kFourierLeast = 8, kFourierMost = 4096;  // n; powers of two
constexpr int kFourierPoints = 256;                    // at most

inline bool fourier_takes(int64_t n) { return n >= kFourierLeast && n <= kFourierMost && (n & (n - 1)) == 0; }
constexpr int fourier_parts(int64_t n) {
  return n / 2 <= kFourierPoints ? 1 : static_cast<int>(n / 2 / kFourierPoints);
}

// Made on the first call for n and kept; safe to call from any thread.
const FourierTables& fourier_tables(int64_t n);

}  // namespace prestissimo::cpu
