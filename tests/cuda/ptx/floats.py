# SPDX-License-Identifier: Apache-2.0
"""Floating-point arithmetic: exactly rounded where PTX says so; .approx within its documented error, either
way.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import formats
from .formats import TYPES, Array, Type
from .instructions import opcode
from .machine import Execution, Step
from .program import Instruction, Operand

_ROUNDING = ("rn", "rz", "rm", "rp")


class _Format:
    """Reads and writes one floating type as float64 lanes (two for packed types), with .ftz and .sat."""

    def __init__(self, run: Execution, ins: Instruction, t: Type) -> None:
        self.run, self.t = run, t
        self.ftz = ins.flag("ftz")
        self.sat = ins.flag("sat")
        self.mode = ins.choice(*_ROUNDING, default="rn")
        if self.ftz and t.name != "f32":
            raise ins.fail(f".ftz of .{t.name}")
        if self.mode != "rn" and t.name not in ("f32", "f64"):
            raise ins.fail(f".{self.mode} of .{t.name}")
        if self.mode != "rn" and t.name == "f64":
            raise ins.fail(".f64 is rounded to nearest only")

    def reader(self, operand: Operand) -> Callable[[Array], Array]:
        """Values as float64 [n] or [n, 2]: exact for every type."""
        read, name = self.run.reader(operand, self.t), self.t.name
        if name == "bf16":
            return lambda i: formats.bf16_to_f32(read(i)).astype(np.float64)
        if name == "bf16x2":
            return lambda i: formats.bf16_to_f32(formats.split_halves(read(i))).astype(np.float64)
        if name == "f16x2":
            return lambda i: formats.split_halves(read(i)).view(np.float16).astype(np.float64)
        if self.ftz:
            return lambda i: formats.flush(read(i)).astype(np.float64)
        return lambda i: read(i).astype(np.float64)

    def writer(self, operand: Operand) -> Callable[[Array, Array], None]:
        """float64 results that are exact or rounded to odd, rounded once to the type."""
        put = self.run.writer(operand, self.t)
        return lambda i, v: put(i, self.round(v))

    def round(self, v: Array) -> Array:
        name = self.t.name
        if name in ("bf16", "bf16x2"):
            v = formats.saturate(v) if self.sat else v
            bits = formats.round_bf16(v)
            return bits if name == "bf16" else formats.join_halves(bits)
        if name in ("f16", "f16x2"):
            v = formats.saturate(v) if self.sat else v
            half = v.astype(np.float16)
            return half if name == "f16" else formats.join_halves(half.view(np.uint16))
        if name == "f64":
            return formats.saturate(v) if self.sat else v
        y = formats.round_f32(v, self.mode)
        y = formats.flush(y) if self.ftz else y
        return formats.saturate(y) if self.sat else y


def _minimum(a: Array, b: Array) -> Array:
    """The number where one is NaN; -0 below +0."""
    return np.where((a == b) & np.signbit(a), a, np.fmin(b, a))


def _maximum(a: Array, b: Array) -> Array:
    return np.where((a == b) & ~np.signbit(a), a, np.fmax(b, a))


def _sum(a: Array, b: Array) -> Array:
    return formats.to_odd(*formats.two_sum(a, b))


_ARITHMETIC: dict[str, Callable[[Array, Array], Array]] = {
    "add": _sum,
    "sub": lambda a, b: _sum(a, -b),
    "mul": lambda a, b: a * b,  # exact in float64 for the narrower types
    "min": _minimum,
    "max": _maximum,
}
_NATIVE: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
}


def arithmetic(run: Execution, ins: Instruction, t: Type) -> Step:
    """add, sub, mul, min, max."""
    native = _NATIVE.get(ins.opcode) if t.name == "f32" and ins.modifiers in ([], ["rn"]) else None
    if native is not None:  # NumPy's float32 operations are the exactly rounded ones
        ins.modifiers.clear()
        a, b = run.reader(ins.operands[1], t), run.reader(ins.operands[2], t)
        plain = run.writer(ins.operands[0], t)
        return lambda i: plain(i, native(a(i), b(i)))
    if t.name == "f64":
        return _double(run, ins, t)
    propagate = ins.opcode in ("min", "max") and ins.flag("NaN")
    f = _Format(run, ins, t)
    a, b, put = f.reader(ins.operands[1]), f.reader(ins.operands[2]), f.writer(ins.operands[0])
    compute = _ARITHMETIC[ins.opcode]

    def step(i: Array) -> None:
        x, y = a(i), b(i)
        result = compute(x, y)
        put(i, np.where(np.isnan(x) | np.isnan(y), np.nan, result) if propagate else result)

    return step


def _double(run: Execution, ins: Instruction, t: Type) -> Step:
    """.f64 in its own precision, to nearest."""
    ins.flag("rn")
    compute = _NATIVE.get(ins.opcode) or _ARITHMETIC[ins.opcode]
    a, b = run.reader(ins.operands[1], t), run.reader(ins.operands[2], t)
    put = run.writer(ins.operands[0], t)
    return lambda i: put(i, compute(a(i), b(i)))


def fused(run: Execution, ins: Instruction, t: Type) -> Step:
    """a b + c rounded once."""
    if t.name == "f64":
        raise ins.fail("fma.f64 is not supported")
    relu = ins.flag("relu")
    f = _Format(run, ins, t)
    a, b, c = (f.reader(o) for o in ins.operands[1:4])
    put = f.writer(ins.operands[0])

    def step(i: Array) -> None:
        r = formats.fma_to_odd(a(i), b(i), c(i))
        put(i, np.where(np.isnan(r), r, np.maximum(r, 0)) if relu else r)

    return step


opcode("fma")(lambda run, ins: fused(run, ins, ins.type()))


def unary(run: Execution, ins: Instruction, t: Type) -> Step:
    """neg, abs: the sign bit, whatever the rest; with .ftz subnormals go."""
    ftz = ins.flag("ftz")
    bits = TYPES[f"b{8 * t.bytes}"]
    sign = {2: 0x8000, 8: 1 << 63}.get(t.bytes, 0x80008000 if t.kind == "h" else 0x80000000)
    mask = bits.dtype.type(sign)
    read, put = run.reader(ins.operands[1], bits), run.writer(ins.operands[0], bits)

    def step(i: Array) -> None:
        v = read(i)
        v = formats.flush(np.ascontiguousarray(v).view(np.float32)).view(np.uint32) if ftz else v
        put(i, v ^ mask if ins.opcode == "neg" else v & ~mask)

    return step


# ---- division, roots, transcendental functions -------------------------------------------------------------

# Documented maximal errors of the .approx forms: relative, or absolute where marked.
_APPROXIMATE: dict[str, tuple[Callable[[Array], Array], float, bool]] = {
    "rcp": (lambda x: 1 / x, 2.0**-23, False),
    "sqrt": (np.sqrt, 2.0**-23, False),
    "rsqrt": (lambda x: 1 / np.sqrt(x), 2.0**-22.9, False),
    "ex2": (np.exp2, 2.0**-22, False),
    "lg2": (np.log2, 2.0**-22, True),
    "sin": (np.sin, 2.0**-20.5, True),
    "cos": (np.cos, 2.0**-20.5, True),
    "tanh": (np.tanh, 2.0**-11, False),
}


def _disturb(run: Execution, exact: Array, bound: float, absolute: bool) -> Array:
    """The result off by its documented error, in the direction that the options ask for."""
    step = run.options.approximate * bound
    if not step:
        return exact
    off = exact + step if absolute else exact * (1 + step)
    return np.where(np.isfinite(exact) & (exact != 0), off, exact)


def divide(run: Execution, ins: Instruction, t: Type) -> Step:
    if t.name not in ("f32", "f64"):
        raise ins.fail(f"div.{t.name}")
    kind = ins.choice("full", "approx", "rn")
    f = _Format(run, ins, t)
    a, b, put = f.reader(ins.operands[1]), f.reader(ins.operands[2]), f.writer(ins.operands[0])
    loose = kind != "rn"

    def step(i: Array) -> None:
        # float64's own rounding of a quotient of float32 values is innocuous: 53 >= 2 * 24 + 2 bits
        q = a(i) / b(i)
        put(i, _disturb(run, q, 2.0**-22, False) if loose else q)

    return step


@opcode("rcp", "sqrt", "rsqrt", "ex2", "lg2", "sin", "cos", "tanh")
def function(run: Execution, ins: Instruction) -> Step:
    t = ins.type()
    if t.name != "f32":
        raise ins.fail(f"{ins.opcode}.{t.name}")
    compute, bound, absolute = _APPROXIMATE[ins.opcode]
    exact = ins.opcode in ("rcp", "sqrt") and any(m in ins.modifiers for m in _ROUNDING)
    if not exact and not ins.flag("approx"):
        raise ins.fail(f"{ins.opcode} is .approx or has a rounding mode")
    f = _Format(run, ins, t)
    a, put = f.reader(ins.operands[1]), f.writer(ins.operands[0])

    def step(i: Array) -> None:
        value = compute(a(i))
        put(i, value if exact else _disturb(run, value, bound, absolute))

    return step


@opcode("copysign")
def copysign(run: Execution, ins: Instruction) -> Step:
    """The magnitude of b with the sign of a."""
    t = ins.type()
    a, b = run.reader(ins.operands[1], t), run.reader(ins.operands[2], t)
    put = run.writer(ins.operands[0], t)
    return lambda i: put(i, np.copysign(b(i), a(i)))


@opcode("testp")
def test_property(run: Execution, ins: Instruction) -> Step:
    kind = ins.choice("finite", "infinite", "number", "notanumber", "normal", "subnormal")
    t = ins.type()
    a, put = run.reader(ins.operands[1], t), run.writer(ins.operands[0], TYPES["pred"])
    tiny = np.finfo(t.dtype).tiny
    tests: dict[str, Callable[[Array], Array]] = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda x: ~np.isnan(x),
        "notanumber": np.isnan,
        "normal": lambda x: np.isfinite(x) & (np.abs(x) >= tiny),
        "subnormal": lambda x: (x != 0) & (np.abs(x) < tiny),
    }
    return lambda i: put(i, tests[kind](a(i)))


# ---- comparison --------------------------------------------------------------------------------------------

_COMPARE: dict[str, Callable[[Array, Array], Array]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
_UNSIGNED_NAMES = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
_UNORDERED = {f"{name}u": name for name in _COMPARE}


def _comparison(run: Execution, ins: Instruction, t: Type) -> Callable[[Array], Array]:
    name = ins.choice("num", "nan", *_UNORDERED, *_UNSIGNED_NAMES, *_COMPARE)
    if not t.is_float:
        a, b = run.reader(ins.operands[1], t), run.reader(ins.operands[2], t)
        compare = _COMPARE.get(_UNSIGNED_NAMES.get(name, name))
        if compare is None:
            raise ins.fail(f"comparison .{name} of integers")
        return lambda i: compare(a(i), b(i))
    f = _Format(run, ins, t)
    x, y = f.reader(ins.operands[1]), f.reader(ins.operands[2])

    def unordered(p: Array, q: Array) -> Array:
        return np.isnan(p) | np.isnan(q)

    if name == "num":
        return lambda i: ~unordered(x(i), y(i))
    if name == "nan":
        return lambda i: unordered(x(i), y(i))
    if name in _UNORDERED:
        loose = _COMPARE[_UNORDERED[name]]
        return lambda i: loose(x(i), y(i)) | unordered(x(i), y(i))
    strict = _COMPARE[name]
    return lambda i: strict(x(i), y(i)) & ~unordered(x(i), y(i))


@opcode("setp")
def set_predicate(run: Execution, ins: Instruction) -> Step:
    """p = a ? b, q = !(a ? b), each combined with a third predicate where there is one."""
    t = ins.type()
    combine = ins.choice("and", "or", "xor", default="")
    test = _comparison(run, ins, t)
    if t.kind == "h":
        raise ins.fail("packed comparison into predicates")
    joined = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}.get(combine)
    third = run.predicate(ins.operands[3]) if joined else None
    targets = [run.writer(d, TYPES["pred"]) for d in str(ins.operands[0]).split("|")]

    def step(i: Array) -> None:
        r = test(i)
        for k, put in enumerate(targets):
            v = ~r if k else r
            put(i, joined(v, third(i)) if joined and third else v)

    return step


@opcode("set")
def set_value(run: Execution, ins: Instruction) -> Step:
    """1.0 or all ones where the comparison holds, for each half of packed types."""
    t = ins.type()
    result = ins.type()
    test = _comparison(run, ins, t)
    put = run.writer(ins.operands[0], result)
    true = {"f16x2": 0x3C00, "bf16x2": 0x3F80}.get(result.name)

    def step(i: Array) -> None:
        r = test(i)
        if t.kind == "h":
            one = np.uint16(true if true else 0xFFFF)
            put(i, formats.join_halves(np.where(r, one, np.uint16(0))))
        elif result.name == "f32":
            put(i, r.astype(np.float32))
        else:
            ones = result.dtype.type(-1 if result.signed else (1 << 8 * result.bytes) - 1)
            put(i, np.where(r, ones, result.dtype.type(0)))

    return step
