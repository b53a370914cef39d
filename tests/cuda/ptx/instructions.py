# SPDX-License-Identifier: Apache-2.0
"""From an instruction to the function that executes it. Opcodes register themselves; an unknown one is an
error.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from .program import Instruction

if TYPE_CHECKING:
    from .machine import Execution, Step

Implementation = Callable[["Execution", Instruction], "Step"]
_TABLE: dict[str, Implementation] = {}


def opcode(*names: str) -> Callable[[Implementation], Implementation]:
    """Register an implementation: it reads modifiers and operands once and returns what runs for a set of
    threads.
    """

    def register(function: Implementation) -> Implementation:
        for name in names:
            _TABLE[name] = function
        return function

    return register


_MODULES = ("asynchronous", "atomics", "control", "convert", "floats", "integers", "tensor", "warp")


def compile_instruction(run: Execution, ins: Instruction) -> Step:
    if not _TABLE:
        for name in _MODULES:  # importing them registers their opcodes
            importlib.import_module(f".{name}", __package__)
    if ins.opcode not in _TABLE:
        raise ins.fail(f"instruction {ins.opcode} is not supported")
    remaining = Instruction(
        ins.opcode, list(ins.modifiers), ins.operands, ins.guard, ins.negated, ins.line, ins.text
    )
    step = _TABLE[ins.opcode](run, remaining)
    if remaining.modifiers:
        raise ins.fail(f"modifier .{remaining.modifiers[0]} of {ins.opcode} is not supported")
    return step
