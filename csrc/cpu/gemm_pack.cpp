// SPDX-License-Identifier: Apache-2.0
#include "gemm.h"
#include "gemm_lanes.h"
#include "quantize.h"
#include "transpose.h"
#include "vec.h"

namespace prestissimo::cpu::PRESTISSIMO_ISA {
namespace {

// How values lie in 64 bytes of a packed row. fill(x, out) converts one line of kValues consecutive values; it may be
// given values of any source type that the form takes.
struct FloatForm {
  static constexpr int kValues = 16;
  static constexpr bool kPermuted = false;
  template <class T>
  static void fill(const T* x, char* out) {
    for (int i = 0; i < kValues; i += Vec::lanes) store(reinterpret_cast<float*>(out) + i, load(x + i));
  }
};
struct Bfloat16Form {
  static constexpr int kValues = 32;
  static constexpr bool kPermuted = false;
  static void fill(const bfloat16* x, char* out) { memcpy(out, x, kLineBytes); }
#if defined(__AVX512F__)
  // Sixteen columns of two rows k and k + 1, as pairs.
  static void pairs(const bfloat16* x, const bfloat16* next, char* out) {
    const auto wide = [](const bfloat16* p) {
      return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    };
    _mm512_storeu_si512(out, _mm512_or_si512(wide(x), _mm512_slli_epi32(wide(next), 16)));
  }
#endif
  template <class T>
  static void pairs(const T* x, const T* next, char* out) {
#if defined(__AVX512BF16__)
    _mm512_storeu_si512(out, interleave_halves((__m512i)_mm512_cvtne2ps_pbh(load(next).v, load(x).v)));
#else
    bfloat16 rows[2][16], together[kValues];
    for (int i = 0; i < 16; i += Vec::lanes) store(rows[0] + i, load(x + i)), store(rows[1] + i, load(next + i));
    for (int j = 0; j < 16; ++j) together[2 * j] = rows[0][j], together[2 * j + 1] = rows[1][j];
    memcpy(out, together, kLineBytes);
#endif
  }
  template <class T>
  static void fill(const T* x, char* out) {
#if defined(__AVX512BF16__)
    // This instruction flushes subnormals, and so does the dot product that reads them.
    const __m512bh pairs = _mm512_cvtne2ps_pbh(load(x + 16).v, load(x).v);
    memcpy(out, &pairs, kLineBytes);
#else
    for (int i = 0; i < kValues; i += Vec::lanes) store(reinterpret_cast<bfloat16*>(out) + i, load(x + i));
#endif
  }
};
// Rounded to bfloat16 and widened again: the operands of a product are the same on every ISA.
struct WidenedBfloat16Form {
  static constexpr int kValues = 16;
  static constexpr bool kPermuted = false;
  template <class T>
  static void fill(const T* x, char* out) {
    bfloat16 rounded[kValues];
    for (int i = 0; i < kValues; i += Vec::lanes) store(rounded + i, load(x + i));
    FloatForm::fill(rounded, out);
  }
};
struct Int8Form {
  static constexpr int kValues = 64;
  static constexpr bool kPermuted = false;
  static void fill(const int8_t* x, char* out) { memcpy(out, x, kLineBytes); }
};
struct OffsetInt8Form {
  static constexpr int kValues = 64;
  static constexpr bool kPermuted = false;
  static void fill(const int8_t* x, char* out) {
    for (int i = 0; i < kValues; ++i) out[i] = static_cast<char>(x[i] ^ -128);
  }
};
struct Int16Form {
  static constexpr int kValues = 32;
  static constexpr bool kPermuted = true;
  static void fill(const int8_t* x, char* out) {
    for (int i = 0; i < kValues; i += 4) {
      const int16_t step[] = {x[i], x[i + 2], x[i + 1], x[i + 3]};
      memcpy(out + 2 * i, step, sizeof step);
    }
  }
};

// The dwords that a form takes as they lie; null for others.
template <class Form, class T>
const uint32_t* words(const T*) {
  return nullptr;
}
template <>
const uint32_t* words<FloatForm>(const float* x) {
  return reinterpret_cast<const uint32_t*>(x);
}

// Form, from values of type T. A line is kValues values of k of one row or column, 16 dwords; where neighbours in
// memory are neighbouring rows or columns instead, dwords of them side by side are a step.
template <class Form, class T>
struct Packing {
  static constexpr int kStep = Form::kValues / 16;  // values in a dword

  // From k0 on; zeros beyond K.
  static void line(const T* x, const Source& s, int64_t k0, int64_t K, char* out) {
    if (k0 + Form::kValues <= K && s.together(k0, Form::kValues)) return Form::fill(x + s.place(k0), out);
    T values[Form::kValues] = {};
    const int64_t n = K - k0 < Form::kValues ? K - k0 : Form::kValues;
    for (int64_t i = 0; i < n; ++i) values[i] = x[s.place(k0 + i)];
    Form::fill(values, out);
  }

  // Sixteen neighbours of one step: rows k0 to k0 + kStep of the source, zeros beyond K.
  static void sixteen(const T* x, int64_t stride_k, int64_t k0, int64_t K, char* out) {
    if (k0 >= K) {
      memset(out, 0, kLineBytes);
    } else if constexpr (kStep == 1) {
      Form::fill(x + k0 * stride_k, out);
    } else if constexpr (kStep == 2) {
      const T none[16] = {};
      Form::pairs(x + k0 * stride_k, k0 + 1 < K ? x + (k0 + 1) * stride_k : none, out);
    } else {
      T values[Form::kValues] = {};
      for (int64_t i = 0; i < kStep && k0 + i < K; ++i)
        for (int j = 0; j < 16; ++j) values[kStep * j + i] = x[(k0 + i) * stride_k + j];
      Form::fill(values, out);
    }
  }

  // The same of `n` neighbours, at most `width`, a multiple of sixteen.
  static void step(const T* x, int64_t stride_k, int64_t k0, int64_t K, int n, int width, char* out) {
    T values[kStep][kPanel];
    if (n < width) {
      memset(values, 0, sizeof values);
      for (int64_t i = 0; i < kStep && k0 + i < K; ++i)
        memcpy(values[i], x + (k0 + i) * stride_k, sizeof(T) * static_cast<size_t>(n));
      x = values[0], stride_k = kPanel, K -= k0, k0 = 0;
    }
    for (int j = 0; j < width; j += 16) sixteen(x + j, stride_k, k0, K, out + j * 4);
  }

  // `n` rows from x on, their lines `stride` bytes apart.
  static void side_by_side(const T* x, const Source& s, int64_t n, int64_t K, char* out, int64_t stride) {
    for (int64_t k0 = 0; k0 < K; k0 += Form::kValues, out += stride) {
      const int64_t place = s.place(k0);
      const bool whole = k0 + Form::kValues <= K && s.together(k0, Form::kValues);
      for (int64_t r = 0; r < n; ++r) {
        const T* row = x + r * s.stride;
        if (whole)
          Form::fill(row + place, out + r * kLineBytes);
        else
          line(row, s, k0, K, out + r * kLineBytes);
      }
    }
  }

  static void rows(const PackedA& a, const Source& s, int64_t first_panel, int64_t last_panel) {
    const T* x = static_cast<const T*>(s.data);
    for (int64_t p = first_panel; p < last_panel; ++p)
      side_by_side(x + a.first(p) * s.stride, s, a.rows(p), a.K, a.panel(p), a.rows(p) * kLineBytes);
  }

  static void lines(const Source& s, int64_t M, int64_t K, char* out) {
    constexpr int64_t kAtOnce = 16;  // lines of rows that the first-level cache keeps
    const T* x = static_cast<const T*>(s.data);
    for (int64_t m = 0; m < M; m += kAtOnce)
      side_by_side(x + m * s.stride, s, M - m < kAtOnce ? M - m : kAtOnce, K, out + m * kLineBytes, M * kLineBytes);
  }

  // Where the rows are neighbours in memory: a line of all panels, then the next, so that what is read lies along
  // some rows of the source and not down all of them, a page each.
  static void rows_across(const PackedA& a, const Source& s, int64_t first_panel, int64_t last_panel) {
    const T* x = static_cast<const T*>(s.data);
    for (int64_t l = 0; l < a.lines(); ++l)
      for (int64_t p = first_panel; p < last_panel; ++p) {
        const int64_t first = a.first(p), left = a.M - first;
        const int n = a.rows(p), readable = left < 16 ? static_cast<int>(left) : 16;
        const int64_t k0 = l * Form::kValues;
        alignas(64) uint32_t steps[16][16], lines[16][16];
        const uint32_t* from = nullptr;
        if (readable == 16 && k0 + 16 <= a.K) from = words<Form>(x + first + k0 * s.stride_k);
        for (int i = 0; i < 16 && !from; ++i)
          step(x + first, s.stride_k, k0 + i * kStep, a.K, readable, 16, reinterpret_cast<char*>(steps[i]));
        // Lines of rows that the panel has not fall on the next ones, where there are such: those are written later.
        char* out = a.panel(p) + l * n * kLineBytes;
        const bool room = (a.lines() - l) * n >= 16;
        transpose(from ? from : steps[0], from ? s.stride_k : 16, 16, 16,
                  room ? reinterpret_cast<uint32_t*>(out) : lines[0], 16);
        if (!room) memcpy(out, lines, static_cast<size_t>(n) * kLineBytes);
      }
  }

  static void columns(const PackedB& b, const Source& s, int64_t first_panel, int64_t last_panel) {
    const T* x = static_cast<const T*>(s.data);
    for (int64_t p = first_panel; p < last_panel; ++p) {
      const int n = b.columns(p);
      auto* out = reinterpret_cast<uint32_t*>(b.panel(p));
      for (int64_t done = 0; done < b.steps(); done += 16, out += 16 * kPanel) {
        alignas(64) uint32_t lines[kPanel][16];
        if (n < kPanel) memset(lines, 0, sizeof lines);
        for (int j = 0; j < n; ++j)
          line(x + (p * kPanel + j) * s.stride, s, done / 16 * Form::kValues, b.K, reinterpret_cast<char*>(lines[j]));
        if (b.steps() - done >= 16) {
          transpose(lines[0], 16, kPanel, 16, out, kPanel);
          continue;
        }
        alignas(64) uint32_t steps[16][kPanel];
        transpose(lines[0], 16, kPanel, 16, steps[0], kPanel);
        memcpy(out, steps, static_cast<size_t>(b.steps() - done) * kStepBytes);
      }
    }
  }

  // Where the columns are neighbours in memory; in the order of rows_across.
  static void column_rows(const PackedB& b, const Source& s, int64_t first_panel, int64_t last_panel) {
    const T* x = static_cast<const T*>(s.data);
    for (int64_t first = 0; first < b.steps(); first += 16) {
      const int64_t last = first + 16 < b.steps() ? first + 16 : b.steps();
      for (int64_t p = first_panel; p < last_panel; ++p)
        for (int64_t i = first; i < last; ++i)
          step(x + p * kPanel, s.stride_k, i * kStep, b.K, b.columns(p), kPanel, b.panel(p) + i * kStepBytes);
    }
  }
};

template <class Form, class T>
void pack(const PackedA& a, const Source& s, int64_t first_panel, int64_t last_panel) {
  if constexpr (!Form::kPermuted)
    if (s.stride == 1 && s.stride_k != 1) return Packing<Form, T>::rows_across(a, s, first_panel, last_panel);
  Packing<Form, T>::rows(a, s, first_panel, last_panel);
}
template <class Form, class T>
void pack(const PackedB& b, const Source& s, int64_t first_panel, int64_t last_panel) {
  if (s.stride == 1 && s.stride_k != 1)
    Packing<Form, T>::column_rows(b, s, first_panel, last_panel);
  else
    Packing<Form, T>::columns(b, s, first_panel, last_panel);
}

template <class Form, class Packed>
void pack_floats(const Packed& p, const Source& s, int64_t first_panel, int64_t last_panel) {
  switch (s.dtype) {
    case DType::bfloat16: return pack<Form, bfloat16>(p, s, first_panel, last_panel);
    case DType::float16: return pack<Form, float16>(p, s, first_panel, last_panel);
    default: return pack<Form, float>(p, s, first_panel, last_panel);
  }
}

template <class Form>
void lines_of_floats(const Source& s, int64_t M, int64_t K, void* out) {
  auto* to = static_cast<char*>(out);
  switch (s.dtype) {
    case DType::bfloat16: return Packing<Form, bfloat16>::lines(s, M, K, to);
    case DType::float16: return Packing<Form, float16>::lines(s, M, K, to);
    default: return Packing<Form, float>::lines(s, M, K, to);
  }
}

void sum_columns(const PackedB& b, int64_t p) {
  int32_t sums[kPanel] = {};
  const auto* x = reinterpret_cast<const int8_t*>(b.panel(p));
  for (int64_t step = 0; step < b.steps(); ++step, x += kStepBytes)
    for (int j = 0; j < kPanel; ++j) sums[j] += x[4 * j] + x[4 * j + 1] + x[4 * j + 2] + x[4 * j + 3];
  for (int j = 0; j < kPanel; ++j) b.offsets()[p * kPanel + j] = -128 * sums[j];
}

#if defined(__AVX512BF16__) && defined(__AVX512VNNI__)
using Bfloat16Rows = Bfloat16Form;
using Int8Rows = OffsetInt8Form;
#else
using Bfloat16Rows = WidenedBfloat16Form;
using Int8Rows = Int16Form;
#endif

// Adding 1.5 * 2^23 leaves the number, rounded to nearest even, in the low bits of the sum.
template <class T>
void quantize_line(const T* x, float by, int8_t* out) {
  constexpr int kValues = Int8Rows::kValues;
  float sums[kValues];
  for (int i = 0; i < kValues; i += Vec::lanes) store(sums + i, load(x + i) * broadcast(by) + broadcast(0x1.8p23f));
  for (int i = 0; i < kValues; ++i) out[i] = static_cast<int8_t>(float_to_bits(sums[i]));
}

// Over all groups of a row.
template <class T>
float largest(const T* x, const Source& s, int64_t K) {
  if (!s.group) return largest_magnitude(x, K);
  float m = 0.0f;
  for (int64_t k = 0; k < K; k += s.group, x += s.group_stride) {
    const float of_group = largest_magnitude(x, s.group);
    m = m > of_group || m != m ? m : of_group;  // NaN stays
  }
  return m;
}

template <class T>
void quantize_rows(const PackedA& a, const Source& s, float* scales, int64_t first_panel, int64_t last_panel) {
  constexpr int kValues = Int8Rows::kValues;
  const bool lines_together = s.group % kValues == 0;
  for (int64_t p = first_panel; p < last_panel; ++p) {
    const int64_t first = a.first(p), n = a.rows(p);
    for (int64_t r = 0; r < n; ++r) {
      const T* x = static_cast<const T*>(s.data) + (first + r) * s.stride;
      const Int8Scale of_row(largest(x, s, a.K));
      scales[first + r] = of_row.scale;
      char* out = a.panel(p) + r * kLineBytes;
      const T* next = x;
      int64_t left = s.group;
      for (int64_t k = 0; k < a.K; k += kValues, out += n * kLineBytes) {
        int8_t line[kValues];
        if (k + kValues <= a.K && lines_together) {
          quantize_line(next, of_row.by, line);
          next += kValues, left -= kValues;
          if (left == 0) next += s.group_stride - s.group, left = s.group;
        } else {
          T values[kValues] = {};
          for (int64_t i = k; i < a.K && i < k + kValues; ++i) values[i - k] = x[s.place(i)];
          quantize_line(values, of_row.by, line);
        }
        Int8Rows::fill(line, out);
      }
    }
  }
}

}  // namespace

void pack_b(const PackedB& b, const Source& s, int64_t first_panel, int64_t last_panel) {
  switch (b.dot) {
    case Dot::float32: return pack_floats<FloatForm>(b, s, first_panel, last_panel);
    case Dot::bfloat16: return pack_floats<Bfloat16Form>(b, s, first_panel, last_panel);
    case Dot::int8:
      pack<Int8Form, int8_t>(b, s, first_panel, last_panel);
      for (int64_t p = first_panel; p < last_panel; ++p) sum_columns(b, p);
  }
}

void pack_a(const PackedA& a, const Source& s, int64_t first_panel, int64_t last_panel) {
  switch (a.dot) {
    case Dot::float32: return pack_floats<FloatForm>(a, s, first_panel, last_panel);
    case Dot::bfloat16: return pack_floats<Bfloat16Rows>(a, s, first_panel, last_panel);
    case Dot::int8: return pack<Int8Rows, int8_t>(a, s, first_panel, last_panel);
  }
}

void pack_lines(Dot dot, const Source& s, int64_t M, int64_t K, void* out) {
  if (dot == Dot::bfloat16)
    lines_of_floats<Bfloat16Rows>(s, M, K, out);
  else
    lines_of_floats<FloatForm>(s, M, K, out);
}

void quantize_a(const PackedA& a, const Source& s, float* scales, int64_t first_panel, int64_t last_panel) {
  switch (s.dtype) {
    case DType::bfloat16: return quantize_rows<bfloat16>(a, s, scales, first_panel, last_panel);
    case DType::float16: return quantize_rows<float16>(a, s, scales, first_panel, last_panel);
    default: return quantize_rows<float>(a, s, scales, first_panel, last_panel);
  }
}

}  // namespace prestissimo::cpu::PRESTISSIMO_ISA
