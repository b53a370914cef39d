// SPDX-License-Identifier: Apache-2.0
#include "parallel.h"

#include <new>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace prestissimo::cpu {

int max_threads() {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}

void out_of_memory() { throw std::bad_alloc(); }

void parallel_ranges(int64_t n, int64_t grain, void (*body)(const void*, int64_t, int64_t), const void* context) {
  if (n <= 0) return;
#ifdef _OPENMP
  int64_t threads = n / (grain > 0 ? grain : 1);
  if (threads > max_threads()) threads = max_threads();
  if (threads > 1 && !omp_in_parallel()) {
#pragma omp parallel num_threads(static_cast<int>(threads))
    {
      const int64_t t = omp_get_thread_num(), k = omp_get_num_threads();
      const int64_t begin = n * t / k, end = n * (t + 1) / k;
      if (begin < end) body(context, begin, end);
    }
    return;
  }
#endif
  body(context, 0, n);
}

}  // namespace prestissimo::cpu
