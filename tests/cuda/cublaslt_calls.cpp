// SPDX-License-Identifier: Apache-2.0
// csrc/cuda/cublaslt.h as a library for test_cublaslt.py.
#include "cuda/cublaslt.h"

#include <cstring>

using prestissimo::cuda::CublasLt;
using prestissimo::cuda::Product;

extern "C" int multiply(const Product* p, char* error, size_t room) {
  try {
    CublasLt::instance().multiply("op", 0, *p, nullptr);
    return 0;
  } catch (const std::exception& e) {
    std::strncpy(error, e.what(), room - 1);
    return 1;
  }
}
