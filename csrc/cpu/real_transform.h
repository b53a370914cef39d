// SPDX-License-Identifier: Apache-2.0
// Real transforms of n samples between a spectrum in natural order, bins 0 ... m = n / 2, and the 2 * parts planes of a
// frame: plane e * parts + q holds samples 2 (parts p + q) + e at p (FourierTables). In that order the part transforms
// start from, or end in, contiguous numbers, and no other permutation is left.
#pragma once
#include "fft.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

constexpr int kSpectrumFloats = kFourierMost / 2 + 16;  // bins of the largest spectrum, and room for one vector

// Numbers k + points j of all parts at once: transforms them over the parts, z[j] = sum_q exp(-2 pi i q (k / m + j /
// parts)) y[q]. The other half of the spectrum, k' = points - k, has the conjugate twiddles, turned by whole parts.
template <bool Mirrored, int Q, int Parts, class V>
inline void join_twiddles(const FourierTables& t, int k, V* re, V* im) {
  if constexpr (Q < Parts) {
    const int at = Q * (t.points / 2 + 1) + k;
    const V wr = load_as<V>(t.join_re + at), wi = load_as<V>(t.join_im + at), r = re[Q], i = im[Q];
    if constexpr (Mirrored) {
      re[Q] = fma(i, wi, r * wr);
      im[Q] = i * wr - r * wi;
      rotate<Q, Parts>(re[Q], im[Q]);
    } else {
      re[Q] = r * wr - i * wi;
      im[Q] = fma(r, wi, i * wr);
    }
    join_twiddles<Mirrored, Q + 1, Parts>(t, k, re, im);
  }
}

template <int Parts, class V>
inline void transform_parts(V* re, V* im) {
  if constexpr (Parts > 1) transform_leaf<Parts>(re, im);
}

// Z[k] = s + i o and Z[m - k] = conj(s) + i conj(o) of the complex transform against the bins X[k] = (s - i w d) / 2 of
// the real one, with w = exp(-2 pi i k / n). Both directions leave out the factor 1/2.
template <class V>
inline void bins_of_pair(V c, V s, V ar, V ai, V br, V bi, V& kr, V& ki, V& mr, V& mi) {
  const V sr = ar + br, si = ai - bi, dr = ar - br, di = ai + bi;
  const V pr = fma(dr, c, di * s), pi = di * c - dr * s;
  kr = sr + pi;
  ki = si - pr;
  mr = sr - pi;
  mi = broadcast_as<V>(0.0f) - (si + pr);
}
template <class V>
inline void pair_of_bins(V c, V s, V ar, V ai, V br, V bi, V& kr, V& ki, V& mr, V& mi) {
  const V sr = ar + br, si = ai - bi, dr = ar - br, di = ai + bi;
  const V our = dr * c - di * s, oui = fma(dr, s, di * c);
  kr = sr - oui;
  ki = si + our;
  mr = sr + oui;
  mi = our - si;
}

// 2 X of the frame in `planes`, which are lost.
template <class V, int Parts>
void join_spectrum(const FourierTables& t, const float* planes, float* re, float* im) {
  constexpr int L = V::lanes;
  const int N = t.points, m = t.m;
  const float *yr = planes, *yi = planes + m;
  {
    Single zr[Parts], zi[Parts];
    for (int q = 0; q < Parts; ++q) zr[q] = {yr[q * N]}, zi[q] = {yi[q * N]};
    transform_parts<Parts>(zr, zi);
    re[0] = 2.0f * (zr[0].v + zi[0].v);
    re[m] = 2.0f * (zr[0].v - zi[0].v);
    im[0] = im[m] = 0.0f;
    for (int j = 1; j <= Parts / 2; ++j) {
      Single kr, ki, mr, mi;
      const int k = j * N;
      bins_of_pair<Single>({t.cosine[k]}, {t.sine[k]}, zr[j], zi[j], zr[Parts - j], zi[Parts - j], kr, ki, mr, mi);
      re[k] = kr.v, im[k] = ki.v, re[m - k] = mr.v, im[m - k] = mi.v;
    }
  }
  for (int k = 1; k <= N / 2; k += L) {
    V ar[Parts], ai[Parts], br[Parts], bi[Parts];
    const int mirror = N - k - (L - 1);
    for (int q = 0; q < Parts; ++q) {
      ar[q] = load_as<V>(yr + q * N + k);
      ai[q] = load_as<V>(yi + q * N + k);
      br[q] = reverse(load_as<V>(yr + q * N + mirror));
      bi[q] = reverse(load_as<V>(yi + q * N + mirror));
    }
    join_twiddles<false, 1, Parts>(t, k, ar, ai);
    join_twiddles<true, 1, Parts>(t, k, br, bi);
    transform_parts<Parts>(ar, ai);
    transform_parts<Parts>(br, bi);
    for (int j = 0; j < Parts; ++j) {
      const int at = k + j * N, other = m - at - (L - 1);
      V kr, ki, mr, mi;
      bins_of_pair(load_as<V>(t.cosine + at), load_as<V>(t.sine + at), ar[j], ai[j], br[Parts - 1 - j],
                   bi[Parts - 1 - j], kr, ki, mr, mi);
      store(re + at, kr);
      store(im + at, ki);
      store(re + other, reverse(mr));
      store(im + other, reverse(mi));
    }
  }
}

// The inverse, with real and imaginary parts exchanged from here to the planes: n x of the frame whose spectrum is X.
template <class V, int Parts>
void part_spectrum(const FourierTables& t, const float* re, const float* im, float* planes) {
  constexpr int L = V::lanes;
  const int N = t.points, m = t.m;
  float *yi = planes, *yr = planes + m;
  {
    Single zr[Parts], zi[Parts];
    zi[0] = {re[0] + re[m]};
    zr[0] = {re[0] - re[m]};
    for (int j = 1; j <= Parts / 2; ++j) {
      const int k = j * N;
      Single ki, kr, mi, mr;
      pair_of_bins<Single>({t.cosine[k]}, {t.sine[k]}, {re[k]}, {im[k]}, {re[m - k]}, {im[m - k]}, ki, kr, mi, mr);
      zr[Parts - j] = mr, zi[Parts - j] = mi;
      zr[j] = kr, zi[j] = ki;
    }
    transform_parts<Parts>(zr, zi);
    for (int q = 0; q < Parts; ++q) yr[q * N] = zr[q].v, yi[q * N] = zi[q].v;
  }
  for (int k = 1; k <= N / 2; k += L) {
    V ar[Parts], ai[Parts], br[Parts], bi[Parts];
    const int mirror = N - k - (L - 1);
    for (int j = 0; j < Parts; ++j) {
      const int at = k + j * N, other = m - at - (L - 1);
      pair_of_bins(load_as<V>(t.cosine + at), load_as<V>(t.sine + at), load_as<V>(re + at), load_as<V>(im + at),
                   reverse(load_as<V>(re + other)), reverse(load_as<V>(im + other)), ai[j], ar[j], bi[Parts - 1 - j],
                   br[Parts - 1 - j]);
    }
    transform_parts<Parts>(ar, ai);
    transform_parts<Parts>(br, bi);
    join_twiddles<false, 1, Parts>(t, k, ar, ai);
    join_twiddles<true, 1, Parts>(t, k, br, bi);
    for (int q = 0; q < Parts; ++q) {
      store(yr + q * N + k, ar[q]);
      store(yi + q * N + k, ai[q]);
      store(yr + q * N + mirror, reverse(br[q]));
      store(yi + q * N + mirror, reverse(bi[q]));
    }
  }
}

// The transform of one size with its scratch, for one thread.
class RealTransform {
 public:
  explicit RealTransform(const FourierTables& t) : t_(t) {
    constexpr int L = Vec::lanes;
    switch (t.n) {
      case 8: set<Single, 1, 2, 2>(); break;
      case 16: set<Single, 1, 2, 4>(); break;
      case 32: set<Single, 1, 4, 4>(); break;
      case 64: set<Single, 1, 4, 8>(); break;
      case 128: set<Single, 1, 8, 8>(); break;
      case 256:
        if constexpr (L <= 8)
          set<Vec, 1, 8, 16>();
        else
          set<Single, 1, 8, 16>();
        break;
      case 512: set<Vec, 1, 16, 16>(); break;
      case 1024: set<Vec, 2, 16, 16>(); break;
      case 2048: set<Vec, 4, 16, 16>(); break;
      default: set<Vec, 8, 16, 16>(); break;
    }
  }

  const FourierTables& tables() const { return t_; }

  // re + i im = 2 sum_n x[n] exp(-2 pi i k n / N) for the samples in `planes`, which are lost.
  void spectrum(float* planes, float* re, float* im) {
    for (int q = 0; q < t_.parts; ++q) {
      float *yr = planes + q * t_.points, *yi = yr + t_.m;
      points_(t_, yr, yi, yr, yi, work_);
    }
    join_(t_, planes, re, im);
  }
  // N x for the spectrum X = re + i im, whose first and last bins count as real.
  void samples(const float* re, const float* im, float* planes) {
    part_(t_, re, im, planes);
    for (int q = 0; q < t_.parts; ++q) {
      float *yi = planes + q * t_.points, *yr = yi + t_.m;
      points_(t_, yr, yi, yr, yi, work_);
    }
  }

 private:
  const FourierTables& t_;
  void (*points_)(const FourierTables&, const float*, const float*, float*, float*, float*);
  void (*join_)(const FourierTables&, const float*, float*, float*);
  void (*part_)(const FourierTables&, const float*, const float*, float*);
  alignas(64) float work_[2 * kFourierPoints];

  template <class V, int Parts, int R, int C>
  void set() {
    points_ = transform_points<V, R, C>;
    join_ = join_spectrum<V, Parts>;
    part_ = part_spectrum<V, Parts>;
  }
};

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
