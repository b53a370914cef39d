# SPDX-License-Identifier: Apache-2.0
"""cp.async and its groups. Bytes land at issue or at wait_group, as the options say: each finds what the
other hides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .control import address
from .formats import TYPES, Array
from .instructions import opcode
from .machine import Execution, Step
from .program import Instruction


@dataclass
class Copies:
    """Copies that one instruction issued, one a thread. `group`: how many groups the thread had committed
    before.
    """

    threads: Array
    cells: Array  # positions in shared memory
    source: Array
    valid: Array  # bytes read; the rest of `size` is filled with zeros
    size: int
    group: Array

    def where(self, keep: Array) -> Copies:
        return replace(
            self,
            threads=self.threads[keep],
            cells=self.cells[keep],
            source=self.source[keep],
            valid=self.valid[keep],
            group=self.group[keep],
        )


@opcode("cp")
def copy(run: Execution, ins: Instruction) -> Step:
    ins.choice("async")
    if ins.flag("commit_group"):

        def commit(i: Array) -> None:
            run.committed_groups[i] += 1

        return commit
    if ins.flag("wait_all"):
        return lambda i: _complete(run, i, None)
    if ins.flag("wait_group"):
        keep = int(str(ins.operands[0]))
        return lambda i: _complete(run, i, keep)
    return _issue(run, ins)


def _issue(run: Execution, ins: Instruction) -> Step:
    kind = ins.choice("ca", "cg")
    for word in ("shared", "global"):
        ins.choice(word)
    ins.flag("cta")
    if ins.flag("L2"):
        ins.choice("64B", "128B", "256B")
    size = int(str(ins.operands[2]))
    if size not in ((16,) if kind == "cg" else (4, 8, 16)):
        raise ins.fail(f"cp.async.{kind} of {size} bytes")
    to, source = address(run, ins, ins.operands[0]), address(run, ins, ins.operands[1])
    count = run.reader(ins.operands[3], TYPES["u32"]) if len(ins.operands) > 3 else None

    def step(i: Array) -> None:
        valid = np.full(len(i), size) if count is None else np.minimum(count(i).astype(np.int64), size)
        destination, origin = to(i), source(i)
        at, ok = run.memory.locate("shared", destination, size, i, "cp.async write")
        shared = run.memory.spaces["shared"]
        if shared.shadow is not None and ok.any():
            cells = shared.cells(at[ok], size, i[ok])
            shared.shadow.write(*cells, run.found, asynchronous=True)
        run.statistics.access("shared", "store", destination, size, i)
        reads = ok & (valid > 0)
        if reads.any():
            _, inside = run.memory.locate("global", origin[reads], size, i[reads], "cp.async read")
            ok[np.flatnonzero(reads)[~inside]] = False
            run.statistics.access("global", "load", origin[reads], size, i[reads])
        copies = Copies(i[ok], at[ok], origin[ok], valid[ok], size, run.committed_groups[i[ok]].copy())
        if not run.options.cp_async_late:
            _land(run, copies)
        run.pending_copies.append(copies)

    return step


def _land(run: Execution, copies: Copies) -> None:
    values = np.zeros((len(copies.threads), copies.size), np.uint8)
    read = copies.valid > 0
    if read.any():
        values[read] = run.memory.load("global", copies.source[read], copies.size, copies.threads[read])
    values[np.arange(copies.size)[None] >= copies.valid[:, None]] = 0
    run.memory.spaces["shared"].scatter(copies.cells, values)


def _complete(run: Execution, threads: Array, keep: int | None) -> None:
    """The copies of these threads are in place: all, or all but their newest `keep` committed groups."""
    waiting = np.zeros(run.size, bool)
    waiting[threads] = True
    shared = run.memory.spaces["shared"]
    rest = []
    for copies in run.pending_copies:
        now = waiting[copies.threads]
        if keep is not None:
            now &= copies.group < run.committed_groups[copies.threads] - keep
        if now.any():
            landed = copies.where(now)
            if run.options.cp_async_late:
                _land(run, landed)
            run.memory.mark_written(shared, landed.cells, landed.size)
            if shared.shadow is not None:
                shared.shadow.landed(*shared.cells(landed.cells, landed.size, landed.threads))
        if not now.all():
            rest.append(copies.where(~now))
    run.pending_copies = rest


def check_exit(run: Execution, threads: Array) -> None:
    """A thread that ends with copies in flight would let them land in another block's shared memory."""
    for copies in run.pending_copies:
        if np.isin(copies.threads, threads).any():
            run.found("a thread exits with cp.async copies that it never waited for")
            return
