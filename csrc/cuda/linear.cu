// SPDX-License-Identifier: Apache-2.0
#include "cublaslt.h"
#include "linear.cuh"

namespace prestissimo::cuda {
namespace {

#define ADDRESS(kernel) reinterpret_cast<const void*>(&kernel),
const void* const kernels[] = {LINEAR_KERNELS(ADDRESS)};
#undef ADDRESS

LaunchPlan only(const LaunchPlan& p, int i) {
  LaunchPlan one;
  one.launches[one.count++] = p.launches[i];
  return one;
}

}  // namespace

void linear(const LinearArgs& a, Stream stream) {
  const DeviceOf owner("linear", a.y);
  int device = 0;
  check("linear", cudaGetDevice(&device));
  const auto multiply = [&](const Product& p) { CublasLt::instance().multiply("linear", device, p, stream.handle); };
  const LinearWorkspace w = linear_workspace(a);
  char* workspace = static_cast<char*>(a.workspace);
  if (w.bytes && !workspace) fail("linear", "workspace must be given on a GPU");
  if (a.packing == Packing::int8) {
    const LaunchPlan p = plan(a);
    run("linear", only(p, 0), kernels, parameters(a), stream);
    multiply({a.M, w.sums, w.x_values, workspace, w.x_values, a.weight, w.x_values, workspace + w.sums_at, w.sums,
              DType::int8, DType::int32});
    run("linear", only(p, 1), kernels, parameters(a), stream);
  } else {
    const int64_t stride = a.packing == Packing::none ? a.weight_stride_n : row_values(a.packing, a.K);
    multiply({a.M, a.N, a.K, a.x, a.x_stride, a.weight, stride, a.y, a.N, a.dtype, a.dtype, 1.0f, 0.0f, a.bias});
  }
  if (!a.down) return;
  char* low = workspace + w.low_at;
  multiply({a.M, a.rank, a.K, a.x, a.x_stride, a.down, a.K, low, a.rank, a.dtype, a.dtype});
  multiply({a.M, a.N, a.rank, low, a.rank, a.up, a.rank, a.y, a.N, a.dtype, a.dtype, a.lora_scale, 1.0f});
}

}  // namespace prestissimo::cuda
