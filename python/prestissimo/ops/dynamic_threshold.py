# SPDX-License-Identifier: Apache-2.0
"""Dynamic thresholding: an estimate is clipped at a quantile of its own magnitudes, and scaled back to one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .dmd_gradient import sum_blocks
from .registration import Op, _core, empty_like, expect_latent, launch, new_empty

if TYPE_CHECKING:
    from torch import Tensor

HISTOGRAM_WORDS = 6144  # kHistogramWords of csrc/ops/dynamic_threshold.h, where `scratch` is explained
BLOCK_WORDS = 6  # kBlockWords
LEAST_FLOOR, MOST_FLOOR = 2.0**-149, 2.0**128 - 2.0**104  # of positive finite float32


def dynamic_threshold(x: Any, quantile: float = 0.995, floor: float = 1.0) -> Any:
    """y = clip(x, −s, s)/s, s = max(floor, the quantile of |x|) for each sample.

    The quantile is exact, between two elements where it falls between them, as torch.quantile's; NaN counts as the
    largest.

    Args:
        x: [B, ...], float32, bfloat16 or float16 (float64 runs through the reference).
        quantile: in [0, 1].
        floor: the least s, positive and finite as float32: samples within it stay as they are but for the scale.

    Returns:
        Shape, dtype and kind (torch, NumPy, …) of x. Differentiable in x, through s too.

    Raises:
        ValueError: a quantile or floor that does not fit, naming the argument.
        TypeError: a dtype that no kernel takes.

    Source: Saharia et al., Imagen (arXiv 2205.11487), section 2.3; DITTO (arXiv 2401.12179) samples with it.

    >>> import numpy as np
    >>> dynamic_threshold(np.float32([[1.0, -4.0, 2.0, 0.5, -3.0]]), quantile=0.75)
    array([[ 0.33333334, -1.        ,  0.6666667 ,  0.16666667, -1.        ]],
          dtype=float32)
    """
    y, _ = _op(x, quantile, floor)
    return y


def _ranks(quantile: float, size: int) -> tuple[int, int, float]:
    """Ranks of the two elements, and how far between them."""
    rank = quantile * (size - 1)
    low = int(rank)
    return low, min(low + 1, size - 1), rank - low


def reference(x: Tensor, quantile: float = 0.995, floor: float = 1.0) -> tuple[Tensor, Tensor]:
    """The formula in plain PyTorch: oracle, baseline and documentation of `dynamic_threshold`."""
    import torch

    wide = torch.promote_types(x.dtype, torch.float32)
    if x.numel() == 0:
        return x.clone(), x.new_zeros((x.shape[0], 2), dtype=wide)
    low, high, fraction = _ranks(quantile, math.prod(x.shape[1:]))
    # stable: which of several equal elements moves the quantile
    ordered = x.abs().flatten(1).sort(dim=1, stable=True).values.to(wide)
    levels = torch.stack([ordered[:, low], ordered[:, high]], dim=1)
    level = levels[:, 0] if fraction == 0 else levels[:, 0] + fraction * (levels[:, 1] - levels[:, 0])
    s = level.clamp_min(floor).reshape(-1, *[1] * (x.dim() - 1))
    return torch.where(x.abs() > s, x.sign(), x / s).to(x.dtype), levels


def _check_numbers(quantile: float, floor: float) -> None:
    if not 0 <= quantile <= 1:
        raise ValueError(f"dynamic_threshold: quantile must be in [0, 1], got {quantile}")
    if not LEAST_FLOOR <= floor <= MOST_FLOOR:
        raise ValueError(f"dynamic_threshold: floor must be positive and finite as float32, got {floor}")


def _check(x: Any, quantile: float, floor: float) -> None:
    expect_latent("dynamic_threshold", "x", x)
    _check_numbers(quantile, floor)


def _kernel(x: Any, quantile: float, floor: float) -> tuple[Any, Any]:
    _check_numbers(quantile, floor)
    expect_latent("dynamic_threshold", "x", x)
    B, size = x.shape[0], math.prod(x.shape[1:])
    y, levels = empty_like(x), new_empty(x, (B, 2), "float32")
    scratch = new_empty(x, (max(B * size + 2 * sum_blocks(x), B * HISTOGRAM_WORDS),), "int32")
    launch(_core.dynamic_threshold, x, quantile, floor, scratch, y, levels)
    return y, levels


def _fake(x: Any, quantile: float, floor: float) -> tuple[Any, Any]:
    import torch

    return x.new_empty(x.shape), x.new_empty(
        (x.shape[0], 2), dtype=torch.promote_types(x.dtype, torch.float32)
    )


_op = Op(
    "dynamic_threshold(Tensor x, float quantile, float floor) -> (Tensor, Tensor)",
    kernel=_kernel,
    reference=reference,
    fake=_fake,
    check=_check,
)


# ---- backward


def backward_reference(dy: Tensor, x: Tensor, levels: Tensor, quantile: float, floor: float) -> Tensor:
    """The closed form in csrc/ops/dynamic_threshold.h, in plain PyTorch."""
    if x.numel() == 0:
        return dy.clone()
    low, high, fraction = _ranks(quantile, math.prod(x.shape[1:]))
    level = levels[:, 0] if fraction == 0 else levels[:, 0] + fraction * (levels[:, 1] - levels[:, 0])
    s = level.clamp_min(floor).reshape(-1, *[1] * (x.dim() - 1))
    outside = x.abs() > s
    dx = (dy / s).masked_fill(outside, 0).flatten(1)
    ds = -(dy * x / (s * s)).masked_fill(outside, 0).flatten(1).sum(dim=1)
    ds = ds.masked_fill(level < floor, 0)
    order = x.abs().flatten(1).sort(dim=1, stable=True).indices
    signs = x.sign().flatten(1)
    for rank, share in ((low, 1 - fraction), (high, fraction)):
        at = order[:, rank : rank + 1]
        dx = dx.scatter_add(1, at, (share * ds)[:, None] * signs.gather(1, at))
    return dx.reshape(x.shape).to(x.dtype)


def _backward_kernel(dy: Any, x: Any, levels: Any, quantile: float, floor: float) -> Any:
    dx = empty_like(x)
    scratch = new_empty(x, (BLOCK_WORDS * sum_blocks(x),), "int32")
    launch(_core.dynamic_threshold_backward, dy, x, levels, quantile, floor, scratch, dx)
    return dx


_backward_op = Op(
    "dynamic_threshold_backward(Tensor dy, Tensor x, Tensor levels, float quantile, float floor) -> Tensor",
    kernel=_backward_kernel,
    reference=backward_reference,
    fake=lambda dy, x, *_: x.new_empty(x.shape),
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, ctx.quantile, ctx.floor = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, output[1])


def _gradient(ctx: Any, dy: Tensor | None, _: Any) -> tuple[Any, ...]:
    if dy is None:
        return None, None, None
    return _backward_op(dy, *ctx.saved_tensors, ctx.quantile, ctx.floor), None, None


_op.gradient(_gradient, _setup)
