// SPDX-License-Identifier: Apache-2.0
#include "snake.h"

#include "../ops/snake.h"
#include "parallel.h"
#include "rows.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

// Elements [begin, end) of a row; at(i, k) gives a and 1 / b' of lanes i ... i + k.
struct Constants {
  const float *a, *inverse;  // of the row's first channel
  bool one;                  // for the whole row

  Vec alpha(int64_t i, int k) const { return one ? broadcast(*a) : load(a + i, k); }
  Vec inverse_beta(int64_t i, int k) const { return one ? broadcast(*inverse) : load(inverse + i, k); }
};

template <class T>
void forward_row(const T* x, T* y, const Constants& c, int64_t n) {
  const auto lanes = [&](int64_t i, int k) {
    store(y + i, snake_of(load(x + i, k), c.alpha(i, k), c.inverse_beta(i, k)), k);
  };
  for_lanes(n, [&](int64_t i) { lanes(i, Vec::lanes); }, lanes);
}

// Pieces of at most kColumnBlock elements of rows: rows may be few and long.
struct Pieces {
  int64_t in_row, count;

  explicit Pieces(const SnakeShape& s)
      : in_row((s.columns + kColumnBlock - 1) / kColumnBlock), count(s.batch * s.rows * in_row) {}
};

template <class T>
void forward(const SnakeArgs& args) {
  const SnakeShape& s = args.shape;
  const Pieces pieces(s);
  bool failed = false;
  parallel_for(pieces.count, kGrainElements / (s.columns < kColumnBlock ? s.columns : kColumnBlock) + 1,
               [&](int64_t begin, int64_t end) {
                 Scratch<2> scratch(channels_of(s));
                 if (!scratch.ready()) return __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
                 float *a = scratch.row(0), *inverse = scratch.row(1);
                 snake_constants(static_cast<const T*>(args.alpha), static_cast<const T*>(args.beta), s.log_scale,
                                 channels_of(s), a, inverse);
                 for (int64_t i = begin; i < end; ++i) {
                   const int64_t r = i / pieces.in_row, b = r / s.rows, t = r % s.rows;
                   const int64_t first = i % pieces.in_row * kColumnBlock, left = s.columns - first;
                   const int64_t channel = s.channel_is_row ? t : first;
                   forward_row(row<T>(args.x, b, t) + first, row<T>(args.y, b, t) + first,
                               {a + channel, inverse + channel, s.channel_is_row},
                               left < kColumnBlock ? left : kColumnBlock);
                 }
               });
  if (failed) out_of_memory();
}

// sum(i, k, dalpha, dbeta) takes the terms of both sums, without the factors of their channel: 1 / b' rounded once and
// multiplied with every term would move all of a long sum the same way.
template <class T, class Sum>
void backward_row(const T* dy, const T* x, T* dx, const Constants& c, int64_t n, const Sum& sum) {
  const auto lanes = [&](int64_t i, int k) {
    const Vec a = c.alpha(i, k), v = load(x + i, k), d = load(dy + i, k);
    Vec sine, cosine;
    sin_cos(a * v, sine, cosine);
    const Vec twice = (sine + sine) * cosine;
    if (dx) store(dx + i, fma(d, a * twice * c.inverse_beta(i, k), d), k);
    sum(i, k, d * v * twice, d * sine * sine);
  };
  for_lanes(n, [&](int64_t i) { lanes(i, Vec::lanes); }, lanes);
}

// One row's sums, 256 elements and then those of all: a sum of one lane would grow its error over 4096.
template <class T>
void sum_row(const T* dy, const T* x, T* dx, const Constants& c, int64_t n, float* dalpha, float* dbeta) {
  Vec alpha = zero(), beta = zero();
  for (int64_t first = 0; first < n; first += 256) {
    Vec da = zero(), db = zero();
    backward_row(dy + first, x + first, dx ? dx + first : nullptr, c, n - first < 256 ? n - first : 256,
                 [&](int64_t, int k, Vec one, Vec other) {
                   da = da + keep(one, k);
                   db = db + keep(other, k);
                 });
    alpha = alpha + da;
    beta = beta + db;
  }
  *dalpha = sum(alpha);
  *dbeta = sum(beta);
}

template <class T>
void backward(const SnakeBackwardArgs& args) {
  const SnakeShape& s = args.shape;
  const int64_t C = channels_of(s), blocks = sum_blocks(s), plane = s.batch * blocks * C;
  const int64_t items = s.batch * blocks * (s.channel_is_row ? s.rows : 1);
  bool failed = false;
  parallel_for(items, 1, [&](int64_t begin, int64_t end) {
    Scratch<2> scratch(C);
    if (!scratch.ready()) return __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
    float *a = scratch.row(0), *inverse = scratch.row(1);
    snake_constants(static_cast<const T*>(args.alpha), static_cast<const T*>(args.beta), s.log_scale, C, a, inverse);
    const auto dx_row = [&](int64_t b, int64_t t) { return args.dx.data ? row<T>(args.dx, b, t) : nullptr; };
    for (int64_t item = begin; item < end; ++item) {
      if (s.channel_is_row) {
        const int64_t block = item % blocks, t = item / blocks % s.rows, b = item / blocks / s.rows;
        const int64_t first = block * kColumnBlock, left = s.columns - first;
        T* dx = dx_row(b, t);
        float unused[2], *out = args.partial ? args.partial + (b * blocks + block) * C + t : unused;
        sum_row(row<T>(args.dy, b, t) + first, row<T>(args.x, b, t) + first, dx ? dx + first : nullptr,
                {a + t, inverse + t, true}, left < kColumnBlock ? left : kColumnBlock, out,
                args.partial ? out + plane : unused + 1);
      } else {
        const int64_t b = item / blocks, first = item % blocks * kTimeBlock;
        const int64_t last = first + kTimeBlock < s.rows ? first + kTimeBlock : s.rows;
        float* out = args.partial ? args.partial + item * C : nullptr;
        for (int64_t k = 0; out && k < 2; ++k) memset(out + k * plane, 0, sizeof(float) * static_cast<size_t>(C));
        for (int64_t t = first; t < last; ++t)
          backward_row(row<T>(args.dy, b, t), row<T>(args.x, b, t), dx_row(b, t), {a, inverse, false}, C,
                       [&](int64_t i, int k, Vec da, Vec db) {
                         if (!out) return;
                         store(out + i, load(out + i, k) + da, k);
                         store(out + plane + i, load(out + plane + i, k) + db, k);
                       });
      }
    }
  });
  if (failed) out_of_memory();
  if (!args.partial) return;
  const int64_t rows = s.batch * blocks;
  const auto lanes = [&](int64_t i, int k) {
    float a[Vec::lanes], b[Vec::lanes], dalpha[Vec::lanes], dbeta[Vec::lanes];
    const Vec p = load(static_cast<const T*>(args.alpha) + i, k), q = load(static_cast<const T*>(args.beta) + i, k);
    store(a, s.log_scale ? exp(p) : broadcast(1.0f));
    store(b, s.log_scale ? exp(q) : q);
    store(dalpha, sum_rows(args.partial, rows, C, i, k));
    store(dbeta, sum_rows(args.partial + plane, rows, C, i, k));
    for (int j = 0; j < k; ++j) {
      const double scale = b[j], inverse = 1.0 / (scale + widen(narrow<T>(1e-9f)));
      dalpha[j] = static_cast<float>(dalpha[j] * inverse * a[j]);
      dbeta[j] = static_cast<float>(-dbeta[j] * inverse * inverse * (s.log_scale ? scale : 1.0));
    }
    store(static_cast<T*>(args.dalpha) + i, load(dalpha), k);
    store(static_cast<T*>(args.dbeta) + i, load(dbeta), k);
  };
  for_lanes(C, [&](int64_t i) { lanes(i, Vec::lanes); }, lanes);
}

}  // namespace

void snake(const SnakeArgs& a) {
  with_type(a.shape.dtype, [&](auto t) { forward<decltype(t)>(a); });
}
void snake_backward(const SnakeBackwardArgs& a) {
  with_type(a.shape.dtype, [&](auto t) { backward<decltype(t)>(a); });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
