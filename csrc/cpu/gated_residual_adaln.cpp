// SPDX-License-Identifier: Apache-2.0
#include "../ops/gated_residual_adaln.h"

#include "gate.h"
#include "normalise.h"
#include "store_two.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

// Stores a block of r, past the caches and to `copy`, or to p alone; x becomes what it then reads as.
template <bool kPastCache, class T>
inline void put_rounded(T* p, T* copy, Vec (&x)[4]) {
  if (kPastCache) store_block(copy, x);
  put_block<kPastCache>(p, x);
  if (sizeof(T) < sizeof(float))
    for (int j = 0; j < 4; ++j) x[j] = load_of_block(kPastCache ? copy : p, j);
}
#if defined(__AVX512F__)
// bf16 is rounded once and does not go through memory.
template <bool kPastCache>
inline void put_rounded(bfloat16* p, bfloat16* copy, Vec (&x)[4]) {
  for (int j = 0; j < 4; j += 2) {
    const __m512i pair = to_bfloat16(x[j], x[j + 1]);
    store_halves((kPastCache ? copy : p) + j * Vec::lanes, pair);
    if (kPastCache) stream_halves(p + j * Vec::lanes, pair);
    x[j] = {_mm512_castsi512_ps(_mm512_slli_epi32(pair, 16))};
    x[j + 1] = {_mm512_castsi512_ps(_mm512_and_si512(pair, _mm512_set1_epi32(static_cast<int>(0xffff0000))))};
  }
}
template <bool kPastCache>
inline void put_beside(const float*, bfloat16* p, const Vec (&v)[4]) {
  for (int j = 0; j < 4; j += 2)
    (kPastCache ? stream_halves : store_halves)(p + j * Vec::lanes, to_bfloat16_in_order(v[j], v[j + 1]));
}
#endif

namespace {

// One row of x and branch; g in the order of T's blocks.
template <class T, class B>
struct Residual {
  const T* x;
  const B* branch;
  const float* g;

  Vec of_block(int64_t i, int j) const {
    return fma(load_beside(x, branch + i, j), load(g + i + j * Vec::lanes), load_of_block(x + i, j));
  }
  Vec lanes(int64_t i, int k) const { return fma(load(branch + i, k), load(g + i, k), load(x + i, k)); }
};

// A value near the row's mean: the mean of eight vectors spread over it (of the first element in a short row).
template <class T, class B>
float pivot_of(const Residual<T, B>& r, int64_t C) {
  constexpr int64_t L = Vec::lanes;
  const int64_t blocks = C / (4 * L);
  if (blocks == 0) return sum(keep(r.lanes(0, 1), 1));
  Vec v = zero();
  for (int q = 0; q < 4; ++q) {
    const int64_t i = q * blocks / 4 * 4 * L;
    v = v + (r.of_block(i, 0) + r.of_block(i, 2));
  }
  return sum(v) * (0.125f / L);
}

// As in adaln_modulate.cpp one walk normalises a row while it takes the moments of the next; here the next is made on
// the way. `r` is the row at work and `next_r` the next as they are stored: in the output, or past the caches in
// `copy`, since what is streamed cannot be read back.
// 1025 rows of 1536, one thread, Zen 4, beside memcpy of as many bytes, every rival warmed up: float32 614 us, 573
// (torch.compile 1727); float32 with bfloat16 branches, in rows_together, 550, 321; bfloat16 379, 174 (torch.compile
// 1173): 14 cycles for 16 elements also where all lies in L2, so that it is the arithmetic, two roundings and three
// openings of pairs. 4160 rows of bfloat16: 1.75 ms, 2.4.
template <class T, class B>
struct Walk {
  const T* r;
  B* y;
  Residual<T, B> next;
  T *next_r, *copy;
  Residual<T, B> ahead;
};

template <bool kLayer, bool kPastCache, bool kTwoStages, bool kWrite, class T, class B>
Moments walk(const Walk<T, B>& w, Statistics s, const Folded& by, int64_t C) {
  constexpr int L = Vec::lanes;
  const float pivot = kLayer ? pivot_of(w.next, C) : 0.0f;
  const Vec near = broadcast(pivot), mean = broadcast(s.mean), rstd = broadcast(s.rstd);
  Vec sums[4] = {zero(), zero(), zero(), zero()}, squares[4] = {zero(), zero(), zero(), zero()};
  const auto measure = [&](int j, Vec v, int k) {
    const Vec d = kLayer ? keep(v - near, k) : v;
    if (kLayer) sums[j] = sums[j] + d;
    squares[j] = fma(d, d, squares[j]);
  };
  const auto value = [&](Vec v, int64_t i, int k) { return modulated<kTwoStages>(v, mean, rstd, by, i, k); };
  // The moments are those of the rounded row: a row that lies closer together than its rounding has no other.
  const T* kept = kPastCache ? w.copy : w.next_r;
  for_blocks(
      C,
      [&](int64_t i) {
        Vec v[4], n[4];
        if (kWrite)
          for (int j = 0; j < 4; ++j) v[j] = value(load_of_block(w.r + i, j), i + j * L, L);
        for (int j = 0; j < 4; ++j) n[j] = w.next.of_block(i, j);
        if (kPastCache) {
          prefetch_block(w.ahead.x + i);
          prefetch_block(w.ahead.branch + i);
        }
        put_rounded<kPastCache>(w.next_r + i, w.copy + i, n);
        for (int j = 0; j < 4; ++j) measure(j, n[j], L);
        if (kWrite) put_beside<kPastCache>(w.r, w.y + i, v);
      },
      [&](int64_t i, int k) {
        const Vec n = w.next.lanes(i, k);
        store(w.next_r + i, n, k);
        if (kPastCache) store(w.copy + i, n, k);
        measure(0, sizeof(T) < 4 ? load(kept + i, k) : n, k);
        if (kWrite) store(w.y + i, value(load(w.r + i, k), i, k), k);
      });
  return {pivot, kLayer ? sum((sums[0] + sums[1]) + (sums[2] + sums[3])) : 0.0f,
          sum((squares[0] + squares[1]) + (squares[2] + squares[3]))};
}

// The last row of a thread, after which there is none to measure.
template <bool kPastCache, bool kTwoStages, class T, class B>
void modulate(const T* r, B* y, Statistics s, const Folded& by, int64_t C) {
  const Vec mean = broadcast(s.mean), rstd = broadcast(s.rstd);
  const auto value = [&](Vec v, int64_t i, int k) { return modulated<kTwoStages>(v, mean, rstd, by, i, k); };
  for_blocks(
      C,
      [&](int64_t i) {
        Vec v[4];
        for (int j = 0; j < 4; ++j) v[j] = value(load_of_block(r + i, j), i + j * Vec::lanes, Vec::lanes);
        put_beside<kPastCache>(r, y + i, v);
      },
      [&](int64_t i, int k) { store(y + i, value(load(r + i, k), i, k), k); });
}

// False where memory ran out: no exception may leave a parallel region.
template <bool kLayer, bool kPastCache, class T, class B>
bool forward_rows(const GatedResidualAdalnArgs& a, int64_t begin, int64_t end) {
  const AdalnModulateArgs& f = a.adaln;
  const int64_t C = f.channels;
  Scratch<7> scratch(C);
  if (!scratch.ready()) return false;
  const Folded by{scratch.row(0), scratch.row(1), scratch.row(2), scratch.row(3)};
  const bool per_row = f.shift.time_stride || f.scale.time_stride;
  int64_t folded = -1, opened = -1;
  float* g = scratch.row(4);
  const auto input = [&](int64_t r) {
    const int64_t b = r / f.time, t = r % f.time;
    if (b != opened) {
      if (a.gate.data)
        open_gate(row<T>(a.gate, b, 0), a.form, g, C);
      else
        for (int64_t i = 0; i < C; ++i) g[i] = 1.0f;
      opened = b;
    }
    return Residual<T, B>{row<T>(a.x, b, t), row<B>(a.branch, b, t), g};
  };
  const auto output = [&](int64_t r) { return row<T>(a.r, r / f.time, r % f.time); };
  const auto copy = [&](int64_t r) { return reinterpret_cast<T*>(scratch.row(5 + r % 2)); };
  const auto stored = [&](int64_t r) { return kPastCache ? copy(r) : output(r); };

  const PagesAhead<T> pages_of_r(a.r, f.batch * f.time, f.time, C, begin, end);
  const PagesAhead<B> pages_of_y(f.y, f.batch * f.time, f.time, C, begin, end);
  pages_of_r.at(begin);
  Walk<T, B> w{nullptr, nullptr, input(begin), output(begin), copy(begin), {}};
  w.ahead = w.next;
  Statistics s = finish<kLayer>(walk<kLayer, kPastCache, false, false>(w, {}, by, C), stored(begin), f);
  for (int64_t r = begin; r < end; ++r) {
    const int64_t b = r / f.time, t = r % f.time;
    const Modulation<T> m(f, b, t);
    if (per_row || b != folded) fold(m, C, by), folded = b;
    pages_of_y.at(r);
    w.r = stored(r);
    w.y = row<B>(f.y, b, t);
    if (r + 1 == end) {
      (two_stages(m) ? modulate<kPastCache, true, T, B> : modulate<kPastCache, false, T, B>)(w.r, w.y, s, by, C);
      break;
    }
    pages_of_r.at(r + 1);
    w.next = input(r + 1);
    w.next_r = output(r + 1);
    w.copy = copy(r + 1);
    if (r + 2 < end)
      w.ahead = {row<T>(a.x, (r + 2) / f.time, (r + 2) % f.time), row<B>(a.branch, (r + 2) / f.time, (r + 2) % f.time),
                 nullptr};
    const auto step =
        two_stages(m) ? walk<kLayer, kPastCache, true, true, T, B> : walk<kLayer, kPastCache, false, true, T, B>;
    s = finish<kLayer>(step(w, s, by, C), stored(r + 1), f);
  }
  if (kPastCache) stream_fence();
  return true;
}

// R rows of one sample, measured and stored in one loop, normalised in a second that also fetches the rows `ahead`. A
// float32 stream's rows at work with gate, gain and offset, 42 kB at 1536 channels, do not stay in L1, and a walk
// brings in seven lines for each vector; two rows share three of them. One thread, bfloat16 branches, warm: 1025 rows
// of 1536 take 550 us in place of 690, 700 rows 294 in place of 327; four rows together gain 2 percent more, one alone
// less. Where all lies in L2 the walk is a tenth faster, and bfloat16 streams are no faster either way.
template <int R, bool kLayer, bool kTwoStages, class T, class B>
void rows_together(const AdalnModulateArgs& f, const Residual<T, B> (&in)[R], T* const (&r)[R], B* const (&y)[R],
                   const Residual<T, B> (&ahead)[R], const Folded& by) {
  const int64_t C = f.channels;
  float pivot[R];
  Vec near[R], sums[R][2], squares[R][2], mean[R], rstd[R];
  for (int q = 0; q < R; ++q) {
    pivot[q] = kLayer ? pivot_of(in[q], C) : 0.0f;
    near[q] = broadcast(pivot[q]);
    for (int j = 0; j < 2; ++j) sums[q][j] = squares[q][j] = zero();
  }
  const auto measure = [&](int q, int j, Vec v, int k) {
    const Vec d = kLayer ? keep(v - near[q], k) : v;
    if (kLayer) sums[q][j] = sums[q][j] + d;
    squares[q][j] = fma(d, d, squares[q][j]);
  };
  for_blocks(
      C,
      [&](int64_t i) {
        for (int q = 0; q < R; ++q) {
          Vec n[4];
          for (int j = 0; j < 4; ++j) n[j] = in[q].of_block(i, j);
          put_rounded<false>(r[q] + i, r[q] + i, n);
          for (int j = 0; j < 4; ++j) measure(q, j % 2, n[j], Vec::lanes);
        }
      },
      [&](int64_t i, int k) {
        for (int q = 0; q < R; ++q) {
          store(r[q] + i, in[q].lanes(i, k), k);
          measure(q, 0, load(r[q] + i, k), k);
        }
      });
  for (int q = 0; q < R; ++q) {
    const Moments m{pivot[q], kLayer ? sum(sums[q][0] + sums[q][1]) : 0.0f, sum(squares[q][0] + squares[q][1])};
    const Statistics s = finish<kLayer>(m, r[q], f);
    mean[q] = broadcast(s.mean), rstd[q] = broadcast(s.rstd);
  }
  const auto value = [&](int q, Vec v, int64_t i, int k) {
    return modulated<kTwoStages>(v, mean[q], rstd[q], by, i, k);
  };
  for_blocks(
      C,
      [&](int64_t i) {
        for (int q = 0; q < R; ++q) {
          prefetch_block(ahead[q].x + i);
          prefetch_block(ahead[q].branch + i);
          Vec v[4];
          for (int j = 0; j < 4; ++j) v[j] = value(q, load_of_block(r[q] + i, j), i + j * Vec::lanes, Vec::lanes);
          put_beside<false>(r[q], y[q] + i, v);
        }
      },
      [&](int64_t i, int k) {
        for (int q = 0; q < R; ++q) store(y[q] + i, value(q, load(r[q] + i, k), i, k), k);
      });
}

template <int R>
struct Together {
  static constexpr int rows = R;
};

// Each row's arithmetic is the same whether it goes alone or beside another.
template <bool kLayer, class T, class B>
bool forward_together(const GatedResidualAdalnArgs& a, int64_t begin, int64_t end) {
  const AdalnModulateArgs& f = a.adaln;
  const int64_t C = f.channels;
  Scratch<5> scratch(C);
  if (!scratch.ready()) return false;
  const Folded by{scratch.row(0), scratch.row(1), scratch.row(2), scratch.row(3)};
  float* g = scratch.row(4);
  const bool per_row = f.shift.time_stride || f.scale.time_stride;
  int64_t made = -1;
  const auto run = [&](auto count, int64_t first) {
    constexpr int R = decltype(count)::rows;
    Residual<T, B> in[R], ahead[R];
    T* r[R];
    B* y[R];
    for (int q = 0; q < R; ++q) {
      const int64_t at = first + q, later = at + R < end ? at + R : end - 1;
      in[q] = {row<T>(a.x, at / f.time, at % f.time), row<B>(a.branch, at / f.time, at % f.time), g};
      ahead[q] = {row<T>(a.x, later / f.time, later % f.time), row<B>(a.branch, later / f.time, later % f.time), g};
      r[q] = row<T>(a.r, at / f.time, at % f.time);
      y[q] = row<B>(f.y, at / f.time, at % f.time);
    }
    const Modulation<T> m(f, first / f.time, first % f.time);
    if (two_stages(m))
      rows_together<R, kLayer, true>(f, in, r, y, ahead, by);
    else
      rows_together<R, kLayer, false>(f, in, r, y, ahead, by);
  };
  for (int64_t at = begin; at < end;) {
    const int64_t b = at / f.time;
    if (b != made) {
      if (a.gate.data)
        open_gate(row<T>(a.gate, b, 0), a.form, g, C);
      else
        for (int64_t i = 0; i < C; ++i) g[i] = 1.0f;
    }
    if (per_row || b != made) fold(Modulation<T>(f, b, at % f.time), C, by), made = b;
    if (!per_row && at + 1 < end && (at + 1) / f.time == b)
      run(Together<2>{}, at), at += 2;
    else
      run(Together<1>{}, at), at += 1;
  }
  return true;
}

template <bool kLayer, class T, class B>
auto rows_of(bool streamed, bool in_pairs) {
  if constexpr (sizeof(T) == sizeof(float))
    if (in_pairs && !streamed) return forward_together<kLayer, T, B>;
  if constexpr (Vec::lanes > 1)
    if (streamed) return forward_rows<kLayer, true, T, B>;
  return forward_rows<kLayer, false, T, B>;
}

constexpr int64_t kPairsAbove = 4 << 20;  // bytes of r and y: from where rows in pairs were the faster

template <class T, class B>
void forward(const GatedResidualAdalnArgs& a) {
  const AdalnModulateArgs& f = a.adaln;
  const int64_t rows = f.batch * f.time, C = f.channels;
  const int64_t bytes = rows * C * static_cast<int64_t>(sizeof(T) + sizeof(B));
  const bool streamed = Vec::lanes > 1 && on_lines<T>(a.r) && on_lines<B>(f.y) && bytes > kStreamBytes;
  const bool in_pairs = bytes > kPairsAbove;
  bool failed = false;
  parallel_for(rows, kGrainElements / (C + 1) + 1, [&](int64_t begin, int64_t end) {
    const auto layer = rows_of<true, T, B>(streamed, in_pairs), rms = rows_of<false, T, B>(streamed, in_pairs);
    if (!(f.norm == Norm::layer ? layer : rms)(a, begin, end)) __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
  });
  if (failed) out_of_memory();
}

template <class T, class B>
void backward(const GatedResidualAdalnBackwardArgs& a) {
  const AdalnModulateArgs& f = a.adaln.forward;
  const int64_t C = f.channels, blocks = time_blocks(f.time);
  const auto begin_block = [&](int64_t item) {
    if (a.dgate.data) memset(a.gate_partial + item * C, 0, sizeof(float) * static_cast<size_t>(C));
  };
  adaln_backward<T, B>(a.adaln, begin_block, [&](int64_t b, int64_t t, int64_t item) {
    const T* dr = row<T>(a.dr, b, t);
    const B* branch = row<B>(a.branch, b, t);
    const T* gate = a.gate.data ? row<T>(a.gate, b, 0) : nullptr;
    T* dx = row<T>(a.adaln.dx, b, t);
    B* dbranch = a.dbranch.data ? row<B>(a.dbranch, b, t) : nullptr;
    float* sum = a.dgate.data ? a.gate_partial + item * C : nullptr;
    return [=, &a](int64_t i, Vec v, int k) {
      v = v + load(dr + i, k);
      store(dx + i, v, k);
      if (dbranch) store(dbranch + i, gate ? v * opened(load(gate + i, k), a.form) : v, k);
      if (sum) store(sum + i, fma(v, load(branch + i, k), load(sum + i, k)), k);
    };
  });
  for (int64_t b = 0; a.dgate.data && b < f.batch; ++b)
    close_gate<false>(a.gate_partial + b * blocks * C, blocks, row<T>(a.gate, b, 0), a.form, row<T>(a.dgate, b, 0), C);
}

}  // namespace

void gated_residual_adaln(const GatedResidualAdalnArgs& a) {
  with_types(a.adaln.dtype, a.branch_dtype, [&](auto t, auto b) { forward<decltype(t), decltype(b)>(a); });
}

void gated_residual_adaln_backward(const GatedResidualAdalnBackwardArgs& a) {
  with_types(a.adaln.forward.dtype, a.branch_dtype, [&](auto t, auto b) { backward<decltype(t), decltype(b)>(a); });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
