# SPDX-License-Identifier: Apache-2.0
"""Integer and bit instructions. add, sub, mul, min, max, neg and abs of floating types go on to floats.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import floats
from .formats import TYPES, Array, Type
from .instructions import opcode
from .machine import Execution, Step
from .program import Instruction

Binary = Callable[[Array, Array], Array]


def _binary(run: Execution, ins: Instruction, t: Type, f: Binary) -> Step:
    a, b = run.reader(ins.operands[1], t), run.reader(ins.operands[2], t)
    put = run.writer(ins.operands[0], t)
    return lambda i: put(i, f(a(i), b(i)))


def _unary(run: Execution, ins: Instruction, t: Type, result: Type, f: Callable[[Array], Array]) -> Step:
    a, put = run.reader(ins.operands[1], t), run.writer(ins.operands[0], result)
    return lambda i: put(i, f(a(i)))


def _wide(t: Type) -> Type:
    return TYPES[f"{t.kind}{16 * t.bytes}"]


def high_half(a: Array, b: Array) -> Array:
    """Upper half of the exact product."""
    bits = 8 * a.itemsize
    if bits == 64:
        return np.array([int(x) * int(y) >> 64 for x, y in zip(a, b, strict=True)], object).astype(a.dtype)
    wide = np.int64 if a.dtype.kind == "i" else np.uint64
    return ((a.astype(wide) * b.astype(wide)) >> wide(bits)).astype(a.dtype)


def _product(ins: Instruction, t: Type) -> tuple[Binary, Type]:
    mode = ins.choice("lo", "hi", "wide")
    if mode == "lo":
        return (lambda a, b: a * b), t
    if mode == "hi":
        return high_half, t
    w = _wide(t)
    return (lambda a, b: a.astype(w.dtype) * b.astype(w.dtype)), w


@opcode("add", "sub")
def add(run: Execution, ins: Instruction) -> Step:
    t = ins.type()
    if t.is_float:
        return floats.arithmetic(run, ins, t)
    subtract = ins.opcode == "sub"
    if ins.flag("cc"):
        return _carry(run, ins, t, subtract, carry_in=False, carry_out=True)
    if ins.flag("sat"):
        if t.name != "s32":
            raise ins.fail(".sat of integers is for .s32")

        def clamped(a: Array, b: Array) -> Array:
            wide = a.astype(np.int64) - b if subtract else a.astype(np.int64) + b
            return np.clip(wide, -(1 << 31), (1 << 31) - 1).astype(np.int32)

        return _binary(run, ins, t, clamped)
    return _binary(run, ins, t, (lambda a, b: a - b) if subtract else (lambda a, b: a + b))


@opcode("addc", "subc")
def add_with_carry(run: Execution, ins: Instruction) -> Step:
    t = ins.type()
    return _carry(run, ins, t, ins.opcode == "subc", carry_in=True, carry_out=ins.flag("cc"))


def _carry(
    run: Execution, ins: Instruction, t: Type, subtract: bool, *, carry_in: bool, carry_out: bool
) -> Step:
    """a + b + carry, or a - b - borrow. One flag for each thread."""
    u = TYPES[f"u{8 * t.bytes}"]
    a, b = run.reader(ins.operands[1], u), run.reader(ins.operands[2], u)
    put = run.writer(ins.operands[0], u)

    def step(i: Array) -> None:
        x, y = a(i), b(i)
        c = run.carry[i].astype(u.dtype) if carry_in else np.zeros(len(i), u.dtype)
        if subtract:
            partial = x - y
            result = partial - c
            out = (x < y) | (partial < c)
        else:
            partial = x + y
            result = partial + c
            out = (partial < x) | (result < partial)
        put(i, result)
        if carry_out:
            run.carry[i] = out

    return step


@opcode("mul")
def multiply(run: Execution, ins: Instruction) -> Step:
    t = ins.type()
    if t.is_float:
        return floats.arithmetic(run, ins, t)
    f, result = _product(ins, t)
    a, b = run.reader(ins.operands[1], t), run.reader(ins.operands[2], t)
    put = run.writer(ins.operands[0], result)
    return lambda i: put(i, f(a(i), b(i)))


@opcode("mad")
def multiply_add(run: Execution, ins: Instruction) -> Step:
    t = ins.type()
    if t.is_float:
        return floats.fused(run, ins, t)
    f, result = _product(ins, t)
    a, b = run.reader(ins.operands[1], t), run.reader(ins.operands[2], t)
    c, put = run.reader(ins.operands[3], result), run.writer(ins.operands[0], result)
    return lambda i: put(i, f(a(i), b(i)) + c(i))


@opcode("div", "rem")
def divide(run: Execution, ins: Instruction) -> Step:
    t = ins.type()
    if t.is_float:
        return floats.divide(run, ins, t)
    remainder = ins.opcode == "rem"

    def f(a: Array, b: Array) -> Array:
        """Toward zero; by zero the result is unspecified, and said so."""
        if (b == 0).any():
            run.found("integer division by zero")
        safe = np.where(b == 0, b.dtype.type(1), b)
        r = np.fmod(a, safe)
        return r if remainder else (a - r) // safe

    return _binary(run, ins, t, f)


@opcode("min", "max")
def extremum(run: Execution, ins: Instruction) -> Step:
    t = ins.type()
    if t.is_float:
        return floats.arithmetic(run, ins, t)
    return _binary(run, ins, t, np.minimum if ins.opcode == "min" else np.maximum)


@opcode("neg", "abs")
def sign(run: Execution, ins: Instruction) -> Step:
    t = ins.type()
    if t.is_float:
        return floats.unary(run, ins, t)
    return _unary(run, ins, t, t, (lambda a: -a) if ins.opcode == "neg" else np.abs)


@opcode("and", "or", "xor")
def logic(run: Execution, ins: Instruction) -> Step:
    f = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}[ins.opcode]
    t = ins.type()
    if t.kind == "p":
        a, b = run.predicate(ins.operands[1]), run.predicate(ins.operands[2])
        put = run.writer(ins.operands[0], t)
        return lambda i: put(i, f(a(i), b(i)))
    return _binary(run, ins, t, f)


@opcode("not")
def invert(run: Execution, ins: Instruction) -> Step:
    t = ins.type()
    if t.kind == "p":
        a, put = run.predicate(ins.operands[1]), run.writer(ins.operands[0], t)
        return lambda i: put(i, ~a(i))
    return _unary(run, ins, t, t, lambda a: ~a)


@opcode("shl", "shr")
def shift(run: Execution, ins: Instruction) -> Step:
    """Shifts by the width or more give zero, or the sign's copies."""
    t = ins.type()
    a, s = run.reader(ins.operands[1], t), run.reader(ins.operands[2], TYPES["u32"])
    put, width, left = run.writer(ins.operands[0], t), 8 * t.bytes, ins.opcode == "shl"

    def step(i: Array) -> None:
        value, amount = a(i), s(i)
        small = np.minimum(amount, width - 1).astype(value.dtype)
        result = value << small if left else value >> small
        if left or not t.signed:
            result = np.where(amount >= width, value.dtype.type(0), result)
        put(i, result)

    return step


@opcode("shf")
def funnel_shift(run: Execution, ins: Instruction) -> Step:
    left, wrap = ins.choice("l", "r") == "l", ins.choice("wrap", "clamp") == "wrap"
    u = ins.type()
    low, high, amount = (run.reader(o, u) for o in ins.operands[1:4])
    put = run.writer(ins.operands[0], u)

    def step(i: Array) -> None:
        both = high(i).astype(np.uint64) << np.uint64(32) | low(i).astype(np.uint64)
        n = amount(i).astype(np.uint64)
        n = n & np.uint64(31) if wrap else np.minimum(n, np.uint64(32))
        put(i, ((both << n) >> np.uint64(32) if left else both >> n).astype(np.uint32))

    return step


def _field(pos: Array, length: Array, width: int) -> tuple[Array, Array, Array]:
    """(start, count, mask of the low count bits) as uint64; both operands count modulo 256."""
    start, count = (v.astype(np.uint64) & np.uint64(255) for v in (pos, length))
    full = np.uint64((1 << width) - 1)
    mask = np.where(count >= width, full, (np.uint64(1) << np.minimum(count, np.uint64(63))) - np.uint64(1))
    return start, count, mask & full


@opcode("bfe")
def extract(run: Execution, ins: Instruction) -> Step:
    """Bits [pos, pos + len) of a; signed: filled with bit min(pos + len - 1, top)."""
    t = ins.type()
    bits = TYPES[f"u{8 * t.bytes}"]
    a, put = run.reader(ins.operands[1], bits), run.writer(ins.operands[0], bits)
    pos, length = (run.reader(o, TYPES["u32"]) for o in ins.operands[2:4])
    width = 8 * t.bytes
    one, top = np.uint64(1), np.uint64(width - 1)

    def step(i: Array) -> None:
        value = a(i).astype(np.uint64)
        start, count, mask = _field(pos(i), length(i), width)
        result = np.where(start > top, np.uint64(0), value >> np.minimum(start, top)) & mask
        if t.signed:
            last = np.minimum(start + count - one, top)
            fill = (count > 0) & ((value >> last & one) == one)
            inside = np.where(
                start > top, np.uint64(0), np.minimum(count, top + one - np.minimum(start, top))
            )
            below = np.where(inside > top, ~np.uint64(0), (one << np.minimum(inside, top)) - one)
            result = np.where(fill, result & below | ~below, result)
        put(i, result.astype(bits.dtype))

    return step


@opcode("bfi")
def insert(run: Execution, ins: Instruction) -> Step:
    """The low len bits of a over bits [pos, pos + len) of b."""
    t = ins.type()
    a, b = run.reader(ins.operands[1], t), run.reader(ins.operands[2], t)
    pos, length = (run.reader(o, TYPES["u32"]) for o in ins.operands[3:5])
    put, width = run.writer(ins.operands[0], t), 8 * t.bytes

    def step(i: Array) -> None:
        start, _, mask = _field(pos(i), length(i), width)
        reached = np.where(start < width, mask << np.minimum(start, np.uint64(63)), np.uint64(0))
        moved = a(i).astype(np.uint64) << np.minimum(start, np.uint64(63))
        put(i, (b(i).astype(np.uint64) & ~reached | moved & reached).astype(t.dtype))

    return step


@opcode("prmt")
def permute(run: Execution, ins: Instruction) -> Step:
    """Four bytes of b:a, each chosen by a nibble of c; its top bit asks for the byte's sign."""
    t = ins.type()
    a, b, c = (run.reader(o, t) for o in ins.operands[1:4])
    put = run.writer(ins.operands[0], t)

    def step(i: Array) -> None:
        both = b(i).astype(np.uint64) << np.uint64(32) | a(i).astype(np.uint64)
        chosen = c(i).astype(np.uint64)
        result = np.zeros(len(i), np.uint64)
        for k in range(4):
            nibble = chosen >> np.uint64(4 * k) & np.uint64(15)
            byte = both >> ((nibble & np.uint64(7)) * np.uint64(8)) & np.uint64(255)
            signs = np.where(byte & np.uint64(128), np.uint64(255), np.uint64(0))
            result |= np.where(nibble & np.uint64(8), signs, byte) << np.uint64(8 * k)
        put(i, result.astype(np.uint32))

    return step


@opcode("lop3")
def lookup(run: Execution, ins: Instruction) -> Step:
    t = ins.type()
    a, b, c = (run.reader(o, t) for o in ins.operands[1:4])
    put, table = run.writer(ins.operands[0], t), int(str(ins.operands[4]), 0)

    def step(i: Array) -> None:
        x, y, z = a(i), b(i), c(i)
        result = np.zeros(len(i), t.dtype)
        for k in range(8):
            if table >> k & 1:
                result |= (x if k & 4 else ~x) & (y if k & 2 else ~y) & (z if k & 1 else ~z)
        put(i, result)

    return step


@opcode("popc", "clz", "brev")
def count_bits(run: Execution, ins: Instruction) -> Step:
    t = ins.type()
    width = 8 * t.bytes
    f = {
        "popc": lambda v: v.bit_count(),
        "clz": lambda v: width - v.bit_length(),
        "brev": lambda v: int(f"{v:0{width}b}"[::-1], 2),
    }[ins.opcode]
    result = t if ins.opcode == "brev" else TYPES["u32"]
    return _unary(run, ins, t, result, lambda a: np.array([f(v) for v in a.tolist()], result.dtype))


@opcode("bfind")
def find_leading(run: Execution, ins: Instruction) -> Step:
    """Position of the highest bit that is not the sign's, or with .shiftamt the shift that brings it to the top."""
    shift, t = ins.flag("shiftamt"), ins.type()
    top = 8 * t.bytes - 1

    def one(value: int) -> int:
        n = (~value if value < 0 else value).bit_length()
        return 0xFFFFFFFF if n == 0 else top - (n - 1) if shift else n - 1

    return _unary(run, ins, t, TYPES["u32"], lambda a: np.array([one(v) for v in a.tolist()], np.uint32))


@opcode("selp")
def select(run: Execution, ins: Instruction) -> Step:
    t = ins.type()
    a, b = run.reader(ins.operands[1], t), run.reader(ins.operands[2], t)
    p, put = run.predicate(ins.operands[3]), run.writer(ins.operands[0], t)
    return lambda i: put(i, np.where(p(i), a(i), b(i)))
