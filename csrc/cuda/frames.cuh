// SPDX-License-Identifier: Apache-2.0
// Real transforms of n = 8 ... 4096 samples by the threads of a block, in shared memory, and the frames of a signal.
// n samples are m = n / 2 points z[i] = x[2 i] + i x[2 i + 1]; radix-4 steps (one of radix 2 where log2 m is odd) sort
// themselves (Stockham), each thread holding its points in registers between two barriers.
#pragma once
#include "angles.cuh"
#include "frames_plan.h"
#include "math.cuh"

namespace prestissimo::cuda {

struct FrameBlock {
  const float* window;  // null: Hann's
  int n, m, hop, overlap;
  float inverse_n;
  float2 *points, *roots;  // [m]; roots[k] = (cos, sin) of 2 pi k / n
  float* ring;             // [n], sample s at s mod n

  PRESTISSIMO_DEVICE FrameBlock(const float* window_, int64_t n_fft, int64_t hop_, float2* shared)
      : window(window_),
        n(static_cast<int>(n_fft)),
        m(n / 2),
        hop(static_cast<int>(hop_)),
        overlap(n / hop),
        inverse_n(1.0f / static_cast<float>(n)),
        points(shared),
        roots(shared + m),
        ring(reinterpret_cast<float*>(shared + 2 * m)) {
    for (int k = threadIdx.x; k < m; k += blockDim.x) roots[k] = unit_root(k, inverse_n);
    __syncthreads();
  }

  // exp(2 pi i k / n), 0 <= k < n
  PRESTISSIMO_DEVICE float2 root(int k) const {
    const float2 v = roots[k & (m - 1)];
    return k & m ? make_float2(-v.x, -v.y) : v;
  }
  // Hann's as sin^2: 1 - cos loses the digits of its ends.
  PRESTISSIMO_DEVICE float weight(int i) const {
    if (window) return window[i];
    const float s = unit_root(i, 0.5f * inverse_n).y;
    return s * s;
  }

  // 1 / sum of w^2 over the frames that exist, at sample p of `row`; 0 where no window reaches.
  PRESTISSIMO_DEVICE float row_scale(int64_t row, int p, int64_t frames) const {
    float sum = 0.0f;
    for (int r = overlap - 1; r >= 0; --r) {
      const int64_t frame = row + overlap / 2 - r;
      const float w = weight(r * hop + p);
      if (frame >= 0 && frame < frames) sum += w * w;
    }
    return sum > 1e-11f ? 1.0f / sum : 0.0f;
  }

  // The transform of `points`, which all threads have written before a barrier; a barrier follows.
  PRESTISSIMO_DEVICE void transform() {
    constexpr int kHeld = 2;  // butterflies of four points that a thread holds
    int done = 1;             // points that are transformed together already
    float2 v[kHeld][4];
    if ((31 - __clz(m)) & 1) {
#pragma unroll
      for (int i = 0; i < 2 * kHeld; ++i) {
        const int j = threadIdx.x + i * blockDim.x;
        if (j >= m / 2) continue;
        const float2 a = points[j], b = points[j + m / 2];
        v[i / 2][i % 2 * 2] = make_float2(a.x + b.x, a.y + b.y);
        v[i / 2][i % 2 * 2 + 1] = make_float2(a.x - b.x, a.y - b.y);
      }
      __syncthreads();
#pragma unroll
      for (int i = 0; i < 2 * kHeld; ++i) {
        const int j = threadIdx.x + i * blockDim.x;
        if (j >= m / 2) continue;
        points[2 * j] = v[i / 2][i % 2 * 2];
        points[2 * j + 1] = v[i / 2][i % 2 * 2 + 1];
      }
      __syncthreads();
      done = 2;
    }
    for (; done < m; done *= 4) {
      const int step = n / (4 * done);
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        const int j = threadIdx.x + i * blockDim.x;
        if (j >= m / 4) continue;
        const int k = j & (done - 1);
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          const float2 p = points[j + r * (m / 4)], w = root(r * k * step);
          v[i][r] = make_float2(p.x * w.x + p.y * w.y, p.y * w.x - p.x * w.y);
        }
        butterfly(v[i]);
      }
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        const int j = threadIdx.x + i * blockDim.x;
        if (j >= m / 4) continue;
        const int first = (j & ~(done - 1)) * 4 + (j & (done - 1));
#pragma unroll
        for (int r = 0; r < 4; ++r) points[first + r * done] = v[i][r];
      }
      __syncthreads();
    }
  }

  // n x of the spectrum whose bins X[k] and X[m - k] bins(k, X[k], X[m - k]) gives for k = 0 ... m / 2; it is called
  // by one thread for each k. The result lies in `points` with real and imaginary parts exchanged, which makes the
  // transform the inverse one.
  template <class Bins>
  PRESTISSIMO_DEVICE void samples(const Bins& bins) {
    for (int k = threadIdx.x; k <= m / 2; k += blockDim.x) {
      float2 a, b;
      bins(k, a, b);
      if (k == 0) {
        points[0] = make_float2(a.x - b.x, a.x + b.x);
        continue;
      }
      const float2 w = roots[k];
      const float sr = a.x + b.x, si = a.y - b.y, dr = a.x - b.x, di = a.y + b.y;
      const float re = dr * w.x - di * w.y, im = dr * w.y + di * w.x;
      points[k] = make_float2(si + re, sr - im);
      if (k < m / 2) points[m - k] = make_float2(re - si, sr + im);
    }
    __syncthreads();
    transform();
  }

  // 2 X of the frame whose samples 2 i and 2 i + 1 pair(i) gives: bins(k, 2 X[k], 2 X[m - k]) for k = 0 ... m / 2. A
  // barrier follows.
  template <class Pair, class Bins>
  PRESTISSIMO_DEVICE void spectrum(const Pair& pair, const Bins& bins) {
    for (int i = threadIdx.x; i < m; i += blockDim.x) points[i] = pair(i);
    __syncthreads();
    transform();
    for (int k = threadIdx.x; k <= m / 2; k += blockDim.x) {
      const float2 a = points[k], b = points[(m - k) & (m - 1)];
      if (k == 0) {
        bins(0, make_float2(2.0f * (a.x + a.y), 0.0f), make_float2(2.0f * (a.x - a.y), 0.0f));
        continue;
      }
      const float2 w = roots[k];
      const float sr = a.x + b.x, si = a.y - b.y, dr = a.x - b.x, di = a.y + b.y;
      const float re = dr * w.x + di * w.y, im = di * w.x - dr * w.y;
      bins(k, make_float2(sr + im, si - re), make_float2(sr - im, -si - re));
    }
    __syncthreads();
  }

 private:
  static PRESTISSIMO_DEVICE void butterfly(float2 (&v)[4]) {
    const float2 a = make_float2(v[0].x + v[2].x, v[0].y + v[2].y), b = make_float2(v[0].x - v[2].x, v[0].y - v[2].y);
    const float2 c = make_float2(v[1].x + v[3].x, v[1].y + v[3].y), d = make_float2(v[1].x - v[3].x, v[1].y - v[3].y);
    v[0] = make_float2(a.x + c.x, a.y + c.y);
    v[2] = make_float2(a.x - c.x, a.y - c.y);
    v[1] = make_float2(b.x + d.y, b.y - d.x);
    v[3] = make_float2(b.x - d.y, b.y + d.x);
  }
};

PRESTISSIMO_DEVICE const float* row_of(const Frames& f, int64_t b, int64_t t) {
  return f.data + b * f.batch_stride + t * f.frame_stride;
}

PRESTISSIMO_DEVICE float2 bin_of(const float* log_magnitude, const float* phase, int k) {
  float s, c;
  sin_cos(phase[k], s, c);
  const float magnitude = exponential(log_magnitude[k]);
  return make_float2(magnitude * c, magnitude * s);
}

// kRowsOfBlock rows of the signal of exp(log_magnitude) exp(i phase): frames in their order are added to a ring of
// samples; the row that a frame completes leaves it.
PRESTISSIMO_DEVICE void synthesise_rows(const InverseStftArgs& a, float2* shared) {
  FrameBlock block(a.window, a.n_fft, a.hop, shared);
  const int n = block.n, m = block.m, hop = block.hop, half = block.overlap / 2;
  const int64_t chunks = (a.frames + kRowsOfBlock - 1) / kRowsOfBlock;
  const int64_t b = blockIdx.x / chunks, first = blockIdx.x % chunks * kRowsOfBlock;
  const int64_t end = first + kRowsOfBlock < a.frames ? first + kRowsOfBlock : a.frames;
  for (int i = threadIdx.x; i < n; i += blockDim.x) block.ring[i] = 0.0f;
  __syncthreads();
  for (int64_t t = first - half + 1 > 0 ? first - half + 1 : 0; t < end + half; ++t) {
    const bool frame = t < a.frames;
    if (frame) {
      const float *log_magnitude = row_of(a.log_magnitude, b, t), *phase = row_of(a.phase, b, t);
      block.samples([&](int k, float2& low, float2& high) {
        low = bin_of(log_magnitude, phase, k);
        high = bin_of(log_magnitude, phase, m - k);
      });
    }
    const int64_t row = t - half;  // complete after this frame
    const int start = static_cast<int>((t - half) * hop & (n - 1));
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
      const int at = (start + i) & (n - 1);
      float x = block.ring[at];
      if (frame) x += block.weight(i) * (i & 1 ? block.points[i / 2].x : block.points[i / 2].y);
      if (i < hop) {
        if (row >= first)
          a.signal[(b * a.frames + row) * hop + i] = x * (block.row_scale(row, i, a.frames) / static_cast<float>(n));
        x = 0.0f;
      }
      block.ring[at] = x;
    }
    __syncthreads();
  }
}

// Calls body(block, b, t) for the frames of this block.
template <class Body>
PRESTISSIMO_DEVICE void for_frames(const InverseStftArgs& a, float2* shared, const Body& body) {
  FrameBlock block(a.window, a.n_fft, a.hop, shared);
  const int64_t chunks = (a.frames + kFramesOfBlock - 1) / kFramesOfBlock;
  const int64_t b = blockIdx.x / chunks, first = blockIdx.x % chunks * kFramesOfBlock;
  const int64_t end = first + kFramesOfBlock < a.frames ? first + kFramesOfBlock : a.frames;
  for (int64_t t = first; t < end; ++t) body(block, b, t);
}

}  // namespace prestissimo::cuda
