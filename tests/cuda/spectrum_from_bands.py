# SPDX-License-Identifier: Apache-2.0
"""`spectrum_from_bands` and its backward as cases for the CUDA lanes."""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .cases import Buffer, Outcome, as_bytes, compare, inputs, run_plan
from .devices import Device, HostDevice

op = importlib.import_module("prestissimo.ops.spectrum_from_bands")
CHANNELS, PERIOD = 2, 3


class Rows(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("batch_stride", "channel_stride", "frame_stride")),
    )


class Interpolation(ctypes.Structure):
    _fields_ = (("lower", ctypes.c_void_p), ("share", ctypes.c_void_p), ("count", ctypes.c_int64))


class Args(ctypes.Structure):
    _fields_ = (
        ("bands", Rows),
        ("residual", Rows),
        ("spread", Rows),
        ("band", Interpolation),
        ("spreads", Interpolation),
        ("offset", ctypes.c_void_p),
        ("noise", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("batch", "channels", "frames", "bins", "period", "first")),
    )


class BackwardArgs(ctypes.Structure):
    _fields_ = (
        ("forward", Args),
        ("dy", ctypes.c_void_p),
        ("dbands", ctypes.c_void_p),
        ("dspread", ctypes.c_void_p),
    )


@dataclass(frozen=True)
class Case:
    batch: int
    frames: int
    bins: int
    bands: int = 5
    noisy: bool = True
    wanted: tuple[bool, bool] = (True, True)

    def __str__(self) -> str:
        words = [f"{self.batch}x{self.frames}x{self.bins}-{self.bands}"] + ["noisy"] * self.noisy
        return "-".join(words + ["".join("np"[w] for w in self.wanted)] * (not all(self.wanted)))


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    """Forward, then backward; gradients by autograd through the reference."""
    rng = np.random.default_rng([case.batch, case.frames, case.bins, case.bands])
    B, T, F = case.batch, case.frames, case.bins
    wide = (B, T, CHANNELS)  # channels between frames and values, as a network's output has them
    values: dict[str, Any] = {
        "bands": inputs(rng, (*wide, case.bands), torch.float32, -1.0).transpose(1, 2),
        "residual": inputs(rng, (*wide, F), torch.float32, 0.3).transpose(1, 2),
        "offset": inputs(rng, (CHANNELS, F), torch.float32, 0.5),
        "spread": inputs(rng, (*wide, 3), torch.float32, -0.5, 0.6).transpose(1, 2),
        "noise": inputs(rng, (CHANNELS, PERIOD, F), torch.float32, 0.2),
    }
    places = {}
    for name, count in (("band", case.bands), ("spreads", 3)):
        lower, share = op.interpolation(np.linspace(0.1, 0.9, count) ** 2, np.linspace(0, 1, F))
        places[name] = torch.from_numpy(lower), torch.from_numpy(share).double()
    dy = inputs(rng, (B, CHANNELS, T, F), torch.float32, 0.3)

    def address(v: torch.Tensor) -> int:
        return Buffer.of(device, as_bytes(v.float() if v.is_floating_point() else v)).address

    def rows(v: torch.Tensor) -> Rows:
        stored = v.transpose(1, 2).contiguous()
        return Rows(address(stored), stored.stride(0), stored.stride(2), stored.stride(1))

    def place(name: str, count: int) -> Interpolation:
        return Interpolation(*map(address, places[name]), count)

    y = Buffer.empty(device, 4 * B * CHANNELS * T * F)
    args = Args(
        rows(values["bands"]),
        rows(values["residual"]),
        rows(values["spread"]) if case.noisy else Rows(),
        place("band", case.bands),
        place("spreads", 3) if case.noisy else Interpolation(),
        address(values["offset"]),
        address(values["noise"]) if case.noisy else None,
        y.address,
        *(B, CHANNELS, T, F, PERIOD if case.noisy else 1, 2),
    )
    findings = run_plan(device, planner, "spectrum_from_bands", args)
    shapes = {"bands": (B, CHANNELS, T, case.bands), "spread": (B, CHANNELS, T, 3)}
    wanted = [name for name, want in zip(shapes, case.wanted, strict=True) if want]
    grads = {name: Buffer.empty(device, 4 * int(np.prod(shapes[name]))) for name in wanted}
    if not case.noisy:
        grads.pop("spread", None)
    addresses = (grads[name].address if name in grads else None for name in shapes)
    findings += run_plan(
        device, planner, "spectrum_from_bands_backward", BackwardArgs(args, address(dy), *addresses)
    )

    def reference(dtype: torch.dtype) -> dict[str, torch.Tensor]:
        v = {k: t.to(dtype) for k, t in values.items()}
        leaves = [v["bands"].requires_grad_(), v["spread"].requires_grad_()]
        (lower, share), (spread_lower, spread_share) = places["band"], places["spreads"]
        noise = (v["spread"], v["noise"], spread_lower, spread_share.to(dtype)) if case.noisy else (None,) * 4
        result = op.reference(v["bands"], v["residual"], v["offset"], lower, share.to(dtype), *noise, 2)
        dbands, dspread = torch.autograd.grad(result, leaves, dy.to(dtype), allow_unused=True)
        return {"y": result.detach(), "bands": dbands, "spread": dspread}

    got = {"y": y.tensor(torch.float32, (B, CHANNELS, T, F))}
    got |= {name: buffer.tensor(torch.float32, shapes[name]) for name, buffer in grads.items()}
    exact, same = reference(torch.float64), reference(torch.float32)
    wrong = [w for k, v in got.items() for w in compare(k, v, exact[k], same[k], gradient=k != "y")]
    return Outcome(findings, wrong, got)


CASES = [
    Case(1, 1, 2),
    Case(1, 2, 5, bands=9),
    Case(2, 3, 33),
    Case(1, 4, 129, bands=31, noisy=False),
    Case(1, 5, 255, bands=257),
    Case(1, 3, 257),
    Case(2, 2, 512, bands=96),
    Case(1, 2, 1025, bands=96),
    Case(1, 3, 65, wanted=(True, False)),
    Case(1, 3, 65, wanted=(False, True)),
]
