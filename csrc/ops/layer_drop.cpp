// SPDX-License-Identifier: Apache-2.0
#include "layer_drop.h"

#include "../registry.h"
#include "dispatch.h"
#include "float_arrays.h"

namespace prestissimo {
namespace {

// The list and the budget, which both ops have.
template <class Args>
Args checked(const char* op, const Checker& check, ArrayList hidden, const Array& budget) {
  const Array& x = hidden[0];
  check.dtype({DType::float32, DType::bfloat16, DType::float16}).ndim(3);
  if (hidden.size() > kMostLayers)
    fail(op, "hidden must have at most 64 elements, got " + std::to_string(hidden.size()));
  Args a{};
  a.layers = hidden.size();
  a.batch = x.size(0);
  a.time = x.size(1);
  a.channels = x.size(2);
  a.dtype = x.dtype;
  for (int64_t l = 0; l < hidden.size(); ++l) {
    const std::string name = "hidden[" + std::to_string(l) + "]";
    check.shape(name.c_str(), hidden[l], {a.batch, a.time, a.channels}).same_dtype(name.c_str(), hidden[l]);
    check.same_device(name.c_str(), hidden[l]).rows_contiguous(name.c_str(), hidden[l]);
    a.hidden[l] = rows(hidden[l]);
  }
  check.dtype("budget", budget, DType::int64).same_device("budget", budget).contiguous("budget", budget);
  check.shape("budget", budget, {a.batch});
  a.budget = budget.as<int64_t>();
  // what lies on a GPU is not read here: the kernel brings it into range
  for (int64_t b = 0; budget.device.type == DeviceType::cpu && b < a.batch; ++b)
    if (a.budget[b] < 1 || a.budget[b] > a.layers)
      fail(op, "budget must be from 1 to " + std::to_string(a.layers) + ", got " + std::to_string(a.budget[b]));
  return a;
}

void layer_drop(Stream stream, ArrayList hidden, const Array& budget, const Array* target, const Array& partial,
                const Array& out, const Array& variance, const Array& statistics) {
  const char* op = "layer_drop";
  if (hidden.size() == 0) fail(op, "hidden must have at least 1 element");
  const Checker check(op, "hidden[0]", hidden[0]);
  auto a = checked<LayerDropArgs>(op, check, hidden, budget);
  if (target) check_float(check, "target_variance", *target, {a.batch});
  check_float(check, "partial", partial, {a.batch, a.time, 2});
  check.shape("out", out, {a.batch, a.time, a.channels}).same_dtype("out", out).same_device("out", out);
  check.rows_contiguous("out", out);
  check_float(check, "variance", variance, {a.batch});
  check_float(check, "statistics", statistics, {a.batch, 3});
  a.out = row_output(out);
  a.target = target ? target->as<float>() : nullptr;
  a.variance = variance.as<float>();
  a.statistics = statistics.as<float>();
  a.partial = partial.as<float>();
  if (a.batch == 0) return;
  PRESTISSIMO_RUN(layer_drop, out, a, stream);
}

void layer_drop_backward(Stream stream, ArrayList hidden, const Array& budget, const Array& dout,
                         const Array& dvariance, const Array& statistics, const Array& partial, ArrayList dhidden) {
  const char* op = "layer_drop_backward";
  if (hidden.size() == 0) fail(op, "hidden must have at least 1 element");
  const Checker check(op, "hidden[0]", hidden[0]);
  auto a = checked<LayerDropBackwardArgs>(op, check, hidden, budget);
  if (dhidden.size() != hidden.size()) fail(op, "dhidden must have as many elements as hidden");
  const auto like = [&](const char* name, const Array& d) {
    check.shape(name, d, {a.batch, a.time, a.channels}).same_dtype(name, d).same_device(name, d);
    check.rows_contiguous(name, d);
  };
  like("dout", dout);
  for (int64_t l = 0; l < a.layers; ++l) like("dhidden", dhidden[l]), a.dhidden[l] = row_output(dhidden[l]);
  check_float(check, "dvariance", dvariance, {a.batch});
  check_float(check, "statistics", statistics, {a.batch, 3});
  check_float(check, "partial", partial, {a.batch * a.time + a.batch});
  a.dout = rows(dout);
  a.dvariance = dvariance.as<float>();
  a.statistics = statistics.as<float>();
  a.partial = partial.as<float>();
  if (dout.numel() == 0) return;
  PRESTISSIMO_RUN(layer_drop_backward, dout, a, stream);
}

}  // namespace

PRESTISSIMO_OP(layer_drop, "hidden", "budget", "target_variance", "partial", "out", "variance", "statistics")
PRESTISSIMO_OP(layer_drop_backward, "hidden", "budget", "dout", "dvariance", "statistics", "partial", "dhidden")

}  // namespace prestissimo
