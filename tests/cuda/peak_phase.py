# SPDX-License-Identifier: Apache-2.0
"""`peak_phase` as cases for the CUDA lanes: every bit as the reference has it."""

from __future__ import annotations

import ctypes
import importlib
import zlib
from dataclasses import dataclass

import numpy as np
import torch

from .cases import Buffer, Outcome, as_bytes, run_plan
from .devices import Device, HostDevice

op = importlib.import_module("prestissimo.ops.peak_phase")


class Args(ctypes.Structure):
    _fields_ = (
        ("log_magnitude", ctypes.c_void_p),
        ("batch_stride", ctypes.c_int64),
        ("frame_stride", ctypes.c_int64),
        ("state", ctypes.c_void_p),
        ("phase", ctypes.c_void_p),
        ("next_state", ctypes.c_void_p),
        ("sources", ctypes.c_void_p),
        ("batch", ctypes.c_int64),
        ("frames", ctypes.c_int64),
        ("bins", ctypes.c_int64),
        ("hop", ctypes.c_int64),
    )


@dataclass(frozen=True)
class Case:
    """`plain`: a state of zeros that is not given; `gap`: floats between frames."""

    batch: int
    frames: int
    bins: int
    hop: int = 1
    plain: bool = False
    gap: int = 0

    def __str__(self) -> str:
        return (
            f"{self.batch}x{self.frames}x{self.bins}-{self.hop}"
            + "-plain" * self.plain
            + "-gap" * bool(self.gap)
        )


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    rng = np.random.default_rng(zlib.crc32(str(case).encode()))
    B, T, F = case.batch, case.frames, case.bins
    values = rng.standard_normal((B, T, F)) * 2 - 1
    values[:, ::3] = np.round(values[:, ::3] * 4) / 4  # ties: plateaus, flat peaks
    values[:, 2::4] += np.linspace(6, -6, F)  # long regions
    values[:, 3::6] = -np.inf
    log_magnitude = torch.from_numpy(values).float()
    wide = torch.full((B, T, F + case.gap), float("nan"))
    wide[..., :F] = log_magnitude
    state = torch.from_numpy(rng.integers(-(2**31), 2**31, (B, F)).astype(np.int32))
    phase = Buffer.empty(device, 4 * B * T * F)
    sources, after = Buffer.empty(device, 4 * B * T * F), Buffer.empty(device, 4 * B * F)
    args = Args(
        log_magnitude=Buffer.of(device, as_bytes(wide)).address,
        batch_stride=wide.stride(0),
        frame_stride=wide.stride(1),
        state=None if case.plain else Buffer.of(device, as_bytes(state)).address,
        phase=phase.address,
        next_state=after.address,
        sources=sources.address,
        batch=B,
        frames=T,
        bins=F,
        hop=case.hop,
    )
    findings = run_plan(device, planner, "peak_phase", args)
    got = {"phase": phase.tensor(torch.float32, (B, T, F)), "next_state": after.tensor(torch.int32, (B, F))}
    expected = op.reference(log_magnitude, None if case.plain else state, case.hop)
    wrong = [
        f"{name}: {int((g != e).sum())} of {g.numel()} values differ"
        for (name, g), e in zip(got.items(), expected, strict=True)
        if not torch.equal(g, e)
    ]
    return Outcome(findings, wrong, got)


CASES = [
    Case(1, 1, 2),
    Case(1, 7, 3),
    Case(2, 5, 5, 2, gap=3),
    Case(1, 9, 33, 16),
    Case(3, 4, 129, 64, plain=True),
    Case(1, 7, 255, 3),
    Case(1, 7, 256, 100, gap=1),
    Case(1, 7, 257, 128),
    Case(1, 7, 513, 64, plain=True),
    Case(2, 5, 1025, 512),
    Case(1, 4, 1537, 768),
    Case(1, 3, 2049, 333),
    Case(1, 0, 9, 2),
]
