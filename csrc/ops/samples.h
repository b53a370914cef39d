// SPDX-License-Identifier: Apache-2.0
// Latents as the diffusion ops see them: B samples, each contiguous, whatever lies between them. A half of a batch that
// guidance doubled is one without a copy.
#pragma once
#include "../array.h"

namespace prestissimo {

// Sample b begins at data + b * stride, stride in elements.
struct Samples {
  const void* data = nullptr;
  int64_t stride = 0;
};
struct SamplesOut {
  void* data = nullptr;
  int64_t stride = 0;
};

// Elements of one sample.
inline int64_t sample_size(const Array& a) {
  int64_t n = 1;
  for (int d = 1; d < a.ndim; ++d) n *= a.shape[d];
  return n;
}

// Null means absent in Args, but an empty array may come without an address.
inline SamplesOut samples_out(const Array& a) {
  static char nothing;
  return {a.data ? a.data : &nothing, a.shape[0] > 1 ? a.strides[0] : sample_size(a)};
}
inline SamplesOut samples_out(const Array* a) { return a ? samples_out(*a) : SamplesOut{}; }
inline Samples samples(const Array& a) {
  const SamplesOut v = samples_out(a);
  return {v.data, v.stride};
}
inline Samples samples(const Array* a) { return a ? samples(*a) : Samples{}; }

// What every diffusion op asks of its first array, and of the others that have its shape.
class LatentChecker {
 public:
  LatentChecker(const char* op, const char* name, const Array& x) : op_(op), name_(name), x_(x), check_(op, name, x) {
    check_.dtype({DType::float32, DType::bfloat16, DType::float16});
    if (x.ndim < 1) fail(op, std::string(name) + " must have at least 1 dimension, got shape []");
    contiguous(name, x);
  }
  const LatentChecker& like(const char* name, const Array* a) const { return a ? like(name, *a) : *this; }
  const LatentChecker& like(const char* name, const Array& a) const {
    bool same = a.ndim == x_.ndim;
    for (int d = 0; same && d < a.ndim; ++d) same = a.shape[d] == x_.shape[d];
    if (!same) fail(op_, std::string(name) + " must be " + shape_text(x_) + ", got " + shape_text(a));
    check_.same_dtype(name, a).same_device(name, a);
    contiguous(name, a);
    return *this;
  }
  // One number for each sample.
  const LatentChecker& per_sample(const char* name, const Array& a, DType dtype = DType::float32) const {
    check_.shape(name, a, {x_.size(0)}).dtype(name, a, dtype).same_device(name, a).contiguous(name, a);
    return *this;
  }
  const LatentChecker& per_sample(const char* name, const Array* a, DType dtype = DType::float32) const {
    return a ? per_sample(name, *a, dtype) : *this;
  }
  const Checker& checker() const { return check_; }

 private:
  void contiguous(const char* name, const Array& a) const {
    if (a.numel() == 0) return;
    int64_t expected = 1;
    for (int d = a.ndim - 1; d > 0; expected *= a.shape[d--])
      if (a.shape[d] > 1 && a.strides[d] != expected)
        throw NotContiguous(std::string(op_) + ": every sample of " + name + " must be contiguous");
  }

  const char* op_;
  const char* name_;
  const Array& x_;
  Checker check_;
};

}  // namespace prestissimo
