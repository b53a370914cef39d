// SPDX-License-Identifier: Apache-2.0
// Elementwise passes over the samples of a batch (ops/samples.h).
#pragma once
#include "../ops/samples.h"
#include "parallel.h"
#include "storage.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

// A thread takes this many elements of one sample at a time, and at least kGrainChunks times as many in all: less would
// not pay for the start of a parallel region.
constexpr int64_t kChunk = 4096, kGrainChunks = 4;

template <class T>
const T* sample(const Samples& v, int64_t b) {
  return static_cast<const T*>(v.data) + b * v.stride;
}
template <class T>
T* sample(const SamplesOut& v, int64_t b) {
  return static_cast<T*>(v.data) + b * v.stride;
}

// body(b, begin, end) on ranges of at most kChunk elements; every begin is a multiple of kChunk.
template <class Body>
void for_chunks(int64_t batch, int64_t size, const Body& body) {
  const int64_t chunks = (size + kChunk - 1) / kChunk;
  parallel_for(batch * chunks, kGrainChunks, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t begin = i % chunks * kChunk;
      body(i / chunks, begin, begin + kChunk < size ? begin + kChunk : size);
    }
  });
}

// Whether an output is so large that it goes past the caches, and aligned so that it can.
template <class T>
bool past_cache(const SamplesOut& y, int64_t batch, int64_t size) {
  constexpr int64_t align = sizeof(T) * Vec::lanes;
  return Vec::lanes > 1 && batch * size * static_cast<int64_t>(sizeof(T)) > kStreamBytes &&
         reinterpret_cast<uintptr_t>(y.data) % align == 0 && y.stride * static_cast<int64_t>(sizeof(T)) % align == 0;
}

template <class T>
void put(T* y, Vec v, bool past) {
  if (past)
    stream(y, v);
  else
    store(y, v);
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
