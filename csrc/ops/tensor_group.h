// SPDX-License-Identifier: Apache-2.0
// Lists of tensors, such as a model's parameters and their gradients: one dtype, one device, any shapes. A kernel takes
// them in groups whose addresses fit its own parameters, so that nothing is copied to a GPU ahead of it.
#pragma once
#include <string>

#include "../array.h"

namespace prestissimo {

constexpr int kMostTensors = 64;      // of a group
constexpr int64_t kListBlock = 4096;  // elements of one tensor that make a block

// N tensors of one size beside each other, such as a parameter and its gradient, at each place of the list.
template <int N>
struct TensorGroup {
  void* data[N][kMostTensors];
  int64_t sizes[kMostTensors];
  int32_t first_blocks[kMostTensors + 1];  // tensor i has blocks first_blocks[i] to first_blocks[i + 1] of the group
  int32_t count;
};

inline int64_t list_blocks(int64_t size) { return (size + kListBlock - 1) / kListBlock; }

// The first of a list, by which the others are checked.
inline const Array& first_of(const char* op, const char* name, ArrayList list) {
  if (list.size() == 0) fail(op, std::string(name) + " must hold at least one array");
  return list[0];
}

// Each contiguous, and of the dtype and device of the first array of the call; of the shapes of `like` where given.
inline void check_list(const char* op, const Checker& check, const char* name, ArrayList list,
                       const ArrayList* like = nullptr) {
  if (like && list.size() != like->size())
    fail(op, std::string(name) + " must hold " + std::to_string(like->size()) + " arrays, got " +
                 std::to_string(list.size()));
  for (int64_t i = 0; i < list.size(); ++i) {
    const Array& a = list[i];
    const std::string element = std::string(name) + "[" + std::to_string(i) + "]";
    if (like) {
      bool same = a.ndim == (*like)[i].ndim;
      for (int d = 0; same && d < a.ndim; ++d) same = a.shape[d] == (*like)[i].shape[d];
      if (!same) fail(op, element + " must be " + shape_text((*like)[i]) + ", got " + shape_text(a));
    }
    check.same_dtype(element.c_str(), a).same_device(element.c_str(), a).contiguous(element.c_str(), a);
  }
}

// One float32, without dimensions.
inline void check_number(const Checker& check, const char* name, const Array& a) {
  check.shape(name, a, {}).dtype(name, a, DType::float32).same_device(name, a);
}

// Host code, as all above and below: whether every tensor of a group begins at a multiple of 16 bytes.
template <int N>
bool all_aligned_16(const TensorGroup<N>& g) {
  for (int n = 0; n < N; ++n)
    for (int i = 0; i < g.count; ++i)
      if (reinterpret_cast<uintptr_t>(g.data[n][i]) % 16 != 0) return false;
  return true;
}

// run(group, last) on groups of the tensors at each place of N lists of equal shapes; at least one group, maybe empty.
template <int N, class Run>
void for_groups(const ArrayList (&lists)[N], const Run& run) {
  const int64_t count = lists[0].size();
  TensorGroup<N> group{};
  int64_t i = 0;
  do {
    group.count = 0;
    int64_t blocks = 0;
    for (; i < count && group.count < kMostTensors; ++i) {
      const int64_t size = lists[0][i].numel();
      if (size == 0) continue;
      for (int n = 0; n < N; ++n) group.data[n][group.count] = lists[n][i].data;
      group.sizes[group.count] = size;
      group.first_blocks[group.count++] = static_cast<int32_t>(blocks);
      blocks += list_blocks(size);
    }
    group.first_blocks[group.count] = static_cast<int32_t>(blocks);
    run(group, i == count);
  } while (i < count);
}

}  // namespace prestissimo
