// SPDX-License-Identifier: Apache-2.0
#include "../ops/segment_similarity.h"

#include "math.h"
#include "similarity.h"
#include "storage.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

constexpr int kLanes = Vec::lanes;
constexpr int64_t kSummed = 16;  // segments to a partial sum: one long chain would lose more than its terms have lost

// A strip is a whole number of songs, so that a block holds all segments of a song beside each other: the softmax runs
// down the columns, each lane a text of its own.
int64_t strip_rows(const SegmentSimilarityArgs& a) {
  const int64_t fit = kStripRows / a.S, songs = fit < a.B ? fit : a.B;
  return (songs < 1 ? 1 : songs) * a.S;
}

Products products_of(const SegmentSimilarityArgs& a) {
  return Products({{a.segments, a.dtype, a.segment_stride, 1}, a.B * a.S}, {{a.text, a.dtype, a.text_stride, 1}, a.N},
                  a.E, strip_rows(a));
}

// The softmax over one song's column of products, in lanes of texts; weight(s) is e^((c_s - best) / tau): the
// difference first, since c / tau would be rounded by more than all the rest loses.
class Attention {
 public:
  Vec sum;  // of the weights

  Attention(const float* products, int64_t S, const uint8_t* mask, float inverse_temperature)
      : products_(products), mask_(mask), inverse_(broadcast(inverse_temperature)) {
    const Vec sign = broadcast(inverse_temperature < 0.0f ? -1.0f : 1.0f);
    best_ = broadcast(-__builtin_inff());
    for (int64_t s = 0; s < S; ++s)
      if (keeps(s)) best_ = max(at(s) * sign, best_);
    best_ = best_ * sign;
    sum = zero();
    Vec weighted = zero();
    for (int64_t first = 0; first < S; first += kSummed) {
      Vec part = zero(), weighted_part = zero();
      for (int64_t s = first; s < S && s < first + kSummed; ++s) {
        if (!keeps(s)) continue;
        const Vec e = weight(s);
        part = part + e;
        weighted_part = fma(e, at(s) - best_, weighted_part);
      }
      sum = sum + part;
      weighted = weighted + weighted_part;
    }
    below_ = weighted / sum;
  }
  bool keeps(int64_t s) const { return !mask_ || mask_[s]; }
  Vec at(int64_t s) const { return load(products_ + s * kPanel); }
  Vec score() const { return best_ + below_; }                           // P
  Vec above_score(int64_t s) const { return (at(s) - best_) - below_; }  // c_s - P, not rounded by P's own rounding
  Vec weight(int64_t s) const { return exp((at(s) - best_) * inverse_); }

 private:
  const float* products_;
  const uint8_t* mask_;
  Vec inverse_, best_, below_;
};

const uint8_t* mask_of(const SegmentSimilarityArgs& a, int64_t song) {
  return a.mask ? a.mask + song * a.mask_stride : nullptr;
}

template <class T>
void forward(const SegmentSimilarityArgs& a) {
  Products s = products_of(a);
  const float inverse = 1.0f / *a.temperature;
  T* out = static_cast<T*>(a.out);
  for (int64_t strip = 0; strip < s.strips(); ++strip) {
    s.begin_strip(strip);
    s.for_chunks(s.block_bytes(), [&](int64_t chunk, char* memory) {
      for (int64_t p = s.chunk_begin(chunk); p < s.chunk_end(chunk); ++p) {
        const Block b = s.block(p, reinterpret_cast<float*>(memory));
        for (int r = 0; r < b.rows; r += static_cast<int>(a.S)) {
          const int64_t song = (b.row + r) / a.S;
          T* to = out + song * a.N + b.column;
          for (int c = 0; c < b.columns; c += kLanes)
            store(to + c, Attention(b[r] + c, a.S, mask_of(a, song), inverse).score(),
                  b.columns - c < kLanes ? b.columns - c : kLanes);
        }
      }
    });
  }
}

template <class T>
void write_row(const float* d, T* to, int64_t n) {
  for_lanes(
      n, [&](int64_t k) { store(to + k, load(d + k)); }, [&](int64_t k, int m) { store(to + k, load(d + k, m), m); });
}

template <class T>
void backward(const SegmentSimilarityBackwardArgs& args) {
  const SegmentSimilarityArgs& a = args.forward;
  Products s = products_of(a);
  const float inverse = 1.0f / *a.temperature;
  const Scratch memory((s.panels() + 1) * 8);
  auto* variances = memory.need<double>();  // of each panel: sum of d times the variance of c under alpha
  for (int64_t p = 0; p < s.panels(); ++p) variances[p] = 0.0;

  const auto transform = [&](const Block& b) {
    const Vec by = broadcast(inverse), one = broadcast(1.0f);
    double total = 0.0;
    for (int r = 0; r < b.rows; r += static_cast<int>(a.S)) {
      const int64_t song = (b.row + r) / a.S;
      const T* dout = static_cast<const T*>(args.dout) + song * args.dout_stride + b.column;
      for (int c = 0; c < kPanel; c += kLanes) {
        const int left = b.columns - c;
        const Attention t(b[r] + c, a.S, mask_of(a, song), inverse);
        const Vec d = left >= kLanes ? load(dout + c) : left > 0 ? load(dout + c, left) : zero(), share = d / t.sum;
        Vec variance = zero();
        for (int64_t i = 0; i < a.S; ++i) {
          float* g = b[r] + i * kPanel + c;
          if (!t.keeps(i)) {
            store(g, zero());
            continue;
          }
          const Vec away = t.above_score(i), part = share * t.weight(i);
          variance = fma(part * away, away, variance);
          store(g, part * fma(away, by, one));
        }
        total += static_cast<double>(sum(variance));
      }
    }
    variances[b.column / kPanel] += total;
  };
  auto *dsegments = static_cast<T*>(args.dsegments), *dtext = static_cast<T*>(args.dtext);
  product_gradients(
      s, dsegments, dtext, transform, [&](int64_t i, const float* d) { write_row(d, dsegments + i * a.E, a.E); },
      [&](int64_t j, const float* d) { write_row(d, dtext + j * a.E, a.E); });
  double total = 0.0;
  for (int64_t p = 0; p < s.panels(); ++p) total += variances[p];
  *args.dtemperature = static_cast<float>(-total * static_cast<double>(inverse) * static_cast<double>(inverse));
}

}  // namespace

void segment_similarity(const SegmentSimilarityArgs& a) {
  with_type(a.dtype, [&](auto t) { forward<decltype(t)>(a); });
}

void segment_similarity_backward(const SegmentSimilarityBackwardArgs& a) {
  with_type(a.forward.dtype, [&](auto t) { backward<decltype(t)>(a); });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
