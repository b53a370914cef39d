// SPDX-License-Identifier: Apache-2.0
#include "array.h"

namespace prestissimo {

int64_t Array::numel() const {
  int64_t n = 1;
  for (int d = 0; d < ndim; ++d) n *= shape[d];
  return n;
}

std::string shape_text(const int64_t* shape, int ndim) {
  std::string s = "[";
  for (int d = 0; d < ndim; ++d) s += (d ? ", " : "") + std::to_string(shape[d]);
  return s + "]";
}

std::string shape_text(const Array& a) { return shape_text(a.shape, a.ndim); }

void fail(const char* op, const std::string& what) { throw ArgumentError(std::string(op) + ": " + what); }

Checker::Checker(const char* op, const char* first_name, const Array& first)
    : op_(op), first_name_(first_name), first_(first) {}

const Checker& Checker::dtype(std::initializer_list<DType> allowed) const {
  std::string names;
  for (DType t : allowed) {
    if (first_.dtype == t) return *this;
    names += (names.empty() ? "" : ", ") + std::string(name(t));
  }
  throw ArgumentTypeError(std::string(op_) + ": " + first_name_ + " must be one of " + names + ", got " +
                          name(first_.dtype));
}

const Checker& Checker::ndim(int n) const {
  if (first_.ndim != n)
    fail(op_,
         std::string(first_name_) + " must have " + std::to_string(n) + " dimensions, got shape " + shape_text(first_));
  return *this;
}

const Checker& Checker::shape(const char* name, const Array& a, std::initializer_list<int64_t> expected) const {
  bool same = a.ndim == static_cast<int>(expected.size());
  if (same) {
    int d = 0;
    for (int64_t e : expected) same = same && a.shape[d++] == e;
  }
  if (!same) {
    std::string want = "[";
    for (int64_t e : expected) want += (want.size() > 1 ? ", " : "") + std::to_string(e);
    fail(op_, std::string(name) + " must be " + want + "], got " + shape_text(a));
  }
  return *this;
}

const Checker& Checker::dtype(const char* arg, const Array& a, DType expected) const {
  if (a.dtype != expected)
    throw ArgumentTypeError(std::string(op_) + ": " + arg + " must be " + name(expected) + ", got " + name(a.dtype));
  return *this;
}

const Checker& Checker::same_dtype(const char* arg, const Array& a) const {
  if (a.dtype != first_.dtype)
    throw ArgumentTypeError(std::string(op_) + ": " + arg + " must be " + name(first_.dtype) + " like " + first_name_ +
                            ", got " + name(a.dtype));
  return *this;
}

const Checker& Checker::same_device(const char* arg, const Array& a) const {
  if (a.device != first_.device) fail(op_, std::string(arg) + " must be on the device of " + first_name_);
  return *this;
}

const Checker& Checker::rows_contiguous(const char* arg, const Array& a) const {
  if (a.ndim > 0 && a.size(-1) > 1 && a.stride(-1) != 1 && a.numel() > 0)
    throw NotContiguous(std::string(op_) + ": " + arg + " must have stride 1 along its last dimension");
  return *this;
}

const Checker& Checker::contiguous(const char* arg, const Array& a) const {
  if (a.numel() == 0) return *this;
  int64_t expected = 1;
  for (int d = a.ndim - 1; d >= 0; --d) {
    if (a.shape[d] > 1 && a.strides[d] != expected)
      throw NotContiguous(std::string(op_) + ": " + arg + " must be contiguous");
    expected *= a.shape[d];
  }
  return *this;
}

}  // namespace prestissimo
