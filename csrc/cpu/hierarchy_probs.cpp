// SPDX-License-Identifier: Apache-2.0
#include "../ops/hierarchy_probs.h"

#include "math.h"
#include "scratch.h"
#include "storage.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

constexpr int64_t kGrainElements = 4096;

int64_t whole_vectors(int64_t n) { return (n + Vec::lanes - 1) / Vec::lanes * Vec::lanes; }

// p = softmax(x) up to a factor, which is returned; zeros (NaN in a row of NaN) up to a whole vector.
template <class T>
float exponentials(const T* x, int64_t n, float* p) {
  Vec most = broadcast(-__builtin_inff());
  const auto lanes = [&](int64_t i, int k) {
    store(p + i, load(x + i, k));
    for (int j = k; j < Vec::lanes; ++j) p[i + j] = -__builtin_inff();
    most = max(load(p + i), most);
  };
  for_lanes(n, [&](int64_t i) { lanes(i, Vec::lanes); }, lanes);
  const Vec highest = broadcast(max_lane(most));
  return 1.0f / sum_lanes(whole_vectors(n), [&](int64_t i, int) {
           const Vec e = exp(load(p + i) - highest);
           store(p + i, e);
           return e;
         });
}
template <class T>
void softmax(const T* x, int64_t n, float* p) {
  const Vec by = broadcast(exponentials(x, n, p));
  for (int64_t i = 0; i < n; i += Vec::lanes) store(p + i, load(p + i) * by);
}

// A row's p and q, and q of every subclass's class.
struct Row {
  float *p, *q, *of_parent;

  Row(const HierarchyProbsArgs& a, float* room)
      : p(room), q(p + whole_vectors(a.S)), of_parent(q + whole_vectors(a.C)) {}
  static int64_t floats(const HierarchyProbsArgs& a) { return 2 * whole_vectors(a.S) + whole_vectors(a.C); }

  template <class T>
  void fill(const HierarchyProbsArgs& a, int64_t i) {
    softmax(static_cast<const T*>(a.z) + i * a.z_stride, a.C, q);
    softmax(static_cast<const T*>(a.x) + i * a.x_stride, a.S, p);
    for (int64_t s = 0; s < a.S; ++s) of_parent[s] = q[a.parents[s]];
    for (int64_t s = a.S; s < whole_vectors(a.S); ++s) of_parent[s] = 0.0f;
  }
};

template <class T>
void forward_row(const HierarchyProbsArgs& a, int64_t i, Row& row) {
  row.fill<T>(a, i);
  T* out = static_cast<T*>(a.out) + i * a.S;
  const auto lanes = [&](int64_t s, int k) { store(out + s, load(row.p + s) * load(row.of_parent + s), k); };
  for_lanes(a.S, [&](int64_t s) { lanes(s, Vec::lanes); }, lanes);
}

template <class T>
void backward_row(const HierarchyProbsBackwardArgs& args, int64_t i, Row& row, float* g, float* w) {
  const HierarchyProbsArgs& a = args.forward;
  row.fill<T>(a, i);
  const T* dout = static_cast<const T*>(args.dout) + i * a.S;
  const float t = sum_lanes(a.S, [&](int64_t s, int k) {
    const Vec v = load(dout + s, k), weighted = v * load(row.p + s);
    store(g + s, weighted);
    return weighted * load(row.of_parent + s);
  });
  T* dx = static_cast<T*>(args.dx) + i * a.S;
  const auto of_x = [&](int64_t s, int k) {
    const Vec p = load(row.p + s);
    store(dx + s, load(g + s) * load(row.of_parent + s) - p * broadcast(t), k);
  };
  for_lanes(a.S, [&](int64_t s) { of_x(s, Vec::lanes); }, of_x);
  for (int64_t c = 0; c < whole_vectors(a.C); ++c) w[c] = 0.0f;
  for (int64_t s = 0; s < a.S; ++s) w[a.parents[s]] += g[s];
  T* dz = static_cast<T*>(args.dz) + i * a.C;
  const auto of_z = [&](int64_t c, int k) { store(dz + c, load(row.q + c) * (load(w + c) - broadcast(t)), k); };
  for_lanes(a.C, [&](int64_t c) { of_z(c, Vec::lanes); }, of_z);
}

// row(i, Row, room for `more` floats) for all rows, on all threads.
template <class Body>
void each_row(const HierarchyProbsArgs& a, int64_t more, const Body& body) {
  bool ready = true;
  parallel_for(a.N, 1 + kGrainElements / (a.S + a.C), [&](int64_t begin, int64_t end) {
    const Scratch memory((Row::floats(a) + more) * 4);
    if (!memory.ready()) return __atomic_store_n(&ready, false, __ATOMIC_RELAXED);
    Row row(a, memory.as<float>());
    for (int64_t i = begin; i < end; ++i) body(i, row, memory.as<float>() + Row::floats(a));
  });
  if (!ready) out_of_memory();
}

}  // namespace

void hierarchy_probs(const HierarchyProbsArgs& a) {
  with_type(a.dtype,
            [&](auto t) { each_row(a, 0, [&](int64_t i, Row& row, float*) { forward_row<decltype(t)>(a, i, row); }); });
}

void hierarchy_probs_backward(const HierarchyProbsBackwardArgs& args) {
  const HierarchyProbsArgs& a = args.forward;
  const int64_t S = whole_vectors(a.S);
  with_type(a.dtype, [&](auto t) {
    each_row(a, S + whole_vectors(a.C),
             [&](int64_t i, Row& row, float* room) { backward_row<decltype(t)>(args, i, row, room, room + S); });
  });
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
