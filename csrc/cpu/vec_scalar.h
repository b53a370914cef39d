// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace prestissimo::cpu::PRESTISSIMO_ISA {

struct Vec {
  static constexpr int lanes = 1;
  float v;
};

inline Vec zero() { return {0.0f}; }
inline Vec broadcast(float x) { return {x}; }

template <class T>
inline Vec load(const T* p) {
  return {widen(*p)};
}
template <class T>
inline Vec load(const T* p, int n) {
  return n > 0 ? load(p) : zero();
}
template <class T>
inline void store(T* p, Vec x) {
  *p = narrow<T>(x.v);
}
template <class T>
inline void store(T* p, Vec x, int n) {
  if (n > 0) store(p, x);
}
template <class T>
inline void stream(T* p, Vec x) {
  store(p, x);
}
inline void stream_fence() {}
inline Vec keep(Vec x, int n) { return n > 0 ? x : zero(); }

inline Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
inline Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
inline Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
inline float sum(Vec a) { return a.v; }

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
