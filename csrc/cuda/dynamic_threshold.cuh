// SPDX-License-Identifier: Apache-2.0
// Formulas: ops/dynamic_threshold.h. The quantile is found by its bits: histograms of the first 11 bits of the keys, of
// the next 10 of those that share them with the element of a rank, and of the last 10, each kernel beginning where the
// one before ended. Counts are integers: atomics in any order give the same.
#pragma once
#include "../ops/dynamic_threshold.h"
#include "compensated_sum.cuh"
#include "sample_sums.cuh"

namespace prestissimo::cuda {

constexpr int kSelectBlock = 8192;  // elements of a sample that a block counts
constexpr int kFirstBins = 1 << 11, kLaterBins = 1 << 10;

// In the order of DYNAMIC_THRESHOLD_KERNELS: phases for each dtype, then the one that clears the histograms.
enum ThresholdPhase : int { kCountFirst, kCountSecond, kCountThird, kClip, kThresholdSums, kThresholdGradient };
constexpr int kThresholdClear = 18;

// The histograms, for which one plan has no room beside the clipping.
struct ThresholdCounts : DynamicThresholdArgs {};

inline LaunchPlan plan(const ThresholdCounts& a) {
  const char* op = "dynamic_threshold";
  if (a.size > INT32_MAX) fail(op, "x has samples of more than 2^31 elements");
  LaunchPlan p;
  p.add(op, kThresholdClear, ceil_div(a.batch * kHistogramWords, kFlatThreads), kFlatThreads);
  for (int phase : {kCountFirst, kCountSecond, kCountThird})
    p.add(op, phase * 3 + type_index(a.dtype), a.batch * ceil_div(a.size, kSelectBlock), kFlatThreads);
  return p;
}
inline LaunchPlan plan(const DynamicThresholdArgs& a) {
  LaunchPlan p;
  p.add("dynamic_threshold", kClip * 3 + type_index(a.dtype), a.batch * ceil_div(a.size, kSelectBlock), kFlatThreads);
  return p;
}
inline LaunchPlan plan(const DynamicThresholdBackwardArgs& a) {
  const char* op = "dynamic_threshold_backward";
  if (a.size > INT32_MAX) fail(op, "x has samples of more than 2^31 elements");
  LaunchPlan p;
  for (int phase : {kThresholdSums, kThresholdGradient})
    p.add(op, phase * 3 + type_index(a.dtype), a.batch * sum_blocks(a.size), kFlatThreads);
  return p;
}

// The Args, and what the host works out in double.
template <class Args>
struct WithRanks : Args {
  uint32_t ranks[2];
  double shares[2];  // of the elements of these ranks in the quantile
};
template <class Args>
WithRanks<Args> with_ranks(const Args& a) {
  const Quantile q(a.quantile, a.size);
  return {a, {static_cast<uint32_t>(q.low), static_cast<uint32_t>(q.high)}, {1.0 - q.fraction, q.fraction}};
}
using ThresholdParameters = WithRanks<DynamicThresholdArgs>;
using ThresholdBackwardParameters = WithRanks<DynamicThresholdBackwardArgs>;
inline ThresholdParameters parameters(const DynamicThresholdArgs& a) { return with_ranks(a); }
inline ThresholdBackwardParameters parameters(const DynamicThresholdBackwardArgs& a) { return with_ranks(a); }

PRESTISSIMO_DEVICE uint32_t key_of(float x) { return __float_as_uint(x) & 0x7fffffffu; }

// Every element of this block's share of a sample, neighbours by neighbouring threads: f(i).
template <int kElements, class F>
PRESTISSIMO_DEVICE void for_share(int64_t size, F f) {
  const int64_t begin =
      static_cast<int64_t>(blockIdx.x % static_cast<uint32_t>((size + kElements - 1) / kElements)) * kElements;
  for (int k = threadIdx.x; k < kElements; k += kFlatThreads)
    if (begin + k < size) f(begin + k);
}
template <int kElements>
PRESTISSIMO_DEVICE int64_t sample_of_block(int64_t size) {
  return blockIdx.x / static_cast<uint32_t>((size + kElements - 1) / kElements);
}

// The histograms of one sample.
struct Histograms {
  uint32_t *first, *second[2], *third[2];

  PRESTISSIMO_DEVICE Histograms(uint32_t* scratch, int64_t b) {
    first = scratch + b * kHistogramWords;
    second[0] = first + kFirstBins;
    second[1] = second[0] + kLaterBins;
    third[0] = second[1] + kLaterBins;
    third[1] = third[0] + kLaterBins;
  }
};

extern "C" __global__ void __launch_bounds__(kFlatThreads)
    dynamic_threshold_clear(const __grid_constant__ ThresholdParameters a) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kFlatThreads + threadIdx.x;
  if (i < a.batch * kHistogramWords) a.scratch[i] = 0;
}

constexpr int kFlatWarps = kFlatThreads / kWarpSize;

// The bin that holds `rank`, and the rank within it. `shared` has kFlatWarps + 2 words; ends with a barrier.
template <int kBins>
PRESTISSIMO_DEVICE uint32_t find_bin(const uint32_t* histogram, uint32_t& rank, uint32_t* shared) {
  constexpr int kOwn = kBins / kFlatThreads;
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  uint32_t own[kOwn], sum = 0;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    own[i] = histogram[threadIdx.x * kOwn + i];
    sum += own[i];
  }
  uint32_t up_to = sum;  // of this thread's bins and those of lower lanes
#pragma unroll
  for (int step = 1; step < kWarpSize; step *= 2) {
    const uint32_t lower = __shfl_up_sync(ptx::kFullWarp, up_to, step);
    if (lane >= step) up_to += lower;
  }
  if (lane == kWarpSize - 1) shared[warp] = up_to;
  __syncthreads();
  uint32_t before = up_to - sum;
#pragma unroll
  for (int w = 0; w < kFlatWarps; ++w)
    if (w < warp) before += shared[w];
  if (rank >= before && rank - before < sum) {
    uint32_t left = rank - before;
    int bin = 0;
#pragma unroll
    for (int i = 0; i + 1 < kOwn; ++i)
      if (bin == i && left >= own[i]) {
        left -= own[i];
        ++bin;
      }
    shared[kFlatWarps] = threadIdx.x * kOwn + bin;
    shared[kFlatWarps + 1] = left;
  }
  __syncthreads();
  const uint32_t bin = shared[kFlatWarps];
  rank = shared[kFlatWarps + 1];
  __syncthreads();
  return bin;
}

// The leading bits of the elements of both ranks, as far as `kDigits` histograms know them.
template <int kDigits>
struct Prefixes {
  uint32_t bits[2];

  PRESTISSIMO_DEVICE Prefixes(const ThresholdParameters& a, const Histograms& h, uint32_t* shared) {
#pragma unroll
    for (int w = 0; w < 2; ++w) {
      uint32_t rank = a.ranks[w];
      bits[w] = find_bin<kFirstBins>(h.first, rank, shared);
      if constexpr (kDigits > 1) bits[w] = bits[w] << 10 | find_bin<kLaterBins>(h.second[w], rank, shared);
      if constexpr (kDigits > 2) bits[w] = bits[w] << 10 | find_bin<kLaterBins>(h.third[w], rank, shared);
    }
  }
};

// Counts in shared memory, then adds what it counted to the sample's histogram.
template <int kBins, class Count>
PRESTISSIMO_DEVICE void count_bins(uint32_t* counts, uint32_t* histogram, Count count) {
  for (int i = threadIdx.x; i < kBins; i += kFlatThreads) counts[i] = 0;
  __syncthreads();
  count(counts);
  __syncthreads();
  for (int i = threadIdx.x; i < kBins; i += kFlatThreads)
    if (counts[i]) atomicAdd(histogram + i, counts[i]);
}

template <class T>
PRESTISSIMO_DEVICE void dynamic_threshold_first(const ThresholdParameters& a) {
  SHARED_ARRAY(uint32_t, counts, kFirstBins);
  const int64_t b = sample_of_block<kSelectBlock>(a.size);
  const T* x = sample<T>(a.x, b);
  count_bins<kFirstBins>(counts, Histograms(a.scratch, b).first, [&](uint32_t* bins) {
    for_share<kSelectBlock>(a.size, [&](int64_t i) {
      const uint32_t key = key_of(to_float(x[i]));
      atomicAdd(bins + (key >> 20), 1u);
    });
  });
}

// The digit after kDigits known ones: both histograms lie side by side, in shared memory as in global.
template <class T, int kDigits>
PRESTISSIMO_DEVICE void dynamic_threshold_later(const ThresholdParameters& a) {
  SHARED_ARRAY(uint32_t, counts, (2 * kLaterBins));
  SHARED_ARRAY(uint32_t, shared, (kFlatWarps + 2));
  constexpr int kShift = kDigits == 1 ? 10 : 0;
  const int64_t b = sample_of_block<kSelectBlock>(a.size);
  const T* x = sample<T>(a.x, b);
  const Histograms h(a.scratch, b);
  const Prefixes<kDigits> prefix(a, h, shared);
  count_bins<2 * kLaterBins>(counts, kDigits == 1 ? h.second[0] : h.third[0], [&](uint32_t* bins) {
    for_share<kSelectBlock>(a.size, [&](int64_t i) {
      const uint32_t key = key_of(to_float(x[i])), leading = key >> (kShift + 10);
      const uint32_t bin = key >> kShift & (kLaterBins - 1);
#pragma unroll
      for (int w = 0; w < 2; ++w)
        if (leading == prefix.bits[w]) atomicAdd(bins + w * kLaterBins + bin, 1u);
    });
  });
}

// s of ops/dynamic_threshold.h; a NaN stays.
struct Threshold {
  double level;  // between the two elements
  bool moves;    // with them: s is the level and not the floor
  float s;

  PRESTISSIMO_DEVICE Threshold(float low, float high, double fraction, float floor) {
    level = low;
    if (fraction != 0.0) level = __dadd_rn(level, __dmul_rn(fraction, __dadd_rn(high, -level)));
    moves = !(level < floor);
    s = moves ? static_cast<float>(level) : floor;
  }
};

template <class T>
PRESTISSIMO_DEVICE void dynamic_threshold_clip(const ThresholdParameters& a) {
  SHARED_ARRAY(uint32_t, shared, (kFlatWarps + 2));
  const int64_t b = sample_of_block<kSelectBlock>(a.size);
  const Prefixes<3> level(a, Histograms(a.scratch, b), shared);
  const float low = __uint_as_float(level.bits[0]), high = __uint_as_float(level.bits[1]);
  const Threshold t(low, high, a.shares[1], a.floor);
  if (threadIdx.x == 0 && blockIdx.x % static_cast<uint32_t>((a.size + kSelectBlock - 1) / kSelectBlock) == 0) {
    a.levels[2 * b] = low;
    a.levels[2 * b + 1] = high;
  }
  const T* x = sample<T>(a.x, b);
  T* y = sample<T>(a.y, b);
  for_share<kSelectBlock>(a.size, [&](int64_t i) {
    const float v = to_float(x[i]);
    y[i] = from_float<T>(fabsf(v) > t.s ? copysignf(1.0f, v) : v / t.s);
  });
}

// ---- backward

// Of a block in `scratch`: a CompensatedSum of dy x over the inside, then how many |x| lie below each level and at it.
PRESTISSIMO_DEVICE uint32_t* block_words(const ThresholdBackwardParameters& a, int64_t block) {
  return a.scratch + block * kBlockWords;
}

PRESTISSIMO_DEVICE Threshold threshold_of(const ThresholdBackwardParameters& a, int64_t b) {
  return Threshold(a.levels[2 * b], a.levels[2 * b + 1], a.shares[1], a.floor);
}

template <class T>
PRESTISSIMO_DEVICE void dynamic_threshold_backward_sums(const ThresholdBackwardParameters& a) {
  SHARED_ARRAY(float, scratch, (2 * kMaxWarps));
  SHARED_ARRAY(float, count_scratch, (4 * kMaxWarps));
  const int64_t b = sample_of_block<kSumBlock>(a.size);
  const Threshold t = threshold_of(a, b);
  const float low = a.levels[2 * b], high = a.levels[2 * b + 1];
  const T *x = sample<T>(a.x, b), *dy = sample<T>(a.dy, b);
  CompensatedSum product;
  float counts[4] = {};  // exact: 4096 at most
  for_share<kSumBlock>(a.size, [&](int64_t i) {
    const float value = to_float(x[i]), m = fabsf(value);
    if (!(m > t.s)) product.add_product(to_float(dy[i]), value);
    counts[0] += m < low;
    counts[1] += m < high;
    counts[2] += m == low;
    counts[3] += m == high;
  });
  product = block_sum(product, scratch);
  block_sum(counts, count_scratch);
  if (threadIdx.x > 0) return;
  uint32_t* words = block_words(a, blockIdx.x);
  words[0] = __float_as_uint(product.value);
  words[1] = __float_as_uint(product.lost);
#pragma unroll
  for (int i = 0; i < 4; ++i) words[2 + i] = static_cast<uint32_t>(counts[i]);
}

// What a block needs of all blocks of its sample.
struct BlockTotals {
  double product;
  uint32_t below[2], at_before[2];  // at_before: in the blocks ahead of this one
};

PRESTISSIMO_DEVICE BlockTotals block_totals(const ThresholdBackwardParameters& a, int64_t b, int own, uint32_t* shared,
                                            float* scratch) {
  const int blocks = static_cast<int>((a.size + kSumBlock - 1) / kSumBlock);
  CompensatedSum product;
  if (threadIdx.x < 4) shared[threadIdx.x] = 0;
  __syncthreads();
  uint32_t below[2] = {0, 0}, at[2] = {0, 0};
  for (int i = threadIdx.x; i < blocks; i += kFlatThreads) {
    const uint32_t* words = block_words(a, b * blocks + i);
    product.add({__uint_as_float(words[0]), __uint_as_float(words[1])});
#pragma unroll
    for (int w = 0; w < 2; ++w) {
      below[w] += words[2 + w];
      if (i < own) at[w] += words[4 + w];
    }
  }
#pragma unroll
  for (int w = 0; w < 2; ++w) {
    if (below[w]) atomicAdd(shared + w, below[w]);
    if (at[w]) atomicAdd(shared + 2 + w, at[w]);
  }
  product = block_sum(product, scratch);  // its barrier is also that of the counts
  return {product.total(), {shared[0], shared[1]}, {shared[2], shared[3]}};
}

// Element `rank` among those of this block whose key is `level`, in their order of position; calls f(i) in its thread.
template <class T, class F>
PRESTISSIMO_DEVICE void find_element(const T* x, int64_t begin, int64_t size, uint32_t level, uint32_t rank,
                                     uint32_t* shared, F f) {
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  for (int k = threadIdx.x; k < kSumBlock; k += kFlatThreads) {
    const int64_t i = begin + k;
    const bool match = i < size && key_of(to_float(x[i])) == level;
    const uint32_t warp_matches = __ballot_sync(ptx::kFullWarp, match);
    if (lane == 0) shared[warp] = static_cast<uint32_t>(__popc(warp_matches));
    __syncthreads();
    uint32_t ahead = static_cast<uint32_t>(__popc(warp_matches & ((1u << lane) - 1u))), all = 0;
#pragma unroll
    for (int w = 0; w < kFlatWarps; ++w) {
      if (w < warp) ahead += shared[w];
      all += shared[w];
    }
    if (match && ahead == rank) f(i);
    rank -= all;  // behind the element no number of matches reaches it again
    __syncthreads();
    if (static_cast<int32_t>(rank) < 0) return;
  }
}

template <class T>
PRESTISSIMO_DEVICE void dynamic_threshold_gradient(const ThresholdBackwardParameters& a) {
  SHARED_ARRAY(float, scratch, (2 * kMaxWarps));
  SHARED_ARRAY(uint32_t, shared, kFlatWarps);
  const uint32_t blocks = static_cast<uint32_t>((a.size + kSumBlock - 1) / kSumBlock);
  const int64_t b = blockIdx.x / blocks;
  const int own = static_cast<int>(blockIdx.x % blocks);
  const Threshold t = threshold_of(a, b);
  const T *x = sample<T>(a.x, b), *dy = sample<T>(a.dy, b);
  T* dx = sample<T>(a.dx, b);
  const auto inside = [&](int64_t i) { return fabsf(to_float(x[i])) > t.s ? 0.0f : to_float(dy[i]) / t.s; };
  for_share<kSumBlock>(a.size, [&](int64_t i) { dx[i] = from_float<T>(inside(i)); });
  if (!t.moves) return;
  const BlockTotals totals = block_totals(a, b, own, shared, scratch);
  const double ds = -totals.product / __dmul_rn(t.level, t.level);
#pragma unroll
  for (int w = 0; w < 2; ++w) {
    const uint32_t at = block_words(a, blockIdx.x)[4 + w];
    const int64_t rank = int64_t{a.ranks[w]} - totals.below[w] - totals.at_before[w];
    __syncthreads();  // shared memory has been read
    if (a.shares[w] == 0.0 || rank < 0 || rank >= at) continue;
    // the thread that finds the element is the one that wrote it
    find_element(x, static_cast<int64_t>(own) * kSumBlock, a.size, __float_as_uint(a.levels[2 * b + w]),
                 static_cast<uint32_t>(rank), shared, [&](int64_t i) {
                   const float v = to_float(x[i]), sign = v > 0.0f ? 1.0f : v < 0.0f ? -1.0f : 0.0f;
                   const double pull = __dmul_rn(__dmul_rn(a.shares[w], ds), sign);
                   dx[i] = from_float<T>(static_cast<float>(__dadd_rn(inside(i), pull)));
                 });
  }
}

// Four blocks a multiprocessor asked for: with none, ptxas aims at 32 registers and spills one of the third pass.
#define DYNAMIC_THRESHOLD_PASS(name, body, Args, suffix)                    \
  extern "C" __global__ void __launch_bounds__(kFlatThreads, 4)             \
      dynamic_threshold_##name##_##suffix(const __grid_constant__ Args a) { \
    body(a);                                                                \
  }
#define DYNAMIC_THRESHOLD_KERNEL(suffix, T, ...)                                                                 \
  DYNAMIC_THRESHOLD_PASS(first, dynamic_threshold_first<T>, ThresholdParameters, suffix)                         \
  DYNAMIC_THRESHOLD_PASS(second, (dynamic_threshold_later<T, 1>), ThresholdParameters, suffix)                   \
  DYNAMIC_THRESHOLD_PASS(third, (dynamic_threshold_later<T, 2>), ThresholdParameters, suffix)                    \
  DYNAMIC_THRESHOLD_PASS(clip, dynamic_threshold_clip<T>, ThresholdParameters, suffix)                           \
  DYNAMIC_THRESHOLD_PASS(backward_sums, dynamic_threshold_backward_sums<T>, ThresholdBackwardParameters, suffix) \
  DYNAMIC_THRESHOLD_PASS(gradient, dynamic_threshold_gradient<T>, ThresholdBackwardParameters, suffix)
FRAME_TYPES(DYNAMIC_THRESHOLD_KERNEL)

#define DYNAMIC_THRESHOLD_KERNELS(X)                          \
  FRAME_TYPES(FRAME_NAME, X, dynamic_threshold_first)         \
  FRAME_TYPES(FRAME_NAME, X, dynamic_threshold_second)        \
  FRAME_TYPES(FRAME_NAME, X, dynamic_threshold_third)         \
  FRAME_TYPES(FRAME_NAME, X, dynamic_threshold_clip)          \
  FRAME_TYPES(FRAME_NAME, X, dynamic_threshold_backward_sums) \
  FRAME_TYPES(FRAME_NAME, X, dynamic_threshold_gradient) X(dynamic_threshold_clear)
#define DYNAMIC_THRESHOLD_PLANS(X)             \
  X(dynamic_threshold_counts, ThresholdCounts) \
  X(dynamic_threshold, DynamicThresholdArgs)   \
  X(dynamic_threshold_backward, DynamicThresholdBackwardArgs)

}  // namespace prestissimo::cuda
