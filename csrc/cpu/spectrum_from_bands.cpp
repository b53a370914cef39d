// SPDX-License-Identifier: Apache-2.0
#include "../ops/spectrum_from_bands.h"

#include "math.h"
#include "parallel.h"
#include "permute.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

constexpr int L = Vec::lanes;

// Interpolation of a row for whole vectors of bins. Bins lie closer than bands as a rule: then those of a vector fall
// between L + 1 neighbouring bands, which two loads and two exchanges of lanes hand out; else they are gathered.
class Between {
 public:
  Between(const Interpolation& of, int64_t bins) : of_(of), blocks_((bins + L - 1) / L), padded_(of.count + 2 * L) {
    if (!of.lower) return;
    const int64_t lanes = blocks_ * L;
    memory_ = __builtin_malloc(static_cast<size_t>(blocks_ + 2 * lanes + padded_) * 4);
    if (!memory_) return;
    start_ = static_cast<int32_t*>(memory_);
    pick_ = start_ + blocks_;
    share_ = reinterpret_cast<float*>(pick_ + lanes);
    row_ = share_ + lanes;
    memset(row_, 0, static_cast<size_t>(padded_) * 4);
    for (int64_t j = 0; j < lanes; ++j) {
      const int64_t k = j < bins ? j : bins - 1;
      pick_[j] = of.lower[k];
      share_[j] = of.share[k];
    }
    for (int64_t b = 0; b < blocks_; ++b) {
      int32_t least = pick_[b * L], most = least;
      for (int i = 1; i < L; ++i) {
        least = pick_[b * L + i] < least ? pick_[b * L + i] : least;
        most = pick_[b * L + i] > most ? pick_[b * L + i] : most;
      }
      start_[b] = most - least < L ? least : -1;
      if (start_[b] >= 0)
        for (int i = 0; i < L; ++i) pick_[b * L + i] -= least;
    }
  }
  ~Between() { __builtin_free(memory_); }
  Between(const Between&) = delete;
  Between& operator=(const Between&) = delete;

  bool ready() const { return memory_ || !of_.lower; }
  void set(const float* row) { memcpy(row_, row, static_cast<size_t>(of_.count) * 4); }
  Vec operator()(int64_t block) const {
    const int32_t* pick_of = pick_ + block * L;
    Vec low, high;
    if (start_[block] >= 0) {
      low = pick(load(row_ + start_[block]), pick_of);
      high = pick(load(row_ + start_[block] + 1), pick_of);
    } else {
      float a[L], b[L];
      for (int i = 0; i < L; ++i) a[i] = row_[pick_of[i]], b[i] = row_[pick_of[i] + 1];
      low = load(a);
      high = load(b);
    }
    const Vec share = load(share_ + block * L);
    return fma(high - low, share, low);
  }

 private:
  Interpolation of_;
  int64_t blocks_, padded_;
  void* memory_ = nullptr;
  int32_t *start_ = nullptr, *pick_ = nullptr;
  float *share_ = nullptr, *row_ = nullptr;
};

const float* row_of(const SpectrumRows& v, int64_t b, int64_t c, int64_t t) {
  return v.data + b * v.batch_stride + c * v.channel_stride + t * v.frame_stride;
}
const float* noise_of(const SpectrumFromBandsArgs& a, int64_t c, int64_t t) {
  return a.noise + (c * a.period + (a.first + t) % a.period) * a.bins;
}

void make_rows(const SpectrumFromBandsArgs& a, Between& band, Between& spreads, int64_t begin, int64_t end) {
  const int64_t F = a.bins;
  for (int64_t r = begin; r < end; ++r) {
    const int64_t b = r / a.frames / a.channels, c = r / a.frames % a.channels, t = r % a.frames;
    const float *residual = row_of(a.residual, b, c, t), *offset = a.offset + c * F;
    float* y = a.y + r * F;
    band.set(row_of(a.bands, b, c, t));
    const auto base = [&](int64_t j, int k) { return band(j / L) + (load(residual + j, k) + load(offset + j, k)); };
    if (!a.noise) {
      const auto bins = [&](int64_t j, int k) { store(y + j, base(j, k), k); };
      for_lanes(F, [&](int64_t j) { bins(j, L); }, bins);
      continue;
    }
    const float* noise = noise_of(a, c, t);
    spreads.set(row_of(a.spread, b, c, t));
    const auto bins = [&](int64_t j, int k) {
      store(y + j, fma(exp(min(zero(), spreads(j / L))), load(noise + j, k), base(j, k)), k);
    };
    for_lanes(F, [&](int64_t j) { bins(j, L); }, bins);
  }
}

// out[i] = sum_j v[j] (share of i in j), in the order of j
void give_back(const float* v, const Interpolation& of, int64_t bins, float* out) {
  memset(out, 0, static_cast<size_t>(of.count) * 4);
  for (int64_t j = 0; j < bins; ++j) {
    float* o = out + of.lower[j];
    const float high = v[j] * of.share[j];
    o[0] = o[0] + (v[j] - high);
    o[1] = o[1] + high;
  }
}

void differentiate_rows(const SpectrumFromBandsBackwardArgs& a, Between& spreads, float* part, int64_t begin,
                        int64_t end) {
  const SpectrumFromBandsArgs& f = a.forward;
  for (int64_t r = begin; r < end; ++r) {
    const int64_t b = r / f.frames / f.channels, c = r / f.frames % f.channels, t = r % f.frames;
    const float* dy = a.dy + r * f.bins;
    if (a.dbands) give_back(dy, f.band, f.bins, a.dbands + r * f.band.count);
    if (!a.dspread) continue;
    const float* noise = noise_of(f, c, t);
    spreads.set(row_of(f.spread, b, c, t));
    const auto bins = [&](int64_t j, int k) {
      const Vec s = spreads(j / L), v = load(dy + j, k) * load(noise + j, k) * exp(s);
      store(part + j, select(less(zero(), s), zero(), v), k);
    };
    for_lanes(f.bins, [&](int64_t j) { bins(j, L); }, bins);
    give_back(part, f.spreads, f.bins, a.dspread + r * f.spreads.count);
  }
}

}  // namespace

void spectrum_from_bands(const SpectrumFromBandsArgs& a) {
  bool failed = false;
  parallel_for(a.batch * a.channels * a.frames, 16384 / a.bins + 1, [&](int64_t begin, int64_t end) {
    Between band(a.band, a.bins), spreads(a.noise ? a.spreads : Interpolation{}, a.bins);
    if (!band.ready() || !spreads.ready()) return __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
    make_rows(a, band, spreads, begin, end);
  });
  if (failed) out_of_memory();
}

void spectrum_from_bands_backward(const SpectrumFromBandsBackwardArgs& a) {
  const SpectrumFromBandsArgs& f = a.forward;
  bool failed = false;
  parallel_for(f.batch * f.channels * f.frames, 4096 / f.bins + 1, [&](int64_t begin, int64_t end) {
    Between spreads(a.dspread ? f.spreads : Interpolation{}, f.bins);
    float* part = static_cast<float*>(__builtin_malloc(static_cast<size_t>(f.bins) * 4));
    if (part && spreads.ready())
      differentiate_rows(a, spreads, part, begin, end);
    else
      __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
    __builtin_free(part);
  });
  if (failed) out_of_memory();
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
