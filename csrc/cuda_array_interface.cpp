// SPDX-License-Identifier: Apache-2.0
#include "cuda_array_interface.h"

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <string>

namespace py = pybind11;

namespace prestissimo {
namespace {

struct ElementType {
  const char* typestr;
  DType dtype;
  int64_t bytes;
};
// the interface has no bfloat16
constexpr ElementType kTypes[] = {
    {"<f4", DType::float32, 4}, {"<f2", DType::float16, 2}, {"<f8", DType::float64, 8}, {"<i8", DType::int64, 8},
    {"<i4", DType::int32, 4},   {"|i1", DType::int8, 1},    {"|u1", DType::uint8, 1},   {"|b1", DType::boolean, 1},
};

const ElementType& element_type(const std::string& typestr, const char* op, const char* argument) {
  for (const ElementType& t : kTypes)
    if (typestr == t.typestr) return t;
  throw ArgumentTypeError(std::string(op) + ": " + argument + " has element type '" + typestr + "', which no op takes");
}

// Elements between the first and the last of a dimension fit what an address can hold.
constexpr int64_t kLargest = INT64_MAX / 16;

void set_shape(Array& a, const py::dict& d, int64_t bytes, const char* op, const char* argument) {
  const auto shape = d["shape"].cast<py::tuple>();
  if (shape.size() > static_cast<size_t>(kMaxDims))
    fail(op, std::string(argument) + " has " + std::to_string(shape.size()) + " dimensions, at most " +
                 std::to_string(kMaxDims) + " are taken");
  a.ndim = static_cast<int>(shape.size());
  const py::object given = d.contains("strides") ? py::object(d["strides"]) : py::none();
  const auto strides = given.is_none() ? std::optional<py::tuple>() : given.cast<py::tuple>();
  if (strides && strides->size() != shape.size())
    fail(op, std::string(argument) + " has " + std::to_string(shape.size()) + " sizes and " +
                 std::to_string(strides->size()) + " strides");
  int64_t stride = 1;
  for (int i = a.ndim - 1; i >= 0; --i) {
    a.shape[i] = shape[static_cast<size_t>(i)].cast<int64_t>();
    if (a.shape[i] < 0) fail(op, std::string(argument) + " has a negative size");
    const int64_t in_bytes = strides ? (*strides)[static_cast<size_t>(i)].cast<int64_t>() : stride * bytes;
    if (in_bytes % bytes != 0) fail(op, std::string(argument) + " has strides that split its elements");
    a.strides[i] = in_bytes / bytes;
    if (a.shape[i] > 0 && stride > kLargest / a.shape[i]) fail(op, std::string(argument) + " has an impossible shape");
    stride *= a.shape[i];
  }
}

}  // namespace

bool from_cuda_array_interface(PyObject* object, const char* op, const char* argument, Array& array, Stream& stream) {
  const auto producer = py::reinterpret_borrow<py::object>(object);
  if (!py::hasattr(producer, "__cuda_array_interface__")) return false;
  try {
    const py::dict d = producer.attr("__cuda_array_interface__").cast<py::dict>();
    if (d.contains("mask") && !d["mask"].is_none()) fail(op, std::string(argument) + " is masked");
    const ElementType& type = element_type(d["typestr"].cast<std::string>(), op, argument);
    array.dtype = type.dtype;
    array.device = {DeviceType::cuda, 0};
    array.data = reinterpret_cast<void*>(d["data"].cast<py::tuple>()[0].cast<uintptr_t>());
    set_shape(array, d, type.bytes, op, argument);
    // None: no synchronisation asked for; 1 and 2 are the runtime's own names of the legacy and per-thread streams
    if (d.contains("stream") && !d["stream"].is_none() && !stream.handle) {
      const auto handle = d["stream"].cast<uintptr_t>();
      if (handle == 0) fail(op, std::string(argument) + " names stream 0, which the interface forbids");
      stream.handle = reinterpret_cast<void*>(handle);
    }
  } catch (const ArgumentError&) {
    throw;
  } catch (const std::exception& error) {
    throw ArgumentTypeError(std::string(op) + ": " + argument + " has a malformed __cuda_array_interface__ (" +
                            error.what() + ")");
  }
  return true;
}

}  // namespace prestissimo
