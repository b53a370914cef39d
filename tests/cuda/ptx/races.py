# SPDX-License-Identifier: Apache-2.0
"""Happens-before order of memory accesses, the same rules as csrc/emulator/races.cpp, for all lanes at once.

Time inside a block is its count of block barriers (`epoch`): what lies in an earlier epoch is ordered before
everything now. Inside an epoch only lanes of one warp can be ordered, by vector clocks that bar.warp.sync
joins. Nothing orders two blocks of one launch. Atomics do not race with each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .formats import Array

NOBODY, MANY_WARPS, MANY_BLOCKS = -1, -2, -3
Report = Callable[[str], None]


class Clock:
    """Threads' time. `known[t, q]`: the latest time of lane q of t's warp that t is ordered after."""

    def __init__(self, threads: int, block_size: int) -> None:
        self.block_size = block_size
        self.epoch = np.zeros(threads // block_size, np.int32)
        self.known = np.zeros((threads, 32), np.int32)
        lanes = np.arange(threads)
        self.known[lanes, lanes % 32] = 1
        self.warp_barriers = False  # until the first one no two lanes of a warp are ordered

    def own(self, threads: Array) -> Array:
        return self.known[threads, threads % 32]

    def warp_barrier(self, groups: Array) -> None:
        """`groups` [n, 32]: thread ids that met, -1 where a lane is not in the mask."""
        self.warp_barriers = True
        present = groups >= 0
        members = np.where(present, groups, 0)
        joined = np.where(present[:, :, None], self.known[members], 0).max(1)
        threads = groups[present]
        self.known[threads] = np.broadcast_to(joined[:, None], (*groups.shape, 32))[present]
        self.known[threads, threads % 32] += 1

    def ordered(self, other: Array, other_epoch: Array, other_time: Array, threads: Array) -> Array:
        """Whether the event of thread `other` at its `other_time` lies before what `threads` do now."""
        same_block = other // self.block_size == threads // self.block_size
        before = (other == threads) | (other_epoch < self.epoch[threads // self.block_size])
        if self.warp_barriers:
            same_warp = other // 32 == threads // 32
            before |= same_warp & (self.known[threads, other % 32] >= other_time)
        return same_block & before


@dataclass
class Reader:
    """Who read a cell since its last write: one warp's lanes, or the fact that it was more than one warp or
    block.
    """

    warp: Array
    block: Array
    epoch: Array
    lanes: Array
    time: Array


class Shadow:
    """What is known of each cell (a few bytes) of one memory: its last writer of this launch and the readers
    since.
    """

    def __init__(self, cells: int, clock: Clock, what: str) -> None:
        self.clock, self.what = clock, what
        self.writer = np.full(cells, NOBODY, np.int32)
        self.write_epoch = np.zeros(cells, np.int32)
        self.write_time = np.zeros(cells, np.int32)
        self.by_atomic = np.zeros(cells, bool)
        self.in_flight = np.zeros(cells, bool)
        self.reader = Reader(
            np.full(cells, NOBODY, np.int32),
            np.zeros(cells, np.int32),
            np.zeros(cells, np.int32),
            np.zeros(cells, np.uint32),
            np.zeros(cells, np.int32),
        )

    def read(self, cells: Array, threads: Array, report: Report) -> None:
        self._check_in_flight(cells, threads, "read of a cp.async destination before its wait_group", report)
        self._check_writer(cells, threads, "read after an unordered write", report)
        self._add_readers(cells, threads)

    def write(
        self,
        cells: Array,
        threads: Array,
        report: Report,
        *,
        atomic: bool = False,
        asynchronous: bool = False,
    ) -> None:
        self._check_in_flight(cells, threads, "write to a cp.async destination in flight", report)
        skip = self.by_atomic[cells] if atomic else None
        self._check_writer(cells, threads, "two unordered writes", report, skip)
        self._check_readers(cells, threads, report)
        if not atomic:
            _, first = np.unique(cells, return_index=True)
            if len(first) < len(cells):
                again = np.delete(np.arange(len(cells)), first)
                self._report("two threads write in one instruction", cells[again], threads[again], report)
        self._set_writer(cells, threads)
        self.reader.warp[cells] = NOBODY
        self.by_atomic[cells] = atomic
        self.in_flight[cells] = asynchronous

    def landed(self, cells: Array, threads: Array) -> None:
        """cp.async: its bytes count as written by the thread that waited, now."""
        self.in_flight[cells] = False
        self._set_writer(cells, threads)

    def _set_writer(self, cells: Array, threads: Array) -> None:
        self.writer[cells] = threads
        self.write_epoch[cells] = self.clock.epoch[threads // self.clock.block_size]
        self.write_time[cells] = self.clock.own(threads)

    def _report(self, what: str, cells: Array, threads: Array, report: Report, other: int = NOBODY) -> None:
        size = self.clock.block_size
        t = int(threads[0])
        against = f", against block {other // size} thread {other % size}" if other >= 0 else ""
        report(
            f"race: {what}, {self.what} cell {int(cells[0])}, block {t // size} thread {t % size}{against}"
        )

    def _check_in_flight(self, cells: Array, threads: Array, what: str, report: Report) -> None:
        bad = self.in_flight[cells]
        if bad.any():
            self._report(what, cells[bad], threads[bad], report)
            self.in_flight[cells] = False

    def _check_writer(
        self, cells: Array, threads: Array, what: str, report: Report, skip: Array | None = None
    ) -> None:
        writer = self.writer[cells]
        bad = (writer != NOBODY) & (writer != threads)
        if skip is not None:
            bad &= ~skip
        if not bad.any():
            return
        c, t, w = cells[bad], threads[bad], writer[bad]
        wrong = ~self.clock.ordered(w, self.write_epoch[c], self.write_time[c], t)
        if wrong.any():
            self._report(what, c[wrong], t[wrong], report, int(w[wrong][0]))
            self.writer[c[wrong]] = NOBODY

    def _readers_ordered(self, cells: Array, threads: Array) -> Array:
        r, clock = self.reader, self.clock
        warp, block = r.warp[cells], threads // clock.block_size
        free = warp == NOBODY
        here = (warp != MANY_BLOCKS) & (r.block[cells] == block)
        earlier = r.epoch[cells] < clock.epoch[block]
        own_bit = np.uint32(1) << (threads % 32).astype(np.uint32)
        others = r.lanes[cells] & ~own_bit
        if clock.warp_barriers:
            bits = (others[:, None] >> np.arange(32, dtype=np.uint32)) & 1
            unordered = (bits == 1) & (clock.known[threads] < r.time[cells][:, None])
            alone = ~unordered.any(1)
        else:
            alone = others == 0
        return free | (here & (earlier | ((warp == threads // 32) & alone)))

    def _check_readers(self, cells: Array, threads: Array, report: Report) -> None:
        bad = ~self._readers_ordered(cells, threads)
        if bad.any():
            self._report("write while another thread may still read", cells[bad], threads[bad], report)

    def _add_readers(self, cells: Array, threads: Array) -> None:
        """Lanes that read one cell in this instruction are put together first."""
        r, clock = self.reader, self.clock
        order = np.argsort(cells, kind="stable")
        cells, threads = cells[order], threads[order]
        start = np.flatnonzero(np.concatenate(([True], cells[1:] != cells[:-1])))
        warps, blocks = threads // 32, threads // clock.block_size
        bits = np.uint32(1) << (threads % 32).astype(np.uint32)
        c, t = cells[start], threads[start]
        lanes = np.bitwise_or.reduceat(bits, start)
        times = np.maximum.reduceat(clock.own(threads), start)
        warp = np.where(
            np.minimum.reduceat(warps, start) == np.maximum.reduceat(warps, start), t // 32, MANY_WARPS
        )
        one_block = np.minimum.reduceat(blocks, start) == np.maximum.reduceat(blocks, start)
        warp = np.where(one_block, warp, MANY_BLOCKS)
        block = t // clock.block_size

        # Earlier readers that are ordered before this one need no record any more.
        old = r.warp[c]
        forget = self._readers_ordered(c, t)
        other_block = ~forget & ((old == MANY_BLOCKS) | (r.block[c] != block))
        same_warp = ~forget & ~other_block & (old == warp)
        r.warp[c] = np.where(
            forget | same_warp, warp, np.where(other_block, MANY_BLOCKS, np.minimum(warp, MANY_WARPS))
        )
        r.lanes[c] = np.where(same_warp, r.lanes[c] | lanes, lanes)
        r.time[c] = np.where(same_warp, np.maximum(r.time[c], times), times)
        r.block[c] = block
        r.epoch[c] = clock.epoch[block]
