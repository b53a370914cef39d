# SPDX-License-Identifier: Apache-2.0
"""Warp operations under any member mask: threads wait until every lane of their mask stands at the same
instruction.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .formats import TYPES, Array
from .instructions import opcode
from .machine import Execution, Step
from .program import Instruction, Operand

_LANES = np.arange(32, dtype=np.uint32)
FULL = 0xFFFFFFFF


def _bits(mask: Array) -> Array:
    """uint32 [n] -> bool [n, 32]."""
    return (mask[:, None] >> _LANES & np.uint32(1)).astype(bool)


def _pack(flags: Array) -> Array:
    """bool [n, 32] -> uint32 [n]."""
    return (flags.astype(np.uint64) << _LANES.astype(np.uint64)).sum(1).astype(np.uint32)


def gather(run: Execution, threads: Array, mask: Array) -> Array:
    """Of the threads that arrive here under `mask`, and those that waited here, the ids of complete groups,
    ascending.

    The others wait. A lane outside its own mask, or a mask that names an exited lane, is reported.
    """
    pc = run.at
    assert pc is not None
    if (
        (mask == FULL).all()
        and len(threads) % 32 == 0
        and (threads[::32] % 32 == 0).all()
        and (threads[31::32] - threads[::32] == 31).all()
    ):
        return threads  # whole warps
    lane_bit = np.uint32(1) << (threads % 32).astype(np.uint32)
    outside = (mask & lane_bit) == 0
    if outside.any():
        run.found(f"warp operation: {run.name_thread(int(threads[outside][0]))} is not in its own mask")
    run.at_warp[threads], run.running[threads], run.pc[threads], run.warp_mask[threads] = (
        True,
        False,
        pc,
        mask,
    )
    waiting = (run.at_warp & (run.pc == pc)).reshape(-1, 32)
    warps = np.unique(threads // 32)
    here, masks = waiting[warps], run.warp_mask.reshape(-1, 32)[warps]
    exited = _pack(run.done.reshape(-1, 32)[warps])
    gone = here & ((masks & exited[:, None]) != 0)
    if gone.any():
        run.found("warp operation: its mask names lanes that have exited")
    same = here[:, None, :] & (masks[:, None, :] == masks[:, :, None])  # [warp, lane, peer]
    peers = _pack(same.reshape(-1, 32)).reshape(masks.shape)
    complete = here & ((peers & masks) == masks)
    go = (warps[:, None] * 32 + np.arange(32))[complete]
    run.at_warp[go], run.running[go], run.pc[go] = False, True, pc + 1
    return go


def mask_reader(run: Execution, operand: Operand) -> Callable[[Array], Array]:
    return run.reader(operand, TYPES["u32"])


def warp_barrier(run: Execution, ins: Instruction) -> Step:
    ins.choice("sync")
    mask = mask_reader(run, ins.operands[0])

    def step(i: Array) -> None:
        go = gather(run, i, mask(i))
        if not len(go):
            return
        m = mask(go)
        group, first = np.unique(np.stack([go // 32, m.astype(np.int64)], 1), axis=0, return_index=True)
        members = _bits(m[first])
        base = group[:, 0] * 32
        run.clock.warp_barrier(np.where(members, base[:, None] + np.arange(32), -1))

    return step


@opcode("shfl")
def shuffle(run: Execution, ins: Instruction) -> Step:
    ins.choice("sync")
    mode = ins.choice("up", "down", "bfly", "idx")
    t = ins.type()
    destinations = str(ins.operands[0]).split("|")
    put = run.writer(destinations[0], t)
    put_valid = run.writer(destinations[1], TYPES["pred"]) if len(destinations) > 1 else None
    value = run.reader(ins.operands[1], t)
    b, c = (run.reader(o, TYPES["u32"]) for o in ins.operands[2:4])
    mask = mask_reader(run, ins.operands[4])

    def step(i: Array) -> None:
        threads = gather(run, i, mask(i))
        if not len(threads):
            return
        lane = threads % 32
        by, control = (b(threads) & 31).astype(np.int64), c(threads).astype(np.int64)
        clamp, segment = control & 31, control >> 8 & 31
        low = lane & segment
        high = low | (clamp & ~segment)
        source = {"up": lane - by, "down": lane + by, "bfly": lane ^ by, "idx": low | (by & ~segment)}[mode]
        valid = source >= high if mode == "up" else source <= high
        source = np.where(valid, source, lane)
        member = (mask(threads) >> source.astype(np.uint32)) & np.uint32(1)
        if (member == 0).any():
            bad = int(np.flatnonzero(member == 0)[0])
            run.found(f"shfl reads lane {int(source[bad])}, which is not in the mask")
        put(threads, value(threads - lane + source))
        if put_valid:
            put_valid(threads, valid)

    return step


@opcode("vote")
def vote(run: Execution, ins: Instruction) -> Step:
    ins.choice("sync")
    mode = ins.choice("ballot", "any", "all", "uni")
    t = ins.type()
    put, mask = run.writer(ins.operands[0], t), mask_reader(run, ins.operands[2])
    predicate = run.predicate(ins.operands[1])

    def step(i: Array) -> None:
        threads = gather(run, i, mask(i))
        if not len(threads):
            return
        member = _bits(mask(threads))
        holds = _of_warp(run, threads, predicate) & member
        if mode == "ballot":
            put(threads, _pack(holds))
        elif mode == "any":
            put(threads, np.asarray(holds.any(1)))
        elif mode == "all":
            put(threads, (holds == member).all(1))
        else:
            put(threads, (holds == member).all(1) | ~holds.any(1))

    return step


def _of_warp(run: Execution, threads: Array, read: Callable[[Array], Array]) -> Array:
    """For each thread the values of all 32 lanes of its warp; lanes outside the group hold whatever they
    hold.
    """
    return read(((threads // 32 * 32)[:, None] + np.arange(32)).ravel()).reshape(len(threads), 32)


@opcode("redux")
def reduce(run: Execution, ins: Instruction) -> Step:
    ins.choice("sync")
    mode = ins.choice("add", "min", "max", "and", "or", "xor")
    t = ins.type()
    if t.is_float or t.bytes != 4:
        raise ins.fail(f"redux of .{t.name}")
    limits = np.iinfo(t.dtype)
    combine, neutral = {
        "add": (np.add, 0),
        "min": (np.minimum, limits.max),
        "max": (np.maximum, limits.min),
        "and": (np.bitwise_and, -1 if t.signed else limits.max),
        "or": (np.bitwise_or, 0),
        "xor": (np.bitwise_xor, 0),
    }[mode]
    put, value = run.writer(ins.operands[0], t), run.reader(ins.operands[1], t)
    mask = mask_reader(run, ins.operands[2])

    def step(i: Array) -> None:
        threads = gather(run, i, mask(i))
        if len(threads):
            v = np.where(_bits(mask(threads)), _of_warp(run, threads, value), t.dtype.type(neutral))
            put(threads, combine.reduce(v, axis=1, dtype=t.dtype))

    return step


@opcode("match")
def match(run: Execution, ins: Instruction) -> Step:
    mode = ins.choice("any", "all")
    ins.choice("sync")
    t = ins.type()
    destinations = str(ins.operands[0]).split("|")
    put = run.writer(destinations[0], TYPES["b32"])
    put_equal = run.writer(destinations[1], TYPES["pred"]) if len(destinations) > 1 else None
    value, mask = run.reader(ins.operands[1], t), mask_reader(run, ins.operands[2])

    def step(i: Array) -> None:
        threads = gather(run, i, mask(i))
        if not len(threads):
            return
        member = _bits(mask(threads))
        equal = (_of_warp(run, threads, value) == value(threads)[:, None]) & member
        if mode == "any":
            put(threads, _pack(equal))
            return
        everyone = (equal == member).all(1)
        put(threads, np.where(everyone, mask(threads), np.uint32(0)))
        if put_equal:
            put_equal(threads, everyone)

    return step


@opcode("activemask")
def active_mask(run: Execution, ins: Instruction) -> Step:
    """The lanes that execute together here: one of the answers that hardware may give."""
    t = ins.type()
    put = run.writer(ins.operands[0], t)

    def step(i: Array) -> None:
        active = np.zeros(run.size, bool)
        active[i] = True
        put(i, _pack(active.reshape(-1, 32))[i // 32])

    return step
