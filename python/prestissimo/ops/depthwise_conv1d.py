# SPDX-License-Identifier: Apache-2.0
"""Convolution over time of every channel by itself: `conv1d` with as many groups as channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .registration import Op, _core, contiguous, expect_shape, launch, new_empty

if TYPE_CHECKING:
    from torch import Tensor

MOST_TAPS = 7  # kMostTaps of csrc/ops/depthwise_conv1d.h
TIME_BLOCK = 64  # kTimeBlock of csrc/ops/rows.h


def depthwise_conv1d(x: Any, weight: Any, bias: Any = None, padding: int = 0, dilation: int = 1) -> Any:
    """y[c, t] = bias[c] + Σ_k weight[c, 0, k]·x[c, t + k·dilation - padding], sums in float32.

    Args:
        x: [B, C, T], float32, bfloat16 or float16 (float64 runs through the reference); fast with channels or time
            last in memory. y lies as x does; on a GPU, and of other strides, with channels last.
        weight: [C, 1, K] of x's dtype; kernels take K up to 7, longer ones run through the reference.
        bias: [C]; may be absent.
        padding, dilation: zeros at either end, at least 0; at least 1.

    Returns:
        [B, C, T + 2·padding - dilation·(K - 1)], dtype and kind of x. Differentiable in x, weight and bias.

    Raises:
        ValueError: a shape, padding or dilation that does not fit, naming the argument.
        TypeError: dtypes that differ from x's.

    Source: ConvNeXt blocks (Liu et al., arXiv 2201.03545) of vocoders and codecs.

    >>> import numpy as np
    >>> x = np.array([[[1, 10, 100], [1, 2, 3]]], np.float32)
    >>> depthwise_conv1d(x, np.array([[[1, 2]], [[0, 1]]], np.float32), padding=1)
    array([[[  2.,  21., 210., 100.],
            [  1.,   2.,   3.,   0.]]], dtype=float32)
    """
    return _op(x, weight, bias, padding, dilation)


def reference(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, padding: int = 0, dilation: int = 1
) -> Tensor:
    """The formula in plain PyTorch: oracle, baseline and documentation of `depthwise_conv1d`."""
    import torch.nn.functional as F

    if x.numel() == 0:
        return x.new_zeros(x.shape[0], x.shape[1], _steps(x, weight, padding, dilation))
    return F.conv1d(x, weight, bias, padding=padding, dilation=dilation, groups=x.shape[1])


def _steps(x: Any, weight: Any, padding: int, dilation: int) -> int:
    return int(x.shape[2] + 2 * padding - dilation * (weight.shape[2] - 1))


def _check(x: Any, weight: Any, bias: Any, padding: int, dilation: int) -> None:
    op = "depthwise_conv1d"
    if len(x.shape) != 3:
        raise ValueError(f"{op}: x must have 3 dimensions, got shape {list(x.shape)}")
    shape = tuple(weight.shape)
    if len(shape) != 3 or shape[:2] != (x.shape[1], 1) or shape[2] < 1:
        raise ValueError(f"{op}: weight must be [{x.shape[1]}, 1, taps], got {list(shape)}")
    expect_shape(op, "bias", bias, (x.shape[1],))
    for name, v in (("weight", weight), ("bias", bias)):
        if v is not None and v.dtype != x.dtype:
            raise TypeError(f"{op}: {name} must be {x.dtype} like x, got {v.dtype}")
    if padding < 0:
        raise ValueError(f"{op}: padding must be at least 0, got {padding}")
    if dilation < 1:
        raise ValueError(f"{op}: dilation must be at least 1, got {dilation}")
    if _steps(x, weight, padding, dilation) < 1:
        raise ValueError(f"{op}: x must be long enough for an output, got {x.shape[2]} steps")


def _time_last(x: Any) -> bool:
    """Whether x lies in rows of time on the CPU."""
    if hasattr(x, "is_cuda"):
        return not x.is_cuda and x.stride(2) == 1 and x.stride(1) != 1
    item = x.dtype.itemsize
    return type(x).__module__ == "numpy" and x.strides[2] == item and x.strides[1] != item


def _kernel(x: Any, weight: Any, bias: Any, padding: int, dilation: int) -> Any:
    _check(x, weight, bias, padding, dilation)
    T = _steps(x, weight, padding, dilation)
    if _time_last(x) and T > 1:
        y = new_empty(x, (x.shape[0], x.shape[1], T))
        rows = contiguous(weight[:, 0])
        _core.depthwise_conv1d(x.swapaxes(1, 2), rows, contiguous(bias), padding, dilation, y.swapaxes(1, 2))
        return y
    y = new_empty(x, (x.shape[0], T, x.shape[1]))
    launch(_core.depthwise_conv1d, x.swapaxes(1, 2), weight[:, 0], bias, padding, dilation, y)
    return y.swapaxes(1, 2)


def _covers(weight: Any) -> bool:
    return len(weight.shape) == 3 and weight.shape[2] <= MOST_TAPS


def _fake(x: Any, weight: Any, bias: Any, padding: int, dilation: int) -> Any:
    B, C, T = x.shape[0], x.shape[1], _steps(x, weight, padding, dilation)
    if _covers(weight) and x.element_size() < 8 and not (_time_last(x) and T > 1):
        return x.new_empty(B, T, C).transpose(1, 2)
    return x.new_empty(B, C, T)  # time last; the reference's


_op = Op(
    "depthwise_conv1d(Tensor x, Tensor weight, Tensor? bias, int padding, int dilation) -> Tensor",
    kernel=_kernel,
    reference=reference,
    fake=_fake,
    check=_check,
    covers=lambda x, weight, *_: _covers(weight),
)


# ---- backward: an op of its own; gradients that nobody wants come back as empty arrays


def backward_reference(
    dy: Tensor, x: Tensor, weight: Tensor, padding: int, dilation: int, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """The closed form in csrc/ops/depthwise_conv1d.h, in plain PyTorch; sums over time in at least float32."""
    import torch
    import torch.nn.functional as F

    wide = torch.promote_types(x.dtype, torch.float32)
    K, T = weight.shape[2], dy.shape[2]
    padded = F.pad(x.to(wide), (padding, padding))
    taps = torch.stack([padded[..., k * dilation : k * dilation + T] for k in range(K)])
    dx = torch.zeros_like(padded)
    for k in range(K):
        dx[..., k * dilation : k * dilation + T] += dy.to(wide) * weight.to(wide)[None, :, 0, k, None]
    return (
        dx[..., padding : padding + x.shape[2]].to(x.dtype) if wanted[0] else x.new_empty(0),
        (taps * dy.to(wide)).sum((1, 3)).T[:, None].to(x.dtype).contiguous() if wanted[1] else x.new_empty(0),
        dy.to(wide).sum((0, 2)).to(x.dtype) if wanted[2] else x.new_empty(0),
    )


def _backward_kernel(
    dy: Any, x: Any, weight: Any, padding: int, dilation: int, wanted: list[bool]
) -> tuple[Any, Any, Any]:
    (B, C, T), K = dy.shape, weight.shape[2]
    dx = new_empty(x, (B, x.shape[2], C)) if wanted[0] else None
    dweight = dbias = partial = None
    if wanted[1] or wanted[2]:
        dweight, dbias = new_empty(x, (C, K)), new_empty(x, (C,))
        partial = new_empty(x, ((K + 1) * B * -(-T // TIME_BLOCK) * C,), "float32")
    rows = (dy.swapaxes(1, 2), x.swapaxes(1, 2), weight[:, 0])
    launch(_core.depthwise_conv1d_backward, *rows, padding, dilation, partial, dx, dweight, dbias)
    empty = [new_empty(x, (0,)) for _ in range(3)]
    return (
        empty[0] if dx is None else dx.swapaxes(1, 2),
        empty[1] if dweight is None or not wanted[1] else dweight[:, None],
        empty[2] if dbias is None or not wanted[2] else dbias,
    )


def _backward_fake(
    dy: Any, x: Any, weight: Any, padding: int, dilation: int, wanted: list[bool]
) -> tuple[Any, Any, Any]:
    B, C, T = x.shape
    return (
        x.new_empty(B, T, C).transpose(1, 2) if wanted[0] else x.new_empty(0),
        x.new_empty(weight.shape if wanted[1] else (0,)),
        x.new_empty((C,) if wanted[2] else (0,)),
    )


_backward_op = Op(
    "depthwise_conv1d_backward(Tensor dy, Tensor x, Tensor weight, int padding, int dilation, bool[] wanted)"
    " -> (Tensor, Tensor, Tensor)",
    kernel=_backward_kernel,
    reference=backward_reference,
    fake=_backward_fake,
    covers=lambda dy, x, weight, *_: _covers(weight),
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, weight, _, ctx.padding, ctx.dilation = inputs
    ctx.save_for_backward(x, weight)


def _gradient(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    wanted = list(ctx.needs_input_grad[:3])
    grads = _backward_op(dy, *ctx.saved_tensors, ctx.padding, ctx.dilation, wanted)
    return (*(g if want else None for g, want in zip(grads, wanted, strict=True)), None, None)


_op.gradient(_gradient, _setup)
