// SPDX-License-Identifier: Apache-2.0
// Frames of a signal and back: frame t of n samples is centred at t * hop; row i is the hop samples from i * hop on, of
// which the frames i - overlap / 2 + 1 ... i + overlap / 2 hold a part. Samples lie in planes as in real_transform.h:
// `step` positions a row in each plane. Sums run over the frames in their order, whatever the tile they are made in.
#pragma once
#include "real_transform.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

struct Framing {
  int n, hop, overlap, parts, planes, points, step;

  Framing(int64_t n_fft, int64_t hop_)
      : n(static_cast<int>(n_fft)),
        hop(static_cast<int>(hop_)),
        overlap(n / hop),
        parts(fourier_parts(n)),
        planes(2 * parts),
        points(n / planes),
        step(hop / planes) {}
};

// window[plane][p]; Hann's where `natural` is null
inline void window_planes(const Framing& f, const FourierTables& t, const float* natural, float* window) {
  for (int i = 0; i < f.n; ++i) {
    const int pair = i / 2, at = ((i % 2) * f.parts + pair % f.parts) * f.points + pair / f.parts;
    window[at] = natural ? natural[i] : t.hann[i];
  }
}

// In registers: S sequences of `len` vectors each, merged pairwise until one is left, and back. The sequences are
// numbered 2 q + e, so that the halves of their range differ in the highest bit of q.
template <int S>
inline void merge(Vec (&v)[S]) {
  Vec next[S];
  for (int s = S, len = 1; s > 1; s /= 2, len *= 2) {
    for (int i = 0; i < s / 2; ++i)
      for (int c = 0; c < len; ++c) {
        Vec a = v[i * len + c], b = v[(i + s / 2) * len + c];
        join_pairs(a, b);
        next[i * 2 * len + 2 * c] = a;
        next[i * 2 * len + 2 * c + 1] = b;
      }
    for (int i = 0; i < S; ++i) v[i] = next[i];
  }
}
template <int S>
inline void unmerge(Vec (&v)[S]) {
  Vec next[S];
  for (int s = 2, len = S / 2; s <= S; s *= 2, len /= 2) {
    for (int i = 0; i < s / 2; ++i)
      for (int c = 0; c < len; ++c) {
        Vec a = v[i * 2 * len + 2 * c], b = v[i * 2 * len + 2 * c + 1];
        split_pairs(a, b);
        next[i * len + c] = a;
        next[(i + s / 2) * len + c] = b;
      }
    for (int i = 0; i < S; ++i) v[i] = next[i];
  }
}

// One row between planes (`stride` floats from plane to plane) and natural order.
template <int Parts>
inline void join_row(const float* planes, int64_t stride, int step, float* out) {
  constexpr int L = Vec::lanes, S = 2 * Parts;
  int p = 0;
  for (; p + L <= step; p += L) {
    Vec v[S];
    for (int s = 0; s < S; ++s) v[s] = load(planes + (s % 2 * Parts + s / 2) * stride + p);
    merge(v);
    for (int s = 0; s < S; ++s) store(out + S * p + s * L, v[s]);
  }
  for (; p < step; ++p)
    for (int s = 0; s < S; ++s) out[S * p + s] = planes[(s % 2 * Parts + s / 2) * stride + p];
}
template <int Parts>
inline void split_row(const float* in, int64_t stride, int step, float* planes) {
  constexpr int L = Vec::lanes, S = 2 * Parts;
  int p = 0;
  for (; p + L <= step; p += L) {
    Vec v[S];
    for (int s = 0; s < S; ++s) v[s] = load(in + S * p + s * L);
    unmerge(v);
    for (int s = 0; s < S; ++s) store(planes + (s % 2 * Parts + s / 2) * stride + p, v[s]);
  }
  for (; p < step; ++p)
    for (int s = 0; s < S; ++s) planes[(s % 2 * Parts + s / 2) * stride + p] = in[S * p + s];
}
inline void join_row(const Framing& f, const float* planes, int64_t stride, float* out) {
  switch (f.parts) {
    case 1: return join_row<1>(planes, stride, f.step, out);
    case 2: return join_row<2>(planes, stride, f.step, out);
    case 4: return join_row<4>(planes, stride, f.step, out);
    default: return join_row<8>(planes, stride, f.step, out);
  }
}
inline void split_row(const Framing& f, const float* in, int64_t stride, float* planes) {
  switch (f.parts) {
    case 1: return split_row<1>(in, stride, f.step, planes);
    case 2: return split_row<2>(in, stride, f.step, planes);
    case 4: return split_row<4>(in, stride, f.step, planes);
    default: return split_row<8>(in, stride, f.step, planes);
  }
}

// 1 / (n sum of w^2) over the frames that exist, for each sample of a row; 0 where no window reaches. Rows away from
// both ends are all alike. `scratch` has 2 * hop floats.
class RowScale {
 public:
  RowScale(const Framing& f, const float* window, int64_t frames, float* scratch)
      : f_(f), window_(window), frames_(frames), inner_(scratch), edge_(scratch + f.hop) {
    fill(f.overlap, 2 * f.overlap + 1, inner_);
  }
  const float* of(int64_t row) {
    if (row - f_.overlap / 2 + 1 >= 0 && row + f_.overlap / 2 < frames_) return inner_;
    fill(row, frames_, edge_);
    return edge_;
  }

 private:
  const Framing& f_;
  const float* window_;
  int64_t frames_;
  float *inner_, *edge_;

  void fill(int64_t row, int64_t frames, float* out) {
    for (int plane = 0; plane < f_.planes; ++plane)
      for (int p = 0; p < f_.step; ++p) {
        float sum = 0.0f;
        for (int r = f_.overlap - 1; r >= 0; --r) {
          const int64_t frame = row + f_.overlap / 2 - r;
          const float w = window_[plane * f_.points + r * f_.step + p];
          if (frame >= 0 && frame < frames) sum = sum + w * w;
        }
        out[plane * f_.step + p] = sum > 1e-11f ? 1.0f / (static_cast<float>(f_.n) * sum) : 0.0f;
      }
  }
};

// The rows around the current frame; frames come in order. `memory` has 2 * n floats.
class SignalRing {
 public:
  SignalRing(const Framing& f, float* memory) : f_(f), memory_(memory), stride_(2 * f.points) {}

  void reset() { memset(memory_, 0, sizeof(float) * 2 * static_cast<size_t>(f_.n)); }
  int64_t stride() const { return stride_; }  // from plane to plane
  float* row(int64_t i) const { return memory_ + ((i + 2 * f_.overlap) & (2 * f_.overlap - 1)) * f_.step; }

  void clear(int64_t i) {
    for (int plane = 0; plane < f_.planes; ++plane)
      memset(row(i) + plane * stride_, 0, sizeof(float) * static_cast<size_t>(f_.step));
  }
  void scale(int64_t i, const float* by) {
    for (int plane = 0; plane < f_.planes; ++plane) {
      float* d = row(i) + plane * stride_;
      each(f_.step, [&](int p, int k) { store(d + p, load(d + p, k) * load(by + plane * f_.step + p, k), k); });
    }
  }
  // Adds frame t; its first row is complete then and multiplied by `by`. Its last row starts anew.
  void add(int64_t t, const float* frame, const float* window, const float* by) {
    const int V = f_.overlap, h = f_.step;
    for (int r = 0; r < V; ++r) {
      float* const out = row(t - V / 2 + r);
      for (int plane = 0; plane < f_.planes; ++plane) {
        const float *x = frame + plane * f_.points + r * h, *w = window + plane * f_.points + r * h,
                    *e = by + plane * h;
        float* d = out + plane * stride_;
        if (r == V - 1)
          each(h, [&](int p, int k) { store(d + p, load(x + p, k) * load(w + p, k), k); });
        else if (r > 0)
          each(h, [&](int p, int k) { store(d + p, fma(load(x + p, k), load(w + p, k), load(d + p, k)), k); });
        else
          each(h, [&](int p, int k) {
            store(d + p, fma(load(x + p, k), load(w + p, k), load(d + p, k)) * load(e + p, k), k);
          });
      }
    }
  }
  // window * rows of frame t
  void frame(int64_t t, const float* window, float* out) const {
    const int V = f_.overlap, h = f_.step;
    for (int r = 0; r < V; ++r)
      for (int plane = 0; plane < f_.planes; ++plane) {
        const float *d = row(t - V / 2 + r) + plane * stride_, *w = window + plane * f_.points + r * h;
        float* y = out + plane * f_.points + r * h;
        each(h, [&](int p, int k) { store(y + p, load(d + p, k) * load(w + p, k), k); });
      }
  }

 private:
  const Framing& f_;
  float* memory_;
  int64_t stride_;

  template <class Body>
  static void each(int n, const Body& body) {
    for_lanes(
        n, [&](int64_t p) { body(static_cast<int>(p), Vec::lanes); },
        [&](int64_t p, int k) { body(static_cast<int>(p), k); });
  }
};

// Aligned floats for one thread, all at once.
class FrameScratch {
 public:
  explicit FrameScratch(int64_t floats)
      : block_(__builtin_malloc(static_cast<size_t>(floats) * sizeof(float) + 64)),
        next_(reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(block_) + 63) & ~uintptr_t{63})) {}
  ~FrameScratch() { __builtin_free(block_); }
  FrameScratch(const FrameScratch&) = delete;
  FrameScratch& operator=(const FrameScratch&) = delete;
  bool ready() const { return block_; }
  float* take(int64_t floats) {
    float* p = next_;
    next_ += (floats + 15) / 16 * 16;
    return p;
  }

 private:
  void* block_;
  float* next_;
};

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
