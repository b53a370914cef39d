# SPDX-License-Identifier: Apache-2.0
"""Moves, loads and stores, branches, barriers."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from .formats import TYPES, UNSIGNED, Array
from .instructions import opcode
from .machine import Execution, Step
from .memory import LOCAL_WINDOW, SHARED_WINDOW
from .program import Instruction, Operand

_ADDRESS = re.compile(r"\[\s*([%\w$]+)\s*(?:\+\s*(-?\w+))?\s*\]")
_SPACES = ("param", "global", "shared", "local", "const")


def address(run: Execution, ins: Instruction, operand: Operand) -> Callable[[Array], Array]:
    """[register + offset] or [symbol + offset] as int64."""
    m = _ADDRESS.fullmatch(operand) if isinstance(operand, str) else None
    if not m:
        raise ins.fail(f"address {operand}")
    base, offset = m.group(1), int(m.group(2) or "0", 0)
    narrow = base in run.registers and run.registers[base].itemsize == 4
    read = run.reader(base, TYPES["u32" if narrow else "u64"])
    return lambda i: read(i).astype(np.int64) + offset


def space_of(ins: Instruction) -> str | None:
    """The address space named, or None for a generic address; a block's own shared memory only."""
    space = ins.choice(*_SPACES, default="generic")
    if space in ("shared", "param"):
        ins.flag("cta")
        ins.flag("entry")
    return None if space == "generic" else "global" if space == "const" else space


def _drop_cache_hints(ins: Instruction) -> None:
    """Where a value may be cached changes no result."""
    if ins.flag("L2"):  # .L2::128B and the like
        ins.choice("64B", "128B", "256B", "cache_hint", default="")
    if ins.flag("L1"):
        ins.choice("no_allocate", "evict_last", "evict_first", "evict_normal", "evict_unchanged", default="")
    ins.choice("ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc", default="")


def _list(operand: Operand) -> list[Operand]:
    return operand if isinstance(operand, list) else [operand]


@opcode("ld", "ldu")
def load(run: Execution, ins: Instruction) -> Step:
    space, t = space_of(ins), ins.type()
    _drop_cache_hints(ins)
    ins.choice("weak", "volatile", "relaxed", default="")
    count = int(ins.choice("v2", "v4", default="v1")[1:])
    destinations = _list(ins.operands[0])
    if len(destinations) != count:
        raise ins.fail(f"{len(destinations)} destinations for a vector of {count}")
    where = address(run, ins, ins.operands[1])
    put = [run.writer(d, t) for d in destinations]
    size = count * t.bytes

    def from_parameters(i: Array) -> None:
        at = where(i)
        if (at % size).any():
            run.found("misaligned read of the kernel's parameters")
        if ((at < 0) | (at + size > run.parameters.size)).any():
            run.found("out-of-bounds read of the kernel's parameters")
            at = np.zeros_like(at)
        raw = np.ascontiguousarray(run.parameters[at[:, None] + np.arange(size)])
        for k, p in enumerate(put):
            p(i, np.ascontiguousarray(raw[:, k * t.bytes : (k + 1) * t.bytes]).view(t.dtype)[:, 0])

    def from_memory(i: Array) -> None:
        values = run.memory.load(space, where(i), size, i).view(t.dtype)
        for k, p in enumerate(put):
            p(i, values[:, k])

    return from_parameters if space == "param" else from_memory


@opcode("st")
def store(run: Execution, ins: Instruction) -> Step:
    space, t = space_of(ins), ins.type()
    _drop_cache_hints(ins)
    ins.choice("weak", "volatile", "relaxed", default="")
    count = int(ins.choice("v2", "v4", default="v1")[1:])
    sources = [run.reader(s, t) for s in _list(ins.operands[1])]
    if len(sources) != count:
        raise ins.fail(f"{len(sources)} sources for a vector of {count}")
    where = address(run, ins, ins.operands[0])

    def step(i: Array) -> None:
        values = np.stack([np.ascontiguousarray(s(i), t.dtype) for s in sources], 1)
        run.memory.store(space, where(i), values.view(np.uint8).reshape(len(i), -1), i)

    return step


@opcode("mov")
def move(run: Execution, ins: Instruction) -> Step:
    t = ins.type()
    destination, source = ins.operands
    if isinstance(source, list):
        part = TYPES[f"b{8 * t.bytes // len(source)}"]
        put, pieces = run.writer(destination, t), [run.reader(s, part) for s in source]

        def pack(i: Array) -> None:
            joined = np.stack([np.ascontiguousarray(p(i)) for p in pieces], 1)
            put(i, np.ascontiguousarray(joined).view(t.dtype)[:, 0])

        return pack
    if isinstance(destination, list):
        part = TYPES[f"b{8 * t.bytes // len(destination)}"]
        read, puts = run.reader(source, t), [run.writer(d, part) for d in destination]

        def unpack(i: Array) -> None:
            values = np.ascontiguousarray(read(i)).view(UNSIGNED[part.bytes]).reshape(len(i), -1)
            for k, p in enumerate(puts):
                p(i, values[:, k])

        return unpack
    if t.kind == "p":
        read, put = run.predicate(source), run.writer(destination, t)
    else:
        read, put = run.reader(source, t), run.writer(destination, t)
    return lambda i: put(i, read(i))


@opcode("cvta")
def convert_address(run: Execution, ins: Instruction) -> Step:
    to, space, t = ins.flag("to"), space_of(ins), ins.type()
    window = {"global": 0, "shared": SHARED_WINDOW, "local": LOCAL_WINDOW}.get(space or "")
    if window is None:
        raise ins.fail("address space")
    read, put = run.reader(ins.operands[1], t), run.writer(ins.operands[0], t)
    shift = np.array(-window if to else window, np.int64).view(np.uint64)
    return lambda i: put(i, (read(i).astype(np.uint64) + shift).astype(t.dtype))


@opcode("bra")
def branch(run: Execution, ins: Instruction) -> Step:
    ins.flag("uni")
    label = ins.operands[0]
    if not isinstance(label, str) or label not in run.kernel.labels:
        raise ins.fail(f"label {label}")
    target = run.kernel.labels[label]
    if ins.guard is None:

        def always(i: Array) -> None:
            run.pc[i] = target

        return always
    condition = run.registers[ins.guard]

    def step(i: Array) -> None:
        run.pc[i[condition[i] != ins.negated]] = target

    return step


@opcode("ret", "exit")
def end(run: Execution, ins: Instruction) -> Step:
    ins.flag("uni")
    return run.finish


@opcode("bar", "barrier")
def barrier(run: Execution, ins: Instruction) -> Step:
    if ins.flag("warp"):
        from .warp import warp_barrier

        return warp_barrier(run, ins)
    ins.flag("cta")
    ins.flag("aligned")
    if not ins.flag("sync") or ins.operands != ["0"]:
        raise ins.fail("only barrier 0 of the whole block is supported")
    return run.wait_at_barrier


@opcode("membar", "fence")
def fence(run: Execution, ins: Instruction) -> Step:
    """Orders nothing here: kernels that rely on fences between threads are outside what is checked."""
    ins.modifiers.clear()
    return lambda i: None
