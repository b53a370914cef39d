// SPDX-License-Identifier: Apache-2.0
#include "../ops/edm_denoise.h"

#include "blend.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

template <class Args>
auto weights(const Args& a) {
  return [&a](int64_t b) {
    const double sigma = a.sigma[b], variance = sigma * sigma + a.sigma_data * a.sigma_data;
    return Weights{a.sigma_data * a.sigma_data / variance, sigma * a.sigma_data / __builtin_sqrt(variance)};
  };
}

}  // namespace

void edm_denoise(const EdmDenoiseArgs& a) {
  with_type(a.blend.dtype, [&](auto type) { blend<decltype(type)>(a.blend, weights(a)); });
}

void edm_denoise_backward(const EdmDenoiseBackwardArgs& a) {
  with_type(a.blend.dtype, [&](auto type) { blend_backward<decltype(type)>(a.blend, weights(a)); });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
