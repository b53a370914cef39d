// SPDX-License-Identifier: Apache-2.0
// Gradients of attention. A task takes the queries of one key head, or a part of them of fixed size, in blocks; a block
// meets all its keys before the next comes, so that a row of weights is whole in the caches and sum_j p_ij dp_ij is
// taken from it: with y . dy in its place, as tiles of keys would need, a row that looks at one key would lose the
// cancellation that makes its gradient small. Five products a block, none of them twice:
//   s = Q K^T, dp = dY V^T    a panel of queries at a time; then p and ds, straight into packed operands
//   dQ = dS K                 of the panel
//   dV^T += dY^T P, dK^T += Q^T dS    of the block
// A task sums its own dK^T and dV^T; those of the parts of a head are added in order.
//
// Against torch's SDPA (AMD Zen 4, torch 2.13.0, 2026-11-23), one thread: bfloat16 1.8 to 4.3 times as fast, float32
// 0.7 (65 keys) to 1.4, 1.2 at T 1025; two threads: bfloat16 1.68 to 4.40, float32 0.81 (65 keys) to 1.24, 2.78 in a
// window. In float32 torch, without a mask, has 0.41 to 0.63 of oneDNN's prepacked product (2048^3) and we 0.42 to
// 0.78; ours packs every operand for one use. Since packing reads along rows, one thread: 65 keys 0.82 to 0.93, T 257
// 0.98 to 1.04. Of T 257 (8 x 128) the products, at the ceiling, are 71 % of the time, packing 10, write_keys 8; of 65
// keys 67 and 14, and 5 vectors of 16 columns for 65 keys, in four products of five, leave 0.84 of the ceiling.
#include "attention_tiles.h"
#include "transpose.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

// Queries of a block: what dK^T and dV^T sum over at once, against p and ds of all keys in the second-level cache.
constexpr int block_of(Dot d) { return (d == Dot::bfloat16 ? 8 : 4) * kRows; }
// Tasks at least, where the heads are fewer: a number of the problem, not of the threads.
constexpr int64_t kTasks = 16;

// How the work is divided.
struct Plan {
  int64_t group, blocks, parts, tasks;  // blocks of one head; parts of a key head
  int64_t width, keys;                  // of a head and of its keys, in whole panels
  int sums;                             // dV^T, dK^T and perhaps dK2^T

  Plan(const AttentionArgs& a, int block)
      : group(a.heads / a.kv_heads),
        blocks((a.queries + block - 1) / block),
        parts(kTasks / (a.batch * a.kv_heads)),
        width(round_up(a.head_dim, kPanel)),
        keys(round_up(a.keys, kPanel)),
        sums(1 + a.softmaxes) {
    const int64_t all = group * blocks;
    parts = parts > all ? all : parts;
    parts = parts < 1 ? 1 : parts;
    tasks = a.batch * a.kv_heads * parts;
  }
  int64_t sum_size() const { return width * keys; }  // floats of one sum of one task, [width][keys]
};

// Pieces of one allocation, measured first and then handed out.
class Pieces {
 public:
  explicit Pieces(char* base) : base_(base) {}
  char* take(int64_t bytes) {
    char* p = base_ ? base_ + used_ : nullptr;
    used_ += round_up(bytes, 64);
    return p;
  }
  float* floats(int64_t n) { return reinterpret_cast<float*>(take(4 * n)); }
  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

// Memory of one thread.
struct Buffers {
  PackedB k_columns[2], v_columns, k_rows[2];  // K^T and V^T for the scores, K for dQ
  PackedB p, ds;                               // of a block: [queries, keys]
  PackedA dy_columns, q_columns;               // of a block: dY^T, Q^T
  char *q, *dy, *ds_rows;                      // of a panel
  float *scores, *dp;                          // of a panel, [kRows][keys]
  float *dq, *bounds, *tile;

  Buffers(const AttentionArgs& a, const Plan& plan, Dot dot, Pieces m) {
    const int block = block_of(dot);
    const int64_t S = a.keys, D = a.head_dim;
    for (int s = 0; s < a.softmaxes; ++s) {
      k_columns[s] = {dot, D, S, m.take(b_bytes(dot, D, S))};
      k_rows[s] = {dot, S, D, m.take(b_bytes(dot, S, D))};
    }
    v_columns = {dot, D, S, m.take(b_bytes(dot, D, S))};
    p = {dot, block, S, m.take(b_bytes(dot, block, S))};
    ds = {dot, block, S, m.take(b_bytes(dot, block, S))};
    dy_columns = {dot, D, block, m.take(a_bytes(dot, D, block))};
    q_columns = {dot, D, block, m.take(a_bytes(dot, D, block))};
    q = m.take(a_bytes(dot, kRows, D));
    dy = m.take(a_bytes(dot, kRows, D));
    ds_rows = m.take(a_bytes(dot, kRows, plan.keys));
    scores = m.floats(kRows * plan.keys);
    dp = m.floats(kRows * plan.keys);
    dq = m.floats(kRows * plan.width);
    bounds = m.floats(a.mask ? plan.keys : 0);
    tile = m.floats(kTile * plan.width);
    bytes = m.used();
  }
  int64_t bytes;
};

// Packs keys and values of a head.
Keys pack(const AttentionArgs& a, int64_t b, int64_t h, Buffers& m) {
  const Keys keys = keys_of(a, b, m.bounds);
  const int64_t S = keys.count;
  for (int s = 0; s < a.softmaxes; ++s) {
    const HeadsView& k = s ? a.k2 : a.k;
    m.k_columns[s].N = m.k_rows[s].K = S;
    pack_b(m.k_columns[s], rows_of(a, k, b, 0, h), 0, m.k_columns[s].panels());
    pack_b(m.k_rows[s], columns_of(a, k, b, 0, h), 0, m.k_rows[s].panels());
    clear_hidden(m.k_rows[s], keys, 0);
  }
  m.v_columns.N = S;
  pack_b(m.v_columns, rows_of(a, a.v, b, 0, h), 0, m.v_columns.panels());
  clear_hidden_columns(m.v_columns, keys);
  return keys;
}

struct Row {
  float* scores;  // overwritten by p times the sum of p
  const float* dp;
  float inverse, delta;  // 1 / the sum of p; the sum of p dp
};

// p = 2^(c (s - max s)) over `width` keys, whole panels. The log-sum-exp would do instead of the maximum, but c s,
// which may be large, would be rounded before what is near to it is taken off.
template <Dot kDot>
void weigh(Row& row, const float* bound, int64_t width, float c, bool blind) {
  constexpr int kVectors = kPanel / Vec::lanes, kDegree = kDot == Dot::bfloat16 ? 3 : 6;
  const auto score = [&](int64_t j) {
    return bound ? min(load(row.scores + j), load(bound + j)) : load(row.scores + j);
  };
  Vec most[2] = {broadcast(-infinity()), broadcast(-infinity())};
  for (int64_t j = 0; j < width; j += kPanel)
    for (int i = 0; i < kVectors; ++i) most[i % 2] = max(most[i % 2], score(j + i * Vec::lanes));
  const Vec base = broadcast(blind ? 0.0f : max_lane(max(most[0], most[1]))), by = broadcast(c);
  Vec sums[2] = {zero(), zero()}, products[2] = {zero(), zero()};
  for (int64_t j = 0; j < width; j += kPanel)
    for (int i = 0; i < kVectors; ++i) {
      const int64_t at = j + i * Vec::lanes;
      const Vec p = exp2<kDegree>((score(at) - base) * by);
      store(row.scores + at, p);
      sums[i % 2] = sums[i % 2] + p;
      products[i % 2] = fma(p, load(row.dp + at), products[i % 2]);
    }
  row.inverse = blind ? 0.0f : 1.0f / sum(sums[0] + sums[1]);
  row.delta = blind ? 0.0f : sum(products[0] + products[1]) * row.inverse;
  if (kDot != Dot::float32) return;
  // What delta's rounding leaves of sum p (dp - delta) = 0 goes into all ds of the row alike; it is half of dq's error.
  const Vec delta = broadcast(row.delta);
  Vec rest = zero();
  for (int64_t j = 0; j < width; j += Vec::lanes) rest = fma(load(row.scores + j), load(row.dp + j) - delta, rest);
  row.delta += sum(rest) * row.inverse;
}

// p and ds of two rows (the second may be absent: all zeros) of one panel of keys, into the operands of dQ, dV and dK.
template <Dot kDot>
void put_gradients(const Row* const (&pair)[2], int64_t j, int rows_of_panel, int row, float sign, char* ds_rows,
                   char* p_step, char* ds_step) {
  constexpr int kVectors = kPanel / Vec::lanes;
  Vec p[2][kVectors], ds[2][kVectors];
  for (int r = 0; r < 2; ++r)
    for (int i = 0; i < kVectors; ++i) {
      if (!pair[r]) {
        p[r][i] = ds[r][i] = zero();
        continue;
      }
      const int64_t at = j + i * Vec::lanes;
      p[r][i] = load(pair[r]->scores + at) * broadcast(sign * pair[r]->inverse);
      ds[r][i] = p[r][i] * (load(pair[r]->dp + at) - broadcast(pair[r]->delta));
    }
  for (int r = 0; r < 2 && pair[r]; ++r) put_weights<kDot>(ds[r], ds_rows, rows_of_panel, row + r);
  put_steps<kDot>(p, p_step);
  put_steps<kDot>(ds, ds_step);
}

// Queries [first, first + rows) of head h against the keys they see: dq; and from row `at` on, p and ds of the block,
// whose operands begin with key `origin`.
template <Dot kDot, class T>
void panel_gradients(const AttentionBackwardArgs& args, const Keys& keys, int s, int64_t b, int64_t h, int64_t first,
                     int rows, int64_t at, int64_t origin, int64_t panels, Buffers& m) {
  const AttentionArgs& a = args.forward;
  const float c = a.scale * kLog2E;
  const Range seen = window(first, first + rows, a.left, a.right, keys.count);
  const int64_t begin = seen.begin / kPanel * kPanel, count = seen.end > begin ? seen.end - begin : 0,
                width = round_up(count, kPanel), steps = step_count(kDot, a.head_dim);
  pack_a({kDot, rows, a.head_dim, m.q}, rows_of(a, s ? a.q2 : a.q, b, first, h), 0, 1);
  pack_a({kDot, rows, a.head_dim, m.dy}, rows_of(a, args.dy, b, first, h), 0, 1);
  for (int64_t j = 0; j < count; j += kPanel) {
    const int n = static_cast<int>(count - j < kPanel ? count - j : kPanel);
    const int64_t panel = (begin + j) / kPanel;
    micro_kernel(kDot, rows, n, steps, m.q, m.k_columns[s].panel(panel), nullptr, 0, m.scores + j, width);
    micro_kernel(kDot, rows, n, steps, m.dy, m.v_columns.panel(panel), nullptr, 0, m.dp + j, width);
  }
  Row row[kRows];
  const float* lse = a.lse + ((s * a.batch + b) * a.heads + h) * a.queries + first;
  for (int r = 0; r < rows; ++r) {
    float *scores = m.scores + r * width, *dp = m.dp + r * width;
    hide(scores, begin, width, window(first + r, first + r + 1, a.left, a.right, keys.count));
    for (int64_t j = count; j < width; ++j) dp[j] = 0.0f;  // not products, perhaps NaN
    row[r] = {scores, dp, 0.0f, 0.0f};
    weigh<kDot>(row[r], keys.bound ? keys.bound + begin : nullptr, width, c, lse[r] == infinity());
  }
  constexpr int64_t kPairBytes = 2 / step_size(kDot) * kStepBytes;
  for (int r = 0; r < rows; r += 2) {
    const Row* const pair[2] = {row + r, r + 1 < rows ? row + r + 1 : nullptr};
    const int64_t step = (at + r) / step_size(kDot) * kStepBytes;
    for (int64_t p = 0; p < panels; ++p) {
      const int64_t j = origin + p * kPanel - begin;
      char *p_step = m.p.panel(p) + step, *ds_step = m.ds.panel(p) + step;
      if (j < 0 || j >= width) {
        memset(p_step, 0, kPairBytes);
        memset(ds_step, 0, kPairBytes);
      } else {
        put_gradients<kDot>(pair, j, rows, r, s ? -1.0f : 1.0f,
                            m.ds_rows + j / kPanel * lines_of_panel(kDot) * rows * kLineBytes, p_step, ds_step);
      }
    }
  }
  const PackedB& k = m.k_rows[s];
  const int64_t stride = k.panels() * kPanel;
  // Sums of 64 keys, added up: one chain over all of them loses as much again as eager does.
  constexpr int64_t kSteps = kDot == Dot::float32 ? 64 : 256, kLineSteps = kLineBytes / a_step_bytes(kDot);
  for (int64_t p = 0; p < k.panels(); ++p)
    for (int64_t done = 0; done < step_count(kDot, count); done += kSteps) {
      const int64_t rest = step_count(kDot, count) - done;
      float* dq = m.dq + p * kPanel;
      micro_kernel(kDot, rows, k.columns(p), rest < kSteps ? rest : kSteps,
                   m.ds_rows + done / kLineSteps * rows * kLineBytes,
                   k.panel(p) + (begin / step_size(kDot) + done) * kStepBytes, done ? dq : nullptr, stride, dq, stride);
    }
  for (int r = 0; r < rows; ++r) {
    T* out = reinterpret_cast<T*>(address(s ? args.dq2 : args.dq, a.dtype, b, first + r, h));
    const auto put = [&](int64_t d, int n) {
      store(out + d, count ? load(m.dq + r * stride + d) * broadcast(a.scale) : zero(), n);
    };
    for_lanes(a.head_dim, [&](int64_t d) { put(d, Vec::lanes); }, put);
  }
}

// sums[d][j] += sum over the queries of a block of x[d][query] w[query][j], for keys origin <= j < end.
template <Dot kDot>
void add_block(const PackedA& x, const PackedB& w, int64_t origin, int64_t end, int64_t queries, int64_t stride,
               float* sums) {
  for (int64_t j = origin; j < end; j += kPanel)
    for (int64_t d = 0; d < x.panels(); ++d) {
      float* c = sums + x.first(d) * stride + j;
      micro_kernel(kDot, x.rows(d), static_cast<int>(end - j < kPanel ? end - j : kPanel), step_count(kDot, queries),
                   x.panel(d), w.panel((j - origin) / kPanel), c, stride, c, stride);
    }
}

// One block of queries of head h: their dq, and their part of the sums.
template <Dot kDot, class T>
void block_gradients(const AttentionBackwardArgs& args, const Plan& plan, const Keys& keys, int64_t b, int64_t h,
                     int64_t first, int64_t queries, Buffers& m, float* sums) {
  const AttentionArgs& a = args.forward;
  const Range seen = window(first, first + queries, a.left, a.right, keys.count);
  const int64_t origin = seen.begin / kPanel * kPanel,
                panels = seen.end > origin ? (seen.end - origin + kPanel - 1) / kPanel : 0;
  m.dy_columns.K = m.q_columns.K = queries;
  pack_a(m.dy_columns, columns_of(a, args.dy, b, first, h), 0, m.dy_columns.panels());
  for (int s = 0; s < a.softmaxes; ++s) {
    pack_a(m.q_columns, columns_of(a, s ? a.q2 : a.q, b, first, h), 0, m.q_columns.panels());
    for (int64_t i = 0; i < queries; i += kRows)
      panel_gradients<kDot, T>(args, keys, s, b, h, first + i,
                               static_cast<int>(queries - i < kRows ? queries - i : kRows), i, origin, panels, m);
    add_block<kDot>(m.dy_columns, m.p, origin, seen.end, queries, plan.keys, sums);
    add_block<kDot>(m.q_columns, m.ds, origin, seen.end, queries, plan.keys, sums + (1 + s) * plan.sum_size());
  }
}

// Keys [first, last) of dv, dk and dk2 of a head, from the sums of its parts.
template <class T>
void write_keys(const AttentionBackwardArgs& args, const Plan& plan, int64_t b, int64_t h, int64_t first, int64_t last,
                const float* sums, float* tile) {
  const AttentionArgs& a = args.forward;
  for (int i = 0; i < plan.sums; ++i, sums += plan.sum_size()) {
    const HeadsOutput& out = i == 0 ? args.dv : i == 1 ? args.dk : args.dk2;
    const Vec by = broadcast(i == 0 ? 1.0f : a.scale);
    for (int64_t j = first; j < last; j += kTile) {
      for (int64_t d = 0; d < a.head_dim; d += kTile) {
        float of_parts[kTile * kTile];
        for (int r = 0; r < kTile; ++r)
          for (int n = 0; n < kTile; n += Vec::lanes) {
            const float* from = sums + (d + r) * plan.keys + j + n;
            Vec v = load(from);
            for (int64_t part = 1; part < plan.parts; ++part) v = v + load(from + part * plan.sums * plan.sum_size());
            if (n == 0)  // what the next keys will read: lines too far apart for the caches to foresee
              for (int64_t part = 0; part < plan.parts; ++part)
                __builtin_prefetch(from + part * plan.sums * plan.sum_size() + kTile);
            store(of_parts + r * kTile + n, v);
          }
        transpose_tile(reinterpret_cast<const uint32_t*>(of_parts), kTile, reinterpret_cast<uint32_t*>(tile + d),
                       plan.width);
      }
      for (int64_t r = 0; r < kTile && j + r < last; ++r) {
        T* row = reinterpret_cast<T*>(address(out, a.dtype, b, j + r, h));
        const auto put = [&](int64_t d, int n) { store(row + d, load(tile + r * plan.width + d, n) * by, n); };
        for_lanes(a.head_dim, [&](int64_t d) { put(d, Vec::lanes); }, put);
      }
    }
  }
}

template <Dot kDot, class T>
bool run_tasks(const AttentionBackwardArgs& args, const Plan& plan, float* sums, int64_t begin, int64_t end) {
  const AttentionArgs& a = args.forward;
  const int64_t floats = plan.sums * plan.sum_size();
  const int64_t own_sums = sums ? 0 : round_up(4 * floats, 64);
  const Scratch memory(own_sums + Buffers(a, plan, kDot, Pieces(nullptr)).bytes);
  if (!memory.ready()) return false;
  Buffers m(a, plan, kDot, Pieces(memory.as<char>() + own_sums));
  Keys keys{};
  for (int64_t task = begin; task < end; ++task) {
    const int64_t head = task / plan.parts, b = head / a.kv_heads, hk = head % a.kv_heads, part = task % plan.parts;
    if (task == begin || part == 0) keys = pack(a, b, hk, m);
    float* mine = sums ? sums + task * floats : memory.as<float>();
    memset(mine, 0, sizeof(float) * static_cast<size_t>(floats));
    const int64_t all = plan.group * plan.blocks;
    for (int64_t i = all * part / plan.parts; i < all * (part + 1) / plan.parts; ++i) {
      const int64_t block = block_of(kDot), first = i % plan.blocks * block, rest = a.queries - first;
      block_gradients<kDot, T>(args, plan, keys, b, hk * plan.group + i / plan.blocks, first,
                               rest < block ? rest : block, m, mine);
    }
    if (!sums) write_keys<T>(args, plan, b, hk, 0, a.keys, mine, m.tile);
  }
  return true;
}

template <Dot kDot, class T>
void run(const AttentionBackwardArgs& args) {
  const AttentionArgs& a = args.forward;
  const Plan plan(a, block_of(kDot));
  const Scratch shared(plan.parts > 1 ? 4 * plan.tasks * plan.sums * plan.sum_size() : 0);
  float* sums = plan.parts > 1 ? shared.need<float>() : nullptr;
  bool failed = false;
  const auto fail = [&] { __atomic_store_n(&failed, true, __ATOMIC_RELAXED); };
  parallel_for(plan.tasks, 1, [&](int64_t begin, int64_t end) {
    if (!run_tasks<kDot, T>(args, plan, sums, begin, end)) fail();
  });
  if (failed) out_of_memory();
  if (!sums) return;
  const int64_t panels = plan.keys / kPanel;
  parallel_for(a.batch * a.kv_heads * panels, 1 + (1 << 16) / (kPanel * plan.width), [&](int64_t begin, int64_t end) {
    const Scratch tile(4 * kTile * plan.width);
    if (!tile.ready()) return fail();
    for (int64_t i = begin; i < end; ++i) {
      const int64_t head = i / panels, first = i % panels * kPanel, last = first + kPanel;
      write_keys<T>(args, plan, head / a.kv_heads, head % a.kv_heads, first, last < a.keys ? last : a.keys,
                    sums + head * plan.parts * plan.sums * plan.sum_size(), tile.as<float>());
    }
  });
  if (failed) out_of_memory();
}

}  // namespace

void attention_backward(const AttentionBackwardArgs& a) {
  switch (a.forward.dtype) {
    case DType::bfloat16: return run<product_of(DType::bfloat16), bfloat16>(a);
    case DType::float16: return run<Dot::float32, float16>(a);
    default: return run<Dot::float32, float>(a);
  }
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
