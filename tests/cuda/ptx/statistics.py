# SPDX-License-Identifier: Apache-2.0
"""Exact dynamic counts at PTX level: instructions by warp, bank conflicts, sectors, tensor-core work,
coverage.
"""

from __future__ import annotations

import collections

import numpy as np

from .formats import Array


class Statistics:
    """Counts of the launches of one machine. `enabled` costs about a third of the running time."""

    def __init__(self, enabled: bool = False) -> None:
        self.enabled = enabled
        self.warp_instructions: collections.Counter[str] = collections.Counter()
        self.counts: collections.Counter[str] = collections.Counter()
        self.executed: dict[str, Array] = {}  # by kernel: how many threads ran each instruction

    def covered(self, kernel: str) -> int:
        """How many of its instructions ran at least once."""
        return int((self.executed[kernel] > 0).sum()) if kernel in self.executed else 0

    def step(self, opcode: str, threads: Array) -> None:
        if self.enabled:
            warps = threads // 32
            self.warp_instructions[opcode] += 1 + int(np.count_nonzero(warps[1:] != warps[:-1]))

    def access(self, space: str, what: str, address: Array, size: int, threads: Array) -> None:
        if not self.enabled or not len(address):
            return
        if space == "shared":
            self._banks(address, size, threads, what)
        elif space == "global":
            self._sectors(address, size, threads, what)

    def _banks(self, address: Array, size: int, threads: Array, what: str) -> None:
        """A phase serves 128 bytes' worth of lanes; it takes as many cycles as its most wanted bank has
        words.
        """
        order = np.argsort(threads, kind="stable")
        address, warps = address[order], threads[order] // 32
        per_phase = max(1, 128 // size)
        for warp in np.unique(warps):
            mine = address[warps == warp]
            for k in range(0, len(mine), per_phase):
                words = np.unique(
                    (mine[k : k + per_phase, None] + np.arange(0, max(size, 1), 4)).ravel() // 4
                )
                self.counts[f"shared_{what}_phases"] += 1
                self.counts[f"shared_{what}_cycles"] += int(np.bincount(words % 32).max())

    def _sectors(self, address: Array, size: int, threads: Array, what: str) -> None:
        """32-byte sectors that each warp's request touches, against the bytes that it asked for."""
        warp = (threads // 32).astype(np.int64) << 42
        touched = np.concatenate([warp | (address >> 5), warp | ((address + size - 1) >> 5)])
        self.counts[f"global_{what}_sectors"] += len(np.unique(touched))
        self.counts[f"global_{what}_bytes"] += size * len(address)
        self.counts[f"global_{what}_requests"] += len(np.unique(warp))
