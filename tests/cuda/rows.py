# SPDX-License-Identifier: Apache-2.0
"""Ops over rows [B, T, C] as cases: what all of them have, and rows with a NaN or an infinity."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from prestissimo.ops.tolerance import assert_close

NOT_FINITE = (math.nan, math.inf, -math.inf)


@dataclass(frozen=True)
class RowsCase:
    batch: int
    time: int
    channels: int
    dtype: str = "float32"
    misalign: int = field(default=0, kw_only=True)  # elements that an input lies off its alignment
    special: float | None = field(default=None, kw_only=True)  # a value in the last row

    def __str__(self) -> str:
        words = [f"{self.batch}x{self.time}x{self.channels}", self.dtype, *self.words()]
        return "-".join(words + ["misaligned"] * bool(self.misalign) + special_words(self.special))

    def words(self) -> list[str]:
        """What else the op's cases differ in."""
        return []


def special_words(special: float | None) -> list[str]:
    return [] if special is None else [str(special)]


def put_special(rows: torch.Tensor, special: float | None) -> None:
    """Into the middle of the last row."""
    if special is not None:
        rows.view(-1, rows.shape[-1])[-1, rows.shape[-1] // 2] = special


def compare_special(
    name: str, got: torch.Tensor, exact: torch.Tensor, same_dtype: torch.Tensor, gradient: bool = False
) -> list[str]:
    """Empty where `got` has the reference's NaN and infinities, and the rest within the tolerance."""
    try:
        assert_close(got, same_dtype, exact, gradient=gradient, name=name)
    except AssertionError as wrong:
        return [str(wrong)]
    return []
