// SPDX-License-Identifier: Apache-2.0
#include "../ops/philox_gumbel.h"

#include "philox_fill.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

void philox_gumbel(const PhiloxGumbelArgs& a) {
  philox_fill(a, [](const Words& w, float& g0, float& g1, float& g2, float& g3) {
    g0 = gumbel(w.w0);
    g1 = gumbel(w.w1);
    g2 = gumbel(w.w2);
    g3 = gumbel(w.w3);
  });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
