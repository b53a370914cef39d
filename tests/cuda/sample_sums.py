# SPDX-License-Identifier: Apache-2.0
"""What the CUDA cases of ops with sums over a sample share (csrc/ops/sample_sums.h)."""

from __future__ import annotations

from dataclasses import dataclass

from .cases import Buffer
from .devices import Device
from .latents import DTYPE_CODES

SUM_BLOCK = 4096  # kSumBlock of csrc/ops/sample_sums.h


@dataclass(frozen=True)
class Case:
    batch: int
    size: int
    dtype: str = "float32"
    option: int = 0  # what it chooses is the op's
    misalign: int = 0
    sliced: bool = False

    def __str__(self) -> str:
        words = [f"{self.batch}x{self.size}", self.dtype, f"option{self.option}"]
        return "-".join(words + ["misaligned"] * bool(self.misalign) + ["sliced"] * self.sliced)


def partial(device: Device, case: Case, sums: int) -> int:
    """Address of room for the sums of blocks."""
    return Buffer.empty(device, 4 * case.batch * -(-case.size // SUM_BLOCK) * sums).address


def sweep(options: int) -> list[Case]:
    """Every kernel over a block of sums, one less and one more; several blocks, and many samples."""
    cases = []
    for d, dtype in enumerate(DTYPE_CODES):
        lanes = 16 // (4 if dtype == "float32" else 2)
        vectors = (
            1,
            3,
            SUM_BLOCK // lanes - 1,
            SUM_BLOCK // lanes,
            SUM_BLOCK // lanes + 1,
            2 * SUM_BLOCK // lanes + 5,
        )
        for n, count in enumerate(vectors):
            k = d + n
            cases.append(Case(1 + k % 3 * (count < 100), count * lanes, dtype, k % options, 0, k % 2 == 1))
        for n, size in enumerate((1, 3, 257, 4095, 4097)):
            cases.append(Case(1 + n % 2, size, dtype, (d + n) % options))
        cases.append(Case(2, 64 * lanes, dtype, d % options, misalign=1))
    return cases
