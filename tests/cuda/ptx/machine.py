# SPDX-License-Identifier: Apache-2.0
"""A GPU of NumPy arrays: a register is an array with one element for each thread of the grid.

The lowest program counter runs first, for every thread that stands there; warp operations and barriers make
threads wait. `Machine` is the device (memory, modules, launches), `Execution` one launch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .formats import UNSIGNED, Array, Type
from .memory import GlobalMemory, Memory
from .program import Kernel, Module, Operand, PtxError, parse_immediate
from .races import Clock
from .statistics import Statistics

if TYPE_CHECKING:
    from .asynchronous import Copies

Step = Callable[[Array], None]  # executes one instruction for these threads
_GENERAL = ("ld", "st", "atom", "red", "cp", "ldmatrix")


@dataclass
class Options:
    """What the hardware may do one way or the other; a correct kernel does not mind."""

    races: bool = True
    cp_async_late: bool = True  # bytes land at wait_group; otherwise at issue
    mma_truncate: bool = False  # addends cut to 24 bits below the largest; otherwise one exact sum
    approximate: int = 0  # .approx results: exact, or off by their documented error, up (+1) or down (-1)
    statistics: bool = False
    max_findings: int = 8
    max_steps: int = 2_000_000  # a loop that does not end is a finding


class Machine:
    """A device that holds global memory and runs the kernels of one PTX module."""

    def __init__(
        self, module: Module | str, options: Options | None = None, statistics: Statistics | None = None
    ) -> None:
        """`statistics`: counted on there, for instance the coverage of many machines; else in a new one."""
        self.module = Module(module) if isinstance(module, str) else module
        self.options = options or Options()
        self.memory = GlobalMemory()
        self.statistics = statistics or Statistics(self.options.statistics)
        self.symbols = {
            name: self.memory.allocate(array.nbytes, array.tobytes()) for name, array in self.module.globals()
        }

    def launch(
        self,
        kernel: str,
        grid: Sequence[int],
        block: Sequence[int],
        parameters: bytes,
        shared: int = 0,
        blocks: Sequence[int] = (),
    ) -> list[str]:
        """Run `kernel` over the grid, or over the listed linear block indices only; returns what was found
        wrong.
        """
        run = Execution(
            self, self.module.kernel(kernel), _three(grid), _three(block), parameters, shared, blocks
        )
        run.run()
        return run.findings


def _three(size: Sequence[int]) -> tuple[int, int, int]:
    x, y, z = (*size, 1, 1, 1)[:3]
    return int(x), int(y), int(z)


class Execution:
    """One launch. Threads of all its blocks are in flight together, numbered block by block."""

    def __init__(
        self,
        machine: Machine,
        kernel: Kernel,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        parameters: bytes,
        shared: int,
        only: Sequence[int],
    ) -> None:
        self.machine, self.kernel, self.options, self.statistics = (
            machine,
            kernel,
            machine.options,
            machine.statistics,
        )
        self.findings: list[str] = []
        self.finding_count = 0
        self.block_size = block[0] * block[1] * block[2]
        if not 0 < self.block_size <= 1024 or self.block_size % 32:
            raise PtxError(
                f"{kernel.name}: a block of {self.block_size} threads is not a multiple of 32 up to 1024"
            )
        if len(parameters) != kernel.parameter_bytes:
            raise PtxError(
                f"{kernel.name} takes {kernel.parameter_bytes} bytes of parameters, not {len(parameters)}"
            )
        self.parameters = np.frombuffer(parameters, np.uint8)
        self.block_ids = np.array(only or range(grid[0] * grid[1] * grid[2]), np.int64)
        self.blocks = len(self.block_ids)
        self.size = self.blocks * self.block_size
        self.threads = np.arange(self.size)
        self.special = self._special_registers(grid, block)
        self.clock = Clock(self.size, self.block_size)
        self.memory = Memory(self, machine.memory, shared, self._granule(), machine.options.races)
        self.registers = self._registers()
        self.carry = np.zeros(self.size, bool)
        self.end = len(kernel.instructions)
        self.pc = np.zeros(self.size, np.int32)
        self.running = np.ones(self.size, bool)
        self.done = np.zeros(self.size, bool)
        self.at_barrier = np.zeros(self.size, bool)
        self.at_warp = np.zeros(self.size, bool)
        self.warp_mask = np.zeros(self.size, np.uint32)
        self.pending_copies: list[
            Copies
        ] = []  # cp.async in flight, and each thread's count of committed groups
        self.committed_groups = np.zeros(self.size, np.int64)
        self.at: int | None = None

    def _special_registers(self, grid: tuple[int, int, int], block: tuple[int, int, int]) -> dict[str, Array]:
        t = self.threads % self.block_size
        b = self.block_ids[self.threads // self.block_size]
        values = {
            "%tid.x": t % block[0],
            "%tid.y": t // block[0] % block[1],
            "%tid.z": t // (block[0] * block[1]),
            "%ctaid.x": b % grid[0],
            "%ctaid.y": b // grid[0] % grid[1],
            "%ctaid.z": b // (grid[0] * grid[1]),
            "%laneid": t % 32,
            "%warpid": t // 32,
        }
        for i, axis in enumerate("xyz"):
            values[f"%ntid.{axis}"] = np.full(self.size, block[i])
            values[f"%nctaid.{axis}"] = np.full(self.size, grid[i])
        return {name: v.astype(np.uint32) for name, v in values.items()}

    def _registers(self) -> dict[str, Array]:
        """They begin as NaN bits, not as convenient zeros; those of one width lie in one array."""
        by_width: dict[tuple[str, int], list[str]] = {}
        for name, t in self.kernel.registers.items():
            by_width.setdefault((t.kind if t.kind == "p" else "", t.bytes), []).append(name)
        registers: dict[str, Array] = {}
        for (kind, width), names in by_width.items():
            shape = (len(names), self.size)
            block = np.zeros(shape, bool) if kind else np.full(shape, (1 << 8 * width) - 1, UNSIGNED[width])
            registers.update(zip(names, block, strict=True))
        return registers

    def _granule(self) -> int:
        """Shadow cells are as wide as the narrowest access of the kernel: nothing smaller can race."""
        widths = [16]
        for ins in self.kernel.instructions:
            if ins.opcode in _GENERAL and "param" not in ins.modifiers:
                widths += [int(w.lstrip("bufsx")) // 8 for w in ins.modifiers if w in _WIDTHS]
                widths += [2] if ins.modifiers[-1:] in (["f16"], ["bf16"]) else []
        return min(widths)

    def found(self, what: str) -> None:
        """Something wrong with the kernel, at the instruction that runs now."""
        self.finding_count += 1
        if len(self.findings) < self.options.max_findings:
            if self.at is not None:
                ins = self.kernel.instructions[self.at]
                what = f"{what} | PTX line {ins.line}: {ins.text[:90]}"
            self.findings.append(f"{self.kernel.name}: {what}")

    def name_thread(self, thread: int) -> str:
        return f"block {int(self.block_ids[thread // self.block_size])} thread {thread % self.block_size}"

    # ---- the loop ------------------------------------------------------------------------------------------

    def run(self) -> None:
        from .instructions import compile_instruction

        program: list[Step | None] = [None] * self.end
        if (
            not self.kernel.understood
        ):  # an instruction that is not known is an error even where nothing reaches it
            program = [compile_instruction(self, ins) for ins in self.kernel.instructions]
            self.kernel.understood = True
        hits = self.statistics.executed.setdefault(self.kernel.name, np.zeros(self.end, np.int64))
        steps = 0
        with np.errstate(all="ignore"):
            while self.finding_count < 1000:
                steps += 1
                if steps > self.options.max_steps:
                    self.found("does not end")
                    break
                where = np.where(self.running, self.pc, self.end)
                p = int(where.min()) if self.size else self.end
                if p >= self.end:
                    if self._all_stand_still():
                        break
                    continue
                self.at = p
                ins = self.kernel.instructions[p]
                threads = np.flatnonzero(where == p)
                self.pc[threads] = p + 1
                if ins.guard and ins.opcode != "bra":
                    threads = threads[self.registers[ins.guard][threads] != ins.negated]
                if len(threads):
                    hits[p] += len(threads)
                    self.statistics.step(ins.opcode, threads)
                    step = program[p]
                    if step is None:
                        step = program[p] = compile_instruction(self, ins)
                    step(threads)
        self.at = None
        if not self.done.all() and not self.findings:
            self.found("threads did not finish")

    def _all_stand_still(self) -> bool:
        """No thread can run: end those that fell off the end, open barriers, or give up."""
        fell = self.running & (self.pc >= self.end)
        if fell.any():
            self.finish(np.flatnonzero(fell))
            return False
        if self.open_barriers():
            return False
        stuck = self.at_barrier | self.at_warp
        if stuck.any():
            first = int(np.flatnonzero(stuck)[0])
            self.at = int(self.pc[first]) - int(self.at_barrier[first])  # a barrier's threads stand behind it
            self.found(
                f"deadlock: {int(self.at_barrier.sum())} threads wait at a barrier, "
                f"{int(self.at_warp.sum())} at a warp operation, the first is {self.name_thread(first)}"
            )
        return True

    def finish(self, threads: Array) -> None:
        self.done[threads] = True
        self.running[threads] = False
        from .asynchronous import check_exit

        check_exit(self, threads)

    def wait_at_barrier(self, threads: Array) -> None:
        self.at_barrier[threads] = True
        self.running[threads] = False
        self.open_barriers()

    def open_barriers(self) -> bool:
        """Barrier 0 of every block whose live threads are all there."""
        if not self.at_barrier.any():
            return False
        arrived = self.at_barrier.reshape(self.blocks, -1)
        opens = (arrived | self.done.reshape(self.blocks, -1)).all(1) & arrived.any(1)
        if not opens.any():
            return False
        go = np.repeat(opens, self.block_size) & self.at_barrier
        self.at_barrier[go] = False
        self.running[go] = True
        self.clock.epoch[opens] += 1
        return True

    # ---- operands ------------------------------------------------------------------------------------------

    def reader(self, operand: Operand, t: Type) -> Callable[[Array], Array]:
        """A function of thread ids that gives the operand's values as `t`."""
        if not isinstance(operand, str):
            raise PtxError(f"operand {operand} is a vector")
        if operand in self.registers:
            register = self.registers[operand]
            if t.kind == "p":
                return lambda i: register[i]
            width = register.itemsize
            if register.dtype == np.bool_:
                raise PtxError(f"{operand} is a predicate")
            if width == t.bytes:
                return lambda i: register[i].view(t.dtype)
            return lambda i: register[i].astype(UNSIGNED[t.bytes]).view(t.dtype)
        if operand in self.special:
            values = self.special[operand]
            return lambda i: values[i].astype(UNSIGNED[t.bytes]).view(t.dtype)
        constant = np.atleast_1d(self._constant(operand, t))
        return lambda i: np.broadcast_to(constant, (len(i),))

    def _constant(self, operand: str, t: Type) -> Array:
        k = self.kernel
        symbol: int | None = None
        if operand in k.shared:
            symbol = k.shared[operand]
        elif operand in k.dynamic:
            symbol = self.memory.dynamic_offset
        elif operand in k.local:
            symbol = k.local[operand]
        elif operand in self.machine.symbols:
            symbol = self.machine.symbols[operand]
        else:
            for p in k.parameters:
                if p.name == operand:
                    symbol = p.offset
        if symbol is not None:
            return np.array(symbol, np.uint64).astype(UNSIGNED[t.bytes]).view(t.dtype)
        try:
            return parse_immediate(operand, t)
        except ValueError:
            raise PtxError(f"unknown operand {operand}") from None

    def predicate(self, operand: Operand) -> Callable[[Array], Array]:
        """A predicate register, possibly negated, or a constant."""
        if not isinstance(operand, str):
            raise PtxError(f"operand {operand} is a vector")
        if operand not in self.registers and not operand.startswith("!"):
            constant = np.array([int(operand, 0) != 0])
            return lambda i: np.broadcast_to(constant, (len(i),))
        register = self.registers[operand.lstrip("!")]
        return (lambda i: ~register[i]) if operand.startswith("!") else (lambda i: register[i])

    def writer(self, operand: Operand, t: Type) -> Callable[[Array, Array], None]:
        """A function of (thread ids, values of type `t`); a wider register is filled by sign or zero
        extension.
        """
        if operand == "_":
            return lambda i, v: None
        if not isinstance(operand, str) or operand not in self.registers:
            raise PtxError(f"destination {operand}")
        register = self.registers[operand]

        if t.kind == "p" or register.itemsize == t.bytes:
            dtype = register.dtype

            def exact(i: Array, v: Array) -> None:
                register[i] = np.ascontiguousarray(v, t.dtype).view(dtype)

            return exact
        if register.itemsize < t.bytes:
            raise PtxError(f"destination {operand} is narrower than .{t.name}")
        wide = np.dtype(f"int{8 * register.itemsize}") if t.signed else register.dtype
        plain = t.dtype if t.signed else UNSIGNED[t.bytes]

        def extended(i: Array, v: Array) -> None:
            register[i] = np.ascontiguousarray(v, t.dtype).view(plain).astype(wide).view(register.dtype)

        return extended


_WIDTHS = {f"{k}{n}" for k in "busf" for n in (8, 16, 32, 64)}
