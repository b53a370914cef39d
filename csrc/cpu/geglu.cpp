// SPDX-License-Identifier: Apache-2.0
#include "../ops/geglu.h"

#include "gated_linear_unit.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

void geglu(const GatedLinearUnitArgs& a) {
  a.gate == Gate::gelu ? gated_forward_of<Gelu>(a) : gated_forward_of<GeluTanh>(a);
}
void geglu_backward(const GatedLinearUnitBackwardArgs& a) {
  a.gate == Gate::gelu ? gated_backward_of<Gelu>(a) : gated_backward_of<GeluTanh>(a);
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
