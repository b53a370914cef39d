// SPDX-License-Identifier: Apache-2.0
// What the kernels of attention share: which head and queries a block has, which keys they see, softmax in base 2.
#pragma once
#include "attention_plan.h"
#include "ptx.cuh"
#include "vec.cuh"

namespace prestissimo::cuda {

constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;

template <class T>
PRESTISSIMO_DEVICE const T* head_of(const HeadsView& v, int64_t b, int64_t h) {
  return static_cast<const T*>(v.data) + b * v.batch_stride + h * v.head_stride;
}
template <class T>
PRESTISSIMO_DEVICE T* row_of_head(const HeadsOutput& v, int64_t b, int64_t t, int64_t h) {
  return static_cast<T*>(v.data) + b * v.batch_stride + t * v.time_stride + h * v.head_stride;
}

// The head of a block and its first query, or its first key; and the keys of its sample.
struct HeadPlace {
  int64_t b, h, kv_head;
  int first, keys;
  const bool* mask;  // of the keys, or null

  // `heads_of_all` heads of `rows` rows each, `block` of them to a block.
  PRESTISSIMO_DEVICE HeadPlace(const AttentionArgs& a, int64_t heads_of_all, int64_t rows, int block) {
    const auto heads = static_cast<uint32_t>(heads_of_all);
    const uint32_t tiles = (static_cast<uint32_t>(rows) + block - 1) / block;
    const uint32_t head = blockIdx.x / tiles;
    b = head / heads;
    h = head % heads;
    kv_head = h / (heads / static_cast<uint32_t>(a.kv_heads));
    first = static_cast<int>(blockIdx.x % tiles) * block;
    keys = static_cast<int>(a.keys);
    if (a.lengths) {
      const int64_t length = a.lengths[b];
      keys = length < keys ? static_cast<int>(length < 0 ? 0 : length) : keys;
    }
    mask = a.mask ? a.mask + b * a.mask_stride : nullptr;
  }

  PRESTISSIMO_DEVICE bool shows(int key) const { return !mask || mask[key]; }  // a key below `keys`
  PRESTISSIMO_DEVICE bool has(int key) const { return key < keys && shows(key); }
  PRESTISSIMO_DEVICE float* lse(const AttentionArgs& a, int softmax) const {
    return a.lse ? a.lse + ((softmax * a.batch + b) * a.heads + h) * a.queries : nullptr;
  }
};

// Keys begin <= j < end <= keys that query i sees but for the mask.
struct KeyWindow {
  int left, right;

  PRESTISSIMO_DEVICE explicit KeyWindow(const AttentionArgs& a) : left(reach(a.left)), right(reach(a.right)) {}
  PRESTISSIMO_DEVICE int begin(int i) const { return i > left ? i - left : 0; }
  PRESTISSIMO_DEVICE int end(int i, int keys) const { return right < keys - i - 1 ? i + right + 1 : keys; }
  // Queries first_query <= i < last_query see a key of begin ... last.
  PRESTISSIMO_DEVICE int first_query(int begin) const { return begin > right ? begin - right : 0; }
  PRESTISSIMO_DEVICE int last_query(int last, int queries) const {
    return left < queries - last - 1 ? last + left + 1 : queries;
  }

 private:
  static PRESTISSIMO_DEVICE int reach(int64_t n) { return n < (int64_t{1} << 30) ? static_cast<int>(n) : 1 << 30; }
};

// What a row of sums is multiplied by; and the log-sum-exp, of the largest score before scaling. A row that sees no key
// is 0 and infinity, one whose scores are all -infinity NaN.
PRESTISSIMO_DEVICE float finish_row(float most, float sum, bool seen, float scale, float* lse) {
  if (lse) *lse = seen ? __fmaf_rn(most, scale, logf(sum)) : INFINITY;
  return seen ? 1.0f / sum : 0.0f;
}

}  // namespace prestissimo::cuda
