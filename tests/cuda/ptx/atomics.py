# SPDX-License-Identifier: Apache-2.0
"""atom and red on global and shared memory. Lanes of one instruction take effect in a random order, drawn
from a seed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .control import address, space_of
from .formats import UNSIGNED, Array
from .instructions import opcode
from .machine import Execution, Step
from .program import Instruction


def _compare_and_swap(old: Array, expected: Array, new: Array) -> Array:
    return np.where(old == expected, new, old)


_OPERATIONS: dict[str, Callable[..., Array]] = {
    "add": lambda old, x: old + x,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "exch": lambda old, x: x,
    "inc": lambda old, x: np.where(old >= x, old.dtype.type(0), old + old.dtype.type(1)),
    "dec": lambda old, x: np.where((old == 0) | (old > x), x, old - old.dtype.type(1)),
    "cas": _compare_and_swap,
}


@opcode("atom", "red")
def atomic(run: Execution, ins: Instruction) -> Step:
    returns = ins.opcode == "atom"
    space, t = space_of(ins), ins.type()
    name = ins.choice(*_OPERATIONS)
    ins.choice("relaxed", "acquire", "release", "acq_rel", default="")
    ins.choice("cta", "gpu", "sys", default="")
    if t.name in ("f16x2", "bf16x2", "f16", "bf16"):
        raise ins.fail(f"atomic of .{t.name}")
    where = address(run, ins, ins.operands[1 if returns else 0])
    sources = [run.reader(o, t) for o in ins.operands[2 if returns else 1 :]]
    put = run.writer(ins.operands[0], t) if returns else None
    compute = _OPERATIONS[name]
    random = np.random.default_rng(0)

    def step(i: Array) -> None:
        target, at_address = run.memory.resolve(space, where(i))
        at, ok = run.memory.locate(target, at_address, t.bytes, i, "atomic")
        s = run.memory.spaces[target]
        out = np.zeros(len(i), t.dtype)
        if ok.any():
            known = s.initialised[at[ok]]
            if not known.all():
                run.found(f"atomic on {target} memory that was never written")
            if s.shadow is not None:
                s.shadow.write(*s.cells(at[ok], t.bytes, i[ok]), run.found, atomic=True)
        words = s.words[t.bytes]
        values = [r(i) for r in sources]
        for k in random.permutation(np.flatnonzero(ok)):
            old = words[at[k] // t.bytes : at[k] // t.bytes + 1].view(t.dtype)
            out[k] = old[0]
            new = compute(old, *(v[k : k + 1] for v in values))
            words[at[k] // t.bytes] = np.ascontiguousarray(new, t.dtype).view(UNSIGNED[t.bytes])[0]
        if ok.any():
            run.memory.mark_written(s, at[ok], t.bytes)
        if put:
            put(i, out)

    return step
