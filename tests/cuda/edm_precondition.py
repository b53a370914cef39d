# SPDX-License-Identifier: Apache-2.0
"""`edm_precondition` as cases for the CUDA lanes."""

from __future__ import annotations

import ctypes
import importlib

import numpy as np
import torch

from . import blends
from .blends import Blend, Case
from .cases import Outcome
from .devices import Device, HostDevice
from .latents import levels

op = importlib.import_module("prestissimo.ops.edm_precondition")


class Args(ctypes.Structure):
    _fields_ = (("blend", Blend), ("sigma", ctypes.c_void_p), ("sigma_data", ctypes.c_double))


def numbers(rng: np.random.Generator, batch: int) -> list[torch.Tensor]:
    return [levels(rng, batch)]


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    def args(blend: Blend, addresses: list[int], sigma_data: float) -> Args:
        return Args(blend, *addresses, sigma_data)

    return blends.forward("edm_precondition", case, device, planner, op.reference, args, numbers, inputs=1)


CASES = [c for c in blends.sweep() if c.wanted[0]]
