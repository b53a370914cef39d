// SPDX-License-Identifier: Apache-2.0
#include "math.h"
#include "parallel.h"
#include "permute.h"
#include "qk_norm_rope_rows.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

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

}  // namespace

void qk_norm_rope(const QkNormRopeArgs& a) {
  with_type(a.dtype, [&](auto t) { forward<decltype(t)>(a); });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
