// SPDX-License-Identifier: Apache-2.0
#include "../ops/swiglu.h"

#include "gated_linear_unit.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

void swiglu(const GatedLinearUnitArgs& a) { gated_forward_of<Silu>(a); }
void swiglu_backward(const GatedLinearUnitBackwardArgs& a) { gated_backward_of<Silu>(a); }

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
