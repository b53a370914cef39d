# SPDX-License-Identifier: Apache-2.0
"""Which kernels there are, how they are built for each lane, and what has been verified.

An op is a csrc/cuda/<op>.cu; its cases are the module tests/cuda/<op>.py with CASES and run(case, device, planner).
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, cast

from . import toolchain
from .cases import Outcome
from .devices import Device, HostDevice, HostOptions, PtxDevice
from .ptx import Module, Options, Statistics
from .toolchain import CSRC, HERE, TARGETS

OPS = sorted(p.stem for p in (CSRC / "cuda").glob("*.cu"))
SETS = [*OPS, "probes"]
PROBES = HERE / "probes.cuh"  # small kernels that keep the rest of the instruction set covered
MODES = ("plain", "asan", "race")
VERIFIED = HERE / "verified.json"
ROTATION = 5
WORKERS = 8  # processes of the host lane at a time


class Cases(Protocol):
    """The interface of tests/cuda/<op>.py."""

    CASES: Sequence[Any]

    def run(self, case: Any, device: Device, planner: HostDevice) -> Outcome: ...


def cases_of(op: str) -> Cases:
    return cast("Cases", importlib.import_module(f"tests.cuda.{op}"))


def source_of(op: str) -> Path:
    """What nvcc compiles."""
    return PROBES if op == "probes" else CSRC / "cuda" / f"{op}.cu"


class Builds:
    """PTX modules and host-lane workers, built when first asked for, ended together."""

    def __init__(self) -> None:
        self._modules: dict[tuple[str, int], Module] = {}
        self._workers: OrderedDict[tuple[str, str, str], HostDevice] = OrderedDict()
        self._coverage: dict[tuple[str, int], Statistics] = {}

    def ptx(self, op: str, target: int) -> str:
        return toolchain.ptx(source_of(op), target)

    def module(self, op: str, target: int) -> Module:
        if (op, target) not in self._modules:
            self._modules[op, target] = Module(self.ptx(op, target))
        return self._modules[op, target]

    def machine(self, op: str, target: int, options: Options | None = None) -> PtxDevice:
        """A fresh device that knows the op's kernels; with the usual options it counts towards the coverage."""
        statistics = None if options else self._coverage.setdefault((op, target), Statistics())
        return PtxDevice(self.module(op, target), options, statistics)

    def coverage(self, op: str, target: int) -> tuple[int, int]:
        """(instructions that some machine of this process ran, all instructions) of the op's PTX."""
        module, statistics = self.module(op, target), self._coverage.get((op, target), Statistics())
        ran = sum(statistics.covered(kernel) for kernel in module.entries)
        return ran, sum(len(module.kernel(kernel).instructions) for kernel in module.entries)

    def host(self, op: str, mode: str, options: HostOptions | None = None) -> HostDevice:
        """The worker of an op in a mode, its buffers forgotten. It ends when WORKERS others were asked for since."""
        worker = self._worker(op, mode, "device")
        worker.reset()
        worker.configure(options or HostOptions())
        return worker

    def planner(self, op: str) -> HostDevice:
        """Only asked for plans: its buffers and options are nobody's."""
        return self._worker(op, "plain", "planner")

    def _worker(self, op: str, mode: str, role: str) -> HostDevice:
        """Each op is compiled by itself: a run that asks for few ops compiles few."""
        key = (op, mode, role)
        if key not in self._workers:
            self._workers[key] = HostDevice(toolchain.worker(mode, [source_of(op).with_suffix(".cuh")]))
            if len(self._workers) > WORKERS:
                self._workers.popitem(last=False)[1].close()
        self._workers.move_to_end(key)
        return self._workers[key]

    def __enter__(self) -> Builds:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers.values():
            worker.close()


_BUILDERS = ("lanes", "toolchain")  # they make and choose what runs, and what they make is hashed itself


@cache
def _imports(text: bytes) -> tuple[str, ...]:
    """Names of the modules that this one imports from beside it."""
    names: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            names += [node.module] if node.module else [alias.name for alias in node.names]
    return tuple(names)


def imported(path: Path) -> set[Path]:
    """A case module and the modules beside it that it imports, and they import: the .py files, not the packages."""
    found: set[Path] = set()
    pending = [path]
    while pending:
        module = pending.pop()
        if module in found or module.stem in _BUILDERS or not module.exists():
            continue
        found.add(module)
        pending += [path.with_name(f"{name}.py") for name in _imports(module.read_bytes())]
    return found


def _digest(paths: Iterable[Path]) -> str:
    h = hashlib.sha256()
    for p in sorted(paths):
        h.update(p.name.encode() + b"\0" + p.read_bytes())
    return h.hexdigest()[:32]


PLANTED = "planted-bugs"
UNITS = [
    f"{s}/{lane}" for s in SETS for lane in (*(f"ptx-{t}" for t in TARGETS), *(f"host-{m}" for m in MODES))
]
UNITS.append(PLANTED)


class Record:
    """verified.json: the fingerprint under which each unit last passed all its cases."""

    def __init__(self, builds: Builds) -> None:
        self.builds = builds
        self.verified: dict[str, str] = json.loads(VERIFIED.read_text()) if VERIFIED.exists() else {}
        self._current: dict[str, str] = {}
        self._asked: Counter[str] = Counter()  # how often a test wanted to run a unit's cases

    def fingerprint(self, unit: str) -> str:
        """What is verified (the PTX, or the host lane's sources) and by what (the cases and the interpreter)."""
        if unit not in self._current:
            ptx, emulator = (HERE / "ptx").glob("*.py"), (CSRC / "emulator").iterdir()
            if unit == PLANTED:
                ops = {bug.op for bug in importlib.import_module("tests.cuda.planted").BUGS}
                what = toolchain.source_hash([source_of(op).with_suffix(".cuh") for op in ops])
                by = _digest([*imported(HERE / "planted.py"), *ptx, *emulator])
            else:
                op, lane = unit.split("/")
                kind, which = lane.split("-")
                if kind == "ptx":
                    what = toolchain.ptx_hash(self.builds.ptx(op, int(which)))
                else:
                    what = toolchain.source_hash([source_of(op).with_suffix(".cuh")])
                by = _digest([*imported(HERE / f"{op}.py"), *(ptx if kind == "ptx" else emulator)])
            self._current[unit] = f"{what}:{by}"
        return self._current[unit]

    def why_not(self, unit: str, lanes: str, counts: bool = True) -> str | None:
        """Why a unit need not run today, or None. counts: this is one of the unit's own tests."""
        self._asked[unit] += counts
        if lanes == "all" or self.verified.get(unit) != self.fingerprint(unit):
            return None
        today = int(time.time() // 86400)
        if (UNITS.index(unit) + today) % ROTATION == 0:
            return None
        return "verified as it is (tests/cuda/verified.json); --cuda-lanes=all runs it"

    def write(self) -> None:
        """Units of which all tests ran are noted anew; the others stay as they were."""
        whole = {unit: self.fingerprint(unit) for unit in UNITS if self._asked[unit] >= self._tests(unit)}
        verified = {unit: mark for unit, mark in (self.verified | whole).items() if unit in UNITS}
        VERIFIED.write_text(json.dumps(dict(sorted(verified.items())), indent=1) + "\n")

    @staticmethod
    def _tests(unit: str) -> int:
        """How many tests there are of a unit: one a case, for PTX one more for its coverage."""
        if unit == PLANTED:
            bugs = importlib.import_module("tests.cuda.planted").BUGS
            return sum(len(bug.caught_by) + len(bug.missed_by) for bug in bugs)
        op, lane = unit.split("/")
        return len(cases_of(op).CASES) + lane.startswith("ptx")
