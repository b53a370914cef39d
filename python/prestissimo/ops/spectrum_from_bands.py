# SPDX-License-Identifier: Apache-2.0
"""Log-magnitudes of linear bins from mel bands, a network's residual, and noise of a predicted strength: one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .registration import Op, _core, expect_shape, launch, new_empty

if TYPE_CHECKING:
    from torch import Tensor


class Interpolation(NamedTuple):
    """value(j) = v[lower[j]] + share[j]·(v[lower[j] + 1] - v[lower[j]]): lower int32 [F], share [F] of v's dtype."""

    lower: Any
    share: Any


def interpolation(source: Any, target: Any) -> tuple[Any, Any]:
    """(lower, share) as NumPy arrays, int32 and float32: linear between ascending points `source`, at the points
    `target`; constant beyond both ends.

    >>> lower, share = interpolation([0, 10, 20], [-5, 5, 10, 18, 30])
    >>> lower.tolist(), share.round(2).tolist()
    ([0, 0, 1, 1, 1], [0.0, 0.5, 0.0, 0.800000011920929, 1.0])
    """
    import numpy as np

    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if source.ndim != 1 or len(source) < 2 or (np.diff(source) <= 0).any():
        raise ValueError("interpolation: source must be two or more ascending points")
    lower = np.clip(np.searchsorted(source, target, side="right") - 1, 0, len(source) - 2)
    share = (target - source[lower]) / (source[lower + 1] - source[lower])
    return lower.astype(np.int32), np.clip(share, 0, 1).astype(np.float32)


def spectrum_from_bands(
    bands: Any,
    residual: Any,
    offset: Any,
    at: Interpolation,
    spread: Any = None,
    noise: Any = None,
    spread_at: Interpolation | None = None,
    first: int = 0,
) -> Any:
    """y[t, j] = bands(t, j) + residual[t, j] + offset[j] + exp(min(0, spread(t, j)))·noise[(first + t) mod P, j].

    bands(t, j) and spread(t, j) are interpolated linearly between their bands (`interpolation`).

    Args:
        bands: [B, C, T, M] float32 (float64 runs through the reference), log-magnitudes of bands; any strides but the
            last.
        residual: [B, C, T, F], for instance a view of a network's output [B, T, C, F].
        offset: [C, F].
        at: where the F bins lie between the M bands; lower in [0, M - 2] (not checked).
        spread: [B, C, T, S], logarithm of the share of the noise that a band gets; with noise [C, P, F], of period P,
            and spread_at. All three may be absent.
        first: frame of the noise that the first frame gets.

    Returns:
        [B, C, T, F] of bands' dtype and kind. Differentiable in bands, residual and spread.

    Raises:
        ValueError: a shape that does not fit, naming the argument.
        TypeError: a dtype that does not fit.

    >>> import numpy as np
    >>> at = Interpolation(*interpolation([0, 4], [0, 1, 2, 3, 4]))
    >>> bands, zeros = np.array([[[[0, 8]]]], np.float32), np.zeros((1, 1, 1, 5), np.float32)
    >>> spectrum_from_bands(bands, zeros, zeros[0, 0] + 1, at)
    array([[[[1., 3., 5., 7., 9.]]]], dtype=float32)
    """
    places = (None, None) if spread_at is None else tuple(spread_at)
    return _op(bands, residual, offset, *at, spread, noise, *places, first)


def _between(v: Tensor, lower: Tensor, share: Tensor) -> Tensor:
    low, high = v[..., lower], v[..., lower + 1]
    return low + share * (high - low)


def _noise_of(noise: Tensor, frames: int, first: int) -> Tensor:
    import torch

    return noise[:, torch.arange(first, first + frames, device=noise.device) % noise.shape[1]]


def reference(
    bands: Tensor,
    residual: Tensor,
    offset: Tensor,
    lower: Tensor,
    share: Tensor,
    spread: Tensor | None = None,
    noise: Tensor | None = None,
    spread_lower: Tensor | None = None,
    spread_share: Tensor | None = None,
    first: int = 0,
) -> Tensor:
    """The formula in plain PyTorch: oracle, baseline and documentation of `spectrum_from_bands`."""
    y = _between(bands, lower, share) + residual + offset[:, None]
    if spread is None or noise is None or spread_lower is None or spread_share is None:
        return y
    share_of_noise = _between(spread, spread_lower, spread_share).clamp(max=0).exp()
    return y + share_of_noise * _noise_of(noise, bands.shape[2], first)


def _check(
    bands: Any,
    residual: Any,
    offset: Any,
    lower: Any,
    share: Any,
    spread: Any,
    noise: Any,
    spread_lower: Any,
    spread_share: Any,
    first: int,
) -> None:
    op = "spectrum_from_bands"
    if len(bands.shape) != 4:
        raise ValueError(f"{op}: bands must have 4 dimensions, got shape {list(bands.shape)}")
    B, C, T, M = bands.shape
    if M < 2:
        raise ValueError(f"{op}: bands must have at least 2 bands, got shape {list(bands.shape)}")
    F = residual.shape[-1]
    expect_shape(op, "residual", residual, (B, C, T, F))
    expect_shape(op, "offset", offset, (C, F))
    tensors = {"residual": residual, "offset": offset, "share": share}
    places = {"lower": lower, "share": share}
    given = [v is not None for v in (spread, noise, spread_lower, spread_share)]
    if any(given) and not all(given):
        raise ValueError(f"{op}: spread must come with noise and spread_at, or none of them")
    if all(given):
        expect_shape(op, "spread", spread, (B, C, T, spread.shape[-1]))
        if len(noise.shape) != 3 or noise.shape[1] < 1:
            raise ValueError(f"{op}: noise must be [{C}, P, {F}], got {list(noise.shape)}")
        expect_shape(op, "noise", noise, (C, noise.shape[1], F))
        tensors |= {"spread": spread, "noise": noise, "spread_share": spread_share}
        places |= {"spread_lower": spread_lower, "spread_share": spread_share}
    for name, v in places.items():
        expect_shape(op, name, v, (F,))
    for name, v in tensors.items():
        if v.dtype != bands.dtype:
            raise TypeError(f"{op}: {name} must be {bands.dtype} like bands, got {v.dtype}")
    for name, v in places.items():
        if name.endswith("lower") and not str(v.dtype).endswith("int32"):
            raise TypeError(f"{op}: {name} must be int32, got {v.dtype}")
    if first < 0:
        raise ValueError(f"{op}: first must be at least 0, got {first}")


def _kernel(*args: Any) -> Any:
    _check(*args)
    bands, residual = args[:2]
    y = new_empty(bands, (*bands.shape[:3], residual.shape[3]))
    launch(_core.spectrum_from_bands, *args, y)
    return y


_op = Op(
    "spectrum_from_bands(Tensor bands, Tensor residual, Tensor offset, Tensor lower, Tensor share, Tensor? spread,"
    " Tensor? noise, Tensor? spread_lower, Tensor? spread_share, int first) -> Tensor",
    kernel=_kernel,
    reference=reference,
    fake=lambda bands, residual, *_: bands.new_empty(residual.shape),
    check=_check,
    dtypes=("float32",),
)


# ---- backward: an op of its own; gradients that nobody wants come back as empty arrays; dresidual is dy itself


def backward_reference(
    dy: Tensor,
    lower: Tensor,
    share: Tensor,
    bands: int,
    spread: Tensor | None,
    noise: Tensor | None,
    spread_lower: Tensor | None,
    spread_share: Tensor | None,
    first: int,
    wanted: list[bool],
) -> tuple[Tensor, Tensor]:
    """The closed form in csrc/ops/spectrum_from_bands.h, in plain PyTorch."""

    def give_back(v: Tensor, lower: Tensor, share: Tensor, count: int) -> Tensor:
        high = v * share
        out = v.new_zeros(*v.shape[:-1], count)
        return out.index_add(-1, lower, v - high).index_add(-1, lower + 1, high)

    dbands = give_back(dy, lower, share, bands) if wanted[0] else dy.new_empty(0)
    if not wanted[1] or spread is None or noise is None or spread_lower is None or spread_share is None:
        return dbands, dy.new_empty(0)
    s = _between(spread, spread_lower, spread_share)
    part = (dy * _noise_of(noise, dy.shape[2], first) * s.exp()).where(~(s > 0), dy.new_zeros(()))
    return dbands, give_back(part, spread_lower, spread_share, spread.shape[-1])


def _backward_kernel(
    dy: Any,
    lower: Any,
    share: Any,
    bands: int,
    spread: Any,
    noise: Any,
    spread_lower: Any,
    spread_share: Any,
    first: int,
    wanted: list[bool],
) -> tuple[Any, Any]:
    rows = dy.shape[:3]
    dbands = new_empty(dy, (*rows, bands)) if wanted[0] else None
    dspread = new_empty(dy, (*rows, spread.shape[3])) if wanted[1] and spread is not None else None
    rest = (spread, noise, spread_lower, spread_share, first)
    launch(_core.spectrum_from_bands_backward, dy, lower, share, *rest, dbands, dspread)
    one, two = (new_empty(dy, (0,)) if d is None else d for d in (dbands, dspread))
    return one, two


def _backward_fake(dy: Any, lower: Any, share: Any, bands: int, spread: Any, *rest: Any) -> tuple[Any, Any]:
    wanted = rest[-1]
    return (
        dy.new_empty((*dy.shape[:3], bands) if wanted[0] else (0,)),
        dy.new_empty(spread.shape if wanted[1] and spread is not None else (0,)),
    )


_backward_op = Op(
    "spectrum_from_bands_backward(Tensor dy, Tensor lower, Tensor share, SymInt bands, Tensor? spread, Tensor? noise,"
    " Tensor? spread_lower, Tensor? spread_share, int first, bool[] wanted) -> (Tensor, Tensor)",
    kernel=_backward_kernel,
    reference=backward_reference,
    fake=_backward_fake,
    dtypes=("float32",),
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    bands, _, _, lower, share, spread, noise, spread_lower, spread_share, ctx.first = inputs
    ctx.bands = bands.shape[-1]
    ctx.save_for_backward(lower, share, spread, noise, spread_lower, spread_share)


def _gradient(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    lower, share, *rest = ctx.saved_tensors
    wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[5]]
    dbands = dspread = None
    if any(wanted):
        dbands, dspread = _backward_op(dy, lower, share, ctx.bands, *rest, ctx.first, wanted)
    return (
        dbands if wanted[0] else None,
        dy if ctx.needs_input_grad[1] else None,
        *[None] * 3,
        dspread if wanted[1] else None,
        *[None] * 4,
    )


_op.gradient(_gradient, _setup)
