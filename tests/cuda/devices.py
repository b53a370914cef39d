# SPDX-License-Identifier: Apache-2.0
"""The lanes behind one interface: memory, and launches that say what they found wrong."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol, cast

from .ptx import Machine, Module, Options, Statistics

Size3 = tuple[int, int, int]


class Device(Protocol):
    def allocate(self, size: int, contents: bytes | None, misalign: int = 0) -> int:
        """Address of `size` bytes, `misalign` off a 256-byte boundary; contents None: uninitialised."""

    def read(self, address: int, size: int) -> bytes: ...

    def launch(
        self,
        kernel: str,
        grid: Size3,
        block: Size3,
        parameters: bytes,
        shared: int = 0,
        blocks: Sequence[int] = (),
    ) -> list[str]:
        """Findings, empty where nothing is wrong. `blocks`: these linear block indices only."""


class PtxDevice:
    """The PTX lane: a fresh machine on a module that is read once."""

    def __init__(
        self, module: Module, options: Options | None = None, statistics: Statistics | None = None
    ) -> None:
        self.machine = Machine(module, options, statistics)

    def allocate(self, size: int, contents: bytes | None, misalign: int = 0) -> int:
        return self.machine.memory.allocate(size, contents, misalign)

    def read(self, address: int, size: int) -> bytes:
        return self.machine.memory.read(address, size)

    def launch(
        self,
        kernel: str,
        grid: Size3,
        block: Size3,
        parameters: bytes,
        shared: int = 0,
        blocks: Sequence[int] = (),
    ) -> list[str]:
        return self.machine.launch(kernel, grid, block, parameters, shared, blocks)


@dataclass(frozen=True)
class HostOptions:
    """Scheduling of csrc/emulator/block.h."""

    seed: int = 1
    shuffle: bool = True
    skew: bool = True
    cp_async_late: bool = True
    mma_truncate: bool = False


class SanitizerError(Exception):
    """The worker ended: the text is what AddressSanitizer or UBSan wrote."""


@dataclass
class Plan:
    parameters: bytes
    launches: list[tuple[str, int, int, int]]  # kernel, grid, block, shared bytes


@dataclass
class HostDevice:
    """The host lane: a worker process that is started again after a sanitizer ended it."""

    executable: Path
    options: HostOptions = field(default_factory=HostOptions)
    _process: subprocess.Popen[bytes] | None = None

    def configure(self, options: HostOptions) -> None:
        self.options = options
        if self._process:
            self._send_options()

    def reset(self) -> None:
        """Forget all buffers."""
        if self._process:
            self._ask(b"free")

    def plan(self, op: str, args: bytes) -> Plan:
        """What csrc/cuda/<op>.cuh would launch for these Args."""
        parameters, text = self._ask(b"plan", op.encode(), args)
        launches = []
        for line in text.decode().splitlines():
            kernel, grid, block, shared = line.split()
            launches.append((kernel, int(grid), int(block), int(shared)))
        return Plan(parameters, launches)

    def allocate(self, size: int, contents: bytes | None, misalign: int = 0) -> int:
        (reply,) = self._ask(b"allocate", _number(size), _number(misalign), contents or b"")
        return struct.unpack("<Q", reply)[0]

    def read(self, address: int, size: int) -> bytes:
        (reply,) = self._ask(b"read", _number(address), _number(size))
        return reply

    def launch(
        self,
        kernel: str,
        grid: Size3,
        block: Size3,
        parameters: bytes,
        shared: int = 0,
        blocks: Sequence[int] = (),
    ) -> list[str]:
        numbers = [_number(n) for n in (*grid, *block, shared)]
        listed = b"".join(map(_number, blocks))
        count, *texts = self._ask(b"launch", kernel.encode(), *numbers, parameters, listed)
        findings = [t.decode() for t in texts]
        assert bool(struct.unpack("<Q", count)[0]) == bool(findings)
        return findings

    def close(self) -> None:
        if self._process:
            cast("IO[bytes]", self._process.stdin).close()
            self._process.wait()
            for stream in (self._process.stdout, self._process.stderr):
                cast("IO[bytes]", stream).close()
            self._process = None

    def __enter__(self) -> HostDevice:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> subprocess.Popen[bytes]:
        environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0"}
        self._process = subprocess.Popen(
            [str(self.executable)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        self._send_options()
        return self._process

    def _send_options(self) -> None:
        o = self.options
        flags = (o.seed, o.shuffle, o.skew, o.cp_async_late, o.mma_truncate)
        self._ask(b"options", *(_number(int(f)) for f in flags))

    def _ask(self, *fields: bytes) -> list[bytes]:
        process = self._process or self._start()
        message = _number(len(fields)) + b"".join(_number(len(f)) + f for f in fields)
        try:
            stdin = cast("IO[bytes]", process.stdin)
            stdin.write(message)
            stdin.flush()
            reply = [self._receive(self._number()) for _ in range(self._number())]
        except (BrokenPipeError, EOFError):
            self._process = None
            _, errors = process.communicate()
            raise SanitizerError(errors.decode(errors="replace")) from None
        status, *rest = reply
        if status != b"ok":
            raise RuntimeError(rest[0].decode())
        return rest

    def _receive(self, size: int) -> bytes:
        process = self._process
        assert process
        data = cast("IO[bytes]", process.stdout).read(size)
        if len(data) < size:
            raise EOFError
        return data

    def _number(self) -> int:
        return struct.unpack("<Q", self._receive(8))[0]


def _number(n: int) -> bytes:
    return struct.pack("<Q", n & (1 << 64) - 1)
