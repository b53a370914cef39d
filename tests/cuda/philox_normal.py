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

    def __str__(self) -> str:
        return f"{len(self.seeds)}x{self.size}-stream{self.stream}" + "-misaligned" * bool(self.misalign)


def run(
    case: Case, device: Device, planner: HostDevice, op: ModuleType = op, name: str = "philox_normal"
) -> Outcome:
    seeds = torch.tensor(case.seeds, dtype=torch.int64)
    items = torch.tensor(case.items or (0,) * len(case.seeds), dtype=torch.int64)
    size = 4 * len(case.seeds) * case.size
    out = Buffer(device, device.allocate(size, None, 4 * case.misalign), size)
    args = Args(
        seeds=Buffer.of(device, as_bytes(seeds)).address,
        items=Buffer.of(device, as_bytes(items)).address,
        stream=case.stream,
        out=out.address,
        batch=len(case.seeds),
        size=case.size,
    )
    findings = run_plan(device, planner, name, args)
    got = out.tensor(torch.float32, (len(case.seeds), case.size))
    expected = op.reference(seeds, items, case.stream, case.size)
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
]
