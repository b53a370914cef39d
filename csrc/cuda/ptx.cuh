// SPDX-License-Identifier: Apache-2.0
// Every PTX-level primitive of the project, one function an instruction: the device's asm and its meaning on the host
// side by side. There is no asm anywhere else under cuda/ (a test greps), and nothing above the instruction level of
// sm_80.
//
// Fragments of mma.m16n8k16 follow the PTX ISA, section "Matrix Fragments for mma.m16n8k16". With g = lane / 4 and
// q = lane % 4, two 16-bit values to a register, the lower half first:
//   a[i]  holds A[g + 8 (i & 1)][2q + 8 (i >> 1) + {0, 1}]      A is 16 x 16, row-major
//   b[i]  holds B[2q + 8 i + {0, 1}][g]                         B is 16 x 8, "column-major"
//   c[i]  is    C[g + 8 (i >> 1)][2q + (i & 1)]                 C is 16 x 8, float32
#pragma once
#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define PRESTISSIMO_DEVICE __device__ __forceinline__
// Shared memory is never declared bare: the host lane poisons and tracks what goes through these.
#define SHARED_ARRAY(T, name, n) __shared__ __align__(128) T name[n]
#define DYNAMIC_SHARED(T, name)                                                \
  extern __shared__ __align__(128) unsigned char prestissimo_dynamic_shared[]; \
  T* const name = reinterpret_cast<T*>(prestissimo_dynamic_shared)
#else
#include "../emulator/cuda.h"
#include "../emulator/tensor_core.h"
#define PRESTISSIMO_DEVICE inline
#endif

namespace prestissimo::cuda::ptx {

constexpr unsigned kFullWarp = 0xffffffffu;

#if defined(__CUDACC__)

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// 16 bytes from global to shared memory, both 16-byte aligned; zeros instead where !valid (nothing is read then).
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, bool valid = true) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most Pending committed groups of this thread are in flight.
template <int Pending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// 16 bytes to aligned global memory. A plain store of a uint4 may come out as four of 4 bytes (nvcc 13.0, sm_80 and
// sm_90): it is taken apart early and not always put together again.
__device__ __forceinline__ void store_global_16(void* global, uint4 v) {
  asm volatile("st.global.v4.b32 [%0], {%1,%2,%3,%4};" ::"l"(__cvta_generic_to_global(global)), "r"(v.x), "r"(v.y),
               "r"(v.z), "r"(v.w)
               : "memory");
}

// 8 x 8 matrices of 16-bit values; lanes 8 i .. 8 i + 7 name the rows of matrix i. Lane l gets of each matrix elements
// 2 (l % 4) and 2 (l % 4) + 1 of row l / 4; transposed, of column l / 4.
template <bool Transposed = false>
__device__ __forceinline__ void ldmatrix(uint32_t (&r)[1], const void* row) {
  const uint32_t a = shared_address(row);
  if constexpr (Transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(a) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(a) : "memory");
}
template <bool Transposed = false>
__device__ __forceinline__ void ldmatrix(uint32_t (&r)[2], const void* row) {
  const uint32_t a = shared_address(row);
  if constexpr (Transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(a)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(a)
                 : "memory");
}
template <bool Transposed = false>
__device__ __forceinline__ void ldmatrix(uint32_t (&r)[4], const void* row) {
  const uint32_t a = shared_address(row);
  if constexpr (Transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(a)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(a)
                 : "memory");
}

// C += A B on the tensor cores, fragments as above; T is the type of A and B.
template <class T>
__device__ __forceinline__ void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <>
__device__ __forceinline__ void mma_m16n8k16<__nv_bfloat16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                                            uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void mma_m16n8k16<__half>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 2^x within 2^-22 of its value; subnormals are kept.
__device__ __forceinline__ float ex2_approx(float x) {
  float r;
  asm("ex2.approx.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}

#else  // the meaning on the host

inline void cp_async_16(void* shared, const void* global, bool valid = true) {
  emulator::cp_async_issue(shared, global, 16, valid ? 16 : 0);
}
inline void cp_async_commit() { emulator::cp_async_commit(); }
inline void store_global_16(void* global, uint4 v) { *static_cast<uint4*>(global) = v; }
template <int Pending>
inline void cp_async_wait() {
  emulator::cp_async_wait(Pending);
}

template <bool Transposed = false, int Matrices>
inline void ldmatrix(uint32_t (&r)[Matrices], const void* row, EMULATOR_HERE) {
  static_assert(Matrices == 1 || Matrices == 2 || Matrices == 4);
  emulator::LoadedMatrices slot{static_cast<const uint16_t*>(row), {}};
  emulator::collective<emulator::LoadedMatrices, emulator::load_matrices<Matrices, Transposed> >(kFullWarp, slot, here);
  for (int i = 0; i < Matrices; ++i) r[i] = slot.result[i];
}

template <class T>
inline void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, EMULATOR_HERE) {
  emulator::Fragments slot{{c[0], c[1], c[2], c[3]}, {a[0], a[1], a[2], a[3]}, {b0, b1}};
  emulator::collective<emulator::Fragments, emulator::multiply_accumulate<T> >(kFullWarp, slot, here);
  for (int i = 0; i < 4; ++i) c[i] = slot.c[i];
}

inline float ex2_approx(float x) { return std::exp2(x); }

#endif

// Warp exchanges, all lanes taking part.
template <class T>
PRESTISSIMO_DEVICE T shuffle_xor(T value, int lane_bits) {
  return __shfl_xor_sync(kFullWarp, value, lane_bits);
}
template <class T>
PRESTISSIMO_DEVICE T shuffle(T value, int lane) {
  return __shfl_sync(kFullWarp, value, lane);
}

}  // namespace prestissimo::cuda::ptx
