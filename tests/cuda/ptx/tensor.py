# SPDX-License-Identifier: Apache-2.0
"""ldmatrix and mma.m16n8k16; the fragment layout is written out at the head of csrc/cuda/ptx.cuh."""

from __future__ import annotations

import numpy as np

from . import formats
from .control import address
from .formats import TYPES, Array
from .instructions import opcode
from .machine import Execution, Step
from .memory import SHARED_WINDOW
from .program import Instruction
from .warp import FULL, gather

_G, _Q = np.arange(32) // 4, np.arange(32) % 4


def _whole_warps(run: Execution, threads: Array) -> Array:
    return gather(run, threads, np.full(len(threads), FULL, np.uint32))


@opcode("ldmatrix")
def load_matrices(run: Execution, ins: Instruction) -> Step:
    for word in ("sync", "aligned", "m8n8"):
        ins.choice(word)
    count = int(ins.choice("x1", "x2", "x4")[1:])
    transposed = ins.flag("trans")
    if not ins.flag("shared"):
        raise ins.fail("ldmatrix reads shared memory")
    ins.flag("cta")
    if ins.type().name != "b16":
        raise ins.fail("ldmatrix of other than 16-bit elements")
    where = address(run, ins, ins.operands[1])
    puts = [run.writer(d, TYPES["b32"]) for d in ins.operands[0]]  # two elements in a register
    if len(puts) != count:
        raise ins.fail(f"{len(puts)} destinations for .x{count}")

    def step(i: Array) -> None:
        threads = _whole_warps(run, i)
        if not len(threads):
            return
        a = where(threads)
        a = np.where(a >= SHARED_WINDOW, a - SHARED_WINDOW, a).reshape(-1, 32)[:, : 8 * count]
        owners = threads.reshape(-1, 32)[:, : 8 * count]
        rows = run.memory.load("shared", a.ravel(), 16, owners.ravel())
        matrices = np.ascontiguousarray(rows).view(np.uint16).reshape(-1, count, 8, 8)
        if transposed:
            matrices = matrices.transpose(0, 1, 3, 2)
        registers = np.ascontiguousarray(matrices).view(np.uint32).reshape(-1, count, 32)
        for k, put in enumerate(puts):
            put(threads, registers[:, k].ravel())

    return step


def truncated_sum(addends: Array) -> Array:
    """Sum over the last axis, every addend cut to 24 bits below the largest."""
    finite = np.where(np.isfinite(addends), np.abs(addends), 0)
    unit = np.ldexp(1.0, np.frexp(finite.max(-1, keepdims=True))[1] - 24)
    cut = np.where(np.isfinite(addends), np.trunc(addends / unit) * unit, addends)
    return cut.sum(-1)


@opcode("mma")
def multiply_accumulate(run: Execution, ins: Instruction) -> Step:
    for word in ("sync", "aligned", "m16n8k16", "row", "col"):
        ins.choice(word)
    types = [ins.type().name for _ in range(4)][::-1]
    if types not in (["f32", "bf16", "bf16", "f32"], ["f32", "f16", "f16", "f32"]):
        raise ins.fail(f"mma of {types}")
    d, a, b, c = ins.operands
    u32, f32 = TYPES["u32"], TYPES["f32"]
    puts = [run.writer(x, f32) for x in d]
    read_a, read_b = [run.reader(x, u32) for x in a], [run.reader(x, u32) for x in b]
    read_c = [run.reader(x, f32) for x in c]

    def pairs(bits: Array) -> Array:
        halves = formats.split_halves(bits).reshape(-1, 32, 2)
        return (
            formats.bf16_to_f32(halves) if types[1] == "bf16" else halves.view(np.float16).astype(np.float32)
        )

    def step(i: Array) -> None:
        threads = _whole_warps(run, i)
        if not len(threads):
            return
        n = len(threads) // 32
        A, B, C = np.zeros((n, 16, 16)), np.zeros((n, 16, 8)), np.zeros((n, 16, 8))
        for k, read in enumerate(read_a):
            v, row, column = pairs(read(threads)), _G + 8 * (k & 1), 2 * _Q + 8 * (k >> 1)
            A[:, row, column], A[:, row, column + 1] = v[..., 0], v[..., 1]
        for k, read in enumerate(read_b):
            v, row = pairs(read(threads)), 2 * _Q + 8 * k
            B[:, row, _G], B[:, row + 1, _G] = v[..., 0], v[..., 1]
        for k, read in enumerate(read_c):
            C[:, _G + 8 * (k >> 1), 2 * _Q + (k & 1)] = read(threads).reshape(n, 32)
        if run.options.mma_truncate:
            products = np.einsum("nik,nkj->nijk", A, B)
            D = truncated_sum(np.concatenate([products, C[..., None]], -1))
        else:
            D = A @ B + C
        for k, put in enumerate(puts):
            put(threads, D[:, _G + 8 * (k >> 1), 2 * _Q + (k & 1)].astype(np.float32).ravel())
        run.statistics.counts["mma_flops"] += n * 2 * 16 * 8 * 16

    return step
