// SPDX-License-Identifier: Apache-2.0
#include "../ops/dynamic_threshold.h"

#include "sample_sums.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

constexpr uint32_t kMostKey = 0xffffffff, kInfinityKey = 0x7f800000;  // NaN is between them

// Orders |x| as ops/dynamic_threshold.h says.
template <class T>
uint32_t key_of(T x) {
  return float_to_bits(widen(x)) & 0x7fffffff;
}

// The key of a rank among n keys, which change places but stay the same. A byte at a time, the keys that share the
// bytes so far in front: linear whatever the keys.
uint32_t select_key(uint32_t* keys, int64_t n, int64_t rank) {
  for (int shift = 24;; shift -= 8) {
    int64_t count[256] = {};
    for (int64_t i = 0; i < n; ++i) ++count[keys[i] >> shift & 255];
    uint32_t digit = 0;
    while (rank >= count[digit]) rank -= count[digit++];
    int64_t kept = 0;
    for (int64_t i = 0; i < n; ++i) {
      if ((keys[i] >> shift & 255) != digit) continue;
      const uint32_t key = keys[i];
      keys[i] = keys[kept];
      keys[kept++] = key;
    }
    n = kept;
    if (shift == 0) return keys[0];
  }
}

// Keys between which the quantile of a sample lies almost surely, from every size / kProbes-th element; where it does
// not, or everything is small, all keys.
struct Range {
  uint32_t low, high;
};

constexpr int kProbes = 1024;

template <class T>
Range probable_range(const T* x, int64_t size, double quantile) {
  if (size <= 4 * kProbes) return {0, kMostKey};
  uint32_t probes[kProbes];
  for (int i = 0; i < kProbes; ++i) probes[i] = key_of(x[i * size / kProbes]);
  const double rank = quantile * (kProbes - 1);
  const double margin = 2 + 4 * __builtin_sqrt(kProbes * quantile * (1 - quantile));
  const int64_t below = static_cast<int64_t>(rank - margin), above = static_cast<int64_t>(rank + margin) + 1;
  return {rank - margin < 0 ? 0 : select_key(probes, kProbes, below),
          above >= kProbes ? kMostKey : select_key(probes, kProbes, above)};
}

struct Collected {
  uint32_t below, keys;  // how many keys lie below the range, how many in it
};

// The keys of x[0, n) in the range, to `keys`. Read at the speed of memory: at quantile 0.995 one element
// in sixty goes further, at the median one in eight.
template <class T>
Collected collect(const T* x, int64_t n, const Range& range, uint32_t* keys) {
  Collected c{0, 0};
  const auto one = [&](int64_t i) {
    const uint32_t key = key_of(x[i]);
    c.below += key < range.low;
    keys[c.keys] = key;
    c.keys += key >= range.low && key <= range.high;
  };
  const Vec low = broadcast(bits_to_float(range.low)), high = broadcast(bits_to_float(range.high));
  const bool bounded = range.high != kMostKey;
  int64_t i = 0;
  if (range.low > 0 && range.low <= kInfinityKey)
    for (; i + Vec::lanes <= n; i += Vec::lanes) {
      const Vec v = magnitude(load(x + i));
      const unsigned under = bits(less(v, low)), over = bounded ? bits(less(high, v)) : 0;
      c.below += static_cast<unsigned>(__builtin_popcount(under));
      constexpr unsigned all = (1u << Vec::lanes) - 1;
      for (unsigned left = all & ~(under | over); left; left &= left - 1) {
        const uint32_t key = key_of(x[i + __builtin_ctz(left)]);
        keys[c.keys] = key;
        c.keys += key <= range.high;  // a NaN is above it though it compares as neither
      }
    }
  for (; i < n; ++i) one(i);
  return c;
}

// Of one sample: keys of its chunks, and what each chunk collected.
struct SampleScratch {
  uint32_t* keys;
  Collected* collected;

  SampleScratch(const DynamicThresholdArgs& a, int64_t b) {
    keys = a.scratch + b * (a.size + 2 * sum_blocks(a.size));
    collected = reinterpret_cast<Collected*>(keys + a.size);
  }
};

// False where the quantile is not among the keys.
bool levels_of(const DynamicThresholdArgs& a, int64_t b, float* levels) {
  const Quantile q(a.quantile, a.size);
  const SampleScratch s(a, b);
  int64_t below = 0, n = 0;
  for (int64_t i = 0; i < sum_blocks(a.size); ++i) {
    const Collected c = s.collected[i];
    memmove(s.keys + n, s.keys + i * kSumBlock, sizeof(uint32_t) * c.keys);
    below += c.below;
    n += c.keys;
  }
  const int64_t low = q.low - below, high = q.high - below;
  if (low < 0 || high >= n) return false;
  const uint32_t key = select_key(s.keys, n, low);
  int64_t up_to = 0;
  uint32_t next = kMostKey;
  for (int64_t i = 0; i < n; ++i) {
    up_to += s.keys[i] <= key;
    if (s.keys[i] > key && s.keys[i] < next) next = s.keys[i];
  }
  levels[0] = bits_to_float(key);
  levels[1] = bits_to_float(high < up_to ? key : next);
  return true;
}

// s of ops/dynamic_threshold.h; a NaN stays.
struct Threshold {
  double level;  // between the two elements
  bool moves;    // with them: s is the level and not the floor
  float s;

  Threshold(const float* levels, double fraction, float floor) {
    const double low = static_cast<double>(levels[0]), high = static_cast<double>(levels[1]);
    level = fraction == 0 ? low : low + fraction * (high - low);
    moves = !(level < static_cast<double>(floor));
    s = moves ? static_cast<float>(level) : floor;
  }
};

template <class T>
void forward(const DynamicThresholdArgs& a) {
  // a thread for each sample finds the ranges, which begin as the levels' own bits
  const int64_t blocks = sum_blocks(a.size);
  auto* ranges = reinterpret_cast<uint32_t*>(a.levels);
  parallel_for(a.batch, 1, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      const Range r = probable_range(sample<T>(a.x, b), a.size, a.quantile);
      memcpy(ranges + 2 * b, &r, sizeof r);
    }
  });
  for_chunks(a.batch, a.size, [&](int64_t b, int64_t begin, int64_t end) {
    Range r;
    memcpy(&r, ranges + 2 * b, sizeof r);
    const SampleScratch s(a, b);
    s.collected[begin / kSumBlock] = collect(sample<T>(a.x, b) + begin, end - begin, r, s.keys + begin);
  });
  parallel_for(a.batch, 1, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      if (levels_of(a, b, a.levels + 2 * b)) continue;
      const SampleScratch s(a, b);
      for (int64_t i = 0; i < blocks; ++i) {
        const int64_t begin = i * kSumBlock, n = a.size - begin < kSumBlock ? a.size - begin : kSumBlock;
        s.collected[i] = collect(sample<T>(a.x, b) + begin, n, {0, kMostKey}, s.keys + begin);
      }
      levels_of(a, b, a.levels + 2 * b);
    }
  });
  const double fraction = Quantile(a.quantile, a.size).fraction;
  const bool past = past_cache<T>(a.y, a.batch, a.size);
  for_chunks(a.batch, a.size, [&](int64_t b, int64_t begin, int64_t end) {
    const Threshold t(a.levels + 2 * b, fraction, a.floor);
    const Vec s = broadcast(t.s), one = broadcast(1.0f);
    const T* x = sample<T>(a.x, b) + begin;
    T* y = sample<T>(a.y, b) + begin;
    const auto value = [&](int64_t i, int k) {
      const Vec v = load(x + i, k);
      return select(less(s, magnitude(v)), with_sign(one, v), v / s);
    };
    for_lanes(
        end - begin, [&](int64_t i) { put(y + i, value(i, Vec::lanes), past); },
        [&](int64_t i, int k) { store(y + i, value(i, k), k); });
    if (past) stream_fence();
  });
}

// ---- backward

// What a block of kSumBlock elements adds, in `scratch`.
struct BlockSums {
  double product;            // of dy x over the inside
  uint32_t below[2], at[2];  // how many |x| lie below each level and at it
};
static_assert(sizeof(BlockSums) == sizeof(uint32_t) * kBlockWords);

// a b - p, exact where p is the rounded product; fma of one lane alone rounds twice.
inline Vec rounded_off(Vec a, Vec b, Vec p) {
  if constexpr (Vec::lanes > 1) return fma(a, b, zero() - p);
  float v[3][Vec::lanes];
  store(v[0], a);
  store(v[1], b);
  store(v[2], p);
  return broadcast(
      static_cast<float>(static_cast<double>(v[0][0]) * static_cast<double>(v[1][0]) - static_cast<double>(v[2][0])));
}

// A sum of products that cancel: eager's may be right by luck, and ours is held to twice that. Each lane adds up what
// rounding takes from its products and sums beside them.
struct ExactSum {
  Vec total = zero(), lost = zero();

  void add_product(Vec a, Vec b) {
    const Vec p = a * b, next = total + p, step = next - total;
    const Vec error = rounded_off(a, b, p) + ((total - (next - step)) + (p - step));
    lost = lost + select(equal(error, error), error, zero());  // none of an infinity
    total = next;
  }
  double sum() const {
    float lanes[2][Vec::lanes];
    store(lanes[0], total);
    store(lanes[1], lost);
    double all = 0;
    for (int i = 0; i < Vec::lanes; ++i) all += static_cast<double>(lanes[0][i]) + static_cast<double>(lanes[1][i]);
    return all;
  }
};

// Where the element of a rank lies: among those at its level, in their order of position.
template <class T>
int64_t position(const T* x, int64_t size, const BlockSums* blocks, int which, int64_t rank, uint32_t level) {
  const int64_t count = sum_blocks(size);
  for (int64_t i = 0; i < count; ++i) rank -= blocks[i].below[which];
  for (int64_t i = 0; i < count; ++i) {
    if (rank >= blocks[i].at[which]) {
      rank -= blocks[i].at[which];
      continue;
    }
    for (int64_t j = i * kSumBlock; j < size; ++j)
      if (key_of(x[j]) == level && rank-- == 0) return j;
  }
  return -1;
}

template <class T>
void backward(const DynamicThresholdBackwardArgs& a) {
  const int64_t blocks = sum_blocks(a.size);
  const Quantile q(a.quantile, a.size);
  auto* scratch = reinterpret_cast<BlockSums*>(a.scratch);
  for_chunks(a.batch, a.size, [&](int64_t b, int64_t begin, int64_t end) {
    const float* levels = a.levels + 2 * b;
    const Threshold t(levels, q.fraction, a.floor);
    const T *x = sample<T>(a.x, b) + begin, *dy = sample<T>(a.dy, b) + begin;
    T* dx = sample<T>(a.dx, b) + begin;
    const Vec s = broadcast(t.s), low = broadcast(levels[0]), high = broadcast(levels[1]);
    BlockSums own{};
    ExactSum product;
    const auto lanes = [&](int64_t i, int k) {
      const Vec v = load(x + i, k), g = load(dy + i, k), m = magnitude(v);
      const Mask outside = less(s, m);
      store(dx + i, select(outside, zero(), g / s), k);
      const unsigned valid = (1u << k) - 1;
      const auto count = [&](Mask mask) { return static_cast<uint32_t>(__builtin_popcount(bits(mask) & valid)); };
      own.below[0] += count(less(m, low));
      own.below[1] += count(less(m, high));
      own.at[0] += count(equal(m, low));
      own.at[1] += count(equal(m, high));
      product.add_product(select(outside, zero(), g), select(outside, zero(), v));
    };
    for_lanes(end - begin, [&](int64_t i) { lanes(i, Vec::lanes); }, lanes);
    own.product = product.sum();
    scratch[b * blocks + begin / kSumBlock] = own;
  });
  parallel_for(a.batch, 1, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      const float* levels = a.levels + 2 * b;
      const Threshold t(levels, q.fraction, a.floor);
      if (!t.moves) continue;
      const BlockSums* own = scratch + b * blocks;
      double product = 0;
      for (int64_t i = 0; i < blocks; ++i) product += own[i].product;
      const double s = t.level, ds = -product / (s * s);
      const T *x = sample<T>(a.x, b), *dy = sample<T>(a.dy, b);
      T* dx = sample<T>(a.dx, b);
      for (int which = 0; which < 2; ++which) {
        const double share = which ? q.fraction : 1 - q.fraction;
        if (share == 0) continue;
        const int64_t i = position(x, a.size, own, which, which ? q.high : q.low, float_to_bits(levels[which]));
        if (i < 0) continue;  // a NaN is at no level
        const double v = static_cast<double>(widen(x[i])), g = static_cast<double>(widen(dy[i]));
        const double sign = v > 0 ? 1 : v < 0 ? -1 : 0;
        const double inside = __builtin_fabs(v) > static_cast<double>(t.s) ? 0 : g / s;  // as the product has it
        dx[i] = narrow<T>(static_cast<float>(inside + share * ds * sign));
      }
    }
  });
}

}  // namespace

void dynamic_threshold(const DynamicThresholdArgs& a) {
  with_type(a.dtype, [&](auto type) { forward<decltype(type)>(a); });
}

void dynamic_threshold_backward(const DynamicThresholdBackwardArgs& a) {
  with_type(a.dtype, [&](auto type) { backward<decltype(type)>(a); });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
