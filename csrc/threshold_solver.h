// SPDX-License-Identifier: Apache-2.0
// The threshold of one row: the b with F(b) = k for F increasing, by Newton's method inside a bracket, then a last
// correction. Evaluation is the caller's (`excess(b)` gives F - k and F's derivative), so the CPU and the GPU share the
// steps.
#pragma once

#if defined(__CUDACC__)
#define PRESTISSIMO_THRESHOLD __host__ __device__ inline
#else
#define PRESTISSIMO_THRESHOLD inline
#endif

// Each CPU ISA has its own copy (see cpu/vec.h on why).
#ifndef PRESTISSIMO_THRESHOLD_NAMESPACE
#define PRESTISSIMO_THRESHOLD_NAMESPACE prestissimo::threshold
#endif

namespace PRESTISSIMO_THRESHOLD_NAMESPACE {

struct Sums {
  float excess, slope;
};

PRESTISSIMO_THRESHOLD float natural_log(float x) {
#if defined(__CUDA_ARCH__)
  return logf(x);
#else
  return __builtin_logf(x);
#endif
}
PRESTISSIMO_THRESHOLD float magnitude(float x) { return x < 0.0f ? -x : x; }

// Scores are z <= 0, the highest at 0; n of them are finite, the lowest of those at `lowest`; 0 < k < n.
// Sigmoids: F(low) <= k because z <= 0, F(high) >= k because z >= lowest. Newton's step on logit(F / n), which is a
// straight line where all z are equal: with F = k + excess, logit(k / n) - logit(F / n) = ln(1 - x) and
// x = excess n / (F (n - k)). Where x is small it is Newton's step on F, which loses no digits of the excess.
constexpr float kStraight = 0.01f;
struct SigmoidBracket {
  PRESTISSIMO_THRESHOLD static float low(float k, float n) { return natural_log(k / (n - k)); }
  PRESTISSIMO_THRESHOLD static float high(float k, float n, float lowest) { return low(k, n) - lowest; }
  PRESTISSIMO_THRESHOLD static float step(const Sums& s, float k, float n) {
    const float value = k + s.excess, x = s.excess * n / (value * (n - k));
    if (!(value > 0.0f && value < n && magnitude(x) > kStraight)) return -s.excess / s.slope;
    return natural_log(1.0f - x) * (value / n * (n - value)) / s.slope;
  }
};
// Clamped powers: F(0) = 0, F(1 - lowest) = n.
struct PowerBracket {
  PRESTISSIMO_THRESHOLD static float low(float, float) { return 0.0f; }
  PRESTISSIMO_THRESHOLD static float high(float, float, float lowest) { return 1.0f - lowest; }
  PRESTISSIMO_THRESHOLD static float step(const Sums& s, float, float) { return -s.excess / s.slope; }
};

constexpr float kCloseEnough = 1e-3f;  // of b: what two more steps of Newton bring below the last bit
// Of F - k: errors of the values have one sign, so none is larger. Where F is flat the search ends here.
constexpr float kThere = 1.5e-8f;

// A step that leaves the bracket, or is not half as long as the one before, is replaced by bisection; not one so short
// that b + step may round to the end of the bracket that b is.
template <class Bracket, class Evaluate>
PRESTISSIMO_THRESHOLD float solve_threshold(float k, float n, float lowest, const Evaluate& excess) {
  float low = Bracket::low(k, n), high = Bracket::high(k, n, lowest), b = low + 0.5f * (high - low);
  float last = high - low;
  for (int i = 0; i < 64; ++i) {
    const Sums s = excess(b);
    if (!(magnitude(s.excess) > kThere)) break;  // there, or NaN
    if (s.excess < 0.0f)
      low = b;
    else
      high = b;
    const float step = Bracket::step(s, k, n);
    float next = b + step;
    if (magnitude(step) <= kCloseEnough) return next;
    if (!(next > low && next < high && magnitude(step) < 0.5f * last)) next = low + 0.5f * (high - low);
    last = magnitude(next - b);
    b = next;
    if (last <= kCloseEnough) break;
  }
  return b;
}

// The rest d of a threshold close enough, which is taken from it: the d of excess(-d) = 0. Where F is flat (k scores
// clear of all others) the threshold may lie anywhere there, and stays. Two rounds double the digits of a smooth F;
// beside a flat part u^q loses but 1 - 1/q of u a round: kRoundsOfPowers for any q.
constexpr int kRounds = 2, kRoundsOfPowers = 4;
template <class Evaluate>
PRESTISSIMO_THRESHOLD float correct_threshold(int rounds, const Evaluate& excess) {
  float d = 0.0f;
  for (int i = 0; i < rounds; ++i) {
    const Sums s = excess(-d);
    const float step = s.excess / s.slope;
    if (!(magnitude(step) <= 2.0f * kCloseEnough)) break;
    d += step;
  }
  return d;
}

}  // namespace PRESTISSIMO_THRESHOLD_NAMESPACE
