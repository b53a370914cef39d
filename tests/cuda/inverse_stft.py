# SPDX-License-Identifier: Apache-2.0
"""`inverse_stft` and its backward as cases for the CUDA lanes."""

from __future__ import annotations

import ctypes
import importlib

import torch

from .cases import Buffer, Outcome, as_bytes, compare, inputs, run_plan
from .devices import Device, HostDevice
from .frames import SWEEP, Case, Frames, Spectrogram

op = importlib.import_module("prestissimo.ops.inverse_stft")


class Args(ctypes.Structure):
    _fields_ = (
        ("log_magnitude", Frames),
        ("phase", Frames),
        ("window", ctypes.c_void_p),
        ("signal", ctypes.c_void_p),
        ("batch", ctypes.c_int64),
        ("frames", ctypes.c_int64),
        ("n_fft", ctypes.c_int64),
        ("hop", ctypes.c_int64),
    )


class BackwardArgs(ctypes.Structure):
    _fields_ = (
        ("forward", Args),
        ("dsignal", ctypes.c_void_p),
        ("dlog_magnitude", ctypes.c_void_p),
        ("dphase", ctypes.c_void_p),
    )


def arguments(s: Spectrogram, signal: int | None = None) -> Args:
    c = s.case
    return Args(
        s.view(s.log_magnitude),
        s.view(s.phase),
        s.window_address(),
        signal,
        c.batch,
        c.frames,
        c.n_fft,
        c.hop,
    )


def exact_and_same(
    f: object, s: Spectrogram, *before: torch.Tensor
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """Results of a reference in float64 and in float32."""
    results = []
    for dtype in (torch.float64, torch.float32):
        window = None if s.window is None else s.window.to(dtype)
        tensors = [v.to(dtype) for v in (*before, s.log_magnitude, s.phase)]
        y = f(*tensors, window, s.case.hop)  # type: ignore[operator]
        results.append(y if isinstance(y, tuple) else (y,))
    return results[0], results[1]


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    s = Spectrogram(case, device)
    samples = (case.batch, case.frames * case.hop)
    signal = s.empty(*samples)
    findings = run_plan(device, planner, "inverse_stft", arguments(s, signal.address))
    got = {"signal": signal.tensor(torch.float32, samples)}
    exact, same = exact_and_same(op.reference, s)
    wrong = compare("signal", got["signal"], exact[0], same[0])

    dsignal = inputs(s.rng, samples, torch.float32, 0.3)
    buffers = [s.empty(*case.shape) if want else None for want in case.wanted]
    args = BackwardArgs(
        arguments(s),
        Buffer.of(device, as_bytes(dsignal.float())).address,
        *(b.address if b else None for b in buffers),
    )
    findings += run_plan(device, planner, "inverse_stft_backward", args)
    exact, same = exact_and_same(lambda *a: op.backward_reference(*a, wanted=[True, True]), s, dsignal)
    for name, b, e, d in zip(("dlog_magnitude", "dphase"), buffers, exact, same, strict=True):
        if b:
            got[name] = b.tensor(torch.float32, case.shape)
            wrong += compare(name, got[name], e, d, gradient=True)
    return Outcome(findings, wrong, got)


CASES = [*SWEEP, Case(1, 3, 64, wanted=(True, False)), Case(1, 3, 64, wanted=(False, True))]
