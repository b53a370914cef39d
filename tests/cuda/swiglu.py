# SPDX-License-Identifier: Apache-2.0
"""`swiglu` and its backward as cases for the CUDA lanes."""

from __future__ import annotations

import importlib

import torch

from . import gated_linear_unit
from .cases import Outcome
from .devices import Device, HostDevice
from .gated_linear_unit import Case

op = importlib.import_module("prestissimo.ops.swiglu")

CASES = gated_linear_unit.sweep(("silu",))


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    def reference(x: torch.Tensor) -> torch.Tensor:
        return op.reference(x, case.gate_first)

    return gated_linear_unit.run(case, device, planner, "swiglu", reference)
