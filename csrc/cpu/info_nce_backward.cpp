// SPDX-License-Identifier: Apache-2.0
#include "info_nce_logits.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

constexpr int kSummedRows = kLanes > 1 ? kLanes / 2 : 1;  // of a block, whose sum is added in double
constexpr double kSafeSum = 80.0;                         // of a log-sum-exp, as kSafe of a logit

// Of rows and of columns: the log-sum-exp, and the weight times e^-it where that is a safe number. Without an anchor
// the weight is zero, and so is e^(x - lse) whatever x.
struct Weights {
  float *lse, *inverse, *weight;
  bool* safe;  // of each strip of rows or panel of columns
};

template <class TakesPart>
void fill(const Weights& w, const double* lse, int64_t n, int64_t padded, int64_t group, double weight,
          const TakesPart& anchor) {
  for (int64_t g = 0; g * group < padded; ++g) w.safe[g] = true;
  for (int64_t i = 0; i < padded; ++i) {
    const bool used = i < n && anchor(i);
    w.weight[i] = used ? static_cast<float>(weight) : 0.0f;
    w.lse[i] = used ? static_cast<float>(lse[i]) : -kLowestLogit;
    const bool safe = !used || (lse[i] >= -kSafeSum && lse[i] <= kSafeSum);
    w.inverse[i] = used && safe ? static_cast<float>(weight * __builtin_exp(-lse[i])) : 0.0f;
    if (!safe) w.safe[i / group] = false;
  }
}

// Sums of dx x and of dx over all pairs, panel by panel.
struct ScalarSums {
  double scale, bias;
};

template <class T>
void write_row(const InfoNceArgs& f, const void* x, int64_t stride, float inverse_length, bool zero_scale, int64_t i,
               float* d, void* out) {
  const T* row = static_cast<const T*>(x) + i * stride;
  T* to = static_cast<T*>(out) + i * f.E;
  float along = 0.0f;
  if (f.normalize && inverse_length < 1.0f / kNormEps)
    along = inverse_length * inverse_length *
            sum_lanes(f.E, [&](int64_t k, int n) { return load(row + k, n) * load(d + k, n); });
  const Vec by = broadcast(zero_scale ? 0.0f : 1.0f), back = broadcast(along);
  const auto lanes = [&](int64_t k, int n) {
    const Vec v = f.normalize ? fnma(load(row + k, n), back, load(d + k, n)) : load(d + k, n);
    store(to + k, v * by, n);
  };
  for_lanes(f.E, [&](int64_t k) { lanes(k, kLanes); }, lanes);
}

void write_row(const InfoNceArgs& f, const void* x, int64_t stride, float inverse_length, bool zero_scale, int64_t i,
               float* d, void* out) {
  switch (f.dtype) {
    case DType::bfloat16: return write_row<bfloat16>(f, x, stride, inverse_length, zero_scale, i, d, out);
    case DType::float16: return write_row<float16>(f, x, stride, inverse_length, zero_scale, i, d, out);
    default: return write_row<float>(f, x, stride, inverse_length, zero_scale, i, d, out);
  }
}

}  // namespace

void info_nce_backward(const InfoNceBackwardArgs& args) {
  const InfoNceArgs& a = args.forward;
  const Factors f(a);
  Products s(rows_of(a.a, a.dtype, a.a_stride, a.M), rows_of(a.b, a.dtype, a.b_stride, a.N), a.E);
  const int64_t padded = s.panels() * kPanel, strip_count = s.strips();
  const bool symmetric = a.form == Contrast::symmetric, sigmoid = a.form == Contrast::sigmoid;
  const double weight = static_cast<double>(*args.dloss) / static_cast<double>(anchors(a)) * (symmetric ? 0.5 : 1.0);
  const auto w = static_cast<float>(weight);

  const Scratch sums_memory(s.panels() * static_cast<int64_t>(sizeof(ScalarSums)) + 8);
  const Scratch memory(3 * (a.M + padded) * 4 + strip_count + s.panels() + 8);
  auto* sums = sums_memory.need<ScalarSums>();
  for (int64_t p = 0; p < s.panels(); ++p) sums[p] = {0.0, 0.0};
  auto* m = memory.need<float>();
  auto* flags = reinterpret_cast<bool*>(m + 3 * (a.M + padded));
  const Weights row{m, m + a.M, m + 2 * a.M, flags};
  m += 3 * a.M;
  const Weights column{m, m + padded, m + 2 * padded, flags + strip_count};
  if (!sigmoid)
    fill(row, a.row_lse, a.M, a.M, kStripRows, weight, [&](int64_t i) { return takes_part(a, i, i + a.offset); });
  // for rows alone the columns weigh nothing
  if (!sigmoid)
    fill(column, a.column_lse, symmetric ? a.N : 0, padded, kPanel, weight,
         [&](int64_t j) { return takes_part(a, j, j); });

  // Calls dx_of(r, c, x) for the vectors of a block: logits x to dx, by which the sums grow; then to gradients of the
  // products, dx row[i] column[j].
  const auto each = [&](const Block& b, const auto& dx_of) {
    const Vec lowest = broadcast(kLowestLogit), bias = broadcast(f.bias);
    ScalarSums& to = sums[b.column / kPanel];
    for (int first = 0; first < b.rows; first += kSummedRows) {
      Vec by_scale = zero(), by_bias = zero();
      for (int r = first; r < b.rows && r < first + kSummedRows; ++r) {
        const Vec factor = broadcast(f.row[b.row + r]);
#pragma GCC unroll 4
        for (int c = 0; c < kPanel; c += kLanes) {
          const Vec x = load(b[r] + c), dx = dx_of(r, c, x);
          by_scale = fma(dx, max(lowest, x) - bias, by_scale);
          by_bias = by_bias + dx;
          store(b[r] + c, dx * (factor * load(f.column + b.column + c)));
        }
      }
      to.scale += static_cast<double>(sum(by_scale));
      to.bias += static_cast<double>(sum(by_bias));
    }
  };

  const auto transform = [&](const Block& b) {
    const bool safe = logits(a, f, b);
    float positive[kPanel];
    for_positives(a, b, [&](int64_t i, float& x) {
      positive[i + a.offset - b.column] = x;
      x = kLeftOut;
    });
    const float *row_inverse = row.inverse + b.row, *column_inverse = column.inverse + b.column;
    if (sigmoid) {
      each(b, [&](int, int, Vec x) { return broadcast(w) * PRESTISSIMO_ISA::sigmoid(x); });
    } else if (safe && row.safe[b.row / kStripRows] && column.safe[b.column / kPanel]) {
      each(b, [&](int r, int c, Vec x) { return exp(x) * (broadcast(row_inverse[r]) + load(column_inverse + c)); });
    } else {
      each(b, [&](int r, int c, Vec x) {
        const int64_t i = b.row + r, j = b.column + c;
        const Vec of_row = broadcast(row.weight[i]) * exp(x - broadcast(row.lse[i]));
        return fma(load(column.weight + j), exp(x - load(column.lse + j)), of_row);
      });
    }
    // e^(x - lse) - 1 from the exact x - lse: where a positive stands out, its own gradient keeps its digits
    for_positives(a, b, [&](int64_t i, float& g) {
      const int64_t j = i + a.offset;
      if (!takes_part(a, i, j)) return;
      const double x = static_cast<double>(positive[j - b.column]);
      const double p = sigmoid     ? -1.0 / (1.0 + __builtin_exp(x))
                       : symmetric ? __builtin_expm1(x - a.row_lse[i]) + __builtin_expm1(x - a.column_lse[j])
                                   : __builtin_expm1(x - a.row_lse[i]);
      ScalarSums& to = sums[b.column / kPanel];
      to.scale += weight * p * (x - static_cast<double>(f.bias));
      to.bias += weight * p;
      g = static_cast<float>(weight * p) * (f.row[i] * f.column[j]);
    });
  };

  product_gradients(
      s, args.da, args.db, transform,
      [&](int64_t i, float* d) { write_row(a, a.a, a.a_stride, f.row[i] / f.scale, f.zero_scale, i, d, args.da); },
      [&](int64_t j, float* d) { write_row(a, a.b, a.b_stride, f.column[j], f.zero_scale, j, d, args.db); });
  ScalarSums total{0.0, 0.0};
  for (int64_t p = 0; p < s.panels(); ++p) total.scale += sums[p].scale, total.bias += sums[p].bias;
  *args.dscale = static_cast<float>(total.scale / static_cast<double>(f.scale));
  *args.dbias = static_cast<float>(total.bias);
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
