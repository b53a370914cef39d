// SPDX-License-Identifier: Apache-2.0
#include "../ops/info_nce.h"

#include "math.h"
#include "similarity.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

constexpr int kLanes = Vec::lanes;
constexpr float kLeftOut = -__builtin_inff();
// Where no logit of a block exceeds this, e^x itself is summed: one exponential serves the row and the column, and no
// maximum is kept. e^60 times 10^11 terms stays finite, and e^-60 is far from subnormal.
constexpr float kSafe = 60.0f;
constexpr int kSummedRows = kLanes > 1 ? kLanes / 2 : 1;  // of a block, whose sum is added in double
constexpr double kSafeSum = 80.0;                         // of a log-sum-exp, likewise
constexpr float kLowest = -1e30f;     // a maximum that starts here leaves e^(-inf - maximum) at zero
constexpr float kTinyScale = 1e-30f;  // stands for a scale of zero, which the scale's own gradient divides by

// What the logits of both directions are made of: x = products * row[i] * column[j] + bias.
struct Factors {
  Scratch memory;
  float *row, *column;  // scale / |a_i| and 1 / |b_j|, or scale and 1; columns padded with zeros to whole panels
  float scale, bias;
  bool zero_scale;

  explicit Factors(const InfoNceArgs& a)
      : memory((a.M + (a.N + kPanel - 1) / kPanel * kPanel + 16) * 4),
        row(memory.need<float>()),
        column(row + (a.M + 15) / 16 * 16),
        scale(*a.scale == 0.0f ? kTinyScale : *a.scale),
        bias(a.bias ? *a.bias : 0.0f),
        zero_scale(*a.scale == 0.0f) {
    fill(a, a.a, a.a_stride, a.M, a.M, scale, row);
    fill(a, a.b, a.b_stride, a.N, (a.N + kPanel - 1) / kPanel * kPanel, 1.0f, column);
  }

 private:
  template <class T>
  static float length(const T* x, int64_t n) {
    const float squares = sum_lanes(n, [&](int64_t i, int k) {
      const Vec v = load(x + i, k);
      return v * v;
    });
    const float norm = __builtin_sqrtf(squares);
    return norm < kNormEps ? kNormEps : norm;
  }
  static float length(const void* x, DType t, int64_t first, int64_t n) {
    switch (t) {
      case DType::bfloat16: return length(static_cast<const bfloat16*>(x) + first, n);
      case DType::float16: return length(static_cast<const float16*>(x) + first, n);
      default: return length(static_cast<const float*>(x) + first, n);
    }
  }
  static void fill(const InfoNceArgs& a, const void* x, int64_t stride, int64_t n, int64_t padded, float by,
                   float* out) {
    parallel_for(n, 1 + 16384 / (a.E + 1), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) out[i] = a.normalize ? by / length(x, a.dtype, i * stride, a.E) : by;
    });
    for (int64_t i = n; i < padded; ++i) out[i] = 0.0f;
  }
};

Matrix rows_of(const void* data, DType t, int64_t stride, int64_t n) { return {{data, t, stride, 1}, n}; }

bool takes_part(const InfoNceArgs& a, int64_t i, int64_t j) {
  if (a.mask && !a.mask[i * a.mask_stride + j]) return false;
  if (!a.a_group) return true;
  const int64_t g = a.a_group[i], h = a.b_group[j];
  return g >= 0 && h >= 0 && (g != h || j == i + a.offset);
}

int64_t anchors(const InfoNceArgs& a) {
  int64_t n = 0;
  for (int64_t i = 0; i < a.M; ++i) n += takes_part(a, i, i + a.offset);
  return n;
}

// Calls f(i, value) for the positives of a block, value being a reference into it.
template <class F>
void for_positives(const InfoNceArgs& a, const Block& b, const F& f) {
  for (int c = 0; c < b.columns; ++c) {
    const int64_t i = b.column + c - a.offset;
    if (i >= b.row && i < b.row + b.rows) f(i, b[static_cast<int>(i - b.row)][c]);
  }
}

void leave_out_masked(const InfoNceArgs& a, const Block& b) {
  for (int r = 0; r < b.rows; ++r) {
    const uint8_t* mask = a.mask + (b.row + r) * a.mask_stride + b.column;
    float* x = b[r];
    for (int c = 0; c < b.columns; ++c) x[c] = mask[c] ? x[c] : kLeftOut;
  }
}
void leave_out_groups(const InfoNceArgs& a, const Block& b) {
  const int64_t* of_column = a.b_group + b.column;
  for (int r = 0; r < b.rows; ++r) {
    const int64_t i = b.row + r, own = i + a.offset - b.column, of_row = a.a_group[i];
    float* x = b[r];
    const float positive = own >= 0 && own < b.columns ? x[own] : kLeftOut;
    for (int c = 0; c < b.columns; ++c) x[c] = of_column[c] != of_row && of_column[c] >= 0 ? x[c] : kLeftOut;
    if (own >= 0 && own < b.columns && of_row == of_column[own]) x[own] = positive;
    if (of_row < 0)
      for (int c = 0; c < b.columns; ++c) x[c] = kLeftOut;
  }
}

// Products to logits, in place, -inf where a pair is left out and in the padding. Whether all logits are safe.
bool logits(const InfoNceArgs& a, const Factors& f, const Block& b) {
  Vec worst = zero();
  const Vec bias = broadcast(f.bias);
  for (int r = 0; r < b.rows; ++r) {
    const Vec row = broadcast(f.row[b.row + r]);
    for (int c = 0; c < kPanel; c += kLanes) {
      const Vec x = fma(load(b[r] + c), row * load(f.column + b.column + c), bias);
      store(b[r] + c, x);
      worst = max(magnitude(x), worst);  // whatever NaN stands in the padding, infinities stay
    }
  }
  if (a.mask) leave_out_masked(a, b);
  if (a.a_group) leave_out_groups(a, b);
  for (int r = 0; r < b.rows; ++r)
    for (int c = b.columns; c < kPanel; ++c) b[r][c] = kLeftOut;
  return max_lane(worst) <= kSafe;
}

// A sum of exponentials in two parts: of safe blocks as it is, of others as sum e^maximum.
struct ExponentialSum {
  double safe = 0.0, maximum = static_cast<double>(kLowest), sum = 0.0;

  void add(float safe_part, float m, float s) {
    safe += static_cast<double>(safe_part);
    const auto wide = static_cast<double>(m), part = static_cast<double>(s);
    if (wide > maximum) {
      sum = sum * __builtin_exp(maximum - wide) + part;
      maximum = wide;
    } else {
      sum += part == 0.0 ? 0.0 : part * __builtin_exp(wide - maximum);
    }
  }
  double log() const {
    if (sum == 0.0) return __builtin_log(safe);
    const double m = safe > 0.0 && maximum < 0.0 ? 0.0 : maximum;
    return m + __builtin_log(safe * __builtin_exp(-m) + sum * __builtin_exp(maximum - m));
  }
};

// Sums leave positives out, so that a loss next to zero keeps its digits: lse - x = ln(1 + e^(others - x)), `others`
// the log-sum-exp of the negatives. NaN where x is infinite, as in log-softmax.
double loss_beside(double others, float positive) {
  const double d = others - static_cast<double>(positive);
  if (positive == __builtin_inff()) return static_cast<double>(__builtin_nanf(""));
  return d > 0.0 ? d + __builtin_log1p(__builtin_exp(-d)) : __builtin_log1p(__builtin_exp(d));
}

// The sums of a strip's rows over one chunk of panels, and of one panel's columns over a strip.
struct RowSums {
  alignas(64) float safe[kStripRows * kLanes];
  float maximum[kStripRows], sum[kStripRows];

  explicit RowSums(int rows) {
    for (int i = 0; i < rows * kLanes; ++i) safe[i] = 0.0f;
    for (int r = 0; r < rows; ++r) maximum[r] = kLowest, sum[r] = 0.0f;
  }
};
struct ColumnSums {
  float *safe, *maximum, *sum;  // of the panel's first column
};

void add_safe(const Block& b, RowSums& rows, const ColumnSums* columns) {
  Vec column[kPanel / kLanes];
  for (Vec& v : column) v = zero();
  for (int r = 0; r < b.rows; ++r) {
    Vec row = load(rows.safe + r * kLanes);
#pragma GCC unroll 4
    for (int c = 0; c < kPanel / kLanes; ++c) {
      const Vec e = exp(load(b[r] + c * kLanes));
      row = row + e;
      column[c] = column[c] + e;
    }
    store(rows.safe + r * kLanes, row);
  }
  if (columns)
    for (int c = 0; c < kPanel / kLanes; ++c) {
      float* to = columns->safe + c * kLanes;
      store(to, load(to) + column[c]);
    }
}

void add_scaled(const Block& b, RowSums& rows, const ColumnSums* columns) {
  for (int r = 0; r < b.rows; ++r) {
    Vec m = broadcast(kLowest);
    for (int c = 0; c < kPanel; c += kLanes) m = max(load(b[r] + c), m);
    const float old = rows.maximum[r], most = max_lane(m), next = most > old ? most : old;
    Vec s = zero();
    for (int c = 0; c < kPanel; c += kLanes) s = s + exp(load(b[r] + c) - broadcast(next));
    rows.sum[r] = rows.sum[r] * __builtin_expf(old - next) + PRESTISSIMO_ISA::sum(s);
    rows.maximum[r] = next;
  }
  if (!columns) return;
  for (int c = 0; c < kPanel; c += kLanes) {
    const Vec old = load(columns->maximum + c);
    Vec next = old, s = zero();
    for (int r = 0; r < b.rows; ++r) next = max(load(b[r] + c), next);
    for (int r = 0; r < b.rows; ++r) s = s + exp(load(b[r] + c) - next);
    store(columns->sum + c, fma(load(columns->sum + c), exp(old - next), s));
    store(columns->maximum + c, next);
  }
}

double softplus_sum(const Block& b) {
  double total = 0.0;
  for (int r = 0; r < b.rows; ++r) {
    Vec s = zero();
    for (int c = 0; c < kPanel; c += kLanes) {
      const Vec x = load(b[r] + c);
      s = s + (max(zero(), x) + log_one_plus(exp(zero() - magnitude(x))));
    }
    total += static_cast<double>(PRESTISSIMO_ISA::sum(s));
  }
  return total;
}

void cross_entropy(const InfoNceArgs& a) {
  const Factors f(a);
  Products s(rows_of(a.a, a.dtype, a.a_stride, a.M), rows_of(a.b, a.dtype, a.b_stride, a.N), a.E);
  const int64_t padded = s.panels() * kPanel, columns = a.column_lse ? padded : 0;
  const Scratch memory((3 * columns + a.M + 3 * s.chunks() * kStripRows) * 4);
  auto *column_safe = memory.need<float>(), *column_max = column_safe + columns, *column_sum = column_max + columns;
  float *positive = column_sum + columns, *partial = positive + a.M;
  for (int64_t j = 0; j < columns; ++j) column_safe[j] = 0.0f, column_max[j] = kLowest, column_sum[j] = 0.0f;

  double total = 0.0;
  int64_t n = 0;
  for (int64_t strip = 0; strip < s.strips(); ++strip) {
    s.begin_strip(strip);
    const int rows = s.rows(strip);
    s.for_chunks(s.block_bytes(), [&](int64_t chunk, char* memory_of_block) {
      auto* products = reinterpret_cast<float*>(memory_of_block);
      RowSums row_sums(rows);
      for (int64_t p = s.chunk_begin(chunk); p < s.chunk_end(chunk); ++p) {
        const Block b = s.block(p, products);
        const int64_t j = p * kPanel;
        const ColumnSums column_sums{column_safe + j, column_max + j, column_sum + j};
        const bool safe = logits(a, f, b);
        for_positives(a, b, [&](int64_t i, float& x) {
          positive[i] = x;
          x = kLeftOut;
        });
        (safe ? add_safe : add_scaled)(b, row_sums, columns ? &column_sums : nullptr);
      }
      float* out = partial + chunk * 3 * kStripRows;
      for (int r = 0; r < rows; ++r) {
        out[r] = sum(load(row_sums.safe + r * kLanes));
        out[kStripRows + r] = row_sums.maximum[r];
        out[2 * kStripRows + r] = row_sums.sum[r];
      }
    });
    for (int r = 0; r < rows; ++r) {
      ExponentialSum e;
      for (int64_t c = 0; c < s.chunks(); ++c) {
        const float* in = partial + c * 3 * kStripRows + r;
        e.add(in[0], in[kStripRows], in[2 * kStripRows]);
      }
      const int64_t i = s.first_row(strip) + r;
      a.row_lse[i] = e.log();
      if (!takes_part(a, i, i + a.offset)) continue;
      const double loss = loss_beside(a.row_lse[i], positive[i]);
      a.row_lse[i] = loss + static_cast<double>(positive[i]);
      total += loss;
      ++n;
    }
  }
  for (int64_t j = 0; j < columns; ++j) {
    if (j >= a.N) break;
    ExponentialSum e;
    e.add(column_safe[j], column_max[j], column_sum[j]);
    a.column_lse[j] = e.log();
    if (!takes_part(a, j, j)) continue;
    const double loss = loss_beside(a.column_lse[j], positive[j]);
    a.column_lse[j] = loss + static_cast<double>(positive[j]);
    total += loss;
    ++n;
  }
  *a.loss = static_cast<float>(total / static_cast<double>(n));
}

void sigmoid_loss(const InfoNceArgs& a) {
  const Factors f(a);
  Products s(rows_of(a.a, a.dtype, a.a_stride, a.M), rows_of(a.b, a.dtype, a.b_stride, a.N), a.E);
  const Scratch memory((s.chunks() + 1) * 8);
  auto* partial = memory.need<double>();
  for (int64_t c = 0; c < s.chunks(); ++c) partial[c] = 0.0;
  for (int64_t strip = 0; strip < s.strips(); ++strip) {
    s.begin_strip(strip);
    s.for_chunks(s.block_bytes(), [&](int64_t chunk, char* memory_of_block) {
      auto* products = reinterpret_cast<float*>(memory_of_block);
      for (int64_t p = s.chunk_begin(chunk); p < s.chunk_end(chunk); ++p) {
        const Block b = s.block(p, products);
        logits(a, f, b);
        for_positives(a, b, [&](int64_t i, float& x) {
          if (takes_part(a, i, i + a.offset)) x = -x;
        });
        partial[chunk] += softplus_sum(b);
      }
    });
  }
  double loss = 0.0;
  for (int64_t c = 0; c < s.chunks(); ++c) loss += partial[c];
  *a.loss = static_cast<float>(loss / static_cast<double>(anchors(a)));
}

// ---- backward

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
    w.lse[i] = used ? static_cast<float>(lse[i]) : -kLowest;
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

void info_nce(const InfoNceArgs& a) {
  if (a.form == Contrast::sigmoid)
    sigmoid_loss(a);
  else
    cross_entropy(a);
}

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
    const Vec lowest = broadcast(kLowest), bias = broadcast(f.bias);
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
