// SPDX-License-Identifier: Apache-2.0
// Products of operands that lie plain in memory and meet once, as weights do in training: a thread packs a block of B
// into its second-level cache, multiplies it, and forgets it. What is packed of B never goes out to memory.
//
// bfloat16, 257 rows, a weight of 8192 x 1024, one thread, AMD Zen 4 (EPYC), whose products reach 222 GFLOP/s: forward
// 200 to 205, input gradient 190 to 203, weight gradient 197 to 201; packed whole beforehand, as they were, 180, 185
// and 182. Without fetching ahead 191, 184 and 196. Blocks of 256, 384 and 512 kB do alike.
#pragma once
#include "gemm.h"
#include "scratch.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

// How a thread cuts B: `steps` of k times `panels`, 512 kB at most. Three or four panels are 256 bytes or more of a row
// of a B whose columns are neighbours: of one panel, a long K would read a line of every page of it. K is cut where
// micro_kernel finishes its sums, which changes no bit.
struct PlainBlocks {
  int64_t steps, panels;
  bool cut;  // along K; sums are kept for all rows then

  explicit PlainBlocks(const PackedB& b) : steps(b.steps()), cut(steps > kMostSteps) {
    if (cut) {
      const int64_t parts = (steps + kMostSteps - 1) / kMostSteps;
      steps = ((steps + parts - 1) / parts + 255) / 256 * 256;
    }
    panels = (int64_t{512} << 10) / (steps * kStepBytes + 1);
    panels = panels < 1 ? 1 : panels > b.panels() ? b.panels() : panels;
  }
  int64_t bytes() const { return panels * steps * kStepBytes; }
  // Of the sums of a's rows, in tiles.
  int64_t sum_bytes(const PackedA& a) const { return cut ? a.panels() * panels * kRows * kPanel * 4 : 0; }

  static constexpr int64_t kMostSteps = 1280;
};

// Asks for a part of a matrix, a few lines at a time.
class Ahead {
 public:
  Ahead() = default;
  Ahead(const void* data, int64_t rows, int64_t row_bytes, int64_t stride_bytes)
      : at_(static_cast<const char*>(data)), stride_(stride_bytes), bytes_(row_bytes), rows_(rows) {}
  // Of what pack_b will read for panels [begin, end) of `block`.
  Ahead(const PackedB& block, const Source& s, int64_t begin, int64_t end) {
    const int64_t item = item_size(s.dtype), first = begin * kPanel,
                  columns = (end * kPanel < block.N ? end * kPanel : block.N) - first;
    if (s.stride_k != 1 && s.stride != 1) return;
    const bool along = s.stride_k == 1;
    at_ = static_cast<const char*>(s.data) + first * s.stride * item;
    stride_ = (along ? s.stride : s.stride_k) * item;
    bytes_ = (along ? block.K : columns) * item;
    rows_ = along ? columns : block.K;
  }
  int64_t lines() const { return rows_ * (bytes_ / 64 + 1); }
  void fetch(int64_t n) {
    for (; n > 0 && rows_ > 0; --n) {
      __builtin_prefetch(at_ + done_, 0, 2);
      if ((done_ += 64) >= bytes_) done_ = 0, at_ += stride_, --rows_;
    }
  }

 private:
  const char* at_ = nullptr;
  int64_t stride_ = 0, bytes_ = 0, rows_ = 0, done_ = 0;
};

// All of A times panels [first_n, last_n) of B, which `s` holds and b describes, without data of its own; on the
// calling thread. While a block is multiplied, the next one is fetched. False where memory ran out.
template <class Epilogue>
bool gemm_plain(const PackedA& a, const PackedB& b, const Source& s, int64_t first_n, int64_t last_n,
                const Epilogue& epilogue) {
  const PlainBlocks blocks(b);
  const Scratch memory(blocks.bytes()), sums(blocks.sum_bytes(a));
  if (!memory.ready() || !sums.ready()) return false;
  const int64_t parts = (last_n - first_n + blocks.panels - 1) / blocks.panels, step = step_size(b.dot),
                of_k = blocks.cut ? (b.steps() + blocks.steps - 1) / blocks.steps : 1;
  struct Block {
    PackedB packed;
    Source from;
    int64_t begin, end, done;  // panels; steps before it
  };
  const auto block_at = [&](int64_t i) {
    const int64_t part = i / of_k, done = i % of_k * blocks.steps, rest = b.K - done * step;
    Block block{{b.dot, i % of_k + 1 == of_k ? rest : blocks.steps * step, b.N, nullptr},
                s,
                first_n + part * (last_n - first_n) / parts,
                first_n + (part + 1) * (last_n - first_n) / parts,
                done};
    block.packed.data = memory.as<char>() - block.begin * block.packed.panel_bytes();  // panels count from the first
    block.from.data = static_cast<const char*>(s.data) + done * step * s.stride_k * item_size(s.dtype);
    return block;
  };
  Block now = block_at(0);
  for (int64_t i = 0; i < parts * of_k; ++i) {
    pack_b(now.packed, now.from, now.begin, now.end);
    const Block next = i + 1 < parts * of_k ? block_at(i + 1) : now;
    Ahead ahead = i + 1 < parts * of_k ? Ahead(next.packed, next.from, next.begin, next.end) : Ahead();
    const int64_t lines = ahead.lines() / (a.panels() * (now.end - now.begin)) + 1;
    const bool last = i % of_k + 1 == of_k;
    if (of_k == 1) {
      gemm_block<float>(a, 0, a.panels(), now.packed, now.begin, now.end,
                        [&](int64_t row, int rows, int64_t column, int columns, float* tile) {
                          ahead.fetch(lines);
                          epilogue(row, rows, column, columns, tile);
                        });
    } else {
      auto* tile = sums.as<float>();
      for (int64_t m = 0; m < a.panels(); ++m) {
        const int rows = a.rows(m);
        const char* panel = a.panel(m) + now.done * a_step_bytes(a.dot) * rows;
        for (int64_t n = now.begin; n < now.end; ++n, tile += kRows * kPanel) {
          const int columns = now.packed.columns(n);
          ahead.fetch(lines);
          micro_kernel(a.dot, rows, columns, now.packed.steps(), panel, now.packed.panel(n), now.done ? tile : nullptr,
                       kPanel, tile, kPanel);
          if (last) epilogue(a.first(m), rows, n * kPanel, columns, tile);
        }
      }
    }
    now = next;
  }
  return true;
}

// Rows that a thread packs at once, in even chunks of at most about `bytes`: any number of rows, bounded memory.
constexpr int64_t kPlainAtOnce = int64_t{32} << 20;
struct RowChunks {
  int64_t total, count;

  RowChunks(Dot dot, int64_t K, int64_t M, int64_t bytes) : total(M) {
    const int64_t most = bytes / (a_bytes(dot, 1, K) + 1) / kRows * kRows + kRows;
    count = (M + most - 1) / most;
  }
  int64_t first(int64_t i) const { return i * total / count; }
  int64_t rows(int64_t i) const { return first(i + 1) - first(i); }
};

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
