# SPDX-License-Identifier: Apache-2.0
"""Rounds of Griffin and Lim: phases that fit their magnitudes better, fused around the FFTs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .inverse_stft import check_frames, frames_of, takes, window_or_hann
from .inverse_stft import reference as inverse_stft_reference
from .registration import Op, _core, launch, new_empty, scratch

if TYPE_CHECKING:
    from torch import Tensor


def project_phase(log_magnitude: Any, phase: Any, hop: int, rounds: int = 1, window: Any = None) -> Any:
    """phase ← angle(STFT(ISTFT(exp(log_magnitude + i·phase)))), `rounds` times.

    Args:
        log_magnitude, phase, hop, window: as in `inverse_stft`, which is the inverse here.
        rounds: 1 … 1000.

    Returns:
        [B, T, F] radians in [-π, π], dtype and kind of log_magnitude; the angle of 0 is 0. Not differentiable. A
        frame depends on rounds·(n_fft/hop - 1) frames on either side and comes out with the same bits whatever the
        rest: tiles equal the whole. Sizes of the kernels as in `inverse_stft`.

        Where |STFT| is small against the magnitude the angle is ill-conditioned, and so are later rounds: compare
        |STFT|·exp(i·phase), not phases (docs/numerics.md).

    Raises:
        ValueError: a shape, hop or number of rounds that does not fit, naming the argument.
        TypeError: dtypes that differ from log_magnitude's.

    Source: Griffin and Lim, "Signal estimation from modified short-time Fourier transform", 1984.

    >>> import numpy as np
    >>> tone = np.full((1, 9, 5), -9.0, np.float32)
    >>> tone[:, :, 2] = 0.0  # a quarter of the sampling rate: half a turn every 2 samples
    >>> turning = np.zeros_like(tone)
    >>> turning[:, 1::2, 2] = np.pi
    >>> steps = np.diff(project_phase(tone, turning, hop=2)[0, 2:-2, 2]) % (2 * np.pi)
    >>> bool(np.allclose(steps, np.pi, atol=1e-3))  # phases that fit stay
    True
    """
    return _op(log_magnitude, phase, window, hop, rounds)


def project(log_magnitude: Tensor, phase: Tensor, window: Tensor | None, hop: int) -> Tensor:
    """STFT(ISTFT(exp(log_magnitude + i·phase))), complex: what a round takes the angle of."""
    import torch

    if log_magnitude.numel() == 0:
        return torch.polar(log_magnitude, phase)
    window = window_or_hann(window, log_magnitude)
    signal = inverse_stft_reference(log_magnitude, phase, window, hop)
    return torch.fft.rfft(frames_of(signal, window.shape[0], hop) * window)


def reference(log_magnitude: Tensor, phase: Tensor, window: Tensor | None, hop: int, rounds: int) -> Tensor:
    """The formula in plain PyTorch: oracle, baseline and documentation of `project_phase`."""
    for _ in range(rounds):
        phase = project(log_magnitude, phase, window, hop).angle()
    return phase


def _check(log_magnitude: Any, phase: Any, window: Any, hop: int, rounds: int) -> None:
    check_frames("project_phase", log_magnitude, phase, window, hop)
    if not 1 <= rounds <= 1000:
        raise ValueError(f"project_phase: rounds must be in 1 ... 1000, got {rounds}")


def _kernel(log_magnitude: Any, phase: Any, window: Any, hop: int, rounds: int) -> Any:
    projected = new_empty(log_magnitude, log_magnitude.shape)
    signal = scratch(log_magnitude, (log_magnitude.shape[0], log_magnitude.shape[1] * hop))
    launch(_core.project_phase, log_magnitude, phase, window, hop, rounds, signal, projected)
    return projected


_op = Op(
    "project_phase(Tensor log_magnitude, Tensor phase, Tensor? window, int hop, int rounds) -> Tensor",
    kernel=_kernel,
    reference=reference,
    fake=lambda log_magnitude, *_: log_magnitude.new_empty(log_magnitude.shape),
    check=_check,
    dtypes=("float32",),
    covers=lambda log_magnitude, phase, window, hop, rounds: takes(log_magnitude, hop),
)
