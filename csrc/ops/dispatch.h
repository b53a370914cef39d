// SPDX-License-Identifier: Apache-2.0
// From one host function to the device of its arrays: cpu::kernel(args) or cuda::kernel(args, stream).
#pragma once
#include <string>

#include "../array.h"

#ifdef PRESTISSIMO_CUDA
#define PRESTISSIMO_RUN(kernel, array, args, stream)            \
  do {                                                          \
    if ((array).device.type == ::prestissimo::DeviceType::cuda) \
      ::prestissimo::cuda::kernel(args, stream);                \
    else                                                        \
      ::prestissimo::cpu::kernel(args);                         \
  } while (false)
#else
// A call on a GPU array never falls back in silence.
#define PRESTISSIMO_RUN(kernel, array, args, stream)                                                   \
  do {                                                                                                 \
    (void)(stream);                                                                                    \
    if ((array).device.type == ::prestissimo::DeviceType::cuda)                                        \
      throw ::prestissimo::Unavailable(#kernel                                                         \
                                       ": this build has no CUDA kernels, because nvcc was not found " \
                                       "when it was built; `prestissimo doctor` says what to do");     \
    ::prestissimo::cpu::kernel(args);                                                                  \
  } while (false)
#endif
