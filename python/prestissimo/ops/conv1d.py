# SPDX-License-Identifier: Apache-2.0
"""Dilated convolution over time, as one product of overlapping windows (time_windows.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .depthwise_conv1d import depthwise_conv1d
from .linear import _backward_op as linear_backward
from .linear import reference as linear_reference
from .pack_linear import PackedWeight, pack_linear
from .registration import Op, _core, expect_shape, launch
from .time_windows import TimeWindows

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PackedConv1d:
    """A weight [out_channels, in_channels, kernel] as `conv1d` reads it."""

    rows: PackedWeight
    kernel: int


def pack_conv1d(weight: Any, dtype: str = "bfloat16") -> PackedConv1d:
    """Weight [O, C, K] → the product's weight [O, K·C], packed as `pack_linear` does.

    Raises ValueError for a weight that has not three dimensions or an unknown dtype.
    """
    if len(weight.shape) != 3:
        raise ValueError(f"pack_conv1d: weight must have 3 dimensions, got shape {list(weight.shape)}")
    return PackedConv1d(pack_linear(as_rows(weight), dtype), weight.shape[2])


def conv1d(
    x: Any, weight: Any, bias: Any = None, padding: int = 0, dilation: int = 1, groups: int = 1
) -> Any:
    """y[o, t] = bias[o] + Σ_{c, k} weight[o, c, k]·x[c, t + k·dilation - padding]: torch's own, sums in float32.

    Args:
        x: [B, C, T], float32, bfloat16 or float16 (float64 runs through the reference); fastest with channels last in
            memory, which is also how y lies.
        weight: [O, C, K] of x's dtype, or a `PackedConv1d` (`pack_conv1d`), whose dtype is that of the products.
        bias: [O]; may be absent.
        padding, dilation: zeros at either end, at least 0; at least 1.
        groups: 1 (dense), or C, every channel by itself with a weight [C, 1, K] (`depthwise_conv1d`).

    Returns:
        [B, O, T + 2·padding - dilation·(K - 1)], dtype and kind of x. Differentiable in x, bias and a weight that is
        not packed.

    Raises:
        ValueError: a shape, padding or dilation that does not fit, naming the argument.
        TypeError: dtypes that differ from x's.

    Source: the residual units of Oobleck decoders (Stable Audio Open, arXiv 2407.14358).

    >>> import numpy as np
    >>> x, weight = np.array([[[1, 10, 100]]], np.float32), np.array([[[1, 2]]], np.float32)
    >>> conv1d(x, weight, padding=1)
    array([[[  2.,  21., 210., 100.]]], dtype=float32)
    """
    if groups != 1:
        if len(x.shape) == 3 and groups != x.shape[1]:
            raise ValueError(f"conv1d: groups must be 1 or {x.shape[1]}, got {groups}")
        return depthwise_conv1d(x, weight, bias, padding, dilation)
    if isinstance(weight, PackedConv1d):
        packed = weight.rows
        if len(x.shape) == 3 and packed.in_features != weight.kernel * x.shape[1]:
            raise ValueError(
                f"conv1d: x must have {packed.in_features // weight.kernel} channels, got {x.shape[1]}"
            )
        rest = (weight.kernel, packed.dtype, packed.out_features)
        return _op(x, packed.data, bias, padding, dilation, *rest)
    fits = len(weight.shape) == 3
    kernel, out = (weight.shape[2], weight.shape[0]) if fits else (0, 0)
    return _op(x, weight, bias, padding, dilation, kernel, "", out)


def as_rows(weight: Any) -> Any:
    """[O, C, K] → [O, K·C]."""
    return weight.swapaxes(1, 2).reshape(weight.shape[0], weight.shape[1] * weight.shape[2])


def _windows(x: Any, padding: int, dilation: int, kernel: int) -> TimeWindows:
    return TimeWindows(x.shape[0], x.shape[1], x.shape[2], kernel, dilation, padding, padding)


def _check(
    x: Any, weight: Any, bias: Any, padding: int, dilation: int, kernel: int, packing: str, out: int
) -> None:
    op = "conv1d"
    if len(x.shape) != 3:
        raise ValueError(f"{op}: x must have 3 dimensions, got shape {list(x.shape)}")
    if not packing:
        if len(weight.shape) != 3:
            raise ValueError(f"{op}: weight must have 3 dimensions, got shape {list(weight.shape)}")
        expect_shape(op, "weight", weight, (out, x.shape[1], kernel))
    expect_shape(op, "bias", bias, (out,))
    if padding < 0:
        raise ValueError(f"{op}: padding must be at least 0, got {padding}")
    if dilation < 1:
        raise ValueError(f"{op}: dilation must be at least 1, got {dilation}")
    if kernel < 1 or x.shape[2] + 2 * padding <= dilation * (kernel - 1):
        raise ValueError(
            f"{op}: x must be long enough for an output, got {x.shape[2]} steps with padding {padding}, "
            f"kernel {kernel} and dilation {dilation}"
        )
    for name, v in (("weight", None if packing else weight), ("bias", bias)):
        if v is not None and v.dtype != x.dtype:
            raise TypeError(f"{op}: {name} must be {x.dtype} like x, got {v.dtype}")


def reference(
    x: Tensor,
    weight: Any,
    bias: Tensor | None = None,
    padding: int = 0,
    dilation: int = 1,
    kernel: int = 0,
    packing: str = "",
    out: int = 0,
) -> Tensor:
    """The formula in plain PyTorch: oracle, baseline and documentation of `conv1d`."""
    import torch.nn.functional as F

    if isinstance(weight, PackedConv1d):
        packing, out, kernel, weight = (
            weight.rows.dtype,
            weight.rows.out_features,
            weight.kernel,
            weight.rows.data,
        )
    if not packing:
        return F.conv1d(x, weight, bias, padding=padding, dilation=dilation)
    windows = _windows(x, padding, dilation, kernel)
    y = linear_reference(
        windows.as_rows(windows.laid_out(x)), weight, bias, packing=packing, out_features=out
    )
    full = y.new_zeros(x.shape[0] * dilation * windows.steps, out)
    full[: windows.rows] = y
    return windows.by_time(full).transpose(1, 2)


def _kernel(
    x: Any, weight: Any, bias: Any, padding: int, dilation: int, kernel: int, packing: str, out: int
) -> Any:
    _check(x, weight, bias, padding, dilation, kernel, packing, out)
    if getattr(x, "is_cuda", False):  # cuDNN's
        return reference(x, weight, bias, padding, dilation, kernel, packing, out)
    windows = _windows(x, padding, dilation, kernel)
    rows = windows.as_rows(windows.laid_out(x))
    y = windows.buffer(x, out)
    matrix = weight if packing else as_rows(weight)
    launch(_core.linear, rows, matrix, bias, None, None, 1.0, packing, out, y[: windows.rows])
    return windows.by_time(y).swapaxes(1, 2)


def _fake(
    x: Any, weight: Any, bias: Any, padding: int, dilation: int, kernel: int, packing: str, out: int
) -> Any:
    windows = _windows(x, padding, dilation, kernel)
    return x.new_empty(x.shape[0], windows.steps * dilation, out)[:, : windows.windows].transpose(1, 2)


_op = Op(
    "conv1d(Tensor x, Tensor weight, Tensor? bias, int padding, int dilation, int kernel, str packing, int out)"
    " -> Tensor",
    kernel=_kernel,
    reference=reference,
    fake=_fake,
    check=_check,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, weight, _, ctx.padding, ctx.dilation, ctx.kernel, ctx.packing, ctx.out = inputs
    ctx.save_for_backward(x, weight)


def _gradient(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    x, weight = ctx.saved_tensors
    needed, p, d, K, O = list(ctx.needs_input_grad[:3]), ctx.padding, ctx.dilation, ctx.kernel, ctx.out
    T = x.shape[2]
    dx = dmatrix = dbias = None
    if needed[
        0
    ]:  # dx[c, t] = Σ_{o, k} weight[o, c, k] dy[o, t + p - k d]: dy, padded, meets the kernel backwards
        if ctx.packing:
            weight = PackedWeight(weight, ctx.packing, O, K * x.shape[1]).unpack(x.dtype)
            weight = weight.view(O, K, -1).transpose(1, 2)
        dx = conv1d(dy, weight.flip(2).transpose(0, 1), None, d * (K - 1), d)[:, :, p : p + T]
    if needed[1] or needed[2]:
        windows = _windows(x, p, d, K)
        _, dmatrix, dbias, _, _ = linear_backward(
            windows.from_time(dy.transpose(1, 2))[: windows.rows],
            windows.as_rows(windows.laid_out(x)),
            *(weight if ctx.packing else as_rows(weight), None, None, 1.0, ctx.packing, O),
            [False, needed[1], needed[2], False, False],
        )
    if needed[1] and dmatrix is not None:
        dmatrix = dmatrix.view(O, K, -1).transpose(1, 2).contiguous()
    return dx, dmatrix, dbias if needed[2] else None, *[None] * 5


_op.gradient(_gradient, _setup)
