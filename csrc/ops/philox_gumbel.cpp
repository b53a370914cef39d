// SPDX-License-Identifier: Apache-2.0
#include "philox_gumbel.h"

#include "../registry.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

void philox_gumbel(Stream stream, const Array& seeds, const Array& items, int64_t stream_number, const Array& out) {
  const Checker check("philox_gumbel", "out", out);
  check.dtype({DType::float32}).ndim(2).contiguous("out", out);
  const int64_t B = out.size(0);
  check.shape("seeds", seeds, {B}).dtype("seeds", seeds, DType::int64).same_device("seeds", seeds);
  check.shape("items", items, {B}).dtype("items", items, DType::int64).same_device("items", items);
  check.contiguous("seeds", seeds).contiguous("items", items);
  if (stream_number < 0 || stream_number > 0xffffffffLL)
    fail("philox_gumbel", "stream must be in [0, 2^32), got " + std::to_string(stream_number));
  if (out.numel() == 0) return;
  const PhiloxGumbelArgs a{
      seeds.as<int64_t>(), items.as<int64_t>(), static_cast<uint32_t>(stream_number), out.as<float>(), B, out.size(1)};
  PRESTISSIMO_RUN(philox_gumbel, out, a, stream);
}

}  // namespace

PRESTISSIMO_OP(philox_gumbel, "seeds", "items", "stream", "out")

}  // namespace prestissimo
