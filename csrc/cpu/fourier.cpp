// SPDX-License-Identifier: Apache-2.0
#include "fourier.h"

#include <cmath>
#include <memory>
#include <mutex>
#include <vector>

namespace prestissimo::cpu {
namespace {

struct Owner {
  FourierTables tables;
  std::vector<float> values;
};

constexpr double kTwoPi = 6.283185307179586476925;

double angle(int64_t j, int64_t n) { return kTwoPi * static_cast<double>(j % n) / static_cast<double>(n); }

// (rows, columns) of exp(-2 pi i r c / n), real parts before imaginary ones
void fill_twiddles(float* out, int rows, int columns, int n) {
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < columns; ++c) {
      const double a = angle(int64_t{r} * c, n);
      out[r * columns + c] = static_cast<float>(std::cos(a));
      out[(rows + r) * columns + c] = static_cast<float>(-std::sin(a));
    }
}

std::unique_ptr<Owner> make(int n) {
  auto owner = std::make_unique<Owner>();
  const int m = n / 2, parts = fourier_parts(n), points = m / parts, half = points / 2 + 1;
  int rows = 1;
  while (rows * rows * 4 <= points) rows *= 2;
  const int columns = points / rows;
  auto& v = owner->values;
  v.resize(static_cast<size_t>(2 * points + 2 * parts * half + 2 * (m + 1) + n));
  float *twiddle = v.data(), *join = twiddle + 2 * points, *cosine = join + 2 * parts * half, *sine = cosine + m + 1,
        *hann = sine + m + 1;
  fill_twiddles(twiddle, rows, columns, points);
  fill_twiddles(join, parts, half, m);
  for (int k = 0; k <= m; ++k) {
    cosine[k] = static_cast<float>(std::cos(angle(k, n)));
    sine[k] = static_cast<float>(std::sin(angle(k, n)));
  }
  for (int i = 0; i < n; ++i) {
    const double root = std::sin(angle(i, 2 * int64_t{n}));
    hann[i] = static_cast<float>(root * root);
  }
  owner->tables = {n,      m,    parts, points, rows, columns, twiddle, twiddle + points, join, join + parts * half,
                   cosine, sine, hann};
  return owner;
}

}  // namespace

const FourierTables& fourier_tables(int64_t n) {
  static std::mutex mutex;
  static std::unique_ptr<Owner> kept[16];
  int log = 0;
  while ((int64_t{1} << log) < n) ++log;
  const std::lock_guard<std::mutex> lock(mutex);
  if (!kept[log]) kept[log] = make(static_cast<int>(n));
  return kept[log]->tables;
}

}  // namespace prestissimo::cpu
