// SPDX-License-Identifier: Apache-2.0
// A stand-in for libcublasLt on host memory, for csrc/cuda/cublaslt.h: column-major matrices and attributes as cuBLAS's
// documentation has them, and an error for whatever it would not take.
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

enum { kSuccess = 0, kInvalid = 7, kNotSupported = 15 };
enum { kFloat32 = 0, kFloat16 = 2, kInt8 = 3, kInt32 = 10, kBfloat16 = 14 };  // cudaDataType_t

struct Description {
  int compute, scale;
  int32_t transpose_a = 0, transpose_b = 0;
  uint32_t epilogue = 1;
  const void* bias = nullptr;
};
struct Layout {
  int type;
  uint64_t rows, columns;
  int64_t stride;
};
int handle_value, live = 0;

float from_half(uint16_t h) {
  _Float16 f;
  std::memcpy(&f, &h, 2);
  return static_cast<float>(f);
}
double read(const void* p, int type, int64_t i) {
  switch (type) {
    case kFloat32: return static_cast<const float*>(p)[i];
    case kFloat16: return from_half(static_cast<const uint16_t*>(p)[i]);
    case kInt8: return static_cast<const int8_t*>(p)[i];
    case kInt32: return static_cast<const int32_t*>(p)[i];
    default: {
      const uint32_t u = static_cast<uint32_t>(static_cast<const uint16_t*>(p)[i]) << 16;
      float f;
      std::memcpy(&f, &u, 4);
      return f;
    }
  }
}
void write(void* p, int type, int64_t i, double v) {
  switch (type) {
    case kFloat32: static_cast<float*>(p)[i] = static_cast<float>(v); break;
    case kFloat16: {
      const auto f = static_cast<_Float16>(static_cast<float>(v));
      std::memcpy(static_cast<uint16_t*>(p) + i, &f, 2);
      break;
    }
    case kInt32: static_cast<int32_t*>(p)[i] = static_cast<int32_t>(v); break;
    default: {
      const float f = static_cast<float>(v);
      uint32_t u;
      std::memcpy(&u, &f, 4);
      static_cast<uint16_t*>(p)[i] = static_cast<uint16_t>((u + 0x7fff + (u >> 16 & 1)) >> 16);
    }
  }
}

}  // namespace

extern "C" {

int stand_in_live_objects() { return live; }

int cublasLtCreate(void** handle) {
  *handle = &handle_value;
  return kSuccess;
}
int cublasLtMatmulDescCreate(void** d, int compute, int scale) {
  if (!(compute == 68 && scale == kFloat32) && !(compute == 72 && scale == kInt32)) return kInvalid;
  *d = new Description{compute, scale};
  ++live;
  return kSuccess;
}
int cublasLtMatmulDescDestroy(void* d) {
  delete static_cast<Description*>(d);
  --live;
  return kSuccess;
}
int cublasLtMatmulDescSetAttribute(void* d, int attribute, const void* data, size_t bytes) {
  auto* description = static_cast<Description*>(d);
  const auto set = [&](auto& field) {
    if (bytes != sizeof field) return static_cast<int>(kInvalid);
    std::memcpy(&field, data, bytes);
    return static_cast<int>(kSuccess);
  };
  switch (attribute) {
    case 3: return set(description->transpose_a);
    case 4: return set(description->transpose_b);
    case 7: return set(description->epilogue);
    case 8: return set(description->bias);
    default: return kInvalid;
  }
}
int cublasLtMatrixLayoutCreate(void** l, int type, uint64_t rows, uint64_t columns, int64_t stride) {
  if (stride < static_cast<int64_t>(rows)) return kInvalid;
  *l = new Layout{type, rows, columns, stride};
  ++live;
  return kSuccess;
}
int cublasLtMatrixLayoutDestroy(void* l) {
  delete static_cast<Layout*>(l);
  --live;
  return kSuccess;
}

int cublasLtMatmul(void* handle, void* description, const void* alpha, const void* A, void* a_layout, const void* B,
                   void* b_layout, const void* beta, const void* C, void* c_layout, void* D, void* d_layout,
                   const void* algorithm, void* workspace, size_t workspace_bytes, void*) {
  const auto& d = *static_cast<Description*>(description);
  const auto &a = *static_cast<Layout*>(a_layout), &b = *static_cast<Layout*>(b_layout);
  const auto &c = *static_cast<Layout*>(c_layout), &out = *static_cast<Layout*>(d_layout);
  if (handle != &handle_value || algorithm || workspace || workspace_bytes) return kInvalid;
  const uint64_t M = d.transpose_a ? a.columns : a.rows, K = d.transpose_a ? a.rows : a.columns;
  const uint64_t N = d.transpose_b ? b.rows : b.columns;
  if (K != (d.transpose_b ? b.columns : b.rows) || M != out.rows || N != out.columns) return kInvalid;
  if (C != D || c.rows != M || c.columns != N || c.stride != out.stride || c.type != out.type) return kInvalid;
  const bool whole = d.compute == 72;
  if (a.type != b.type || (a.type == kInt8) != whole || (whole ? out.type != kInt32 : out.type != a.type))
    return kNotSupported;
  // integer products: A transposed, B not, and everything in multiples of four
  if (whole && (!d.transpose_a || d.transpose_b || M % 4 || K % 4 || a.stride % 4 || b.stride % 4 || out.stride % 4 ||
                reinterpret_cast<uintptr_t>(A) % 4 || reinterpret_cast<uintptr_t>(B) % 4 || d.bias))
    return kNotSupported;
  if ((d.epilogue == 4) != (d.bias != nullptr)) return kInvalid;
  const double by = whole ? *static_cast<const int32_t*>(alpha) : *static_cast<const float*>(alpha);
  const double keep = whole ? *static_cast<const int32_t*>(beta) : *static_cast<const float*>(beta);
  for (uint64_t n = 0; n < N; ++n)
    for (uint64_t m = 0; m < M; ++m) {
      double sum = 0;
      for (uint64_t k = 0; k < K; ++k)
        sum += read(A, a.type, static_cast<int64_t>(d.transpose_a ? k : m) +
                                   a.stride * static_cast<int64_t>(d.transpose_a ? m : k)) *
               read(B, b.type, static_cast<int64_t>(d.transpose_b ? n : k) +
                                   b.stride * static_cast<int64_t>(d.transpose_b ? k : n));
      const int64_t at = static_cast<int64_t>(m) + out.stride * static_cast<int64_t>(n);
      double v = by * sum;
      if (keep != 0) v += keep * read(D, out.type, at);
      if (d.bias) v += read(d.bias, out.type, static_cast<int64_t>(m));
      write(D, out.type, at, v);
    }
  return kSuccess;
}

}  // extern "C"
