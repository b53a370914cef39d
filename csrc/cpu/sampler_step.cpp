// SPDX-License-Identifier: Apache-2.0
#include "../ops/sampler_step.h"

#include "frame_noise.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

// Where a run of elements begins in each array; null where an array is absent.
template <class T>
struct Run {
  const T *x, *c, *u, *p;
  T *y, *d;

  Run(const SamplerStepArgs& a, int64_t b, int64_t first)
      : x(begin(a.x, b, first)),
        c(begin(a.conditional, b, first)),
        u(begin(a.unconditional, b, first)),
        p(begin(a.previous, b, first)),
        y(sample<T>(a.y, b) + first),
        d(a.denoised.data ? sample<T>(a.denoised, b) + first : nullptr) {}

 private:
  static const T* begin(const Samples& v, int64_t b, int64_t first) {
    return v.data ? sample<T>(v, b) + first : nullptr;
  }
};

// The step on n elements side by side; factor and z, where not null, hold one number for each of them. The flags say
// which arrays there are: loads are what this loop is made of, and a branch before each would show in small latents.
template <bool X, bool U, bool P, class T>
void step_run(const StepWeights& w, const Run<T>& r, int64_t n, const float* factor, const float* z, bool past) {
  const Vec guidance = broadcast(w.guidance), skip = broadcast(w.skip), out = broadcast(w.out);
  const Vec a = broadcast(w.denoised), by_x = broadcast(w.x), by_previous = broadcast(w.previous),
            by_noise = broadcast(w.noise);
  const bool skipped = w.skip != 0, x_added = w.x != 0;
  const auto lanes = [&](int64_t i, int k, const auto& write) {
    Vec g = load(r.c + i, k), x = zero();
    if constexpr (U) g = fma(guidance, g - load(r.u + i, k), g);
    Vec d = out * g;
    if constexpr (X) {
      x = load(r.x + i, k);
      if (skipped) d = fma(skip, x, d);
    }
    if (factor) d = d * load(factor + i, k);
    if (r.d) write(r.d + i, d);
    Vec y = a * d;
    if constexpr (X)
      if (x_added) y = fma(by_x, x, y);
    if constexpr (P) y = fma(by_previous, load(r.p + i, k), y);
    if (z) y = fma(by_noise, load(z + i, k), y);
    write(r.y + i, y);
  };
  for_lanes(
      n, [&](int64_t i) { lanes(i, Vec::lanes, [&](T* p, Vec v) { put(p, v, past); }); },
      [&](int64_t i, int k) { lanes(i, k, [&](T* p, Vec v) { store(p, v, k); }); });
}

template <class T>
using StepRun = void (*)(const StepWeights&, const Run<T>&, int64_t, const float*, const float*, bool);

template <class T>
StepRun<T> choose(const SamplerStepArgs& a) {
  static constexpr StepRun<T> table[] = {step_run<false, false, false, T>, step_run<false, false, true, T>,
                                         step_run<false, true, false, T>,  step_run<false, true, true, T>,
                                         step_run<true, false, false, T>,  step_run<true, false, true, T>,
                                         step_run<true, true, false, T>,   step_run<true, true, true, T>};
  return table[4 * !!a.x.data + 2 * !!a.unconditional.data + !!a.previous.data];
}

// ---- rescaled guidance: a factor for each frame, from the standard deviations over its channels

constexpr int64_t kMostFrames = 512;
// A tile is read three times: from memory once if it fits, with four arrays of it, into half of a core's second level.
constexpr int64_t kTileElements = 32768;

inline int64_t tile_frames(int64_t channels) {
  const int64_t n = kTileElements / (channels + 1) / kNoiseStep * kNoiseStep;
  return n < kNoiseFrames ? kNoiseFrames : n > kMostFrames ? kMostFrames : n;
}

// D and D_c of ops/sampler_step.h, D before its factor, on `frames` frames of all channels.
template <class T>
class Guided {
 public:
  template <class Args>
  Guided(const Args& a, int64_t b, int64_t t)
      : c_(sample<T>(a.conditional, b) + t),
        u_(sample<T>(a.unconditional, b) + t),
        x_(a.x.data && a.weights.skip != 0 ? sample<T>(a.x, b) + t : nullptr),
        guidance_(broadcast(a.weights.guidance)),
        skip_(broadcast(a.weights.skip)),
        out_(broadcast(a.weights.out)) {}

  struct Pair {
    Vec conditional, guided;
  };
  Pair at(int64_t i, int k) const {
    const Vec c = load(c_ + i, k), g = fma(guidance_, c - load(u_ + i, k), c);
    Pair d{out_ * c, out_ * g};
    if (x_) {
      const Vec x = load(x_ + i, k);
      d = {fma(skip_, x, d.conditional), fma(skip_, x, d.guided)};
    }
    return d;
  }

 private:
  const T *c_, *u_, *x_;
  Vec guidance_, skip_, out_;
};

inline void add_to(float* sum, Vec v, int k) { store(sum, load(sum, k) + v, k); }

// Kahan's: eager sums squares in double, and a plain float32 sum over 64 channels loses more than the law allows.
inline void add_exactly(float* sum, float* lost, Vec v, int k) {
  const Vec s = load(sum, k), y = v - load(lost, k), t = s + y;
  store(lost, (t - s) - y, k);
  store(sum, t, k);
}

struct Deviations {
  float mean_c[kMostFrames], mean[kMostFrames], deviation_c[kMostFrames], deviation[kMostFrames];
  float lost_c[kMostFrames], lost[kMostFrames];
};

// row(c, i, k) for every channel and the lanes of its n frames.
template <class Row>
void for_channels(int64_t channels, int64_t n, const Row& row) {
  for (int64_t c = 0; c < channels; ++c)
    for_lanes(n, [&](int64_t i) { row(c, i, Vec::lanes); }, [&](int64_t i, int k) { row(c, i, k); });
}

// Means first, then squares about them: no cancellation. `also(c, i, k, pair)` rides on the second pass.
template <class T, class Also>
void deviations(const Guided<T>& d, int64_t channels, int64_t frames, int64_t n, Deviations& s, const Also& also) {
  memset(&s, 0, sizeof s);
  for_channels(channels, n, [&](int64_t c, int64_t i, int k) {
    const auto v = d.at(c * frames + i, k);
    add_to(s.mean_c + i, v.conditional, k);
    add_to(s.mean + i, v.guided, k);
  });
  const float count = static_cast<float>(channels);
  for (int64_t i = 0; i < n; ++i) s.mean_c[i] /= count, s.mean[i] /= count;
  for_channels(channels, n, [&](int64_t c, int64_t i, int k) {
    const auto v = d.at(c * frames + i, k);
    const Vec p = v.conditional - load(s.mean_c + i, k), q = v.guided - load(s.mean + i, k);
    add_exactly(s.deviation_c + i, s.lost_c + i, p * p, k);
    add_exactly(s.deviation + i, s.lost + i, q * q, k);
    also(c, i, k, v);
  });
  for (int64_t i = 0; i < n; ++i) {
    s.deviation_c[i] = __builtin_sqrtf(s.deviation_c[i] / (count - 1.0f));
    s.deviation[i] = __builtin_sqrtf(s.deviation[i] / (count - 1.0f));
  }
}

inline float least(float deviation) { return deviation < kLeastDeviation ? kLeastDeviation : deviation; }

template <class T>
void rescale_factors(const SamplerStepArgs& a, int64_t b, int64_t t, int64_t n, float* factor) {
  Deviations s;
  deviations(Guided<T>(a, b, t), a.channels, a.frames, n, s, [](int64_t, int64_t, int, const auto&) {});
  const float phi = a.weights.rescale;
  for (int64_t i = 0; i < n; ++i) factor[i] = phi * (s.deviation_c[i] / least(s.deviation[i])) + (1.0f - phi);
}

// ---- forward

template <class T>
void flat_step(const SamplerStepArgs& a) {
  const int64_t size = a.channels * a.frames;
  const bool past = past_cache<T>(a.y, a.batch, size) && (!a.denoised.data || past_cache<T>(a.denoised, a.batch, size));
  const StepRun<T> run = choose<T>(a);
  for_chunks(a.batch, size, [&](int64_t b, int64_t begin, int64_t end) {
    run(a.weights, Run<T>(a, b, begin), end - begin, nullptr, nullptr, past);
    if (past) stream_fence();
  });
}

template <class T>
void tiled_step(const SamplerStepArgs& a) {
  const StepRun<T> run = choose<T>(a);
  const bool rescaled = a.rescaled(), noise = a.noise.seeds;
  for_frame_tiles(a.batch, a.frames, rescaled ? tile_frames(a.channels) : a.frames,
                  [&](int64_t b, int64_t t0, int64_t width) {
                    float factor[kMostFrames];
                    if (rescaled) rescale_factors<T>(a, b, t0, width, factor);
                    if (!noise) {
                      for (int64_t c = 0; c < a.channels; ++c)
                        run(a.weights, Run<T>(a, b, c * a.frames + t0), width, factor, nullptr, false);
                      return;
                    }
                    const NoiseKey key(a.noise, b);
                    NoiseTile tile;
                    for (int64_t c = 0; c < a.channels; c += 4) {
                      for (int64_t i = 0; i < width; i += kNoiseFrames) {
                        const int64_t n = width - i < kNoiseFrames ? width - i : kNoiseFrames;
                        frame_noise(tile, key, a.channels, c, t0 + i, static_cast<int>(n));
                        for (int w = 0; w < 4 && c + w < a.channels; ++w)
                          run(a.weights, Run<T>(a, b, (c + w) * a.frames + t0 + i), n, rescaled ? factor + i : nullptr,
                              tile.z[w], false);
                      }
                    }
                  });
}

// ---- backward

// Where a run of elements begins in each gradient; null where one is absent.
template <class T>
struct BackwardRun {
  const T *dy, *dd;
  T *dx, *dc, *du, *dp;

  BackwardRun(const SamplerStepBackwardArgs& a, int64_t b, int64_t first)
      : dy(sample<T>(a.dy, b) + first),
        dd(a.ddenoised.data ? sample<T>(a.ddenoised, b) + first : nullptr),
        dx(begin(a.dx, b, first)),
        dc(begin(a.dconditional, b, first)),
        du(begin(a.dunconditional, b, first)),
        dp(begin(a.dprevious, b, first)) {}

  // e = a dy + dD
  Vec denoised(Vec weight, Vec g, int64_t i, int k) const {
    const Vec e = weight * g;
    return dd ? e + load(dd + i, k) : e;
  }

 private:
  static T* begin(const SamplesOut& v, int64_t b, int64_t first) { return v.data ? sample<T>(v, b) + first : nullptr; }
};

// Writes the gradients of one run; raw(i, k, e) and conditional(i, k) are dD_raw and dD_c.
template <class T, class Raw, class Conditional>
void write_gradients(const StepWeights& w, const BackwardRun<T>& r, int64_t n, bool past, const Raw& raw,
                     const Conditional& conditional) {
  const Vec a = broadcast(w.denoised), by_x = broadcast(w.x), by_previous = broadcast(w.previous),
            skip = broadcast(w.skip), out_c = broadcast(w.out * (1.0f + w.guidance)), out = broadcast(w.out),
            out_u = broadcast(-w.out * w.guidance);
  const bool skipped = w.skip != 0, x_added = w.x != 0;
  const auto lanes = [&](int64_t i, int k, const auto& write) {
    const Vec g = load(r.dy + i, k), e = r.denoised(a, g, i, k), d = raw(i, k, e), dc = conditional(i, k);
    if (r.dx) {
      Vec v = x_added ? by_x * g : zero();
      if (skipped) v = fma(skip, d + dc, v);
      write(r.dx + i, v);
    }
    if (r.dc) write(r.dc + i, fma(out, dc, out_c * d));
    if (r.du) write(r.du + i, out_u * d);
    if (r.dp) write(r.dp + i, by_previous * g);
  };
  for_lanes(
      n, [&](int64_t i) { lanes(i, Vec::lanes, [&](T* p, Vec v) { put(p, v, past); }); },
      [&](int64_t i, int k) { lanes(i, k, [&](T* p, Vec v) { store(p, v, k); }); });
}

template <class T>
void flat_backward(const SamplerStepBackwardArgs& a) {
  const int64_t size = a.channels * a.frames;
  bool past = true;
  for (const SamplesOut* d : {&a.dx, &a.dconditional, &a.dunconditional, &a.dprevious})
    past = past && (!d->data || past_cache<T>(*d, a.batch, size));
  for_chunks(a.batch, size, [&](int64_t b, int64_t begin, int64_t end) {
    write_gradients(
        a.weights, BackwardRun<T>(a, b, begin), end - begin, past, [](int64_t, int, Vec e) { return e; },
        [](int64_t, int) { return zero(); });
    if (past) stream_fence();
  });
}

// With r = std(D_c) / std(D), k = phi r + 1 - phi and S = sum over channels of e D:
// dD_raw = k e - S phi r (D - mean) / ((C - 1) std(D)^2),  dD_c = S phi (D_c - mean_c) / ((C - 1) std(D) std(D_c));
// a deviation that is zero, or held at its least, passes no gradient on.
template <class T>
void tiled_backward(const SamplerStepBackwardArgs& a) {
  const StepWeights& w = a.weights;
  for_frame_tiles(a.batch, a.frames, tile_frames(a.channels), [&](int64_t b, int64_t t0, int64_t n) {
    const Guided<T> d(a, b, t0);
    const Vec weight = broadcast(w.denoised);
    Deviations s;
    float product[kMostFrames] = {}, factor[kMostFrames], pull[kMostFrames], pull_c[kMostFrames];
    deviations(d, a.channels, a.frames, n, s, [&](int64_t c, int64_t i, int k, const auto& v) {
      const BackwardRun<T> r(a, b, c * a.frames + t0);
      add_to(product + i, r.denoised(weight, load(r.dy + i, k), i, k) * v.guided, k);
    });
    const float rest = static_cast<float>(a.channels) - 1.0f;
    for (int64_t i = 0; i < n; ++i) {
      const float sd = least(s.deviation[i]), sc = s.deviation_c[i], ratio = sc / sd;
      const float common = product[i] * w.rescale / (rest * sd);
      factor[i] = w.rescale * ratio + (1.0f - w.rescale);
      pull[i] = s.deviation[i] < kLeastDeviation ? 0.0f : common * ratio / sd;
      pull_c[i] = sc == 0.0f ? 0.0f : common / sc;
    }
    for (int64_t c = 0; c < a.channels; ++c) {
      const int64_t row = c * a.frames;
      write_gradients(
          w, BackwardRun<T>(a, b, row + t0), n, false,
          [&](int64_t i, int k, Vec e) {
            const Vec centred = d.at(row + i, k).guided - load(s.mean + i, k);
            return load(factor + i, k) * e - load(pull + i, k) * centred;
          },
          [&](int64_t i, int k) {
            return load(pull_c + i, k) * (d.at(row + i, k).conditional - load(s.mean_c + i, k));
          });
    }
  });
}

}  // namespace

void sampler_step(const SamplerStepArgs& a) {
  with_type(a.dtype, [&](auto type) {
    if (a.rescaled() || a.noise.seeds)
      tiled_step<decltype(type)>(a);
    else
      flat_step<decltype(type)>(a);
  });
}

void sampler_step_backward(const SamplerStepBackwardArgs& a) {
  with_type(a.dtype, [&](auto type) {
    if (a.rescaled())
      tiled_backward<decltype(type)>(a);
    else
      flat_backward<decltype(type)>(a);
  });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
