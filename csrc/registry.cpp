// SPDX-License-Identifier: Apache-2.0
#include "registry.h"

namespace prestissimo {

OpEntry*& first_op() {
  static OpEntry* head = nullptr;
  return head;
}

}  // namespace prestissimo
