// SPDX-License-Identifier: Apache-2.0
// Tiled attention with an online softmax. A thread takes panels of up to kRows queries; keys and values of a head are
// packed once, as K^T [D, S] and V [S, D], when the thread comes to it. For each block of keys:
//   s = Q K^T  (rows, block), in L1;   p = 2^(c s - c max), straight into the packed operand of   O = O 2^(..) + P V
// with c = scale log2(e). A panel's sums do not depend on the split over threads.
//
// For every 16 scores the products of D = 64 take 64 cycles in bfloat16 and 128 in float32, the softmax about 20. One
// thread, AMD Zen 4 (EPYC), torch 2.13.0, 2026-11-23, share of oneDNN's prepacked product (torch's SDPA beside it): T
// 1025, 24 x 64: bfloat16 79 % (32), float32 90 % (76); T 257, 8 x 128: 73 % (28), 75 % (65); 65 keys: 59 % (24), 63 %
// (57); two softmaxes 68 % (27), 74 % (60); a window of 257 of 750 keys 71 % (10), 71 % (20).
#include "attention_tiles.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

// Keys of a block: scores and weights of a panel stay in the first-level cache.
constexpr int block_of(Dot d) { return d == Dot::bfloat16 ? 256 : 128; }

// The packed keys and values of one head.
struct PackedHead {
  PackedB k[2], v;
};

// Memory of one thread.
class Workspace {
 public:
  Workspace(const AttentionArgs& a, Dot dot)
      : width(round_up(a.head_dim, kPanel)),
        block_(block_of(dot)),
        k_bytes_(round_up(b_bytes(dot, a.head_dim, a.keys), 64)),
        v_bytes_(round_up(b_bytes(dot, a.keys, a.head_dim), 64)),
        q_bytes_(round_up(a_bytes(dot, kRows, a.head_dim), 64)),
        bounds_(a.mask ? round_up(a.keys, kPanel) : 0),
        softmaxes_(a.softmaxes),
        memory_(softmaxes_ * k_bytes_ + v_bytes_ + q_bytes_ +
                4 * (bounds_ + kRows * (2 * block_ + (softmaxes_ + 1) * width))) {}

  bool ready() const { return memory_.ready(); }
  char* k(int i) const { return memory_.as<char>() + i * k_bytes_; }
  char* v() const { return k(softmaxes_); }
  char* q() const { return v() + v_bytes_; }
  float* bounds() const { return reinterpret_cast<float*>(q() + q_bytes_); }
  float* scores() const { return bounds() + bounds_; }                                  // [kRows][block]
  char* weights() const { return reinterpret_cast<char*>(scores() + kRows * block_); }  // an A panel
  float* out(int i) const { return scores() + kRows * (2 * block_ + i * width); }       // [kRows][width]
  float* part() const { return out(softmaxes_); }                                       // of one block

  const int64_t width;  // of a head, in whole panels

 private:
  const int64_t block_, k_bytes_, v_bytes_, q_bytes_, bounds_;
  const int softmaxes_;
  const Scratch memory_;
};

// The packed keys and values of one head, from key `origin` on.
struct Head {
  PackedB k[2], v;
  Keys keys;
  int64_t origin;
};

struct Softmax {
  float max[kRows], sum[kRows];  // max of the scores before scaling
};

// One row of a block, `width` scores (whole panels): the weights and the running maximum and sum. Returns what the sums
// so far are to be multiplied by.
template <Dot kDot>
float add_row(Softmax& softmax, int row, int rows, const float* s, const float* bound, int64_t width, float c,
              char* weights) {
  constexpr int kVectors = kPanel / Vec::lanes, kDegree = kDot == Dot::bfloat16 ? 3 : 6;
  const auto score = [&](int64_t j) { return bound ? min(load(s + j), load(bound + j)) : load(s + j); };
  const float before = softmax.max[row];
  Vec most[2] = {broadcast(before), broadcast(before)};
  for (int64_t j = 0; j < width; j += kPanel)
    for (int i = 0; i < kVectors; ++i) most[i % 2] = max(most[i % 2], score(j + i * Vec::lanes));
  const float now = max_lane(max(most[0], most[1]));
  // Where there has been no score yet, all weights are 2^(-infinity - 0). The weight of the largest score is exactly 1.
  const Vec most_of_all = broadcast(now == -infinity() ? 0.0f : now), by = broadcast(c);
  Vec sums[2] = {zero(), zero()};
  for (int64_t j = 0; j < width; j += kPanel, weights += lines_of_panel(kDot) * rows * kLineBytes) {
    Vec p[kVectors];
    for (int i = 0; i < kVectors; ++i) {
      p[i] = exp2<kDegree>((score(j + i * Vec::lanes) - most_of_all) * by);
      sums[i % 2] = sums[i % 2] + p[i];
    }
    put_weights<kDot>(p, weights, rows, row);
  }
  const float factor = sum(keep(exp2<kDegree>((broadcast(before) - most_of_all) * by), 1));
  softmax.max[row] = now;
  softmax.sum[row] = softmax.sum[row] * factor + sum(sums[0] + sums[1]);
  return factor;
}

// Queries [first, first + rows), packed in q, over all keys that they see: softmax sums, and sums of values in out.
template <Dot kDot>
void attend(const AttentionArgs& a, const Head& head, int softmax_of, int64_t first, int rows, const char* q,
            const Workspace& w, Softmax& softmax, float* out) {
  const PackedB &k = head.k[softmax_of], &v = head.v;
  const Range seen = window(first, first + rows, a.left, a.right, head.keys.count);
  const int64_t begin = seen.begin / kPanel * kPanel;
  const float c = a.scale * kLog2E;
  constexpr int block = block_of(kDot);
  float *s = w.scores(), factor[kRows];
  for (int r = 0; r < rows; ++r) softmax.max[r] = -infinity(), softmax.sum[r] = 0.0f;
  for (int64_t j = begin; j < seen.end; j += block) {
    const int64_t keys = seen.end - j < block ? seen.end - j : block, width = round_up(keys, kPanel);
    const int64_t packed = j - head.origin;
    for (int64_t n = 0; n < keys; n += kPanel)
      micro_kernel(kDot, rows, static_cast<int>(keys - n < kPanel ? keys - n : kPanel), k.steps(), q,
                   k.panel((packed + n) / kPanel), nullptr, 0, s + n, block);
    for (int r = 0; r < rows; ++r) {
      float* row = s + r * block;
      hide(row, j, width, window(first + r, first + r + 1, a.left, a.right, head.keys.count));
      factor[r] =
          add_row<kDot>(softmax, r, rows, row, head.keys.bound ? head.keys.bound + j : nullptr, width, c, w.weights());
    }
    // Each block's sums start from zero: one chain over all keys would lose a digit more.
    float* sums = j > begin ? w.part() : out;
    for (int64_t p = 0; p < v.panels(); ++p)
      micro_kernel(kDot, rows, v.columns(p), step_count(kDot, keys), w.weights(),
                   v.panel(p) + packed / step_size(kDot) * kStepBytes, nullptr, 0, sums + p * kPanel, w.width);
    if (j == begin) continue;
    for (int r = 0; r < rows; ++r)
      for (int64_t d = r * w.width; d < (r + 1) * w.width; d += Vec::lanes)
        store(out + d, fma(load(out + d), broadcast(factor[r]), load(sums + d)));
  }
  if (begin >= seen.end) memset(out, 0, sizeof(float) * static_cast<size_t>(rows * w.width));
}

// Whether query i sees a key at all; asked only where its weights add up to nothing.
bool sees_a_key(const AttentionArgs& a, const Keys& keys, int64_t i) {
  const Range seen = window(i, i + 1, a.left, a.right, keys.count);
  for (int64_t j = seen.begin; j < seen.end; ++j)
    if (!keys.bound || keys.bound[j] > 0) return true;
  return false;
}

// Softmax sums to what a row of values is multiplied by, and to the log-sum-exp.
void finish(const AttentionArgs& a, const Keys& keys, int64_t first, int rows, Softmax& softmax, float* lse) {
  for (int r = 0; r < rows; ++r) {
    const float sum = softmax.sum[r];
    if (sum == 0.0f && !sees_a_key(a, keys, first + r)) {
      if (lse) lse[r] = infinity();
      continue;  // times the sum, 0
    }
    if (lse) lse[r] = softmax.max[r] * a.scale + __builtin_logf(sum);
    softmax.sum[r] = 1.0f / sum;  // scores of -infinity alone make NaN, as they do in a plain softmax
  }
}

// The rows of one output: y, or y2 = the second softmax's part of it.
template <class T>
void write(const AttentionArgs& a, const HeadsOutput& y, bool part, int64_t b, int64_t first, int rows, int64_t h,
           const Workspace& w, const Softmax (&softmax)[2]) {
  const bool differential = a.softmaxes == 2;
  for (int r = 0; r < rows; ++r) {
    T* row = reinterpret_cast<T*>(address(y, a.dtype, b, first + r, h));
    const float *one = w.out(0) + r * w.width, *two = w.out(1) + r * w.width;
    const Vec by = broadcast(softmax[0].sum[r]), by2 = broadcast(differential ? softmax[1].sum[r] : 0.0f);
    const auto value = [&](int64_t d) {
      if (part) return load(two + d) * by2;
      return differential ? load(one + d) * by - load(two + d) * by2 : load(one + d) * by;
    };
    for_lanes(
        a.head_dim, [&](int64_t d) { store(row + d, value(d)); },
        [&](int64_t d, int n) { store(row + d, value(d), n); });
  }
}

// Packs what `queries` of head h of sample b see of its keys and values.
void pack(const AttentionArgs& a, Dot dot, int64_t b, int64_t h, Range queries, const Workspace& w, Head& head) {
  head.keys = keys_of(a, b, w.bounds());
  const Range seen = window(queries.begin, queries.end, a.left, a.right, head.keys.count);
  head.origin = seen.begin / kPanel * kPanel;
  const int64_t keys = seen.end - head.origin;
  for (int i = 0; i < a.softmaxes; ++i) {
    const HeadsView& k = i ? a.k2 : a.k;
    head.k[i] = {dot, a.head_dim, keys, w.k(i)};
    pack_b(head.k[i], rows_of(a, k, b, head.origin, h), 0, head.k[i].panels());
  }
  head.v = {dot, keys, a.head_dim, w.v()};
  pack_b(head.v, columns_of(a, a.v, b, head.origin, h), 0, head.v.panels());
  clear_hidden(head.v, head.keys, head.origin);
}

// The work is all panels of queries of all heads; heads that share keys and values come together.
struct Work {
  int64_t panels, group, per_head;

  explicit Work(const AttentionArgs& a)
      : panels((a.queries + kRows - 1) / kRows), group(a.heads / a.kv_heads), per_head(group * panels) {}
  int64_t first(const AttentionArgs& a, int64_t panel) const { return panel * a.queries / panels; }
};

template <Dot kDot, class T>
bool attend_panels(const AttentionArgs& a, int64_t begin, int64_t end) {
  const Workspace w(a, kDot);
  if (!w.ready()) return false;
  const Work work(a);
  Head head;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t kv = i / work.per_head, b = kv / a.kv_heads, hk = kv % a.kv_heads, panel = i % work.panels,
                  h = hk * work.group + i % work.per_head / work.panels;
    if (i == begin || i % work.per_head == 0) {
      const int64_t next_head = (kv + 1) * work.per_head, last = (next_head < end ? next_head : end) - 1;
      const bool one_head = i / work.panels == last / work.panels;
      pack(a, kDot, b, hk,
           {one_head ? work.first(a, panel) : 0, one_head ? work.first(a, last % work.panels + 1) : a.queries}, w,
           head);
    }
    const int64_t first = work.first(a, panel);
    const int rows = static_cast<int>(work.first(a, panel + 1) - first);
    Softmax softmax[2];
    for (int s = 0; s < a.softmaxes; ++s) {
      const HeadsView& q = s ? a.q2 : a.q;
      pack_a({kDot, rows, a.head_dim, w.q()}, rows_of(a, q, b, first, h), 0, 1);
      attend<kDot>(a, head, s, first, rows, w.q(), w, softmax[s], w.out(s));
      float* lse = a.lse ? a.lse + ((s * a.batch + b) * a.heads + h) * a.queries + first : nullptr;
      finish(a, head.keys, first, rows, softmax[s], lse);
    }
    write<T>(a, a.y, false, b, first, rows, h, w, softmax);
    if (a.y2.data) write<T>(a, a.y2, true, b, first, rows, h, w, softmax);
  }
  return true;
}

template <Dot kDot, class T>
void run(const AttentionArgs& a) {
  const Work work(a);
  // A thread's share should outweigh the start of a parallel region: some 20 microseconds.
  const int64_t grain = 1 + (int64_t{1} << 20) / (kRows * a.keys * a.head_dim + 1);
  bool failed = false;
  parallel_for(a.batch * a.kv_heads * work.per_head, grain, [&](int64_t begin, int64_t end) {
    if (!attend_panels<kDot, T>(a, begin, end)) __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
  });
  if (failed) out_of_memory();
}

}  // namespace

void attention(const AttentionArgs& a) {
  switch (a.dtype) {
    case DType::bfloat16: return run<product_of(DType::bfloat16), bfloat16>(a);
    case DType::float16: return run<Dot::float32, float16>(a);
    default: return run<Dot::float32, float>(a);
  }
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
