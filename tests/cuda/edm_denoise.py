# SPDX-License-Identifier: Apache-2.0
"""`edm_denoise` and its backward as cases for the CUDA lanes."""

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

op = importlib.import_module("prestissimo.ops.edm_denoise")


class Args(ctypes.Structure):
    _fields_ = (("blend", Blend), ("sigma", ctypes.c_void_p), ("sigma_data", ctypes.c_double))


class BackwardArgs(ctypes.Structure):
    _fields_ = (("blend", BlendBackward), ("sigma", ctypes.c_void_p), ("sigma_data", ctypes.c_double))


def numbers(rng: np.random.Generator, batch: int) -> list[torch.Tensor]:
    return [levels(rng, batch)]


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    def args(blend: Blend | BlendBackward, addresses: list[int], sigma_data: float) -> Args | BackwardArgs:
        kind = Args if isinstance(blend, Blend) else BackwardArgs
        return kind(blend, *addresses, sigma_data)

    name = "edm_denoise"
    return blends.forward(name, case, device, planner, op.reference, args, numbers) + blends.backward(
        name, case, device, planner, op.reference, args, numbers
    )


CASES = blends.sweep()
