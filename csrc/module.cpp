// SPDX-License-Identifier: Apache-2.0
// The Python door: binds every registered op and moves arrays across by DLPack. No framework's header is needed; a type
// that offers __dlpack_c_exchange_api__ (torch >= 2.10) is read in place, with its current stream; any other producer
// goes through __dlpack__, or, having none, __cuda_array_interface__.
#include <Python.h>
#include <dlpack/dlpack.h>
#include <pybind11/pybind11.h>

#include <exception>
#include <forward_list>
#include <new>
#include <string>
#include <type_traits>
#include <vector>

#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "cuda_array_interface.h"
#include "registry.h"

namespace py = pybind11;

namespace prestissimo {
namespace {

struct PythonError {};  // the interpreter already holds the exception

PyObject* not_contiguous = nullptr;  // the Python class _core.NotContiguous

DType dtype_of(const DLDataType& t, const char* op, const char* argument) {
  if (t.lanes == 1) {
    if (t.code == kDLFloat && t.bits == 32) return DType::float32;
    if (t.code == kDLBfloat && t.bits == 16) return DType::bfloat16;
    if (t.code == kDLFloat && t.bits == 16) return DType::float16;
    if (t.code == kDLFloat && t.bits == 64) return DType::float64;
    if (t.code == kDLInt && t.bits == 64) return DType::int64;
    if (t.code == kDLInt && t.bits == 32) return DType::int32;
    if (t.code == kDLInt && t.bits == 8) return DType::int8;
    if (t.code == kDLUInt && t.bits == 8) return DType::uint8;
    if (t.code == kDLBool && t.bits == 8) return DType::boolean;
  }
  throw ArgumentTypeError(std::string(op) + ": " + argument + " has an element type that no op takes");
}

Array view(const DLTensor& t, const char* op, const char* argument) {
  Array a;
  a.dtype = dtype_of(t.dtype, op, argument);
  a.data = static_cast<char*>(t.data) + t.byte_offset;
  if (t.ndim > kMaxDims)
    fail(op, std::string(argument) + " has " + std::to_string(t.ndim) + " dimensions, at most " +
                 std::to_string(kMaxDims) + " are taken");
  a.ndim = t.ndim;
  int64_t stride = 1;
  for (int d = t.ndim - 1; d >= 0; --d) {
    a.shape[d] = t.shape[d];
    a.strides[d] = t.strides ? t.strides[d] : stride;
    stride *= t.shape[d];
  }
  switch (t.device.device_type) {
    case kDLCPU:
    case kDLCUDAHost: a.device = {DeviceType::cpu, 0}; break;
    case kDLCUDA:
    case kDLCUDAManaged: a.device = {DeviceType::cuda, t.device.device_id}; break;
    default: fail(op, std::string(argument) + " is on a device that no op runs on");
  }
  return a;
}

// Keeps the tensors of slow-path producers alive for one call.
class Capsules {
 public:
  ~Capsules() {
    for (DLManagedTensorVersioned* t : versioned_)
      if (t->deleter) t->deleter(t);
    for (DLManagedTensor* t : plain_)
      if (t->deleter) t->deleter(t);
  }
  Array take(PyObject* object, const char* op, const char* argument) {
    py::object producer = py::reinterpret_borrow<py::object>(object);
    if (!py::hasattr(producer, "__dlpack__"))
      throw ArgumentTypeError(std::string(op) + ": " + argument +
                              " must be an array (torch, NumPy, CuPy, Numba or another DLPack producer), got " +
                              Py_TYPE(object)->tp_name);
    py::object capsule;
    try {
      capsule = producer.attr("__dlpack__")(py::arg("max_version") = py::make_tuple(DLPACK_MAJOR_VERSION, 0));
    } catch (py::error_already_set& e) {
      if (!e.matches(PyExc_TypeError)) throw;
      capsule = producer.attr("__dlpack__")();
    }
    if (auto* t = static_cast<DLManagedTensorVersioned*>(PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned")
                                                             ? PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned")
                                                             : nullptr)) {
      PyCapsule_SetName(capsule.ptr(), "used_dltensor_versioned");
      versioned_.push_back(t);
      return view(t->dl_tensor, op, argument);
    }
    if (auto* t = static_cast<DLManagedTensor*>(
            PyCapsule_IsValid(capsule.ptr(), "dltensor") ? PyCapsule_GetPointer(capsule.ptr(), "dltensor") : nullptr)) {
      PyCapsule_SetName(capsule.ptr(), "used_dltensor");
      plain_.push_back(t);
      return view(t->dl_tensor, op, argument);
    }
    throw ArgumentTypeError(std::string(op) + ": " + argument + " gave no DLPack capsule");
  }

 private:
  std::vector<DLManagedTensorVersioned*> versioned_;
  std::vector<DLManagedTensor*> plain_;
};

// The exchange table of a type, looked up once for each of the few types a process uses.
const DLPackExchangeAPI* exchange_api(PyTypeObject* type) {
  static PyTypeObject* last_type = nullptr;
  static const DLPackExchangeAPI* last_api = nullptr;
  if (type == last_type) return last_api;
  PyObject* capsule = PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__");
  const DLPackExchangeAPI* api = nullptr;
  if (!capsule) {
    PyErr_Clear();
  } else {
    auto* header = PyCapsule_IsValid(capsule, "dlpack_exchange_api")
                       ? static_cast<DLPackExchangeAPIHeader*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"))
                       : nullptr;
    while (header && header->version.major != DLPACK_MAJOR_VERSION) header = header->prev_api;
    api = reinterpret_cast<const DLPackExchangeAPI*>(header);
    Py_DECREF(capsule);
    if (api && !api->dltensor_from_py_object_no_sync) api = nullptr;
  }
  if (api) {  // the type owns the capsule, so a cached pointer stays good while the type lives: keep it alive
    Py_INCREF(type);
    Py_XDECREF(last_type);
    last_type = type;
    last_api = api;
  }
  return api;
}

Array to_array(PyObject* object, const char* op, const char* argument, Capsules& capsules, Stream& stream) {
  const DLPackExchangeAPI* api = exchange_api(Py_TYPE(object));
  if (!api) {
    Array a;
    const bool dlpack = PyObject_HasAttrString(object, "__dlpack__");
    if (!dlpack && from_cuda_array_interface(object, op, argument, a, stream)) return a;
    return capsules.take(object, op, argument);
  }
  DLTensor t;
  if (api->dltensor_from_py_object_no_sync(object, &t) != 0) throw PythonError{};
  Array a = view(t, op, argument);
  if (a.device.type == DeviceType::cuda && !stream.handle && api->current_work_stream &&
      api->current_work_stream(t.device.device_type, t.device.device_id, &stream.handle) != 0)
    throw PythonError{};
  return a;
}

// The views of list arguments, alive for one call; empty, it costs nothing.
using Lists = std::forward_list<std::vector<Array>>;

ArrayList to_list(PyObject* object, const char* op, const char* argument, Capsules& capsules, Stream& stream,
                  Lists& lists) {
  if (!PyList_Check(object) && !PyTuple_Check(object))
    throw ArgumentTypeError(std::string(op) + ": " + argument + " must be a list of arrays, got " +
                            Py_TYPE(object)->tp_name);
  const Py_ssize_t n = PySequence_Fast_GET_SIZE(object);
  std::vector<Array>& arrays = lists.emplace_front();
  arrays.reserve(static_cast<size_t>(n));
  for (Py_ssize_t i = 0; i < n; ++i) {
    const std::string name = std::string(argument) + "[" + std::to_string(i) + "]";
    arrays.push_back(to_array(PySequence_Fast_GET_ITEM(object, i), op, name.c_str(), capsules, stream));
  }
  return {arrays.data(), static_cast<int64_t>(n)};
}

Value to_value(const OpEntry& op, int i, PyObject* object, Capsules& capsules, Stream& stream, Lists& lists) {
  Value v;
  const char* argument = op.argument_names[i];
  switch (op.kinds[i]) {
    case Kind::optional_array:
      if (object == Py_None) return v;
      [[fallthrough]];
    case Kind::array:
      v.array = to_array(object, op.name, argument, capsules, stream);
      v.present = true;
      return v;
    case Kind::array_list: v.arrays = to_list(object, op.name, argument, capsules, stream, lists); return v;
    case Kind::real:
      v.real = PyFloat_AsDouble(object);
      if (v.real == -1.0 && PyErr_Occurred()) throw PythonError{};
      return v;
    case Kind::integer:
      v.integer = PyLong_AsLongLong(object);
      if (v.integer == -1 && PyErr_Occurred()) throw PythonError{};
      return v;
    case Kind::text: {
      Py_ssize_t n = 0;
      const char* text = PyUnicode_Check(object) ? PyUnicode_AsUTF8AndSize(object, &n) : nullptr;
      if (!text) {
        PyErr_Clear();
        throw ArgumentTypeError(std::string(op.name) + ": " + argument + " must be a string");
      }
      v.text = {text, static_cast<size_t>(n)};
      return v;
    }
  }
  return v;
}

constexpr int kMaxArguments = 32;

// pybind11's own guard also looks up its internals, a tenth of a microsecond that every small call would pay.
struct WithoutGil {
  PyThreadState* state = PyEval_SaveThread();
  ~WithoutGil() { PyEval_RestoreThread(state); }
};

PyObject* call_op(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  const auto& op = *static_cast<const OpEntry*>(PyCapsule_GetPointer(self, nullptr));
  try {
    if (count != op.arity)
      throw ArgumentTypeError(std::string(op.name) + " takes " + std::to_string(op.arity) + " arguments, got " +
                              std::to_string(count));
    Capsules capsules;
    Lists lists;
    Stream stream;
    // only as many as the op has are made: small calls would pay for the rest
    static_assert(std::is_trivially_destructible_v<Value>);
    alignas(Value) unsigned char room[kMaxArguments * sizeof(Value)];
    auto* values = reinterpret_cast<Value*>(room);
    for (int i = 0; i < op.arity; ++i) new (values + i) Value(to_value(op, i, arguments[i], capsules, stream, lists));
    {
      const WithoutGil released;
      op.call(values, stream);
    }
    Py_RETURN_NONE;
  } catch (const PythonError&) {
  } catch (py::error_already_set& e) {
    e.restore();
  } catch (const ArgumentTypeError& e) {
    PyErr_SetString(PyExc_TypeError, e.what());
  } catch (const NotContiguous& e) {
    PyErr_SetString(not_contiguous, e.what());
  } catch (const ArgumentError& e) {
    PyErr_SetString(PyExc_ValueError, e.what());
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& e) {
    PyErr_SetString(PyExc_RuntimeError, e.what());
  }
  return nullptr;
}

void bind_ops(py::module_& m) {
  static std::vector<PyMethodDef> methods;  // CPython keeps pointers into it
  int count = 0;
  for (OpEntry* op = first_op(); op; op = op->next) {
    if (op->arity > kMaxArguments) throw std::logic_error(std::string(op->name) + " has too many arguments");
    ++count;
  }
  methods.reserve(static_cast<size_t>(count));
  py::list names;
  for (OpEntry* op = first_op(); op; op = op->next) {
    methods.push_back(
        {op->name, reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(call_op)), METH_FASTCALL, nullptr});
    py::capsule self(static_cast<void*>(op));
    auto function = py::reinterpret_steal<py::object>(PyCFunction_New(&methods.back(), self.ptr()));
    if (!function) throw py::error_already_set();
    m.add_object(op->name, function);
    names.append(op->name);
  }
  m.attr("op_names") = py::tuple(names);
}

}  // namespace
}  // namespace prestissimo

PYBIND11_MODULE(_core, m) {
  using namespace prestissimo;
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const ArgumentTypeError& e) {
      PyErr_SetString(PyExc_TypeError, e.what());
    } catch (const ArgumentError& e) {
      PyErr_SetString(PyExc_ValueError, e.what());
    }
  });
  not_contiguous = py::exception<NotContiguous>(m, "NotContiguous", PyExc_ValueError).release().ptr();
  bind_ops(m);
  m.def("isa", [] { return cpu::name(cpu::active()); });
  m.def("set_isa", [](const std::string& isa) { cpu::force(isa); }, py::arg("isa"));
  m.def("supported_isas", [] {
    py::list out;
    for (cpu::Isa isa : cpu::kIsas)
      if (cpu::supported(isa)) out.append(cpu::name(isa));
    return py::tuple(out);
  });
  m.def("max_threads", &cpu::max_threads);
  m.def("describe", [](const py::object& array) {
    Capsules capsules;
    Stream stream;
    const Array a = to_array(array.ptr(), "describe", "array", capsules, stream);
    py::list shape, strides;
    for (int d = 0; d < a.ndim; ++d) shape.append(a.shape[d]), strides.append(a.strides[d]);
    py::dict d;
    d["data"] = reinterpret_cast<uintptr_t>(a.data);
    d["dtype"] = name(a.dtype);
    d["device"] = a.device.type == DeviceType::cuda ? "cuda" : "cpu";
    d["shape"] = py::tuple(shape);
    d["strides"] = py::tuple(strides);
    d["stream"] = reinterpret_cast<uintptr_t>(stream.handle);
    return d;
  });
  m.def("build_info", [] {
    py::dict d;
    d["version"] = PRESTISSIMO_VERSION;
    d["compiler"] = PRESTISSIMO_COMPILER;
#ifdef _OPENMP
    d["openmp"] = true;
#else
    d["openmp"] = false;
#endif
#ifdef PRESTISSIMO_CUDA
    d["cuda"] = PRESTISSIMO_CUDA;
#else
    d["cuda"] = py::none();
#endif
    return d;
  });
}
