// SPDX-License-Identifier: Apache-2.0
// cuBLASLt, loaded when a product first needs it and never linked: a build runs with the library of CUDA 12 or 13,
// usually the one that torch has loaded already. Of its stable C interface this declares the dozen functions and
// numbers used here (cublasLt.h, library_types.h). PRESTISSIMO_CUBLASLT names another file.
#pragma once
#include <dlfcn.h>

#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <stdexcept>
#include <string>

#include "../array.h"

namespace prestissimo::cuda {

// d = alpha a b^T + beta d (+ bias in each row), row-major: a [M, K], b [N, K], d [M, N]; strides of rows in elements.
// Types: a and b alike; d of their type, or int32 with a and b int8, whose alpha and beta are whole numbers.
struct Product {
  int64_t M, N, K;
  const void* a;
  int64_t a_stride;
  const void* b;
  int64_t b_stride;
  void* d;
  int64_t d_stride;
  DType type, d_type;
  float alpha = 1.0f, beta = 0.0f;
  const void* bias = nullptr;  // [N], of d's type
};

class CublasLt {
 public:
  static CublasLt& instance() {
    static CublasLt loaded;
    return loaded;
  }

  // On the calling thread's current device, which is `device`. The library's own choice of algorithm, no workspace, so
  // that equal calls give equal bits.
  void multiply(const char* op, int device, const Product& p, void* stream) {
    // The library's matrices are column-major, so it computes d^T = b a^T: b, read as [K, N], is transposed.
    const bool whole = p.type == DType::int8;
    Descriptor description(*this, op, whole ? kComputeInt32 : kComputeFloat32, whole ? kInt32 : kFloat32);
    const int32_t transpose = kTranspose;
    description.set(kTransposeA, &transpose, sizeof transpose);
    if (p.bias) {
      const uint32_t epilogue = kEpilogueBias;
      description.set(kEpilogue, &epilogue, sizeof epilogue);
      description.set(kBiasPointer, &p.bias, sizeof p.bias);
    }
    const Layout a(*this, op, type(p.type), p.K, p.N, p.b_stride), b(*this, op, type(p.type), p.K, p.M, p.a_stride),
        d(*this, op, type(p.d_type), p.N, p.M, p.d_stride);
    const int32_t whole_alpha = static_cast<int32_t>(p.alpha), whole_beta = static_cast<int32_t>(p.beta);
    const void* alpha = whole ? static_cast<const void*>(&whole_alpha) : &p.alpha;
    const void* beta = whole ? static_cast<const void*>(&whole_beta) : &p.beta;
    check(op, "cublasLtMatmul",
          matmul_(handle(op, device), description.value, alpha, p.b, a.value, p.a, b.value, beta, p.d, d.value, p.d,
                  d.value, nullptr, nullptr, 0, stream));
  }

 private:
  using Status = int;
  using Handle = void*;
  // cublasComputeType_t, cudaDataType_t, cublasOperation_t, cublasLtMatmulDescAttributes_t, cublasLtEpilogue_t
  static constexpr int kComputeFloat32 = 68, kComputeInt32 = 72;
  static constexpr int kFloat32 = 0, kFloat16 = 2, kInt8 = 3, kInt32 = 10, kBfloat16 = 14;
  static constexpr int kTranspose = 1;
  static constexpr int kTransposeA = 3, kEpilogue = 7, kBiasPointer = 8;
  static constexpr uint32_t kEpilogueBias = 4;
  static constexpr int kMostDevices = 64;

  static int type(DType t) {
    switch (t) {
      case DType::float16: return kFloat16;
      case DType::bfloat16: return kBfloat16;
      case DType::int8: return kInt8;
      case DType::int32: return kInt32;
      default: return kFloat32;
    }
  }

  static void check(const char* op, const char* function, Status status) {
    if (status) throw std::runtime_error(std::string(op) + ": " + function + " returned " + std::to_string(status));
  }

  struct Descriptor {
    CublasLt& lib;
    const char* op;
    void* value = nullptr;
    Descriptor(CublasLt& l, const char* o, int compute, int scale) : lib(l), op(o) {
      check(op, "cublasLtMatmulDescCreate", lib.describe_(&value, compute, scale));
    }
    ~Descriptor() { lib.forget_description_(value); }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    void set(int attribute, const void* data, size_t bytes) {
      check(op, "cublasLtMatmulDescSetAttribute", lib.set_(value, attribute, data, bytes));
    }
  };
  struct Layout {
    CublasLt& lib;
    void* value = nullptr;
    Layout(CublasLt& l, const char* op, int type, int64_t rows, int64_t columns, int64_t stride) : lib(l) {
      check(op, "cublasLtMatrixLayoutCreate",
            lib.lay_out_(&value, type, static_cast<uint64_t>(rows), static_cast<uint64_t>(columns), stride));
    }
    ~Layout() { lib.forget_layout_(value); }
    Layout(const Layout&) = delete;
    Layout& operator=(const Layout&) = delete;
  };

  CublasLt() {
    const char* named = std::getenv("PRESTISSIMO_CUBLASLT");
    void* library = named ? dlopen(named, RTLD_NOW | RTLD_LOCAL) : nullptr;
    if (!named)
      for (const char* file : {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"})
        if (!library) library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!library)
      throw Unavailable(std::string("products on a GPU need cuBLASLt: ") +
                        (named ? named : "libcublasLt.so.13 or .12") +
                        " was not found; `pip install nvidia-cublas`, or name its file in PRESTISSIMO_CUBLASLT");
    find(library, "cublasLtCreate", create_);
    find(library, "cublasLtMatmul", matmul_);
    find(library, "cublasLtMatmulDescCreate", describe_);
    find(library, "cublasLtMatmulDescDestroy", forget_description_);
    find(library, "cublasLtMatmulDescSetAttribute", set_);
    find(library, "cublasLtMatrixLayoutCreate", lay_out_);
    find(library, "cublasLtMatrixLayoutDestroy", forget_layout_);
  }
  template <class F>
  static void find(void* library, const char* name, F& function) {
    function = reinterpret_cast<F>(dlsym(library, name));
    if (!function) throw Unavailable(std::string("cuBLASLt lacks ") + name);
  }

  // One for each device, made when first used and kept: a handle may be shared between threads.
  Handle handle(const char* op, int device) {
    if (device < 0 || device >= kMostDevices) fail(op, "runs on device " + std::to_string(device) + ", beyond 63");
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!handles_[device]) check(op, "cublasLtCreate", create_(&handles_[device]));
    return handles_[device];
  }

  std::mutex mutex_;
  Handle handles_[kMostDevices] = {};
  Status (*create_)(Handle*) = nullptr;
  Status (*matmul_)(Handle, void*, const void*, const void*, void*, const void*, void*, const void*, const void*, void*,
                    void*, void*, const void*, void*, size_t, void*) = nullptr;
  Status (*describe_)(void**, int, int) = nullptr;
  Status (*forget_description_)(void*) = nullptr;
  Status (*set_)(void*, int, const void*, size_t) = nullptr;
  Status (*lay_out_)(void**, int, uint64_t, uint64_t, int64_t) = nullptr;
  Status (*forget_layout_)(void*) = nullptr;
};

}  // namespace prestissimo::cuda
