# SPDX-License-Identifier: Apache-2.0
"""Address spaces: bounds, alignment and initialisation are checked on every access, races if asked.

Global buffers lie in one arena with gaps between them; generic addresses carry their space in the high bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .formats import UNSIGNED, Array
from .races import Clock, Shadow

if TYPE_CHECKING:
    from .machine import Execution

SHARED_WINDOW, LOCAL_WINDOW = 0x7F << 40, 0x7E << 40
ARENA = 0x10_0000_0000
_ALIGN, _GAP = 256, 4096
NAN_BYTE = 0xFF  # repeated: a NaN in every float format


class GlobalMemory:
    """Buffers of the simulated device. Contents survive a launch; who touched what does not."""

    def __init__(self) -> None:
        self.bytes = np.full(_GAP, NAN_BYTE, np.uint8)
        self.initialised = np.zeros(_GAP, bool)
        self.begin: list[int] = []
        self.end: list[int] = []

    def allocate(self, size: int, contents: bytes | None, misalign: int = 0) -> int:
        """Address of `size` bytes, `misalign` off a 256-byte boundary; without contents they count as
        uninitialised.
        """
        offset = -(-self.bytes.size // _ALIGN) * _ALIGN + misalign
        total = -(-(offset + size + _GAP) // 16) * 16
        grown = np.full(total, NAN_BYTE, np.uint8)
        grown[: self.bytes.size] = self.bytes
        known = np.zeros(total, bool)
        known[: self.initialised.size] = self.initialised
        if contents is not None:
            grown[offset : offset + size] = np.frombuffer(contents, np.uint8)
            known[offset : offset + size] = True
        self.bytes, self.initialised = grown, known
        self.begin.append(ARENA + offset)
        self.end.append(ARENA + offset + size)
        return ARENA + offset

    def read(self, address: int, size: int) -> bytes:
        return self.bytes[address - ARENA : address - ARENA + size].tobytes()


class Space:
    """One address space during a launch: bytes, where each thread's part begins, and its shadow."""

    def __init__(self, name: str, data: Array, initialised: Array, granule: int) -> None:
        self.name, self.data, self.initialised, self.granule = name, data, initialised, granule
        self.words = {n: data.view(u) for n, u in UNSIGNED.items()}
        self.shadow: Shadow | None = None

    def watch(self, clock: Clock) -> None:
        self.shadow = Shadow(-(-self.data.size // self.granule), clock, self.name)

    def cells(self, at: Array, size: int, threads: Array) -> tuple[Array, Array]:
        n = size // self.granule
        if n == 1:
            return at // self.granule, threads
        cells = (at[:, None] // self.granule + np.arange(n)).ravel()
        return cells, np.repeat(threads, n)

    def gather(self, at: Array, size: int) -> Array:
        """[n, size] bytes."""
        if size == 16:
            pairs = self.words[8].reshape(-1, 2)[at // 16]
            return np.ascontiguousarray(pairs).view(np.uint8).reshape(len(at), 16)
        return np.ascontiguousarray(self.words[size][at // size]).view(np.uint8).reshape(len(at), size)

    def scatter(self, at: Array, values: Array) -> None:
        size = values.shape[1]
        values = np.ascontiguousarray(values)
        if size == 16:
            self.words[8].reshape(-1, 2)[at // 16] = values.view(np.uint64)
        else:
            self.words[size][at // size] = values.view(UNSIGNED[size])[:, 0]


class Memory:
    """All spaces of one launch."""

    def __init__(
        self, run: Execution, arena: GlobalMemory, dynamic_shared: int, granule: int, races: bool
    ) -> None:
        self.run, self.arena = run, arena
        kernel = run.kernel
        self.shared_bytes = kernel.shared_bytes + dynamic_shared
        self.dynamic_offset = -(-kernel.shared_bytes // 128) * 128 if kernel.dynamic else kernel.shared_bytes
        if kernel.dynamic:
            self.shared_bytes = self.dynamic_offset + dynamic_shared
        self.shared_pitch = -(-max(self.shared_bytes, 1) // 16) * 16
        self.local_pitch = -(-max(kernel.local_bytes, 1) // 16) * 16
        shared = np.full(self.shared_pitch * run.blocks, NAN_BYTE, np.uint8)
        local = np.full(self.local_pitch * run.size, NAN_BYTE, np.uint8)
        self.spaces = {
            "global": Space("global", arena.bytes, arena.initialised, granule),
            "shared": Space("shared", shared, np.zeros(shared.size, bool), granule),
            "local": Space("local", local, np.zeros(local.size, bool), 1),
        }
        if races:
            self.spaces["global"].watch(run.clock)
            self.spaces["shared"].watch(run.clock)
        self._begin = np.array([0, *arena.begin], np.int64)
        self._end = np.array([0, *arena.end], np.int64)

    def resolve(self, space: str | None, address: Array) -> tuple[str, Array]:
        """A generic address names its space; one instruction is to stay in one."""
        if space:
            return space, address
        in_shared, in_local = address >= SHARED_WINDOW, (address >= LOCAL_WINDOW) & (address < SHARED_WINDOW)
        if in_shared.any():
            return "shared", np.where(in_shared, address - SHARED_WINDOW, -1)
        if in_local.any():
            return "local", np.where(in_local, address - LOCAL_WINDOW, -1)
        return "global", address

    def locate(self, space: str, address: Array, size: int, threads: Array, what: str) -> tuple[Array, Array]:
        """Positions in the space's bytes, and which of them may be touched; the others are reported."""
        if space == "shared":
            ok = (address >= 0) & (address + size <= self.shared_bytes)
            at = address + (threads // self.run.block_size) * self.shared_pitch
        elif space == "local":
            ok = (address >= 0) & (address + size <= self.run.kernel.local_bytes)
            at = address + threads * self.local_pitch
        else:
            k = np.searchsorted(self._begin, address, "right") - 1
            ok = (k > 0) & (address + size <= self._end[k])
            at = address - ARENA
        aligned = address % size == 0
        if not aligned.all():
            t = int(threads[~aligned][0])
            self.run.found(f"misaligned {space} {what} of {size} bytes by {self.run.name_thread(t)}")
        if not ok.all():
            t, a = int(threads[~ok][0]), int(address[~ok][0])
            self.run.found(
                f"out-of-bounds {space} {what} of {size} bytes at {a:#x} by {self.run.name_thread(t)}"
            )
        return at, ok & aligned

    def load(self, space: str | None, address: Array, size: int, threads: Array) -> Array:
        """[n, size] bytes; 0xff where the access is not allowed."""
        space, address = self.resolve(space, address)
        at, ok = self.locate(space, address, size, threads, "load")
        if not ok.all():
            out = np.full((len(address), size), NAN_BYTE, np.uint8)
            if ok.any():
                out[ok] = self._load(space, at[ok], size, threads[ok], address[ok])
            return out
        return self._load(space, at, size, threads, address)

    def _load(self, space: str, at: Array, size: int, threads: Array, address: Array) -> Array:
        s = self.spaces[space]
        known = s.initialised[at] & s.initialised[at + (size - 1)]
        if not known.all():
            t = int(threads[~known][0])
            self.run.found(f"{space} memory is read that was never written, by {self.run.name_thread(t)}")
        if s.shadow is not None:
            s.shadow.read(*s.cells(at, size, threads), self.run.found)
        self.run.statistics.access(space, "load", address, size, threads)
        return s.gather(at, size)

    def store(self, space: str | None, address: Array, values: Array, threads: Array) -> None:
        """`values`: [n, size] bytes."""
        space, address = self.resolve(space, address)
        size = values.shape[1]
        at, ok = self.locate(space, address, size, threads, "store")
        if not ok.all():
            at, values, threads, address = at[ok], values[ok], threads[ok], address[ok]
        if not len(at):
            return
        s = self.spaces[space]
        if s.shadow is not None:
            s.shadow.write(*s.cells(at, size, threads), self.run.found)
        self.run.statistics.access(space, "store", address, size, threads)
        self.mark_written(s, at, size)
        s.scatter(at, values)

    @staticmethod
    def mark_written(s: Space, at: Array, size: int) -> None:
        s.initialised[(at[:, None] + np.arange(size)).ravel()] = True
