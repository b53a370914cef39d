# SPDX-License-Identifier: Apache-2.0
"""Normalise each row and modulate it: the entry of every AdaLN transformer block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .registration import Op, _core, empty_like, expect_shape, launch, new_empty

if TYPE_CHECKING:
    from torch import Tensor

TIME_BLOCK = (
    64  # kTimeBlock of csrc/ops/rows.h; the size of `partial` is explained in csrc/ops/adaln_modulate.h
)


def adaln_modulate(
    x: Any,
    shift: Any = None,
    scale: Any = None,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-6,
    norm: str = "layer",
) -> Any:
    """y = (norm(x)·weight + bias)·(1 + scale) + shift, statistics in float32.

    Args:
        x: [B, T, C], float32, bfloat16 or float16 (float64 runs through the reference).
        shift, scale: [B, C] (the same for every row of a sample) or [B, T, C]; each may be absent.
        weight, bias: [C], the affine part of the norm; each may be absent.
        eps: added to the variance (layer) or the mean square (rms).
        norm: "layer" (mean removed) or "rms".

    Returns:
        [B, T, C], dtype and kind (torch, NumPy, …) of x. Differentiable in x, shift, scale, weight and bias.

    Raises:
        ValueError: a shape, eps or norm that does not fit, naming the argument.
        TypeError: dtypes that differ from x's, or that no kernel takes.

    Source: DiT (Peebles and Xie), adaLN; variants of Stable Audio, ACE-Step and Presto (arXiv 2410.05167) models.

    >>> import numpy as np
    >>> x = np.array([[[1.0, 2.0, 3.0]]], np.float32)
    >>> adaln_modulate(x, shift=np.full((1, 3), 10, np.float32), eps=0.0).round(3)
    array([[[ 8.775, 10.   , 11.225]]], dtype=float32)
    """
    return _op(x, shift, scale, weight, bias, eps, norm)


def reference(
    x: Tensor,
    shift: Tensor | None = None,
    scale: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-6,
    norm: str = "layer",
) -> Tensor:
    """The formula in plain PyTorch: oracle, baseline and documentation of `adaln_modulate`."""
    import torch.nn.functional as F

    per_row = lambda v: v if v.dim() == 3 else v[:, None]  # noqa: E731
    normalise = F.layer_norm if norm == "layer" else F.rms_norm
    y = normalise(x, x.shape[-1:], weight=weight, eps=eps)
    if bias is not None:
        y = y + bias
    if scale is not None:
        y = y * (1 + per_row(scale))
    return y if shift is None else y + per_row(shift)


def check(
    x: Any, shift: Any, scale: Any, weight: Any, bias: Any, eps: float, norm: str, op: str = "adaln_modulate"
) -> None:
    if len(x.shape) != 3:
        raise ValueError(f"{op}: x must have 3 dimensions, got shape {list(x.shape)}")
    B, T, C = x.shape
    expect_shape(op, "shift", shift, (B, C), (B, T, C))
    expect_shape(op, "scale", scale, (B, C), (B, T, C))
    expect_shape(op, "weight", weight, (C,))
    expect_shape(op, "bias", bias, (C,))
    for name, v in (("shift", shift), ("scale", scale), ("weight", weight), ("bias", bias)):
        if v is not None and v.dtype != x.dtype:
            raise TypeError(f"{op}: {name} must be {x.dtype} like x, got {v.dtype}")
    if not eps >= 0:
        raise ValueError(f"{op}: eps must be at least 0, got {eps}")
    if norm not in ("layer", "rms"):
        raise ValueError(f"{op}: norm must be 'layer' or 'rms', got '{norm}'")


def _kernel(x: Any, shift: Any, scale: Any, weight: Any, bias: Any, eps: float, norm: str) -> Any:
    y = empty_like(x)
    launch(_core.adaln_modulate, x, shift, scale, weight, bias, eps, norm, y)
    return y


_op = Op(
    "adaln_modulate(Tensor x, Tensor? shift, Tensor? scale, Tensor? weight, Tensor? bias, float eps, str norm)"
    " -> Tensor",
    kernel=_kernel,
    reference=reference,
    fake=lambda x, *_: x.new_empty(x.shape),
    check=check,
)


# ---- backward: an op of its own; gradients that nobody wants come back as empty arrays


def backward_reference(
    dy: Tensor,
    x: Tensor,
    shift: Tensor | None,
    scale: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    norm: str,
    wanted: list[bool],
) -> tuple[Tensor, ...]:
    """The closed form in csrc/ops/adaln_modulate.h, in plain PyTorch; sums over rows in at least float32."""
    import torch

    wide = torch.promote_types(x.dtype, torch.float32)
    per_row = lambda v: v.to(wide) if v.dim() == 3 else v.to(wide)[:, None]  # noqa: E731
    x_, dy_ = x.to(wide), dy.to(wide)
    centred = x_ - x_.mean(-1, keepdim=True) if norm == "layer" else x_
    rstd = (centred.square().mean(-1, keepdim=True) + eps).rsqrt()
    n = centred * rstd
    a = n if weight is None else n * weight.to(wide)
    a = a if bias is None else a + bias.to(wide)
    u = dy_ if scale is None else dy_ * (1 + per_row(scale))
    g = u if weight is None else u * weight.to(wide)
    mean_g = g.mean(-1, keepdim=True) if norm == "layer" else 0
    dx = rstd * (g - mean_g - n * (g * n).mean(-1, keepdim=True))

    def like(gradient: Tensor, argument: Tensor | None, want: bool) -> Tensor:
        if argument is None or not want:
            return x.new_empty(0)
        dims = {3: [], 2: [1], 1: [0, 1]}[argument.dim()]
        return (gradient.sum(dims) if dims else gradient).to(x.dtype)

    return (
        dx.to(x.dtype),
        like(dy_, shift, wanted[0]),
        like(dy_ * a, scale, wanted[1]),
        like(u * n, weight, wanted[2]),
        like(u, bias, wanted[3]),
    )


def _backward_outputs(x: Any, arguments: tuple[Any, ...], wanted: list[bool]) -> list[Any]:
    return [
        new_empty(x, a.shape) if a is not None and want else None
        for a, want in zip(arguments, wanted, strict=True)
    ]


def partial_size(x: Any, outputs: list[Any]) -> int:
    """Floats of the sums over time that these gradients of shift, scale, weight and bias take."""
    B, T, C = x.shape
    sums = sum(o is not None and len(o.shape) < 3 for o in outputs)
    return sums * B * -(-T // TIME_BLOCK) * C + (2 * B * T if sums else 0)


def _backward_kernel(
    dy: Any, x: Any, shift: Any, scale: Any, weight: Any, bias: Any, eps: float, norm: str, wanted: list[bool]
) -> tuple[Any, ...]:
    dx = empty_like(x)
    out = _backward_outputs(x, (shift, scale, weight, bias), wanted)
    partial = new_empty(x, (partial_size(x, out),), "float32")
    launch(_core.adaln_modulate_backward, dy, x, shift, scale, weight, bias, eps, norm, partial, dx, *out)
    return (dx, *(new_empty(x, (0,)) if o is None else o for o in out))


def _backward_fake(
    dy: Any, x: Any, shift: Any, scale: Any, weight: Any, bias: Any, eps: float, norm: str, wanted: list[bool]
) -> tuple[Any, ...]:
    out = _backward_outputs(x, (shift, scale, weight, bias), wanted)
    return (x.new_empty(x.shape), *(x.new_empty(0) if o is None else o for o in out))


_backward_op = Op(
    "adaln_modulate_backward(Tensor dy, Tensor x, Tensor? shift, Tensor? scale, Tensor? weight, Tensor? bias,"
    " float eps, str norm, bool[] wanted) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    kernel=_backward_kernel,
    reference=backward_reference,
    fake=_backward_fake,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.eps, ctx.norm = inputs
    ctx.save_for_backward(*tensors)


def _gradient(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    inputs = ctx.saved_tensors
    needed = list(ctx.needs_input_grad[:5])
    grads = _backward_op(dy, *inputs, ctx.eps, ctx.norm, needed[1:])
    return (*(g if n else None for g, n in zip(grads, needed, strict=True)), None, None)


_op.gradient(_gradient, _setup)
