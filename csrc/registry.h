// SPDX-License-Identifier: Apache-2.0
// Ops announce themselves: each csrc/ops/<op>.cpp ends with PRESTISSIMO_OP(function, "argument", ...), and the Python
// module binds whatever it finds here. There is no central list to edit.
#pragma once
#include <string_view>
#include <type_traits>
#include <utility>

#include "array.h"
#include "device.h"

namespace prestissimo {

enum class Kind : uint8_t { array, optional_array, array_list, real, integer, text };

// One argument as the binding hands it over; `kind` of the parameter says which member counts.
struct Value {
  Array array;
  bool present = false;  // an optional array that is not None
  ArrayList arrays;
  double real = 0;
  int64_t integer = 0;
  std::string_view text;
};

struct OpEntry {
  const char* name;
  const char* const* argument_names;
  const Kind* kinds;
  int arity;
  void (*call)(const Value*, Stream);
  OpEntry* next;
};

OpEntry*& first_op();

namespace detail {

template <class T>
struct Parameter;
template <>
struct Parameter<const Array&> {
  static constexpr Kind kind = Kind::array;
  static const Array& get(const Value& v) { return v.array; }
};
template <>
struct Parameter<const Array*> {
  static constexpr Kind kind = Kind::optional_array;
  static const Array* get(const Value& v) { return v.present ? &v.array : nullptr; }
};
template <>
struct Parameter<ArrayList> {
  static constexpr Kind kind = Kind::array_list;
  static ArrayList get(const Value& v) { return v.arrays; }
};
template <>
struct Parameter<double> {
  static constexpr Kind kind = Kind::real;
  static double get(const Value& v) { return v.real; }
};
template <>
struct Parameter<int64_t> {
  static constexpr Kind kind = Kind::integer;
  static int64_t get(const Value& v) { return v.integer; }
};
template <>
struct Parameter<std::string_view> {
  static constexpr Kind kind = Kind::text;
  static std::string_view get(const Value& v) { return v.text; }
};

template <auto Function, class Signature>
struct Binder;
template <auto Function, class... A>
struct Binder<Function, void (*)(Stream, A...)> {
  static constexpr int arity = sizeof...(A);
  static constexpr Kind kinds[] = {Parameter<A>::kind...};
  template <size_t... I>
  static void apply(const Value* v, Stream s, std::index_sequence<I...>) {
    Function(s, Parameter<A>::get(v[I])...);
  }
  static void call(const Value* v, Stream s) { apply(v, s, std::index_sequence_for<A...>{}); }
};

template <auto Function>
struct Registrar {
  using B = Binder<Function, decltype(Function)>;
  OpEntry entry;
  template <size_t N>
  Registrar(const char* name, const char* const (&names)[N])
      : entry{name, names, B::kinds, B::arity, &B::call, first_op()} {
    static_assert(N == B::arity, "one name for each argument of the op");
    first_op() = &entry;
  }
};

}  // namespace detail

// void function(Stream, arguments...), arguments being const Array&, const Array* (None allowed), ArrayList (a Python
// list or tuple of arrays), double, int64_t, text.
#define PRESTISSIMO_OP(function, ...)                              \
  static const char* const function##_arguments[] = {__VA_ARGS__}; \
  static const ::prestissimo::detail::Registrar<&function> function##_registrar(#function, function##_arguments);

}  // namespace prestissimo
