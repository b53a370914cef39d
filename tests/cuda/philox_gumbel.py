# SPDX-License-Identifier: Apache-2.0
"""`philox_gumbel` as cases for the CUDA lanes: every bit as the reference has it."""

from __future__ import annotations

import importlib

from . import philox_normal
from .cases import Outcome
from .devices import Device, HostDevice
from .philox_normal import CASES, FAR_CASES, Case

op = importlib.import_module("prestissimo.ops.philox_gumbel")
__all__ = ["CASES", "FAR_CASES", "run"]


def run(case: Case, device: Device, planner: HostDevice) -> Outcome:
    return philox_normal.run(case, device, planner, op, "philox_gumbel")
