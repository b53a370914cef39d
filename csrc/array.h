// SPDX-License-Identifier: Apache-2.0
// A non-owning view of somebody's array, and the checks every op makes of its arguments.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "device.h"
#include "dtype.h"

namespace prestissimo {

constexpr int kMaxDims = 6;

struct Array {
  void* data = nullptr;
  DType dtype = DType::float32;
  Device device;
  int ndim = 0;
  int64_t shape[kMaxDims];    // the first ndim count: zeroing the rest would cost every small call
  int64_t strides[kMaxDims];  // in elements

  int64_t size(int d) const { return shape[d < 0 ? ndim + d : d]; }
  int64_t stride(int d) const { return strides[d < 0 ? ndim + d : d]; }
  int64_t numel() const;
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

// Several arrays behind one argument. The views belong to the caller; elements are named `name[i]` in errors.
struct ArrayList {
  const Array* data = nullptr;
  int64_t count = 0;

  int64_t size() const { return count; }
  const Array& operator[](int64_t i) const { return data[i]; }
  const Array* begin() const { return data; }
  const Array* end() const { return data + count; }
};

std::string shape_text(const Array& a);

// ValueError in Python; the text names the op and the argument.
struct ArgumentError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};
// TypeError in Python.
struct ArgumentTypeError : ArgumentError {
  using ArgumentError::ArgumentError;
};
// A stride that no kernel takes: the Python side copies the argument and calls again.
struct NotContiguous : ArgumentError {
  using ArgumentError::ArgumentError;
};
// RuntimeError in Python: the build or the machine lacks what the call needs.
struct Unavailable : std::runtime_error {
  using std::runtime_error::runtime_error;
};

[[noreturn]] void fail(const char* op, const std::string& what);

// The first array of a call rules: the others must share its device and, unless said otherwise, its dtype.
class Checker {
 public:
  Checker(const char* op, const char* first_name, const Array& first);

  const Checker& dtype(std::initializer_list<DType> allowed) const;  // of the first array
  const Checker& ndim(int n) const;                                  // of the first array
  const Checker& shape(const char* name, const Array& a, std::initializer_list<int64_t> expected) const;
  const Checker& same_dtype(const char* name, const Array& a) const;
  const Checker& dtype(const char* name, const Array& a, DType expected) const;
  const Checker& same_device(const char* name, const Array& a) const;
  const Checker& rows_contiguous(const char* name, const Array& a) const;  // stride 1 along the last dimension
  const Checker& contiguous(const char* name, const Array& a) const;

 private:
  const char* op_;
  const char* first_name_;
  const Array& first_;
};

}  // namespace prestissimo
