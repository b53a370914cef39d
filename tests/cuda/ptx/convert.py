# SPDX-License-Identifier: Apache-2.0
"""cvt between every pair of types that kernels use; anything else is an error."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import formats
from .formats import Array, Type
from .instructions import opcode
from .machine import Execution, Step
from .program import Instruction

_TO_INTEGER = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


@opcode("cvt")
def convert(run: Execution, ins: Instruction) -> Step:
    source = ins.type()
    target = ins.type()
    if target.kind == "h":
        return _pack(run, ins, source, target)
    read, put = run.reader(ins.operands[1], source), run.writer(ins.operands[0], target)
    if source.is_float and target.is_float:
        f = _float_to_float(ins, source, target)
    elif source.is_float:
        f = _float_to_integer(ins, source, target)
    elif target.is_float:
        f = _integer_to_float(ins, source, target)
    else:
        f = _integer_to_integer(ins, source, target)
    return lambda i: put(i, f(read(i)))


def _widen(source: Type, ftz: bool) -> Callable[[Array], Array]:
    """To float64: exact from every floating type."""
    if source.name == "bf16":
        return lambda a: formats.bf16_to_f32(a).astype(np.float64)
    if ftz and source.name == "f32":
        return lambda a: formats.flush(a).astype(np.float64)
    return lambda a: a.astype(np.float64)


def _narrow(target: Type, mode: str, ftz: bool, sat: bool) -> Callable[[Array], Array]:
    def f(v: Array) -> Array:
        v = formats.saturate(v) if sat else v
        if target.name == "bf16":
            return formats.round_bf16(v)
        if target.name == "f16":
            return v.astype(np.float16)
        if target.name == "f64":
            return v
        y = formats.round_f32(v, mode)
        return formats.flush(y) if ftz else y

    return f


def _float_to_float(ins: Instruction, source: Type, target: Type) -> Callable[[Array], Array]:
    ftz, sat, relu = ins.flag("ftz"), ins.flag("sat"), ins.flag("relu")
    integral = ins.choice(*_TO_INTEGER, default="")
    mode = ins.choice("rn", "rz", "rm", "rp", default="rn")
    if (mode != "rn" and target.name not in ("f32", "bf16")) or (mode != "rn" and target.name == "bf16"):
        raise ins.fail(f"rounding .{mode} to .{target.name}")
    if source.name == "bf16" and target.name == "bf16":
        raise ins.fail("cvt from .bf16 to .bf16")
    widen, narrow = _widen(source, ftz), _narrow(target, mode, ftz, sat)

    def f(a: Array) -> Array:
        v = widen(a)
        v = _TO_INTEGER[integral](v) if integral else v
        v = np.where(v < 0, 0.0, v) if relu else v
        return narrow(v)

    return f


def _float_to_integer(ins: Instruction, source: Type, target: Type) -> Callable[[Array], Array]:
    """Clamped to the range of the target whatever .sat says; NaN gives 0 (for 64-bit targets the top bit
    alone).
    """
    ftz = ins.flag("ftz")
    ins.flag("sat")
    rounding = _TO_INTEGER[ins.choice(*_TO_INTEGER)]
    widen = _widen(source, ftz)
    limits = np.iinfo(target.dtype)
    low, high = float(limits.min), float(limits.max)

    def f(a: Array) -> Array:
        v = rounding(widen(a))
        inside = (v >= low) & (v < high)
        r = np.where(inside, v, 0.0).astype(target.dtype)
        r = np.where(v >= high, target.dtype.type(limits.max), r)
        r = np.where(v < low, target.dtype.type(limits.min), r)
        nan = np.uint64(1 << 63) if target.bytes == 8 else np.uint64(0)
        return np.where(np.isnan(v), np.full(len(v), nan).astype(target.dtype), r)

    return f


def _integer_to_float(ins: Instruction, source: Type, target: Type) -> Callable[[Array], Array]:
    ins.flag("ftz")
    mode = ins.choice("rn", "rz", "rm", "rp", default="rn")
    if source.bytes == 8 and target.name != "f64":
        if mode != "rn" or target.name != "f32":
            raise ins.fail(f"64-bit integers go to .f32 by .rn or to .f64, not to .{target.name} by .{mode}")
        return lambda a: a.astype(np.float32)  # one rounding, to nearest
    narrow = _narrow(target, mode, False, ins.flag("sat"))
    return lambda a: narrow(a.astype(np.float64))


def _integer_to_integer(ins: Instruction, source: Type, target: Type) -> Callable[[Array], Array]:
    """Cut or extended by the source's sign; .sat clamps to the target's range instead."""
    if not ins.flag("sat"):
        return lambda a: a.astype(target.dtype)
    limits = np.iinfo(target.dtype)

    def clamp(a: Array) -> Array:
        exact = [min(max(int(v), int(limits.min)), int(limits.max)) for v in a.tolist()]
        return np.array(exact, target.dtype)

    return clamp


def _pack(run: Execution, ins: Instruction, source: Type, target: Type) -> Step:
    """cvt.rn.bf16x2.f32 d, a, b: a into the upper half, b into the lower."""
    if source.name != "f32":
        raise ins.fail(f"cvt to .{target.name} from .{source.name}")
    if ins.choice("rn", "rz") != "rn":
        raise ins.fail("packed conversion rounds to nearest here")
    relu, sat = ins.flag("relu"), ins.flag("satfinite")
    if sat:
        raise ins.fail(".satfinite")
    high, low = run.reader(ins.operands[1], source), run.reader(ins.operands[2], source)
    put = run.writer(ins.operands[0], target)
    to_bits = (
        formats.f32_to_bf16 if target.name == "bf16x2" else lambda x: x.astype(np.float16).view(np.uint16)
    )

    def step(i: Array) -> None:
        both = np.stack([low(i), high(i)], 1)
        both = np.where(both < 0, np.float32(0), both) if relu else both
        put(i, formats.join_halves(to_bits(both)))

    return step
