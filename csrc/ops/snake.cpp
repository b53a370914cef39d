// SPDX-License-Identifier: Apache-2.0
#include "snake.h"

#include "../registry.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

// The binding has no booleans: 0 or 1.
SnakeShape checked(const Checker& check, const Array& x, const Array& alpha, const Array& beta, int64_t channel_is_row,
                   int64_t log_scale) {
  check.dtype({DType::float32, DType::bfloat16, DType::float16}).ndim(3).rows_contiguous("x", x);
  const SnakeShape s{x.size(0), x.size(1), x.size(2), channel_is_row != 0, log_scale != 0, x.dtype};
  for (const auto& [name, a] : {std::pair<const char*, const Array&>("alpha", alpha), {"beta", beta}})
    check.shape(name, a, {channels_of(s)}).same_dtype(name, a).same_device(name, a).contiguous(name, a);
  return s;
}

void check_like(const Checker& check, const char* name, const Array& a, const Array& x) {
  check.shape(name, a, {x.size(0), x.size(1), x.size(2)}).same_dtype(name, a).same_device(name, a);
  check.rows_contiguous(name, a);
}

void snake(Stream stream, const Array& x, const Array& alpha, const Array& beta, int64_t channel_is_row,
           int64_t log_scale, const Array& y) {
  const Checker check("snake", "x", x);
  const SnakeShape s = checked(check, x, alpha, beta, channel_is_row, log_scale);
  check_like(check, "y", y, x);
  if (x.numel() == 0) return;
  const SnakeArgs a{rows(x), address(alpha), address(beta), row_output(y), s};
  PRESTISSIMO_RUN(snake, x, a, stream);
}

void snake_backward(Stream stream, const Array& dy, const Array& x, const Array& alpha, const Array& beta,
                    int64_t channel_is_row, int64_t log_scale, const Array* partial, const Array* dx,
                    const Array* dalpha, const Array* dbeta) {
  const char* op = "snake_backward";
  const Checker check(op, "x", x);
  const SnakeShape s = checked(check, x, alpha, beta, channel_is_row, log_scale);
  check_like(check, "dy", dy, x);
  SnakeBackwardArgs a{rows(dy), rows(x), address(alpha), address(beta), {}, nullptr, nullptr, nullptr, s};
  if (dx) {
    check_like(check, "dx", *dx, x);
    a.dx = row_output(*dx);
  }
  if (partial) {
    if (!dalpha || !dbeta) fail(op, "dalpha and dbeta must be given with partial");
    const int64_t C = channels_of(s);
    for (const auto& [name, d] : {std::pair<const char*, const Array&>("dalpha", *dalpha), {"dbeta", *dbeta}})
      check.shape(name, d, {C}).same_dtype(name, d).same_device(name, d).contiguous(name, d);
    check.dtype("partial", *partial, DType::float32).same_device("partial", *partial);
    check.contiguous("partial", *partial).shape("partial", *partial, {2 * s.batch * sum_blocks(s) * C});
    a.dalpha = address(*dalpha);
    a.dbeta = address(*dbeta);
    a.partial = partial->as<float>();
  }
  if (channels_of(s) == 0) return;
  PRESTISSIMO_RUN(snake_backward, x, a, stream);
}

}  // namespace

PRESTISSIMO_OP(snake, "x", "alpha", "beta", "channel_is_row", "log_scale", "y")
PRESTISSIMO_OP(snake_backward, "dy", "x", "alpha", "beta", "channel_is_row", "log_scale", "partial", "dx", "dalpha",
               "dbeta")

}  // namespace prestissimo
