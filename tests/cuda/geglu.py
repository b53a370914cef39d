# SPDX-License-Identifier: Apache-2.0
"""`geglu` and its backward as cases for the CUDA lanes."""

from __future__ import annotations

import importlib

import torch

from . import gated_linear_unit
from .cases import Outcome
from .devices import Device, HostDevice
from .gated_linear_unit import Case

op = importlib.import_module("prestissimo.ops.geglu")

CASES = gated_linear_unit.sweep(("gelu", "gelu_tanh"))


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    def reference(x: torch.Tensor) -> torch.Tensor:
        return op.reference(x, case.gate_first, approximate="tanh" if case.gate == "gelu_tanh" else "none")

    return gated_linear_unit.run(case, device, planner, "geglu", reference)
