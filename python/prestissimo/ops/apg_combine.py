# SPDX-License-Identifier: Apache-2.0
"""Adaptive projected guidance: classifier-free guidance less what only raises contrast."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .dmd_gradient import sum_blocks
from .registration import Op, _core, empty_like, expect_latent, expect_like, launch, new_empty

if TYPE_CHECKING:
    from torch import Tensor


def apg_combine(
    conditional: Any,
    unconditional: Any,
    scale: float,
    eta: float = 0.0,
    threshold: float = 0.0,
    momentum: float = 0.0,
    average: Any = None,
) -> tuple[Any, Any]:
    """y = c + (w − 1)·s·(Δ_⊥ + η·Δ_∥), Δ = c − u + β·average, s = min(1, r/‖Δ‖), for each sample.

    Δ_∥ = (Δ·c/‖c‖²)·c is the part of Δ along c, Δ_⊥ the rest.

    Args:
        conditional: c, [B, ...], float32, bfloat16 or float16 (float64 runs through the reference); norms are over
            all dimensions but the first. ACE-Step takes them for each channel: pass c.flatten(0, 1).
        unconditional: u, like c.
        scale: w; eta: η, 1 gives classifier-free guidance.
        threshold: r, the longest Δ; 0 sets no limit. momentum: β, negative to damp what repeats.
        average: Δ of the step before, like c; absent in the first.

    Returns:
        (y, Δ): shape, dtype and kind (torch, NumPy, …) of c; Δ is the next step's average. Differentiable in c, u
        and average.

    Raises:
        ValueError: an argument that does not fit, by its name.
        TypeError: dtypes that differ from c's, or that no kernel takes.

    Source: Sadat et al., "Eliminating oversaturation and artifacts of high guidance scales" (arXiv 2410.02416),
    algorithm 1.

    >>> import numpy as np
    >>> y, _ = apg_combine(np.float32([[2.0, 0.0]]), np.float32([[1.0, -1.0]]), scale=3.0)
    >>> y  # of Δ = (1, 1) only the part across c = (2, 0) counts
    array([[2., 2.]], dtype=float32)
    """
    return _op(conditional, unconditional, average, scale, eta, threshold, momentum)  # type: ignore[no-any-return]


def _difference(c: Tensor, u: Tensor, average: Tensor | None, momentum: float) -> Tensor:
    return c - u if average is None or momentum == 0 else c - u + momentum * average


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Of each sample, with the dimensions that let it be multiplied back."""
    return (a * b).flatten(1).sum(dim=1).reshape(-1, *[1] * (a.dim() - 1))


def reference(
    conditional: Tensor,
    unconditional: Tensor,
    average: Tensor | None,
    scale: float,
    eta: float = 0.0,
    threshold: float = 0.0,
    momentum: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The formula in plain PyTorch: oracle, baseline and documentation of `apg_combine`."""
    import torch

    wide = torch.promote_types(conditional.dtype, torch.float32)
    d = _difference(conditional, unconditional, average, momentum)
    c_, d_ = conditional.to(wide), d.to(wide)
    step: Any = scale - 1
    if threshold > 0:
        step = step * (threshold / _dot(d_, d_).sqrt()).clamp_max(1)
    along = _dot(d_, c_) / _dot(c_, c_).clamp_min(1e-24) * c_
    return (c_ + step * (d_ + (eta - 1) * along)).to(d.dtype), d


def _check_numbers(scale: float, eta: float, threshold: float, momentum: float) -> None:
    for name, value in (("scale", scale), ("eta", eta), ("momentum", momentum)):
        if not math.isfinite(value):
            raise ValueError(f"apg_combine: {name} must be finite, got {value}")
    if not 0 <= threshold < math.inf:
        raise ValueError(f"apg_combine: threshold must be at least 0 and finite, got {threshold}")


def _check(conditional: Any, unconditional: Any, average: Any, *numbers: float) -> None:
    expect_latent("apg_combine", "conditional", conditional)
    expect_like("apg_combine", "unconditional", unconditional, conditional, "conditional")
    expect_like("apg_combine", "average", average, conditional, "conditional")
    _check_numbers(*numbers)


def _kernel(conditional: Any, unconditional: Any, average: Any, *numbers: float) -> tuple[Any, Any]:
    _check_numbers(*numbers)
    y, d = empty_like(conditional), empty_like(conditional)
    partial = new_empty(conditional, (3 * sum_blocks(conditional),), "float32")
    launch(_core.apg_combine, conditional, unconditional, average, *numbers, partial, y, d)
    return y, d


_op = Op(
    "apg_combine(Tensor conditional, Tensor unconditional, Tensor? average, float scale, float eta,"
    " float threshold, float momentum) -> (Tensor, Tensor)",
    kernel=_kernel,
    reference=reference,
    fake=lambda c, *_: (c.new_empty(c.shape), c.new_empty(c.shape)),
    check=_check,
)


# ---- backward: a gradient that nobody wants comes back as an empty array


def backward_reference(
    dy: Tensor,
    dnext: Tensor | None,
    conditional: Tensor,
    unconditional: Tensor,
    average: Tensor | None,
    scale: float,
    eta: float,
    threshold: float,
    momentum: float,
    wanted: list[bool],
) -> tuple[Tensor, ...]:
    """The closed form in csrc/ops/apg_combine.h, in plain PyTorch."""
    import torch

    wide = torch.promote_types(dy.dtype, torch.float32)
    g, c = dy.to(wide), conditional.to(wide)
    d = _difference(conditional, unconditional, average, momentum).to(wide)
    square, p, q, gc, gd = _dot(d, d), _dot(d, c), _dot(c, c), _dot(g, c), _dot(g, d)
    least, e = q.clamp_min(1e-24), eta - 1
    m = (scale - 1) * torch.ones_like(q)
    shortened = torch.zeros_like(q, dtype=torch.bool)
    if threshold > 0:
        shortened = square.sqrt() > threshold
        m = torch.where(shortened, m * threshold / square.sqrt(), m)
    share, pull = p / least, m * e * gc / least
    dd = m * g + pull * c - torch.where(shortened, m * (gd + e * share * gc) / square, 0) * d
    dd = dd if dnext is None else dd + dnext
    dc = g + m * e * share * g + pull * d - torch.where(q < 1e-24, 0, 2 * share * pull) * c + dd
    grads = dc, -dd, momentum * dd
    return tuple(v.to(dy.dtype) if want else dy.new_empty(0) for v, want in zip(grads, wanted, strict=True))


def _backward_kernel(
    dy: Any, dnext: Any, conditional: Any, unconditional: Any, average: Any, scale: float, eta: float,
    threshold: float, momentum: float, wanted: list[bool],
) -> tuple[Any, ...]:  # fmt: skip
    out = [empty_like(dy) if want else None for want in wanted]
    partial = new_empty(dy, (5 * sum_blocks(dy),), "float32")
    launch(_core.apg_combine_backward, dy, dnext, conditional, unconditional, average, scale, eta, threshold,
           momentum, partial, *out)  # fmt: skip
    return tuple(new_empty(dy, (0,)) if d is None else d for d in out)


_backward_op = Op(
    "apg_combine_backward(Tensor dy, Tensor? dnext, Tensor conditional, Tensor unconditional, Tensor? average,"
    " float scale, float eta, float threshold, float momentum, bool[] wanted) -> (Tensor, Tensor, Tensor)",
    kernel=_backward_kernel,
    reference=backward_reference,
    fake=lambda dy, *args: tuple(dy.new_empty(dy.shape if want else 0) for want in args[-1]),
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.scale, ctx.eta, ctx.threshold, ctx.momentum = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def _gradient(ctx: Any, dy: Tensor | None, dnext: Tensor | None) -> tuple[Any, ...]:
    if dy is None:
        if dnext is None:
            return (None,) * 7
        dy = dnext.new_zeros(dnext.shape)
    needed = list(ctx.needs_input_grad[:3])
    numbers = (ctx.scale, ctx.eta, ctx.threshold, ctx.momentum)
    grads = _backward_op(dy, dnext, *ctx.saved_tensors, *numbers, needed)
    return (*(g if n else None for g, n in zip(grads, needed, strict=True)), None, None, None, None)


_op.gradient(_gradient, _setup)
