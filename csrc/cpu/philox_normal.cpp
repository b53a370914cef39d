// SPDX-License-Identifier: Apache-2.0
#include "../ops/philox_normal.h"

#include "philox_fill.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {

void philox_normal(const PhiloxNormalArgs& a) {
  philox_fill(a, [](const Words& w, float& z0, float& z1, float& z2, float& z3) {
    const Normals p = box_muller(w.w0, w.w1), q = box_muller(w.w2, w.w3);
    z0 = p.z0;
    z1 = p.z1;
    z2 = q.z0;
    z3 = q.z1;
  });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
