// SPDX-License-Identifier: Apache-2.0
#include "../ops/peak_phase.h"

#include "parallel.h"
#include "vec.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

constexpr int kFill = 8;  // turns that one store of `lock_regions` writes; rows have room for one store past their end
using Turns8 = uint32_t __attribute__((vector_size(4 * kFill)));

// One thread's frame: bit j of `rises`, the peaks and the starts of their regions, the phases of two frames in turns.
struct Scratch {
  int64_t words, row;
  void* block;
  uint64_t* rises;
  uint32_t *turns, *previous, *peak_turns;
  int32_t *peaks, *starts;

  explicit Scratch(int64_t bins) : words(bins / 64 + 1), row((bins + 2 * kFill) / kFill * kFill) {
    block = __builtin_malloc(static_cast<size_t>(words * 8 + row * 4 * 5));
    rises = static_cast<uint64_t*>(block);
    turns = reinterpret_cast<uint32_t*>(rises + words);
    previous = turns + row;
    peak_turns = previous + row;
    peaks = reinterpret_cast<int32_t*>(peak_turns + row);
    starts = peaks + row;
  }
  ~Scratch() { __builtin_free(block); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
};

void find_rises(const float* v, int64_t bins, const Scratch& s) {
  memset(s.rises, 0, static_cast<size_t>(s.words) * 8);
  const auto compare = [&](int64_t j, int k) {
    s.rises[j / 64] |= static_cast<uint64_t>(bits(less(load(v + j, k), load(v + j + 1, k)))) << (j % 64);
  };
  for_lanes(bins - 1, [&](int64_t j) { compare(j, Vec::lanes); }, compare);
}

int64_t list_bits(uint64_t word, int64_t first, int32_t* list, int64_t count) {
  for (; word; word &= word - 1) list[count++] = static_cast<int32_t>(first + __builtin_ctzll(word));
  return count;
}

// Peaks and starts of regions, as many of the one as of the other.
int64_t find_regions(const Scratch& s) {
  int64_t peaks = 0, starts = 0;
  uint64_t rose = 0;  // whether the bin before rises, in bit 0
  for (int64_t w = 0; w < s.words; ++w) {
    const uint64_t rises = s.rises[w], before = rises << 1 | rose, first = w == 0;
    rose = rises >> 63;
    peaks = list_bits(~rises & (before | first), 64 * w, s.peaks, peaks);
    starts = list_bits((rises & ~before) | first, 64 * w, s.starts, starts);
  }
  return peaks;
}

// Every operation rounds as the reference's does, so that all bits agree.
inline uint32_t advanced(const float* v, int32_t k, int32_t last, double cycles, const uint32_t* previous) {
  float offset = 0.0f;
  if (k != 0 && k != last) {
    const float left = v[k - 1], centre = v[k], right = v[k + 1];
    offset = 0.5f * (left - right) / (left - 2.0f * centre + right);
    offset = offset < -0.5f ? -0.5f : offset > 0.5f ? 0.5f : offset == offset ? offset : 0.0f;
  }
  const double advance = (static_cast<double>(k) + static_cast<double>(offset)) * cycles;
  const double fraction = advance - static_cast<double>(static_cast<int64_t>(advance));
  const uint32_t turns = static_cast<uint32_t>(static_cast<int64_t>(fraction * 0x1p32));
  return previous[k] + turns + (static_cast<uint32_t>(k) << 31);
}

// turns[j] = phase of the region's peak + half a turn for every second bin.
void lock_regions(const Scratch& s, int64_t count, int64_t bins) {
  const Turns8 alternating = {0, 1u << 31, 0, 1u << 31, 0, 1u << 31, 0, 1u << 31};
  for (int64_t i = 0; i < count; ++i) {
    const int64_t first = s.starts[i], end = i + 1 < count ? s.starts[i + 1] : bins;
    const Turns8 t = alternating + (s.peak_turns[i] + (static_cast<uint32_t>(first) << 31));
    // the last store runs over into the next region, which is written after it
    for (int64_t j = first; j < end; j += kFill) memcpy(s.turns + j, &t, sizeof t);
  }
}

void invert(const PeakPhaseArgs& a, int64_t b, Scratch& s) {
  const int64_t F = a.bins;
  const double cycles = static_cast<double>(a.hop) / static_cast<double>(2 * (F - 1));
  constexpr float kRadians = static_cast<float>(6.283185307179586476925 / 4294967296.0);
  if (a.state)
    memcpy(s.turns, a.state + b * F, static_cast<size_t>(F) * 4);
  else
    memset(s.turns, 0, static_cast<size_t>(F) * 4);
  for (int64_t t = 0; t < a.frames; ++t) {
    uint32_t* const last = s.previous;
    s.previous = s.turns;
    s.turns = last;
    const float* v = a.log_magnitude + b * a.batch_stride + t * a.frame_stride;
    find_rises(v, F, s);
    const int64_t count = find_regions(s);
    for (int64_t i = 0; i < count; ++i)
      s.peak_turns[i] = advanced(v, s.peaks[i], static_cast<int32_t>(F - 1), cycles, s.previous);
    lock_regions(s, count, F);
    float* out = a.phase + (b * a.frames + t) * F;
    for (int64_t j = 0; j < F; ++j) out[j] = static_cast<float>(static_cast<int32_t>(s.turns[j])) * kRadians;
  }
  memcpy(a.next_state + b * F, s.turns, static_cast<size_t>(F) * 4);
}

}  // namespace

// Frames follow one another: the items of a batch (the channels of a signal) are what threads share.
void peak_phase(const PeakPhaseArgs& a) {
  bool failed = false;
  parallel_for(a.batch, 1, [&](int64_t begin, int64_t end) {
    Scratch scratch(a.bins);
    if (!scratch.block) {
      __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
      return;
    }
    for (int64_t b = begin; b < end; ++b) invert(a, b, scratch);
  });
  if (failed) out_of_memory();
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
