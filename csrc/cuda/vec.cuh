// SPDX-License-Identifier: Apache-2.0
// Storage in float32, bfloat16 or float16; arithmetic on float lanes. N lanes that fill 16 bytes move in one access,
// and then the pointer must be 16-byte aligned: whoever plans the launch checks that (aligned_16).
#pragma once
#include "ptx.cuh"

namespace prestissimo::cuda {

using bf16 = __nv_bfloat16;
using f16 = __half;

template <class T>
constexpr int kLanes16 = 16 / static_cast<int>(sizeof(T));

PRESTISSIMO_DEVICE float to_float(float x) { return x; }
PRESTISSIMO_DEVICE float to_float(bf16 x) { return __bfloat162float(x); }
PRESTISSIMO_DEVICE float to_float(f16 x) { return __half2float(x); }

template <class T>
PRESTISSIMO_DEVICE T from_float(float x);
template <>
PRESTISSIMO_DEVICE float from_float<float>(float x) {
  return x;
}
template <>
PRESTISSIMO_DEVICE bf16 from_float<bf16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
PRESTISSIMO_DEVICE f16 from_float<f16>(float x) {
  return __float2half_rn(x);
}

template <class T>
union alignas(16) Packet {
  uint4 raw;
  T lane[kLanes16<T>];
  PRESTISSIMO_DEVICE Packet() {}
};

// N is 1 or a multiple of the lanes of 16 bytes.
template <int N, class T>
PRESTISSIMO_DEVICE void load(const T* p, float (&v)[N]) {
  if constexpr (N == 1) {
    v[0] = to_float(*p);
  } else {
    static_assert(N % kLanes16<T> == 0);
#pragma unroll
    for (int i = 0; i < N; i += kLanes16<T>) {
      Packet<T> packet;
      packet.raw = *reinterpret_cast<const uint4*>(p + i);
#pragma unroll
      for (int j = 0; j < kLanes16<T>; ++j) v[i + j] = to_float(packet.lane[j]);
    }
  }
}

template <int N, class T>
PRESTISSIMO_DEVICE void store(T* p, const float (&v)[N]) {
  if constexpr (N == 1) {
    *p = from_float<T>(v[0]);
  } else {
    static_assert(N % kLanes16<T> == 0);
#pragma unroll
    for (int i = 0; i < N; i += kLanes16<T>) {
      Packet<T> packet;
#pragma unroll
      for (int j = 0; j < kLanes16<T>; ++j) packet.lane[j] = from_float<T>(v[i + j]);
      *reinterpret_cast<uint4*>(p + i) = packet.raw;
    }
  }
}

// For what is known to lie in global memory: 16 bytes always go in one instruction.
template <int N, class T>
PRESTISSIMO_DEVICE void store_global(T* p, const float (&v)[N]) {
  if constexpr (N == 1) {
    *p = from_float<T>(v[0]);
  } else {
    static_assert(N % kLanes16<T> == 0);
#pragma unroll
    for (int i = 0; i < N; i += kLanes16<T>) {
      Packet<T> packet;
#pragma unroll
      for (int j = 0; j < kLanes16<T>; ++j) packet.lane[j] = from_float<T>(v[i + j]);
      ptx::store_global_16(p + i, packet.raw);
    }
  }
}

// The first n of N lanes, one by one: the ragged end of a flat array.
template <int N, class T>
PRESTISSIMO_DEVICE void store_tail(T* p, const float (&v)[N], int n) {
#pragma unroll
  for (int j = 0; j < N; ++j)
    if (j < n) p[j] = from_float<T>(v[j]);
}

}  // namespace prestissimo::cuda
