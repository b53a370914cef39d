// SPDX-License-Identifier: Apache-2.0
#include "../ops/edm_precondition.h"

#include "blend.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

void edm_precondition(const EdmPreconditionArgs& a) {
  with_type(a.blend.dtype, [&](auto type) {
    blend<decltype(type)>(a.blend, [&](int64_t b) {
      const double sigma = a.sigma[b];
      return Weights{1.0 / __builtin_sqrt(sigma * sigma + a.sigma_data * a.sigma_data), 0.0};
    });
  });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
