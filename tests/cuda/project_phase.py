# SPDX-License-Identifier: Apache-2.0
"""`project_phase` as cases for the CUDA lanes: angles are compared on the bins that they are taken of."""

from __future__ import annotations

import ctypes
import importlib
import math
from dataclasses import dataclass

import torch

from .cases import Outcome, compare, run_plan
from .devices import Device, HostDevice
from .frames import SWEEP, Case, Frames, Spectrogram

op = importlib.import_module("prestissimo.ops.project_phase")


class Args(ctypes.Structure):
    _fields_ = (
        ("log_magnitude", Frames),
        ("phase", Frames),
        ("window", ctypes.c_void_p),
        ("projected", ctypes.c_void_p),
        ("signal", ctypes.c_void_p),
        ("batch", ctypes.c_int64),
        ("frames", ctypes.c_int64),
        ("n_fft", ctypes.c_int64),
        ("hop", ctypes.c_int64),
        ("rounds", ctypes.c_int64),
    )


@dataclass(frozen=True)
class WithNan(Case):
    """In the last frame: every bin of the frames over it, the two real ones too, whose other part is 0."""

    def __str__(self) -> str:
        return f"{super().__str__()}-nan"


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    s = Spectrogram(case, device)
    if isinstance(case, WithNan):
        s.log_magnitude[-1, -1, case.n_fft // 5] = math.nan
    projected, signal = s.empty(*case.shape), s.empty(case.batch, case.frames * case.hop)
    log_magnitude, phase, window = s.view(s.log_magnitude), s.view(s.phase), s.window_address()
    sizes = (case.batch, case.frames, case.n_fft, case.hop, 1)
    findings, wrong, before = [], [], s.phase
    small = None if s.window is None else s.window.float()
    for _ in range(
        case.rounds
    ):  # as csrc/ops/project_phase.cpp goes round; each from the phases that came before
        args = Args(log_magnitude, phase, window, projected.address, signal.address, *sizes)
        findings += run_plan(device, planner, "project_phase", args)
        got = projected.tensor(torch.float32, case.shape)
        weight = op.project(s.log_magnitude, before, s.window, case.hop).abs()
        exact = op.reference(s.log_magnitude, before, s.window, case.hop, 1)
        same = op.reference(s.log_magnitude.float(), before.float(), small, case.hop, 1)
        numbers = ~exact.isnan()
        if not torch.equal(got.isnan(), ~numbers):
            wrong.append(
                f"projected: NaN in {int(got.isnan().sum())} bins, the reference in {int((~numbers).sum())}"
            )
        wrong += compare("projected", *(seen(weight, angle)[numbers] for angle in (got, exact, same)))
        before, phase = got.double(), Frames(projected.address, case.shape[1] * case.shape[2], case.shape[2])
    return Outcome(findings, wrong, {"projected": got})


def seen(weight: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(torch.polar(weight.to(angle.dtype), angle))


CASES = [*SWEEP, Case(1, 6, 128, rounds=2), WithNan(2, 6, 64), WithNan(1, 9, 2048, hann=True)]
