# SPDX-License-Identifier: Apache-2.0
"""Log-magnitudes and phases to a signal, in one pass around the inverse FFT: the head of Vocos-like vocoders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .registration import Op, _core, expect_shape, launch, new_empty

if TYPE_CHECKING:
    from torch import Tensor


def inverse_stft(log_magnitude: Any, phase: Any, hop: int, window: Any = None) -> Any:
    """y = Σₜ w·irfft(exp(log_magnitude[t] + i·phase[t])) / Σₜ w², frame t centred at sample t·hop.

    Args:
        log_magnitude: [B, T, F] float32 (float64 runs through the reference), F = n_fft/2 + 1, in nats. The imaginary
            part at 0 Hz and Nyquist is ignored.
        phase: [B, T, F] radians.
        hop: samples between frames; divides n_fft at least twice.
        window: [n_fft], Hann's where absent. A sample that no window reaches is 0.

    Returns:
        [B, T·hop], dtype and kind of log_magnitude. Differentiable in log_magnitude and phase. Kernels take
        n_fft = 8, 16, … 4096 and hop ≥ max(2, n_fft/256); other sizes run through the reference. A sample depends on
        n_fft/hop frames and comes out with the same bits whatever the rest: tiles equal the whole.

    Raises:
        ValueError: a shape or hop that does not fit, naming the argument.
        TypeError: dtypes that differ from log_magnitude's.

    Source: Griffin and Lim, "Signal estimation from modified short-time Fourier transform", 1984, eq. 6; as a layer
    Vocos (Siuzdak, arXiv 2306.00814).

    >>> import numpy as np
    >>> still = np.full((1, 4, 5), -100.0, np.float32)
    >>> still[..., 0] = np.log(8.0)  # 0 Hz alone, n_fft times the mean: frames of ones
    >>> inverse_stft(still, np.zeros_like(still), hop=2)[0, 3:5].round(4)  # Σ w / Σ w²
    array([1.3333, 1.3333], dtype=float32)
    """
    return _op(log_magnitude, phase, window, hop)


def reference(log_magnitude: Tensor, phase: Tensor, window: Tensor | None, hop: int) -> Tensor:
    """The formula in plain PyTorch: oracle, baseline and documentation of `inverse_stft`."""
    import torch

    items, count, bins = log_magnitude.shape
    n_fft = 2 * (bins - 1)
    if items * count == 0:  # MKL transforms no empty batch
        return log_magnitude.new_zeros(items, count * hop)
    window = window_or_hann(window, log_magnitude)
    spectrum = torch.polar(log_magnitude.exp(), phase)
    frames = torch.fft.irfft(spectrum, n_fft) * window
    return overlap_add(frames, hop) * row_scale(window, hop, count)


def window_or_hann(window: Tensor | None, log_magnitude: Tensor) -> Tensor:
    """The periodic Hann window of these frames where there is none."""
    import torch

    if window is not None:
        return window
    n_fft = 2 * (log_magnitude.shape[-1] - 1)
    return torch.hann_window(n_fft, dtype=torch.float64, device=log_magnitude.device).to(log_magnitude.dtype)


def overlap_add(frames: Tensor, hop: int) -> Tensor:
    B, T, n_fft = frames.shape
    overlap = n_fft // hop
    rows = frames.new_zeros(B, T + overlap - 1, hop)
    for r in range(overlap):
        rows[:, r : r + T] += frames[..., r * hop : (r + 1) * hop]
    return rows.flatten(1)[:, n_fft // 2 :][:, : T * hop]


def row_scale(window: Tensor, hop: int, frames: int) -> Tensor:
    """1 / Σ w² at every sample, 0 where no window reaches."""
    power = overlap_add(window.square().expand(1, frames, -1), hop)[0]
    return (power > 1e-11) / power.clamp_min(1e-11)


def frames_of(signal: Tensor, n_fft: int, hop: int) -> Tensor:
    """[B, T·hop] to its frames [B, T, n_fft], frame t centred at t·hop, zeros outside the signal."""
    import torch.nn.functional as F

    frames = signal.shape[1] // hop
    if frames == 0:
        return signal.new_zeros(signal.shape[0], 0, n_fft)
    return F.pad(signal, (n_fft // 2, n_fft - n_fft // 2 - hop)).unfold(1, n_fft, hop)


def takes(log_magnitude: Any, hop: int) -> bool:
    """Whether there are kernels for this n_fft and hop (frames_are_taken of csrc/ops/inverse_stft.h)."""
    n_fft = 2 * (log_magnitude.shape[-1] - 1)
    planes = max(2, n_fft // 256)
    power_of_two = 8 <= n_fft <= 4096 and n_fft & (n_fft - 1) == 0
    return power_of_two and hop >= planes and 2 * hop <= n_fft and n_fft % hop == 0


def check_frames(op: str, log_magnitude: Any, phase: Any, window: Any, hop: int) -> None:
    """ValueError or TypeError naming the argument unless these are frames of one signal."""
    shape = tuple(log_magnitude.shape)
    if len(shape) != 3:
        raise ValueError(f"{op}: log_magnitude must have 3 dimensions, got shape {list(shape)}")
    n_fft = 2 * (shape[2] - 1)
    if n_fft < 2:
        raise ValueError(f"{op}: log_magnitude must have at least 2 bins, got shape {list(shape)}")
    expect_shape(op, "phase", phase, shape)
    expect_shape(op, "window", window, (n_fft,))
    for name, v in (("phase", phase), ("window", window)):
        if v is not None and v.dtype != log_magnitude.dtype:
            raise TypeError(f"{op}: {name} must be {log_magnitude.dtype} like log_magnitude, got {v.dtype}")
    if hop < 1 or n_fft % hop or 2 * hop > n_fft:
        raise ValueError(f"{op}: hop must divide n_fft = {n_fft} at least twice, got {hop}")


def _kernel(log_magnitude: Any, phase: Any, window: Any, hop: int) -> Any:
    signal = new_empty(log_magnitude, (log_magnitude.shape[0], log_magnitude.shape[1] * hop))
    launch(_core.inverse_stft, log_magnitude, phase, window, hop, signal)
    return signal


_op = Op(
    "inverse_stft(Tensor log_magnitude, Tensor phase, Tensor? window, int hop) -> Tensor",
    kernel=_kernel,
    reference=reference,
    fake=lambda log_magnitude, phase, window, hop: log_magnitude.new_empty(
        log_magnitude.shape[0], log_magnitude.shape[1] * hop
    ),
    check=lambda *args: check_frames("inverse_stft", *args),
    dtypes=("float32",),
    covers=lambda log_magnitude, phase, window, hop: takes(log_magnitude, hop),
)


# ---- backward: an op of its own; gradients that nobody wants come back as empty arrays


def backward_reference(
    dsignal: Tensor, log_magnitude: Tensor, phase: Tensor, window: Tensor | None, hop: int, wanted: list[bool]
) -> tuple[Tensor, Tensor]:
    """The closed form in csrc/ops/inverse_stft.h, in plain PyTorch."""
    import torch

    n_fft = 2 * (log_magnitude.shape[-1] - 1)
    window = window_or_hann(window, log_magnitude)
    scaled = dsignal * row_scale(window, hop, log_magnitude.shape[1])
    spectrum = torch.fft.rfft(frames_of(scaled, n_fft, hop) * window) / n_fft
    spectrum[..., 1:-1] *= 2
    product = torch.polar(log_magnitude.exp(), phase) * spectrum.conj()
    empty = log_magnitude.new_empty(0)
    return (
        product.real.contiguous() if wanted[0] else empty,
        product.imag.neg() if wanted[1] else empty,
    )


def _backward_kernel(
    dsignal: Any, log_magnitude: Any, phase: Any, window: Any, hop: int, wanted: list[bool]
) -> tuple[Any, Any]:
    out = [new_empty(log_magnitude, log_magnitude.shape) if want else None for want in wanted]
    launch(_core.inverse_stft_backward, dsignal, log_magnitude, phase, window, hop, *out)
    one, two = (new_empty(log_magnitude, (0,)) if o is None else o for o in out)
    return one, two


def _backward_fake(
    dsignal: Any, log_magnitude: Any, phase: Any, window: Any, hop: int, wanted: list[bool]
) -> tuple[Any, Any]:
    one, two = (log_magnitude.new_empty(log_magnitude.shape if want else (0,)) for want in wanted)
    return one, two


_backward_op = Op(
    "inverse_stft_backward(Tensor dsignal, Tensor log_magnitude, Tensor phase, Tensor? window, int hop, bool[] wanted)"
    " -> (Tensor, Tensor)",
    kernel=_backward_kernel,
    reference=backward_reference,
    fake=_backward_fake,
    dtypes=("float32",),
    covers=lambda dsignal, log_magnitude, phase, window, hop, wanted: takes(log_magnitude, hop),
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.hop = inputs
    ctx.save_for_backward(*tensors)


def _gradient(ctx: Any, dsignal: Tensor) -> tuple[Any, ...]:
    wanted = list(ctx.needs_input_grad[:2])
    grads = _backward_op(dsignal, *ctx.saved_tensors, ctx.hop, wanted)
    return (*(g if want else None for g, want in zip(grads, wanted, strict=True)), None, None)


_op.gradient(_gradient, _setup)
