# SPDX-License-Identifier: Apache-2.0
"""`ctm_map` and its backward as cases for the CUDA lanes."""

from __future__ import annotations

import ctypes
import importlib

import numpy as np
import torch

from . import blends
from .blends import Blend, BlendBackward, Case
from .cases import Outcome
from .devices import Device, HostDevice
from .latents import levels

op = importlib.import_module("prestissimo.ops.ctm_map")


class Args(ctypes.Structure):
    _fields_ = (
        ("blend", Blend),
        ("t", ctypes.c_void_p),
        ("s", ctypes.c_void_p),
        ("sigma_data", ctypes.c_double),
    )


class BackwardArgs(ctypes.Structure):
    _fields_ = (
        ("blend", BlendBackward),
        ("t", ctypes.c_void_p),
        ("s", ctypes.c_void_p),
        ("sigma_data", ctypes.c_double),
    )


def numbers(rng: np.random.Generator, batch: int) -> list[torch.Tensor]:
    t = levels(rng, batch)
    share = torch.from_numpy(rng.uniform(0, 1, batch).astype(np.float32))
    share[:1] = float(rng.integers(0, 2))  # s = 0 and s = t, the ends of the trajectory
    return [t, t * share]


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    def args(blend: Blend | BlendBackward, addresses: list[int], sigma_data: float) -> Args | BackwardArgs:
        kind = Args if isinstance(blend, Blend) else BackwardArgs
        return kind(blend, *addresses, sigma_data)

    name = "ctm_map"
    return blends.forward(name, case, device, planner, op.reference, args, numbers) + blends.backward(
        name, case, device, planner, op.reference, args, numbers
    )


CASES = blends.sweep(sigma_data=(0.5, 0.0))
