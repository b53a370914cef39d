// SPDX-License-Identifier: Apache-2.0
#include "graft_update.h"

#include "../registry.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

// Updated parameters above this size leave the caches before anything reads them again.
constexpr int64_t kLargeBytes = 12 << 20;

void graft_update(Stream stream, ArrayList params, ArrayList directions, const Array& magnitude,
                  const Array& direction_norm, double rate, ArrayList y) {
  constexpr const char* op = "graft_update";
  const Array& first = first_of(op, "params", params);
  const Checker check(op, "params[0]", first);
  check.dtype({DType::float32, DType::bfloat16, DType::float16});
  check_list(op, check, "params", params);
  check_list(op, check, "directions", directions, &params);
  check_list(op, check, "y", y, &params);
  check_number(check, "magnitude", magnitude);
  check_number(check, "direction_norm", direction_norm);
  int64_t size = 0;
  for (const Array& a : params) size += a.numel();
  GraftUpdateArgs a{};
  a.magnitude = magnitude.as<float>();
  a.direction = direction_norm.as<float>();
  a.rate = rate;
  a.dtype = first.dtype;
  a.large = size * item_size(first.dtype) > kLargeBytes;
  for_groups<3>({params, directions, y}, [&](const TensorGroup<3>& group, bool) {
    a.group = group;
    PRESTISSIMO_RUN(graft_update, first, a, stream);
  });
}

}  // namespace

PRESTISSIMO_OP(graft_update, "params", "directions", "magnitude", "direction_norm", "rate", "y")

}  // namespace prestissimo
