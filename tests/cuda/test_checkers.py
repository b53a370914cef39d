# SPDX-License-Identifier: Apache-2.0
"""Each checker against kernels with one fault (misbehaved.cuh), and against their faultless twins."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import pytest

from . import toolchain
from .devices import Device, HostDevice, PtxDevice, SanitizerError
from .ptx import Module
from .toolchain import HERE

# For each kernel what each lane's report contains. A lane that is not named need not notice; in_order lanes do anyway.
FAULTY: dict[str, dict[str, str]] = {
    "race_between_warps": {"race": "read", "ptx": "race: read after an unordered write|never written"},
    "write_after_read": {"race": "may still read", "ptx": "may still read"},
    "race_inside_a_warp": {"race": "read", "ptx": "race: read after an unordered write"},
    "partial_warp_barrier_of_other_lanes": {"race": "read", "ptx": "race: read after an unordered write"},
    "blocks_write_the_same": {
        "race": "two unordered writes",
        "ptx": "two unordered writes|two threads write",
    },
    "block_reads_what_another_writes": {"race": "race", "ptx": "race|never written"},
    "plain_read_beside_atomics": {"race": "race", "ptx": "race"},
    "shared_never_written": {"race": "never written", "ptx": "never written"},
    "global_never_written": {"race": "never written", "ptx": "never written"},
    "global_past_the_end": {
        "asan": "AddressSanitizer",
        "race": "out of bounds",
        "ptx": "out-of-bounds global load",
    },
    "store_before_the_start": {
        "plain": "written before",
        "asan": "AddressSanitizer",
        "race": "out of bounds",
        "ptx": "out-of-bounds global store",
    },
    "shared_past_the_end": {
        "plain": "written past",
        "asan": "runtime error|AddressSanitizer",
        "race": "out of bounds",
        "ptx": "out-of-bounds shared",
    },
    "misaligned_vector": {"asan": "misaligned", "ptx": "misaligned global load"},
    "copy_not_waited_for": {"race": "before its wait_group", "ptx": "before its wait_group|never written"},
    "copy_waited_for_by_another": {"race": "race", "ptx": "race|never written|wait_group"},
    "copy_in_flight_at_exit": {
        "plain": "never waited for",
        "asan": "never waited for",
        "race": "never waited for",
        "ptx": "never waited for",
    },
    "barrier_and_shuffle_wait_for_each_other": dict.fromkeys(("plain", "asan", "race", "ptx"), "deadlock"),
    "shuffle_after_half_the_warp_left": {
        "plain": "deadlock",
        "asan": "deadlock",
        "race": "deadlock",
        "ptx": "exited|deadlock",
    },
    "caller_not_in_its_mask": dict.fromkeys(("plain", "asan", "race", "ptx"), "not in its own mask"),
    "shuffle_from_outside_the_mask": {
        "plain": "takes no part",
        "asan": "takes no part",
        "race": "takes no part",
        "ptx": "not in the mask",
    },
}
FAULTLESS = [
    "ordered_by_block_barrier",
    "ordered_by_warp_barrier",
    "ordered_by_partial_warp_barrier",
    "atomics_alone",
    "copy_handed_over",
    "early_exit_and_barrier",
]
BLOCKS = {"blocks_write_the_same": 2, "block_reads_what_another_writes": 2}
LANES = ("plain", "asan", "race", "ptx")
SOURCE = HERE / "misbehaved.cuh"


class _Lanes:
    def __init__(self) -> None:
        self.module: Module | None = None
        self.workers: dict[str, HostDevice] = {}

    def device(self, lane: str) -> Device:
        if lane == "ptx":
            self.module = self.module or Module(toolchain.ptx(SOURCE, 80))
            return PtxDevice(self.module)
        if lane not in self.workers:
            self.workers[lane] = HostDevice(toolchain.worker(lane, [SOURCE]))
        self.workers[lane].reset()
        return self.workers[lane]


@pytest.fixture(scope="module")
def lanes() -> Iterator[_Lanes]:
    if why := toolchain.missing_for("ptx"):
        pytest.skip(why)
    found = _Lanes()
    yield found
    for worker in found.workers.values():
        worker.close()


def findings(device: Device, kernel: str) -> list[str]:
    x = np.arange(64, dtype=np.int32)
    addresses = device.allocate(256, x.tobytes()), device.allocate(256, None)
    try:
        return device.launch(
            kernel, (BLOCKS.get(kernel, 1), 1, 1), (64, 1, 1), struct.pack("<QQ", *addresses)
        )
    except SanitizerError as report:
        return [str(report)]


@pytest.mark.parametrize(("kernel", "lane"), [(k, lane) for k, lanes in FAULTY.items() for lane in lanes])
def test_fault_is_reported(kernel: str, lane: str, lanes: _Lanes) -> None:
    text = "\n".join(findings(lanes.device(lane), kernel))
    assert any(words in text for words in FAULTY[kernel][lane].split("|")), text or "nothing reported"


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("kernel", FAULTLESS)
def test_no_false_alarm(kernel: str, lane: str, lanes: _Lanes) -> None:
    assert findings(lanes.device(lane), kernel) == []


def test_every_kernel_is_in_the_table() -> None:
    text = SOURCE.read_text()
    names = {line.split("(")[1].split(")")[0] for line in text.split("\n") if line.startswith("MISBEHAVED(")}
    assert names == set(FAULTY) | set(FAULTLESS)
