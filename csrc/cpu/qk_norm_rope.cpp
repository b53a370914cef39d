// SPDX-License-Identifier: Apache-2.0
#include "../ops/qk_norm_rope.h"

#include "math.h"
#include "parallel.h"
#include "permute.h"
#include "rows.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

template <class T>
const T* row(const HeadView& v, int64_t b, int64_t t, int64_t h) {
  return static_cast<const T*>(v.data) + b * v.batch_stride + t * v.time_stride + h * v.head_stride;
}
template <class T>
T* row(const HeadOutput& v, int64_t b, int64_t t, int64_t h) {
  return static_cast<T*>(v.data) + b * v.batch_stride + t * v.time_stride + h * v.head_stride;
}

// The vectors of q or of k as floats: ones and zeros where they are absent.
struct Affine {
  float *weight, *bias;
  float alpha;
};

inline void widen_vector(const void* p, DType dtype, float absent, float* out, int64_t n) {
  if (!p) {
    for (int64_t i = 0; i < n; ++i) out[i] = absent;
    return;
  }
  with_type(dtype, [&](auto t) {
    const auto* v = static_cast<const decltype(t)*>(p);
    for (int64_t i = 0; i < n; ++i) out[i] = widen(v[i]);
  });
}

inline Affine affine_of(const QkNormRopeArgs& a, const Heads& h, float* weight, float* bias) {
  float alpha;
  widen_vector(h.weight, a.vectors_dtype, 1.0f, weight, a.dim);
  widen_vector(h.bias, a.vectors_dtype, 0.0f, bias, a.dim);
  widen_vector(h.alpha, a.vectors_dtype, 1.0f, &alpha, 1);
  return {weight, bias, alpha};
}

// n = (x - mean) * rstd for layer and rms; what none and dyt leave at 0 and 1.
struct HeadStatistics {
  float mean, rstd;
};

template <class T>
HeadStatistics statistics(const T* x, const QkNormRopeArgs& a) {
  if (a.norm == HeadNorm::none || a.norm == HeadNorm::dyt) return {0.0f, 1.0f};
  const int64_t D = a.dim;
  const float n = static_cast<float>(D);
  float mean = 0.0f;
  if (a.norm == HeadNorm::layer) mean = sum_lanes(D, [&](int64_t i, int k) { return load(x + i, k); }) / n;
  const Vec m = broadcast(mean);
  const float squares = sum_lanes(D, [&](int64_t i, int k) {
    const Vec d = keep(load(x + i, k) - m, k);
    return d * d;
  });
  return {mean, 1.0f / __builtin_sqrtf(squares / n + a.eps)};
}

// n * weight + bias into u. The dot products of a row of 64 are short; that rows do not depend on one another hides
// their latency.
template <class T>
void normalise(const T* x, const QkNormRopeArgs& a, const Affine& by, float* u) {
  const HeadStatistics s = statistics(x, a);
  const Vec mean = broadcast(s.mean), rstd = broadcast(s.rstd), alpha = broadcast(by.alpha);
  const bool dyt = a.norm == HeadNorm::dyt;
  const auto lanes = [&](int64_t i, int k) {
    const Vec v = load(x + i, k), n = dyt ? tanh(alpha * v) : (v - mean) * rstd;
    store(u + i, fma(n, load(by.weight + i, k), load(by.bias + i, k)), k);
  };
  for_lanes(a.dim, [&](int64_t i) { lanes(i, Vec::lanes); }, lanes);
}

// The rotation of one row of time. Half-split pairs lie `half` apart and are rotated lane by lane; interleaved ones are
// neighbours, and go one by one.
template <class Read, class Write>
void rotate(const QkNormRopeArgs& a, const float* cos, const float* sin, const Read& read, const Write& write) {
  const int64_t half = a.half, D = a.dim;
  const auto pair = [&](int64_t i, int k) {
    const Vec c = load(cos + i, k), s = load(sin + i, k), x = read(i, k), y = read(half + i, k);
    write(i, x * c - y * s, k);
    write(half + i, fma(y, c, x * s), k);
  };
  for_lanes(half, [&](int64_t i) { pair(i, Vec::lanes); }, pair);
  const auto rest = [&](int64_t i, int k) { write(2 * half + i, read(2 * half + i, k), k); };
  for_lanes(D - 2 * half, [&](int64_t i) { rest(i, Vec::lanes); }, rest);
}

// Interleaved pairs of `u` into half-split order, and back.
inline void gather_pairs(const float* u, float* out, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    out[i] = u[2 * i];
    out[half + i] = u[2 * i + 1];
  }
}
inline void scatter_pairs(const float* u, float* out, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    out[2 * i] = u[i];
    out[2 * i + 1] = u[half + i];
  }
}

template <class T>
void store_row(const float* u, T* y, int64_t begin, int64_t end) {
  for_lanes(
      end - begin, [&](int64_t i) { store(y + begin + i, load(u + begin + i)); },
      [&](int64_t i, int k) { store(y + begin + i, load(u + begin + i, k), k); });
}

// u, the normalised row, rotated into y; `v` and `w` are rows of scratch.
template <class T>
void rotate_row(const QkNormRopeArgs& a, const float* u, float* v, float* w, int64_t t, T* y) {
  if (a.half == 0) return store_row(u, y, 0, a.dim);
  const float *cos = a.cos + t * a.half, *sin = a.sin + t * a.half;
  if (a.pairing == Pairing::half) {
    rotate(
        a, cos, sin, [&](int64_t i, int k) { return load(u + i, k); },
        [&](int64_t i, Vec x, int k) { store(y + i, x, k); });
    return;
  }
  gather_pairs(u, v, a.half);
  const int64_t r = 2 * a.half;
  rotate(
      a, cos, sin, [&](int64_t i, int k) { return load((i < r ? v : u) + i, k); },
      [&](int64_t i, Vec x, int k) {
        if (i < r)
          store(w + i, x, k);
        else
          store(y + i, x, k);
      });
  scatter_pairs(w, v, a.half);
  store_row(v, y, 0, r);
}

// Whether a vector of T's blocks holds every other element (vec.h).
template <class T>
constexpr bool kSplitBlocks = false;
template <>
constexpr bool kSplitBlocks<bfloat16> = Vec::lanes > 1;

// Lane i of the result is that of its neighbour, and of the other half of the vector.
constexpr int32_t kNeighbours[16] = {1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14};
constexpr int32_t kOtherHalf[16] = {8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7};

constexpr int kTogether = 16;  // heads whose statistics are made in one go

struct GroupStatistics {
  alignas(64) float mean[kTogether], rstd[kTogether];
};

// Heads of 64 and 128 dims, none, half or all of which rotate, stay in registers. With weight, bias and rotation
// y = n own + partner(n) across + offset, partner(n) being the other element of each pair: three vectors that all heads
// of a row share, in the order of T's blocks.
template <int kDim, int kHalf, Pairing kPairing, class T>
class HeadsInRegisters {
  static constexpr int L = Vec::lanes, N = kDim / L, kRotated = 2 * kHalf / L;
  static constexpr bool kSplit = kSplitBlocks<T>, kInterleaved = kPairing == Pairing::interleaved;

 public:
  HeadsInRegisters(const QkNormRopeArgs& a, const Affine& by) : a_(a), alpha_(by.alpha) {
    for (int64_t i = 0; i < kDim; ++i) {
      const int64_t v = i / L, lane = i % L, e = kSplit ? v / 2 * 2 * L + 2 * lane + v % 2 : i;
      const bool first = kInterleaved ? e % 2 == 0 : e < kHalf;
      const int64_t other = e >= 2 * kHalf ? e : kInterleaved ? e ^ 1 : e ^ kHalf;
      const float sign = first ? -1.0f : 1.0f;
      weight_[i] = by.weight[e], bias_[i] = by.bias[e];
      other_weight_[i] = sign * by.weight[other], other_bias_[i] = sign * by.bias[other];
      biased_ = biased_ || by.bias[e] != 0.0f;  // NaN too
    }
  }

  // The sums of one head after the other; root and division are shared, and wait for nobody: see rows_in_registers.
  void measure(const T* x, int64_t stride, int64_t heads, GroupStatistics& s) const {
    const bool plain = a_.norm == HeadNorm::none || a_.norm == HeadNorm::dyt;
    for (int h = 0; h < kTogether; ++h) s.mean[h] = 0.0f, s.rstd[h] = 1.0f;
    if (plain) return;
    constexpr float inverse = 1.0f / kDim;
    if (a_.norm == HeadNorm::layer)
      for (int64_t h = 0; h < heads; ++h) {
        Vec totals[2] = {at(x + h * stride, 0), at(x + h * stride, 1)};
        for (int v = 2; v < N; ++v) totals[v % 2] = totals[v % 2] + at(x + h * stride, v);
        s.mean[h] = sum(totals[0] + totals[1]) * inverse;
      }
    for (int64_t h = 0; h < heads; ++h) {
      const Vec mean = broadcast(s.mean[h]);
      Vec squares[2] = {zero(), zero()};
      for (int v = 0; v < N; ++v) {
        const Vec d = at(x + h * stride, v) - mean;
        squares[v % 2] = fma(d, d, squares[v % 2]);
      }
      s.rstd[h] = sum(squares[0] + squares[1]);
    }
    for (int h = 0; h < kTogether; h += L)
      store(s.rstd + h, fma(load(s.rstd + h), broadcast(inverse), broadcast(a_.eps)));
#pragma GCC unroll 1
    for (int h = 0; h < kTogether; ++h) s.rstd[h] = 1.0f / __builtin_sqrtf(s.rstd[h]);
  }

  void apply(const T* x, int64_t x_stride, int64_t heads, const GroupStatistics& s, int64_t t, bool streamed, T* y,
             int64_t y_stride) const {
    Vec own[N], across[N], offset[N];
    make(t, own, across, offset);
    const bool dyt = a_.norm == HeadNorm::dyt;
    const Vec alpha = broadcast(alpha_);
    for (int64_t h = 0; h < heads; ++h) {
      const Vec mean = broadcast(s.mean[h]), rstd = broadcast(s.rstd[h]);
      Vec n[N];
      for (int v = 0; v < N; ++v) n[v] = at(x + h * x_stride, v);
      if (__builtin_expect(dyt, 0))
        for (int v = 0; v < N; ++v) n[v] = tanh(alpha * n[v]);
      else
        for (int v = 0; v < N; ++v) n[v] = (n[v] - mean) * rstd;
      for (int b = 0; b < N; b += 4) {
        Vec out[4];
        for (int j = 0; j < 4; ++j) {
          const int v = b + j;
          out[j] = fma(n[v], own[v], offset[v]);
          if (v < kRotated) out[j] = fma(partner(n, v), across[v], out[j]);
        }
        T* p = y + h * y_stride + b * L;
        if (streamed)
          stream_block(p, out);
        else
          store_block(p, out);
      }
    }
  }

 private:
  static Vec at(const T* x, int v) { return load_of_block(x + v / 4 * 4 * L, v % 4); }

  static Vec partner(const Vec (&n)[N], int v) {
    if (kInterleaved) return kSplit ? n[v ^ 1] : pick(n[v], kNeighbours);
    return kSplit && kHalf == L ? pick(n[v], kOtherHalf) : n[v ^ (kHalf / L)];
  }

  // cos or sin of every rotated element
  static void turns(const float* table, Vec (&out)[N]) {
    for (int v = 0; v < kRotated; v += 2) {
      if (kInterleaved) {
        out[v] = out[v + 1] = load(table + v * L / 2);
        if (!kSplit) join_pairs(out[v], out[v + 1]);
      } else {
        constexpr int half = kHalf ? kHalf : 1;
        out[v] = load(table + v * L % half), out[v + 1] = load(table + (v + 1) * L % half);
        if (kSplit) split_pairs(out[v], out[v + 1]);
      }
    }
  }

  void make(int64_t t, Vec (&own)[N], Vec (&across)[N], Vec (&offset)[N]) const {
    Vec c[N], s[N];
    if (kHalf) turns(a_.cos + t * kHalf, c), turns(a_.sin + t * kHalf, s);
    for (int v = 0; v < N; ++v) {
      const bool rotated = v < kRotated;
      own[v] = load(weight_ + v * L);
      if (rotated) own[v] = own[v] * c[v];
      across[v] = rotated ? load(other_weight_ + v * L) * s[v] : zero();
      offset[v] = zero();
    }
    if (biased_)
      for (int v = 0; v < N; ++v) {
        offset[v] = load(bias_ + v * L);
        if (v < kRotated) offset[v] = fma(load(other_bias_ + v * L), s[v], offset[v] * c[v]);
      }
  }

  const QkNormRopeArgs& a_;
  const float alpha_;
  bool biased_ = false;
  alignas(64) float weight_[kDim], other_weight_[kDim], bias_[kDim], other_bias_[kDim];
};

template <class T>
bool on_lines(const HeadOutput& y) {
  constexpr uintptr_t line = 64;
  return reinterpret_cast<uintptr_t>(y.data) % line == 0 && y.batch_stride * sizeof(T) % line == 0 &&
         y.time_stride * sizeof(T) % line == 0 && y.head_stride * sizeof(T) % line == 0;
}

// Groups of up to kTogether heads of q or k, the statistics of each made before the group in front of it is rotated:
// sums across lanes, root and division, a hundred cycles one after the other, hide behind the other's arithmetic. Head
// by head the schedulers of Zen 4 hold one and a half heads that wait for theirs: 82 cycles for 64 floats, whose loads,
// stores and products take 20. One thread: 345 rows of 5 + 5 heads of 64 take 42 us in place of 71, in bf16 54 in place
// of 118; 3000 rows of 16 + 8 heads of 128 in neighbouring pairs 5.3 ms in place of 7.5 and 3.8 in place of 6.0.
template <class Registers, class T>
void rows_in_registers(const QkNormRopeArgs& a, const Affine& of_q, const Affine& of_k, int64_t begin, int64_t end) {
  const Registers q(a, of_q), k(a, of_k);
  const int64_t of_a_row = (a.q.heads + kTogether - 1) / kTogether,
                all = of_a_row + (a.k.heads + kTogether - 1) / kTogether;
  const int64_t bytes = a.batch * a.time * (a.q.heads + a.k.heads) * a.dim * static_cast<int64_t>(sizeof(T));
  const bool streamed = bytes > kStreamBytes && on_lines<T>(a.q.y) && (a.k.heads == 0 || on_lines<T>(a.k.y));
  struct Group {
    const Registers* by;
    const T* x;
    T* y;
    int64_t x_stride, y_stride, heads, t;
  };
  struct Place {
    int64_t b, t, g;
  };
  const auto after = [&](Place p) {
    if (++p.g == all) p.g = 0, ++p.t;
    if (p.t == a.time) p.t = 0, ++p.b;
    return p;
  };
  const auto group = [&](const Place& p) {
    const bool of_k = p.g >= of_a_row;
    const Heads& h = of_k ? a.k : a.q;
    const int64_t first = (of_k ? p.g - of_a_row : p.g) * kTogether, left = h.heads - first;
    return Group{of_k ? &k : &q,
                 row<T>(h.x, p.b, p.t, first),
                 row<T>(h.y, p.b, p.t, first),
                 h.x.head_stride,
                 h.y.head_stride,
                 left < kTogether ? left : kTogether,
                 p.t};
  };
  GroupStatistics statistics[2];
  const int64_t groups = (end - begin) * all;
  Place place{begin / a.time, begin % a.time, 0};
  Group now = group(place);
  now.by->measure(now.x, now.x_stride, now.heads, statistics[0]);
  for (int64_t i = 0; i < groups; ++i) {
    Group next = now;
    if (i + 1 < groups) {
      place = after(place);
      next = group(place);
      next.by->measure(next.x, next.x_stride, next.heads, statistics[(i + 1) % 2]);
      if (streamed && i + 2 < groups) {
        const Group ahead = group(after(place));
        for (int64_t h = 0; h < ahead.heads; ++h)
          for (int64_t j = 0; j < a.dim; j += 4 * Vec::lanes) prefetch_block(ahead.x + h * ahead.x_stride + j);
      }
    }
    now.by->apply(now.x, now.x_stride, now.heads, statistics[i % 2], now.t, streamed, now.y, now.y_stride);
    now = next;
  }
  if (streamed) stream_fence();
}

template <class T>
using RowsOfRegisters = void (*)(const QkNormRopeArgs&, const Affine&, const Affine&, int64_t, int64_t);

template <int kDim, int kHalf, class T>
RowsOfRegisters<T> rows_of(Pairing pairing) {
  if (kHalf == 0 || pairing == Pairing::half)
    return rows_in_registers<HeadsInRegisters<kDim, kHalf, Pairing::half, T>, T>;
  return rows_in_registers<HeadsInRegisters<kDim, kHalf, kHalf ? Pairing::interleaved : Pairing::half, T>, T>;
}

// Null where the heads are of another kind.
template <class T>
RowsOfRegisters<T> rows_of_registers(const QkNormRopeArgs& a) {
  if constexpr (Vec::lanes > 1) {
    if (a.dim == 64 && a.half == 0) return rows_of<64, 0, T>(a.pairing);
    if (a.dim == 64 && a.half == 16) return rows_of<64, 16, T>(a.pairing);
    if (a.dim == 64 && a.half == 32) return rows_of<64, 32, T>(a.pairing);
    if (a.dim == 128 && a.half == 0) return rows_of<128, 0, T>(a.pairing);
    if (a.dim == 128 && a.half == 32) return rows_of<128, 32, T>(a.pairing);
    if (a.dim == 128 && a.half == 64) return rows_of<128, 64, T>(a.pairing);
  }
  return nullptr;
}

template <class T>
void forward(const QkNormRopeArgs& a) {
  const int64_t rows = a.batch * a.time, heads = a.q.heads + a.k.heads;
  const RowsOfRegisters<T> in_registers = rows_of_registers<T>(a);
  bool failed = false;
  parallel_for(rows, kGrainElements / (heads * a.dim) + 1, [&](int64_t begin, int64_t end) {
    Scratch<7> scratch(a.dim);
    if (!scratch.ready()) return __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
    const Affine of_q = affine_of(a, a.q, scratch.row(0), scratch.row(1));
    const Affine of_k = affine_of(a, a.k, scratch.row(2), scratch.row(3));
    if (in_registers) return in_registers(a, of_q, of_k, begin, end);
    float *u = scratch.row(4), *v = scratch.row(5), *w = scratch.row(6);
    for (int64_t r = begin; r < end; ++r) {
      const int64_t b = r / a.time, t = r % a.time;
      const auto each = [&](const Heads& h, const Affine& by) {
        for (int64_t i = 0; i < h.heads; ++i) {
          normalise(row<T>(h.x, b, t, i), a, by, u);
          rotate_row(a, u, v, w, t, row<T>(h.y, b, t, i));
        }
      };
      each(a.q, of_q);
      each(a.k, of_k);
    }
  });
  if (failed) out_of_memory();
}

// du = dy rotated back, into u; v is scratch.
template <class T>
void rotate_back(const QkNormRopeArgs& a, const T* dy, float* u, float* v, int64_t t) {
  const int64_t half = a.half;
  for_lanes(
      a.dim, [&](int64_t i) { store(u + i, load(dy + i)); },
      [&](int64_t i, int k) { store(u + i, load(dy + i, k), k); });
  if (half == 0) return;
  const float *cos = a.cos + t * half, *sin = a.sin + t * half;
  float* from = u;
  if (a.pairing == Pairing::interleaved) gather_pairs(u, v, half), from = v;
  const auto pair = [&](int64_t i, int k) {
    const Vec c = load(cos + i, k), s = load(sin + i, k), x = load(from + i, k), y = load(from + half + i, k);
    store(from + i, fma(x, c, y * s), k);
    store(from + half + i, y * c - x * s, k);
  };
  for_lanes(half, [&](int64_t i) { pair(i, Vec::lanes); }, pair);
  if (from == v) scatter_pairs(v, u, half);
}

struct HeadAccumulators {
  float *weight, *bias, *alpha;  // [D] of `partial` each, or null

  void add(float* sum, Vec v, int64_t i, int k) const {
    if (sum) store(sum + i, load(sum + i, k) + v, k);
  }
};

// dx of one row from du, and its share of the sums.
template <class T>
void backward_row(const QkNormRopeArgs& a, const T* x, const float* du, const Affine& by, const HeadAccumulators& sums,
                  T* dx) {
  const int64_t D = a.dim;
  const Vec alpha = broadcast(by.alpha);
  if (a.norm == HeadNorm::dyt || a.norm == HeadNorm::none) {
    const bool dyt = a.norm == HeadNorm::dyt;
    const auto lanes = [&](int64_t i, int k) {
      const Vec v = load(x + i, k), d = load(du + i, k);
      if (!dyt) return store(dx + i, d, k);
      const Vec n = tanh(alpha * v), slope = broadcast(4.0f) * sigmoid_and_slope(broadcast(2.0f) * alpha * v).slope;
      const Vec g = d * load(by.weight + i, k) * slope;  // 1 - n^2 would cancel, and v may be large there
      store(dx + i, alpha * g, k);
      sums.add(sums.weight, d * n, i, k);
      sums.add(sums.bias, d, i, k);
      sums.add(sums.alpha, g * v, i, k);
    };
    for_lanes(D, [&](int64_t i) { lanes(i, Vec::lanes); }, lanes);
    return;
  }
  const HeadStatistics s = statistics(x, a);
  const Vec mean = broadcast(s.mean), rstd = broadcast(s.rstd);
  const auto normalised = [&](int64_t i, int k) { return keep((load(x + i, k) - mean) * rstd, k); };
  Vec sum_g = zero(), sum_gn = zero();
  const auto reduce = [&](int64_t i, int k) {
    const Vec d = load(du + i, k), n = normalised(i, k), g = d * load(by.weight + i, k);
    sum_g = sum_g + g;
    sum_gn = fma(g, n, sum_gn);
    sums.add(sums.weight, d * n, i, k);
    sums.add(sums.bias, d, i, k);
  };
  for_lanes(D, [&](int64_t i) { reduce(i, Vec::lanes); }, reduce);
  const float inverse = 1.0f / static_cast<float>(D);
  const Vec mean_g = broadcast(a.norm == HeadNorm::layer ? sum(sum_g) * inverse : 0.0f);
  const Vec mean_gn = broadcast(sum(sum_gn) * inverse);
  const auto gradient = [&](int64_t i, int k) {
    const Vec g = load(du + i, k) * load(by.weight + i, k);
    store(dx + i, rstd * (g - mean_g - normalised(i, k) * mean_gn), k);
  };
  for_lanes(D, [&](int64_t i) { gradient(i, Vec::lanes); }, gradient);
}

// The gradients of q's or k's vectors from their rows of sums.
inline void add_sums(const QkNormRopeArgs& a, const Heads& h, const HeadGradients& g, float* total) {
  const HeadSums index = head_sums(g);
  const int64_t rows = head_rows(a, h), plane = rows * a.dim;
  with_type(a.vectors_dtype, [&](auto type) {
    using V = decltype(type);
    if (index.weight >= 0) add_rows(g.partial + index.weight * plane, rows, a.dim, static_cast<V*>(g.dweight));
    if (index.bias >= 0) add_rows(g.partial + index.bias * plane, rows, a.dim, static_cast<V*>(g.dbias));
    if (index.alpha >= 0) {
      add_rows(g.partial + index.alpha * plane, rows, a.dim, total);
      *static_cast<V*>(g.dalpha) = narrow<V>(sum_lanes(a.dim, [&](int64_t i, int k) { return load(total + i, k); }));
    }
  });
}

template <class T>
void backward(const QkNormRopeBackwardArgs& a) {
  const QkNormRopeArgs& f = a.forward;
  const int64_t D = f.dim, blocks = time_blocks(f.time);
  bool failed = false;
  parallel_for(f.batch * blocks, 1, [&](int64_t begin, int64_t end) {
    Scratch<6> scratch(D);
    if (!scratch.ready()) return __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
    const Affine of_q = affine_of(f, f.q, scratch.row(0), scratch.row(1));
    const Affine of_k = affine_of(f, f.k, scratch.row(2), scratch.row(3));
    float *u = scratch.row(4), *v = scratch.row(5);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t b = item / blocks, first = item % blocks * kTimeBlock;
      const int64_t last = first + kTimeBlock < f.time ? first + kTimeBlock : f.time;
      const auto each = [&](const Heads& h, const HeadGradients& g, const Affine& by) {
        const HeadSums index = head_sums(g);
        const int64_t plane = head_rows(f, h) * D;
        for (int64_t i = 0; i < h.heads; ++i) {
          const auto sum_row = [&](int which) -> float* {
            if (which < 0) return nullptr;
            float* sum = g.partial + which * plane + (item * h.heads + i) * D;
            memset(sum, 0, sizeof(float) * static_cast<size_t>(D));
            return sum;
          };
          const HeadAccumulators sums{sum_row(index.weight), sum_row(index.bias), sum_row(index.alpha)};
          for (int64_t t = first; t < last; ++t) {
            rotate_back(f, row<T>(g.dy, b, t, i), u, v, t);
            backward_row(f, row<T>(h.x, b, t, i), u, by, sums, row<T>(g.dx, b, t, i));
          }
        }
      };
      each(f.q, a.q, of_q);
      each(f.k, a.k, of_k);
    }
  });
  Scratch<1> scratch(D);
  if (failed || !scratch.ready()) out_of_memory();
  add_sums(f, f.q, a.q, scratch.row(0));
  add_sums(f, f.k, a.k, scratch.row(0));
}

}  // namespace

void qk_norm_rope(const QkNormRopeArgs& a) {
  with_type(a.dtype, [&](auto t) { forward<decltype(t)>(a); });
}

void qk_norm_rope_backward(const QkNormRopeBackwardArgs& a) {
  with_type(a.forward.dtype, [&](auto t) { backward<decltype(t)>(a); });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
