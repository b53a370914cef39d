// SPDX-License-Identifier: Apache-2.0
#include "../ops/ctm_map.h"

#include "blend.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

template <class Args>
auto weights(const Args& a) {
  return [&a](int64_t b) {
    const double t = a.t[b], s = a.s[b], keep = s / t, rest = (t - s) / t, sd = a.sigma_data;
    if (sd == 0) return Weights{keep, rest};
    const double variance = t * t + sd * sd;
    return Weights{keep + rest * (sd * sd / variance), rest * (t * sd / __builtin_sqrt(variance))};
  };
}

}  // namespace

void ctm_map(const CtmMapArgs& a) {
  with_type(a.blend.dtype, [&](auto type) { blend<decltype(type)>(a.blend, weights(a)); });
}

void ctm_map_backward(const CtmMapBackwardArgs& a) {
  with_type(a.blend.dtype, [&](auto type) { blend_backward<decltype(type)>(a.blend, weights(a)); });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
