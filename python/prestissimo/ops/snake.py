# SPDX-License-Identifier: Apache-2.0
"""The periodic activation of Oobleck and BigVGAN decoders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .registration import Op, _core, expect_shape, launch, new_empty

if TYPE_CHECKING:
    from torch import Tensor

TIME_BLOCK, COLUMN_BLOCK = 64, 4096  # kTimeBlock of csrc/ops/rows.h, kColumnBlock of csrc/ops/snake.h


def snake(x: Any, alpha: Any, beta: Any = None, log_scale: bool = True) -> Any:
    """y = x + sin²(a·x) / (b + 10⁻⁹), a = exp(alpha), b = exp(beta), or alpha and beta themselves.

    Args:
        x: [B, C, T], float32, bfloat16 or float16 (float64 runs through the reference), with time or channels last in
            memory; y lies as x does.
        alpha, beta: [C] of x's dtype; alpha serves for both where beta is absent (Snake instead of SnakeBeta).
        log_scale: whether they are logarithms, as checkpoints of Stable Audio and BigVGAN store them.

    Returns:
        [B, C, T], dtype and kind of x. Differentiable in x, alpha and beta.

    Raises:
        ValueError: a shape that does not fit, naming the argument.
        TypeError: dtypes that differ from x's.

    Source: Ziyin, Hartwig and Ueda, arXiv 2006.08195; SnakeBeta of BigVGAN (arXiv 2206.04658).

    >>> import numpy as np
    >>> x = np.array([[[0, np.pi / 2, np.pi]]], np.float32)
    >>> snake(x, np.zeros(1, np.float32)).round(4)
    array([[[0.    , 2.5708, 3.1416]]], dtype=float32)
    """
    return _op(x, alpha, alpha if beta is None else beta, log_scale)


def reference(x: Tensor, alpha: Tensor, beta: Tensor | None = None, log_scale: bool = True) -> Tensor:
    """The formula in plain PyTorch: oracle, baseline and documentation of `snake`."""
    beta = alpha if beta is None else beta
    a, b = (alpha.exp(), beta.exp()) if log_scale else (alpha, beta)
    return x + (x * a[:, None]).sin().square() / (b[:, None] + 1e-9)


def _check(x: Any, alpha: Any, beta: Any, log_scale: bool) -> None:
    if len(x.shape) != 3:
        raise ValueError(f"snake: x must have 3 dimensions, got shape {list(x.shape)}")
    for name, v in (("alpha", alpha), ("beta", beta)):
        expect_shape("snake", name, v, (x.shape[1],))
        if v.dtype != x.dtype:
            raise TypeError(f"snake: {name} must be {x.dtype} like x, got {v.dtype}")


def _channels_last(x: Any) -> bool:
    """Whether channels, and not time, are neighbours in memory."""
    stride = x.stride() if hasattr(x, "stride") else [s // x.dtype.itemsize for s in x.strides]
    return bool(stride[1] == 1 and stride[2] != 1)


def _empty_rows(x: Any, last: bool) -> Any:
    B, C, T = x.shape
    return new_empty(x, (B, T, C) if last else (B, C, T))


def _kernel(x: Any, alpha: Any, beta: Any, log_scale: bool) -> Any:
    _check(x, alpha, beta, log_scale)
    last = _channels_last(x)
    y = _empty_rows(x, last)
    rows = x.swapaxes(1, 2) if last else x
    launch(_core.snake, rows, alpha, beta, int(not last), int(log_scale), y)
    return y.swapaxes(1, 2) if last else y


def _fake(x: Any, alpha: Any, beta: Any, log_scale: bool) -> Any:
    last = _channels_last(x)
    return _empty_rows(x, last).transpose(1, 2) if last else _empty_rows(x, last)


_op = Op(
    "snake(Tensor x, Tensor alpha, Tensor beta, bool log_scale) -> Tensor",
    kernel=_kernel,
    reference=reference,
    fake=_fake,
    check=_check,
)


# ---- backward: an op of its own; gradients that nobody wants come back as empty arrays


def backward_reference(
    dy: Tensor, x: Tensor, alpha: Tensor, beta: Tensor, log_scale: bool, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """The closed form in csrc/ops/snake.h, in plain PyTorch; sums in at least float32."""
    import torch

    wide = torch.promote_types(x.dtype, torch.float32)
    x_, dy_, p, q = (v.to(wide) for v in (x, dy, alpha, beta))
    a, b = (p.exp(), q.exp()) if log_scale else (p, q)
    a_, inverse = a[:, None], 1 / (b[:, None] + 1e-9)
    slope = (2 * a_ * x_).sin() * inverse
    dalpha = (dy_ * x_ * slope).sum((0, 2))
    dbeta = -(dy_ * ((a_ * x_).sin() * inverse).square()).sum((0, 2))
    empty = x.new_empty(0)
    return (
        (dy_ * (1 + a_ * slope)).to(x.dtype) if wanted[0] else empty,
        (dalpha * a if log_scale else dalpha).to(x.dtype) if wanted[1] else empty.clone(),
        (dbeta * b if log_scale else dbeta).to(x.dtype) if wanted[2] else empty.clone(),
    )


def _backward_kernel(
    dy: Any, x: Any, alpha: Any, beta: Any, log_scale: bool, wanted: list[bool]
) -> tuple[Any, Any, Any]:
    (B, C, T), last = x.shape, _channels_last(x)
    dx = _empty_rows(x, last) if wanted[0] else None
    dalpha = dbeta = partial = None
    if wanted[1] or wanted[2]:
        dalpha, dbeta = new_empty(x, (C,)), new_empty(x, (C,))
        blocks = -(-T // (TIME_BLOCK if last else COLUMN_BLOCK))
        partial = new_empty(x, (2 * B * blocks * C,), "float32")
    rows = (dy.swapaxes(1, 2), x.swapaxes(1, 2)) if last else (dy, x)
    options = (int(not last), int(log_scale))
    launch(_core.snake_backward, *rows, alpha, beta, *options, partial, dx, dalpha, dbeta)
    empty = [new_empty(x, (0,)) for _ in range(3)]
    return (
        empty[0] if dx is None else dx.swapaxes(1, 2) if last else dx,
        empty[1] if dalpha is None or not wanted[1] else dalpha,
        empty[2] if dbeta is None or not wanted[2] else dbeta,
    )


def _backward_fake(
    dy: Any, x: Any, alpha: Any, beta: Any, log_scale: bool, wanted: list[bool]
) -> tuple[Any, Any, Any]:
    return (
        _fake(x, alpha, beta, log_scale) if wanted[0] else x.new_empty(0),
        x.new_empty(alpha.shape if wanted[1] else (0,)),
        x.new_empty(beta.shape if wanted[2] else (0,)),
    )


_backward_op = Op(
    "snake_backward(Tensor dy, Tensor x, Tensor alpha, Tensor beta, bool log_scale, bool[] wanted)"
    " -> (Tensor, Tensor, Tensor)",
    kernel=_backward_kernel,
    reference=backward_reference,
    fake=_backward_fake,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.log_scale = inputs
    ctx.save_for_backward(*tensors)


def _gradient(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    wanted = list(ctx.needs_input_grad[:3])
    grads = _backward_op(dy, *ctx.saved_tensors, ctx.log_scale, wanted)
    return (*(g if want else None for g, want in zip(grads, wanted, strict=True)), None)


_op.gradient(_gradient, _setup)
