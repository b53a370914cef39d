// SPDX-License-Identifier: Apache-2.0
#include "squared_norm.h"

#include "../registry.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

void squared_norm(Stream stream, ArrayList tensors, const Array& partial, const Array& total) {
  constexpr const char* op = "squared_norm";
  const Array& first = first_of(op, "tensors", tensors);
  const Checker check(op, "tensors[0]", first);
  check.dtype({DType::float32, DType::bfloat16, DType::float16});
  check_list(op, check, "tensors", tensors);
  check_number(check, "total", total);
  int64_t blocks = 0;
  for (const Array& a : tensors) blocks += list_blocks(a.numel());
  check.shape("partial", partial, {blocks}).dtype("partial", partial, DType::float32);
  check.same_device("partial", partial).contiguous("partial", partial);
  SquaredNormArgs a{};
  a.partial = partial.as<float>();
  a.dtype = first.dtype;
  for_groups<1>({tensors}, [&](const TensorGroup<1>& group, bool last) {
    a.group = group;
    a.total = last ? total.as<float>() : nullptr;
    PRESTISSIMO_RUN(squared_norm, first, a, stream);
    a.blocks_ahead += group.first_blocks[group.count];
  });
}

void squared_norm_backward(Stream stream, ArrayList tensors, const Array& dtotal, ArrayList dtensors) {
  constexpr const char* op = "squared_norm_backward";
  const Array& first = first_of(op, "tensors", tensors);
  const Checker check(op, "tensors[0]", first);
  check.dtype({DType::float32, DType::bfloat16, DType::float16});
  check_list(op, check, "tensors", tensors);
  check_list(op, check, "dtensors", dtensors, &tensors);
  check_number(check, "dtotal", dtotal);
  SquaredNormBackwardArgs a{};
  a.dtotal = dtotal.as<float>();
  a.dtype = first.dtype;
  for_groups<2>({tensors, dtensors}, [&](const TensorGroup<2>& group, bool) {
    a.group = group;
    PRESTISSIMO_RUN(squared_norm_backward, first, a, stream);
  });
}

}  // namespace

PRESTISSIMO_OP(squared_norm, "tensors", "partial", "total")
PRESTISSIMO_OP(squared_norm_backward, "tensors", "dtotal", "dtensors")

}  // namespace prestissimo
