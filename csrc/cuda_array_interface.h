// SPDX-License-Identifier: Apache-2.0
// The door for CUDA arrays that speak no DLPack (Numba's): version 3 of __cuda_array_interface__. The array's stream is
// honoured: the op is launched on it.
#pragma once
#include <Python.h>

#include "array.h"

namespace prestissimo {

// False where the object has no such attribute. `stream` is set unless an earlier argument did. The interface does not
// say which device holds the pointer: all such arrays count as of device 0, and the launcher asks the driver.
// Throws ArgumentError or ArgumentTypeError naming the argument for a malformed dictionary.
bool from_cuda_array_interface(PyObject* object, const char* op, const char* argument, Array& array, Stream& stream);

}  // namespace prestissimo
