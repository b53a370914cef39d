# SPDX-License-Identifier: Apache-2.0
"""Convolutions over time as one product: rows of overlapping windows, read where they lie.

With channels last, the K steps that meet a kernel are neighbours in memory, so the window of step t is the row of K·C
values that begins at t·C: a view with overlapping rows, which `linear` packs panel by panel. Dilation d becomes 1
within each of d interleaved sequences. Rows that would span two samples or sequences are computed and dropped, K - 1
of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .registration import new_empty, torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TimeWindows:
    """Windows of `kernel` steps `dilation` apart over x [B, C, T] with zeros before and behind."""

    batch: int
    channels: int
    time: int
    kernel: int
    dilation: int
    before: int
    behind: int

    @property
    def steps(self) -> int:
        """Length of one of the `dilation` sequences, padding included."""
        return -(-(self.before + self.time + self.behind) // self.dilation)

    @property
    def windows(self) -> int:
        """Windows over a whole sample."""
        return max(0, self.before + self.time + self.behind - self.dilation * (self.kernel - 1))

    @property
    def rows(self) -> int:
        """Rows of the product, those to be dropped included."""
        return max(0, self.batch * self.dilation * self.steps - (self.kernel - 1))

    def laid_out(self, x: Any) -> Any:
        """x with channels last and padding: [B, d, steps, C], contiguous; padded time is steps·d, sequence by
        sequence."""
        d, steps = self.dilation, self.steps
        out = _zeros(x, (self.batch, d, steps, self.channels))
        by_time = out if d == 1 else _zeros(x, (self.batch, steps, d, self.channels))
        flat = by_time.reshape(self.batch, steps * d, self.channels)
        flat[:, self.before : self.before + self.time] = x.swapaxes(1, 2)
        if d > 1:
            out[:] = by_time.swapaxes(1, 2)
        return out

    def as_rows(self, laid_out: Any) -> Any:
        """The windows [rows, K·C] of what `laid_out` made: a view."""
        shape, strides = (self.rows, self.kernel * self.channels), (self.channels, 1)
        if torch is not None and isinstance(laid_out, torch.Tensor):
            return laid_out.as_strided(shape, strides)
        import numpy as np

        item = laid_out.itemsize
        in_bytes = tuple(s * item for s in strides)
        return np.lib.stride_tricks.as_strided(laid_out, shape, in_bytes, writeable=False)

    def by_time(self, rows: Any) -> Any:
        """[B·d·steps, width] of windows to [B, windows, width] in the order of time: a view where dilation is 1."""
        B, d, steps, width = self.batch, self.dilation, self.steps, rows.shape[1]
        if d > 1:
            turned = new_empty(rows, (B, steps, d, width))
            turned[:] = rows.reshape(B, d, steps, width).swapaxes(1, 2)
            rows = turned
        return rows.reshape(B, steps * d, width)[:, : self.windows]

    def from_time(self, y: Tensor) -> Tensor:
        """The inverse of `by_time` (torch), zeros where nothing was."""
        B, d, steps, width = self.batch, self.dilation, self.steps, y.shape[2]
        padded = y.new_zeros(B, steps * d, width)
        padded[:, : self.windows] = y
        turned = padded.view(B, steps, d, width).transpose(1, 2)
        return turned.reshape(B * d * steps, width)


def _zeros(like: Any, shape: tuple[int, ...]) -> Any:
    out = new_empty(like, shape)
    out[...] = 0
    return out
