# SPDX-License-Identifier: Apache-2.0
"""Runs the PTX that nvcc wrote on NumPy arrays, and says what is wrong with it.

>>> machine = Machine(open("kernel.ptx").read())             # doctest: +SKIP
>>> findings = machine.launch("kernel", (2,), (64,), parameters)  # doctest: +SKIP

On every access: bounds, alignment, memory never written, races (block and warp barriers, cp.async groups,
atomics, blocks against each other). On every warp operation: masks, exited lanes, deadlock. An instruction,
modifier or directive that it does not know is a `PtxError` with its line: nothing is guessed. Docs:
docs/cuda.md.
"""

from .machine import Machine, Options
from .program import Kernel, Module, PtxError
from .statistics import Statistics

__all__ = ["Kernel", "Machine", "Module", "Options", "PtxError", "Statistics"]
