// SPDX-License-Identifier: Apache-2.0
// Complex transforms of 4 ... 256 points on split real and imaginary arrays: rows x columns, a transform of each column
// with columns side by side in the lanes, a twiddle, a transpose in registers, a transform of each row with rows side
// by side. The inverse is the same transform with real and imaginary parts exchanged. 256 points = 16 x 16 take 0.11
// us, 94 nominal GFLOP/s; 1024 = 32 x 32 took 1.1 us, its columns outgrowing the registers (Zen 4), so longer
// transforms are put together of these (real_transform.h).
#pragma once
#include "fourier.h"
#include "permute.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

// cos(2 pi j / 64), j = 0 ... 16
constexpr double kCosines[17] = {1.0,
                                 0.99518472667219688624,
                                 0.98078528040323044913,
                                 0.95694033573220886494,
                                 0.92387953251128675613,
                                 0.88192126434835502971,
                                 0.83146961230254523708,
                                 0.77301045336273696081,
                                 0.70710678118654752440,
                                 0.63439328416364549822,
                                 0.55557023301960222474,
                                 0.47139673682599764856,
                                 0.38268343236508977173,
                                 0.29028467725446236764,
                                 0.19509032201612826785,
                                 0.09801714032956060199,
                                 0.0};
constexpr double cosine64(int j) {
  j &= 63;
  if (j > 32) j = 64 - j;
  return j <= 16 ? kCosines[j] : -kCosines[32 - j];
}

// x * exp(-2 pi i J / R), the constant known to the compiler
template <int J, int R, class V>
inline void rotate(V& re, V& im) {
  constexpr int j = (J % R) * (64 / R);
  if constexpr (j == 0) {
    return;
  } else if constexpr (j == 16) {
    const V t = re;
    re = im;
    im = broadcast_as<V>(0.0f) - t;
  } else if constexpr (j == 8) {
    const V h = broadcast_as<V>(static_cast<float>(kCosines[8])), t = re;
    re = (t + im) * h;
    im = (im - t) * h;
  } else if constexpr (j == 24) {
    const V h = broadcast_as<V>(static_cast<float>(-kCosines[8])), t = re;
    re = (t - im) * h;
    im = (im + t) * h;
  } else {
    const V c = broadcast_as<V>(static_cast<float>(cosine64(j))),
            s = broadcast_as<V>(static_cast<float>(cosine64(j - 16)));
    const V minus_s = broadcast_as<V>(static_cast<float>(-cosine64(j - 16))), t = re;
    re = fma(im, s, re * c);  // (re + i im)(c - i s)
    im = fma(t, minus_s, im * c);
  }
}

template <class V>
inline void butterfly(V& ar, V& ai, V& br, V& bi) {
  const V r = ar - br, i = ai - bi;
  ar = ar + br;
  ai = ai + bi;
  br = r;
  bi = i;
}

// In place; the results lie in natural order.
template <class V>
inline void transform2(V* re, V* im) {
  butterfly(re[0], im[0], re[1], im[1]);
}
template <class V>
inline void transform4(V* re, V* im) {
  butterfly(re[0], im[0], re[2], im[2]);
  butterfly(re[1], im[1], re[3], im[3]);
  butterfly(re[0], im[0], re[1], im[1]);  // 0 and 2
  const V r = re[2], i = im[2], tr = re[3], ti = im[3];
  const V r1 = r + ti, i1 = i - tr, r3 = r - ti, i3 = i + tr;
  re[2] = re[1];
  im[2] = im[1];
  re[1] = r1;
  im[1] = i1;
  re[3] = r3;
  im[3] = i3;
}
template <class V>
inline void transform8(V* re, V* im) {
  V er[4] = {re[0], re[2], re[4], re[6]}, ei[4] = {im[0], im[2], im[4], im[6]};
  V odr[4] = {re[1], re[3], re[5], re[7]}, odi[4] = {im[1], im[3], im[5], im[7]};
  transform4(er, ei);
  transform4(odr, odi);
  rotate<1, 8>(odr[1], odi[1]);
  rotate<3, 8>(odr[3], odi[3]);
  const auto put = [&](int k, V orr, V oii) {
    re[k] = er[k] + orr;
    im[k] = ei[k] + oii;
    re[k + 4] = er[k] - orr;
    im[k + 4] = ei[k] - oii;
  };
  put(0, odr[0], odi[0]);
  put(1, odr[1], odi[1]);
  // times -i
  re[2] = er[2] + odi[2];
  im[2] = ei[2] - odr[2];
  re[6] = er[2] - odi[2];
  im[6] = ei[2] + odr[2];
  put(3, odr[3], odi[3]);
}

template <int R, class V>
inline void transform_leaf(V* re, V* im) {
  if constexpr (R == 2) transform2(re, im);
  if constexpr (R == 4) transform4(re, im);
  if constexpr (R == 8) transform8(re, im);
}

template <int N2, int R1, int R, int K, class V>
inline void rotate_all(V* re, V* im) {
  if constexpr (K < R1) {
    rotate<N2 * K, R>(re[K], im[K]);
    rotate_all<N2, R1, R, K + 1>(re, im);
  }
}
template <int N2, int R1, int R2, class V, class Load>
inline void first_step(V (&tr)[R1][R2], V (&ti)[R1][R2], const Load& load_point) {
  if constexpr (N2 < R2) {
    V re[R1], im[R1];
#pragma GCC unroll 8
    for (int i = 0; i < R1; ++i) load_point(R2 * i + N2, re[i], im[i]);
    transform_leaf<R1>(re, im);
    rotate_all<N2, R1, R1 * R2, 1>(re, im);
#pragma GCC unroll 8
    for (int k = 0; k < R1; ++k) tr[k][N2] = re[k], ti[k][N2] = im[k];
    first_step<N2 + 1, R1, R2>(tr, ti, load_point);
  }
}

// R points of every lane: load_point(i, re, im) in natural order, store_point(k, re, im) in any.
template <int R, class V, class Load, class Store>
inline void transform(const Load& load_point, const Store& store_point) {
  if constexpr (R <= 8) {
    V re[R], im[R];
    for (int i = 0; i < R; ++i) load_point(i, re[i], im[i]);
    transform_leaf<R>(re, im);
    for (int k = 0; k < R; ++k) store_point(k, re[k], im[k]);
  } else {
    constexpr int R1 = R == 16 ? 4 : 8, R2 = R / R1;
    V tr[R1][R2], ti[R1][R2];
    first_step<0, R1, R2>(tr, ti, load_point);
#pragma GCC unroll 8
    for (int k = 0; k < R1; ++k) {
      transform_leaf<R2>(tr[k], ti[k]);
#pragma GCC unroll 8
      for (int j = 0; j < R2; ++j) store_point(k + R1 * j, tr[k][j], ti[k][j]);
    }
  }
}

// points = R * C of tables `t`; `work` has 2 points floats. in and out may be the same.
template <class V, int R, int C>
void transform_points(const FourierTables& t, const float* in_re, const float* in_im, float* out_re, float* out_im,
                      float* work) {
  constexpr int L = V::lanes;
  float *work_re = work, *work_im = work + R * C;
  for (int c = 0; c < C; c += L) {
    V re[R], im[R];
    transform<R, V>(
        [&](int i, V& r, V& m) {
          r = load_as<V>(in_re + i * C + c);
          m = load_as<V>(in_im + i * C + c);
        },
        [&](int k, V r, V m) {
          if (k > 0) {
            const V wr = load_as<V>(t.twiddle_re + k * C + c), wi = load_as<V>(t.twiddle_im + k * C + c);
            const V p = r * wr - m * wi;
            m = fma(r, wi, m * wr);
            r = p;
          }
          re[k] = r;
          im[k] = m;
        });
    for (int b = 0; b < R; b += L) {
      transpose(reinterpret_cast<V(&)[L]>(re[b]));
      transpose(reinterpret_cast<V(&)[L]>(im[b]));
      for (int j = 0; j < L; ++j) {
        store(work_re + (c + j) * R + b, re[b + j]);
        store(work_im + (c + j) * R + b, im[b + j]);
      }
    }
  }
  for (int g = 0; g < R; g += L)
    transform<C, V>(
        [&](int i, V& r, V& m) {
          r = load_as<V>(work_re + i * R + g);
          m = load_as<V>(work_im + i * R + g);
        },
        [&](int k, V r, V m) {
          store(out_re + k * R + g, r);
          store(out_im + k * R + g, m);
        });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
