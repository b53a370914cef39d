# SPDX-License-Identifier: Apache-2.0
"""`philox_normal` as cases for the CUDA lanes: every bit as the reference has it."""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass
from types import ModuleType

import torch

from .cases import Buffer, Outcome, as_bytes, run_plan
from .devices import Device, HostDevice

op = importlib.import_module("prestissimo.ops.philox_normal")


class Args(ctypes.Structure):
    _fields_ = (
        ("seeds", ctypes.c_void_p),
        ("items", ctypes.c_void_p),
        ("stream", ctypes.c_uint32),
        ("out", ctypes.c_void_p),
        ("batch", ctypes.c_int64),
        ("size", ctypes.c_int64),
    )


@dataclass(frozen=True)
class Case:
    size: int
    seeds: tuple[int, ...] = (7,)
    items: tuple[int, ...] = ()  # zeros where none are named
    stream: int = 0
    misalign: int = 0  # elements
    last: int = 0  # only the last block runs and only its numbers have memory: how many they are

    def __str__(self) -> str:
        words = [f"{len(self.seeds)}x{self.size}-stream{self.stream}"]
        return "-".join(words + ["misaligned"] * bool(self.misalign) + ["last"] * bool(self.last))


def run(
    case: Case, device: Device, planner: HostDevice, op: ModuleType = op, name: str = "philox_normal"
) -> Outcome:
    seeds = torch.tensor(case.seeds, dtype=torch.int64)
    items = torch.tensor(case.items or (0,) * len(case.seeds), dtype=torch.int64)
    numbers = case.last or case.size
    size = 4 * len(case.seeds) * numbers
    out = Buffer(device, device.allocate(size, None, 4 * case.misalign), size)
    before = case.size - numbers  # numbers without memory, ahead of those that have it
    args = Args(
        seeds=Buffer.of(device, as_bytes(seeds)).address,
        items=Buffer.of(device, as_bytes(items)).address,
        stream=case.stream,
        out=out.address - 4 * before & (1 << 64) - 1,
        batch=len(case.seeds),
        size=case.size,
    )
    if case.last:
        plan = planner.plan(name, bytes(args))
        ((kernel, grid, block, shared),) = plan.launches
        findings = device.launch(kernel, (grid, 1, 1), (block, 1, 1), plan.parameters, shared, [grid - 1])
    else:
        findings = run_plan(device, planner, name, args)
    got = out.tensor(torch.float32, (len(case.seeds), numbers))
    expected = op.reference(seeds, items, case.stream, numbers, before // 4)
    differ = got.view(torch.int32) != expected.view(torch.int32)
    wrong = (
        [f"out: {int(differ.sum())} of {differ.numel()} values differ in their bits"] if differ.any() else []
    )
    return Outcome(findings, wrong, {"out": got})


CASES = [
    Case(1),
    Case(2, stream=1),
    Case(3, (-1, 2**62 + 12345), (5, 2**31)),
    Case(4),
    Case(7, (1, 2, 3), (0, 1, -1), stream=2**32 - 1),
    Case(1024, (123456789012345,), (3,)),
    Case(1028, (2**40 + 1, 5), (9, 2**32 + 4), stream=17),
    Case(1023),
    Case(1025, (9, 8)),
    Case(64, (6, 6), (0, 1), misalign=1),
    # whole blocks of counters and a second item: one counter more would be one block more
    Case(1024, (3, 4)),
    Case(1024, (3, 4), stream=1, misalign=1),
    # first words of 334 and third of 664: small enough for the half that is added to each
    Case(4, (75465, 205840)),
    Case(3, (75465, 205840)),
]
# Counters above 2^32, far behind the base: a GPU would run all the blocks before, and the emulated lanes run the last.
FAR_CASES = [
    Case((1 << 35) + 1024, (99,), (3,), stream=1, last=1024),
    Case((1 << 35) + 1023, (99,), (3,), stream=1, last=1023),
]
