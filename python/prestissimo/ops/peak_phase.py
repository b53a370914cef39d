# SPDX-License-Identifier: Apache-2.0
"""Phases for a magnitude spectrogram by its spectral peaks alone (SPSI)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .registration import Op, _core, expect_shape, launch, new_empty, scratch, torch

if TYPE_CHECKING:
    from torch import Tensor

_TURN = 2.0**32  # phases are 32-bit fractions of a turn: sums wrap by themselves and gather no rounding error


def peak_phase(log_magnitude: Any, hop: int, state: Any = None) -> tuple[Any, Any]:
    """phase[t, j] = phase[t-1, k] + 2π·hop/n_fft·(k + p) + π·(j - k): single-pass spectrogram inversion.

    k is the spectral peak in whose region bin j lies (a region runs from valley to valley), p the offset of the vertex
    of the parabola through the peak's log-magnitudes: a peak advances by its interpolated frequency and locks its
    region, with the alternating sign of a window centred in its frame.

    Args:
        log_magnitude: [B, T, F] float32 (float64 runs through the reference), F = n_fft/2 + 1, in nats.
        hop: samples between frames, 1 ... n_fft.
        state: [B, F] int32, the phases of the frame before the first in units of 2π/2³² ("turns"); zeros where absent.

    Returns:
        (phase, state): [B, T, F] radians in [-π, π], dtype of log_magnitude, and [B, F] int32, the turns of the last
        frame: handed on, they continue the signal to the bit. Not differentiable. The same bits on every ISA and
        device, and those of the reference.

    Raises:
        ValueError: a shape or hop that does not fit, naming the argument.
        TypeError: a dtype that no kernel takes, a state that is not int32.

    Source: Beauregard, Harish and Wyse, "Single pass spectrogram inversion", DSP 2015.

    >>> import numpy as np
    >>> tone = np.array([[[0, 1, 0, -1, -2]]] * 1, np.float32).repeat(3, axis=1)  # a peak at bin 1, n_fft = 8
    >>> phase, state = peak_phase(tone, hop=2)
    >>> phase[0, :, 1].round(3)  # a quarter of a turn every 2 samples
    array([ 1.571, -3.142, -1.571], dtype=float32)
    """
    return _op(log_magnitude, state, hop)


def reference(log_magnitude: Tensor, state: Tensor | None, hop: int) -> tuple[Tensor, Tensor]:
    """The formula in plain PyTorch: oracle, baseline and documentation of `peak_phase`."""
    import torch

    items, frames, bins = log_magnitude.shape
    rows = log_magnitude.transpose(0, 1).contiguous()  # a frame of all items is one row
    peaks, region = _regions(rows)
    column = peaks % bins
    frequency = column + _peak_offset(rows, peaks).double()
    advance = ((frequency * (hop / (2 * (bins - 1)))).frac() * _TURN).to(torch.int64).to(torch.int32)
    turns = advance.add_(_half_turns(column)).index_select(0, region).view(frames, items, bins)
    turns.add_(_half_turns(torch.arange(bins, device=rows.device)))
    source = (peaks % max(items * bins, 1)).index_select(0, region).view(frames, items * bins)
    zeros = turns.new_zeros(items, bins)
    previous = (zeros if state is None else state).flatten()
    for row, peak in zip(turns.view(frames, items * bins).unbind(0), source.unbind(0), strict=True):
        row.add_(previous.index_select(0, peak))
        previous = row
    phase = turns.transpose(0, 1).to(log_magnitude.dtype) * (2 * math.pi / _TURN)
    return phase.contiguous(), previous.view(items, bins).clone()


def _half_turns(bins: Tensor) -> Tensor:
    import torch

    return (bins & 1).to(torch.int32) << 31


def _regions(log_magnitude: Tensor) -> tuple[Tensor, Tensor]:
    """Spectral peaks, as flat indices, and for each bin the number of the peak whose region it belongs to.

    A bin rises where its right neighbour is larger. A peak is a bin that does not rise after one that does; a region
    starts at a bin that rises after one that does not. With the ends of a frame counted as lower than everything, each
    region holds exactly one peak, so counting region starts counts peaks.
    """
    import torch

    bins = log_magnitude.shape[-1]
    rises = torch.zeros_like(log_magnitude, dtype=torch.bool)
    torch.gt(log_magnitude[..., 1:], log_magnitude[..., :-1], out=rises[..., : bins - 1])
    peak = ~rises
    peak[..., 1:] &= rises[..., :-1]
    start = torch.cat([torch.ones_like(rises[..., :1]), rises[..., 1:] & ~rises[..., :-1]], -1)
    peaks = peak.flatten().nonzero().flatten()
    return peaks, start.flatten().cumsum(0, dtype=torch.int32).sub_(1)


def _peak_offset(log_magnitude: Tensor, peaks: Tensor) -> Tensor:
    """Vertex of the parabola through a peak and its neighbours, in bins, in [-1/2, 1/2]; 0 at both ends."""
    import torch

    flat = log_magnitude.flatten()
    last = log_magnitude.shape[-1] - 1
    column = peaks % (last + 1)
    left, right = flat[(peaks - 1).clamp_min(0)], flat[(peaks + 1).clamp_max(flat.numel() - 1)]
    centre = flat[peaks]
    offset = 0.5 * (left - right) / (left - 2 * centre + right)
    return torch.where((column == 0) | (column == last), 0.0, offset).nan_to_num(0.0).clamp(-0.5, 0.5)


def _check(log_magnitude: Any, state: Any, hop: int) -> None:
    if len(log_magnitude.shape) != 3:
        raise ValueError(
            f"peak_phase: log_magnitude must have 3 dimensions, got shape {list(log_magnitude.shape)}"
        )
    B, _, F = log_magnitude.shape
    if F < 2:
        raise ValueError(
            f"peak_phase: log_magnitude must have at least 2 bins, got shape {list(log_magnitude.shape)}"
        )
    if not 1 <= hop <= 2 * (F - 1):
        raise ValueError(f"peak_phase: hop must be in 1 ... n_fft = {2 * (F - 1)}, got {hop}")
    expect_shape("peak_phase", "state", state, (B, F))
    if state is not None and not str(state.dtype).endswith("int32"):
        raise TypeError(f"peak_phase: state must be int32, got {state.dtype}")


def _kernel(log_magnitude: Any, state: Any, hop: int) -> tuple[Any, Any]:
    phase = new_empty(log_magnitude, log_magnitude.shape)
    next_state = new_empty(log_magnitude, log_magnitude.shape[::2], "int32")
    sources = scratch(log_magnitude, log_magnitude.shape, "int32")
    launch(_core.peak_phase, log_magnitude, state, hop, phase, next_state, sources)
    return phase, next_state


_op = Op(
    "peak_phase(Tensor log_magnitude, Tensor? state, int hop) -> (Tensor, Tensor)",
    kernel=_kernel,
    reference=reference,
    fake=lambda log_magnitude, state, hop: (
        log_magnitude.new_empty(log_magnitude.shape),
        log_magnitude.new_empty(log_magnitude.shape[::2], dtype=torch.int32),
    ),
    check=_check,
    dtypes=("float32",),
)
