# SPDX-License-Identifier: Apache-2.0
"""Dilated convolution over time, as one product of windows, with a snake on its input and a residual on its output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .depthwise_conv1d import depthwise_conv1d
from .linear import _backward_op as linear_backward
from .linear import reference as linear_reference
from .pack_linear import PackedWeight, pack_linear
from .registration import Op, _core, contiguous, expect_shape, new_empty
from .snake import _backward_op as snake_backward
from .snake import reference as snake_reference
from .snake import snake
from .time_windows import TimeWindows

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class PackedConv1d:
    """A weight [out_channels, in_channels, kernel] as `conv1d` reads it."""

    rows: PackedWeight
    kernel: int


def pack_conv1d(weight: Any, dtype: str | torch.dtype = "bfloat16") -> PackedConv1d:
    """Weight [O, C, K] → the product's weight [O, K·C], packed as `pack_linear` does.

    Raises ValueError for a weight that has not three dimensions or an unknown dtype.
    """
    if len(weight.shape) != 3:
        raise ValueError(f"pack_conv1d: weight must have 3 dimensions, got shape {list(weight.shape)}")
    return PackedConv1d(pack_linear(as_rows(weight), dtype, layout="panels"), weight.shape[2])


def conv1d(
    x: Any,
    weight: Any,
    bias: Any = None,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    alpha: Any = None,
    beta: Any = None,
    log_scale: bool = True,
    residual: Any = None,
    lead: int = 0,
) -> Any:
    """y[o, t] = bias[o] + Σ_{c, k} weight[o, c, k]·s(x[c, t + k·dilation - padding]) + residual[o, t], sums in float32.

    Args:
        x: [B, C, T], float32, bfloat16 or float16 (float64 runs through the reference); fastest with channels last in
            memory, which is also how y lies.
        weight: [O, C, K] of x's dtype, or a `PackedConv1d` (`pack_conv1d`), whose dtype is that of the products.
        bias: [O]; may be absent.
        padding, dilation: zeros at either end, at least 0; at least 1.
        groups: 1 (dense), or C, every channel by itself with a weight [C, 1, K] (`depthwise_conv1d`).
        alpha, beta, log_scale: s is the `snake` of these, the identity without alpha; beta as alpha where absent.
        residual: [B, O, T'], T' the steps of the convolution; may be absent.
        lead: steps of zeros before y, where a caller who decodes in tiles puts what came before; 0 with groups.

    Returns:
        [B, O, lead + T'], T' = T + 2·padding - dilation·(K - 1), dtype and kind of x. Differentiable in x, bias,
        alpha, beta, residual and a weight that is not packed.

    Raises:
        ValueError: a shape, padding or dilation that does not fit, naming the argument.
        TypeError: dtypes that differ from x's.

    Source: the residual units of Oobleck decoders (Stable Audio Open, arXiv 2407.14358).

    >>> import numpy as np
    >>> x, weight = np.array([[[1, 10, 100]]], np.float32), np.array([[[1, 2]]], np.float32)
    >>> conv1d(x, weight, padding=1)
    array([[[  2.,  21., 210., 100.]]], dtype=float32)
    """
    beta = alpha if beta is None else beta
    if groups != 1:
        if len(x.shape) == 3 and groups != x.shape[1]:
            raise ValueError(f"conv1d: groups must be 1 or {x.shape[1]}, got {groups}")
        if lead:
            raise ValueError(f"conv1d: lead must be 0 with groups, got {lead}")
        y = depthwise_conv1d(
            x if alpha is None else snake(x, alpha, beta, log_scale), weight, bias, padding, dilation
        )
        return y if residual is None else y + residual
    options = (alpha, beta, log_scale, residual, lead)
    if isinstance(weight, PackedConv1d):
        packed = weight.rows
        if len(x.shape) == 3 and packed.in_features != weight.kernel * x.shape[1]:
            raise ValueError(
                f"conv1d: x must have {packed.in_features // weight.kernel} channels, got {x.shape[1]}"
            )
        rest = (weight.kernel, packed.dtype, packed.out_features)
        return _op(x, packed.data, bias, padding, dilation, *rest, *options)
    fits = len(weight.shape) == 3
    kernel, out = (weight.shape[2], weight.shape[0]) if fits else (0, 0)
    return _op(x, weight, bias, padding, dilation, kernel, "", out, *options)


def as_rows(weight: Any) -> Any:
    """[O, C, K] → [O, K·C]."""
    return weight.swapaxes(1, 2).reshape(weight.shape[0], weight.shape[1] * weight.shape[2])


def time_rows(x: Any) -> Any:
    """[B, C, T] → [B, T, C] with channels as neighbours: a copy where they are not."""
    rows = x.swapaxes(1, 2)
    if hasattr(x, "stride"):
        return rows if rows.stride(2) == 1 else rows.contiguous()
    if rows.strides[2] == rows.dtype.itemsize:
        return rows
    copy = new_empty(x, rows.shape)
    copy[...] = rows
    return copy


def _as_it_lies(x: Any) -> Any:
    """[B, C, T] → [B, T, C] with channels or times as neighbours."""
    across = x.stride(2) == 1 if hasattr(x, "stride") else x.strides[2] == x.dtype.itemsize < x.strides[1]
    return x.swapaxes(1, 2) if across else time_rows(x)


def _windows(x: Any, padding: int, dilation: int, kernel: int) -> TimeWindows:
    return TimeWindows(x.shape[0], x.shape[1], x.shape[2], kernel, dilation, padding, padding)


def check_snake(op: str, x: Any, alpha: Any, beta: Any, lead: int) -> None:
    """The options that convolutions share."""
    if (alpha is None) != (beta is None):
        raise ValueError(f"{op}: alpha must be given with beta")
    for name, v in (("alpha", alpha), ("beta", beta)):
        expect_shape(op, name, v, (x.shape[1],))
        if v is not None and v.dtype != x.dtype:
            raise TypeError(f"{op}: {name} must be {x.dtype} like x, got {v.dtype}")
    if lead < 0:
        raise ValueError(f"{op}: lead must be at least 0, got {lead}")


def _check(
    x: Any,
    weight: Any,
    bias: Any,
    padding: int,
    dilation: int,
    kernel: int,
    packing: str,
    out: int,
    alpha: Any,
    beta: Any,
    log_scale: bool,
    residual: Any,
    lead: int,
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
    check_snake(op, x, alpha, beta, lead)
    expect_shape(op, "residual", residual, (x.shape[0], out, _steps(x, padding, dilation, kernel)))
    for name, v in (("weight", None if packing else weight), ("bias", bias), ("residual", residual)):
        if v is not None and v.dtype != x.dtype:
            raise TypeError(f"{op}: {name} must be {x.dtype} like x, got {v.dtype}")


def _steps(x: Any, padding: int, dilation: int, kernel: int) -> int:
    steps: int = x.shape[2] + 2 * padding - dilation * (kernel - 1)  # symbolic where x's are
    return steps


def reference(
    x: Tensor,
    weight: Any,
    bias: Tensor | None = None,
    padding: int = 0,
    dilation: int = 1,
    kernel: int = 0,
    packing: str = "",
    out: int = 0,
    alpha: Tensor | None = None,
    beta: Tensor | None = None,
    log_scale: bool = True,
    residual: Tensor | None = None,
    lead: int = 0,
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
    if alpha is not None:
        x = snake_reference(x, alpha, beta, log_scale)
    if packing:
        windows = _windows(x, padding, dilation, kernel)
        rows = linear_reference(
            windows.as_rows(windows.laid_out(x)), weight, bias, packing=packing, out_features=out
        )
        full = rows.new_zeros(x.shape[0] * dilation * windows.steps, out)
        full[: windows.rows] = rows
        y = windows.by_time(full).transpose(1, 2)
    else:
        y = F.conv1d(x, weight, bias, padding=padding, dilation=dilation)
    y = y if residual is None else y + residual
    return F.pad(y, (lead, 0)) if lead else y


def _kernel(
    x: Any,
    weight: Any,
    bias: Any,
    padding: int,
    dilation: int,
    kernel: int,
    packing: str,
    out: int,
    alpha: Any,
    beta: Any,
    log_scale: bool,
    residual: Any,
    lead: int,
) -> Any:
    options = (alpha, beta, log_scale, residual, lead)
    _check(x, weight, bias, padding, dilation, kernel, packing, out, *options)
    if getattr(x, "is_cuda", False):  # cuDNN's
        return reference(x, weight, bias, padding, dilation, kernel, packing, out, *options)
    y = new_empty(x, (x.shape[0], lead + _steps(x, padding, dilation, kernel), out))
    y[:, :lead] = 0
    beside = None if residual is None else time_rows(residual)
    snake = (alpha, beta, log_scale)
    launch_rows(x, weight, bias, kernel, padding, dilation, packing, out, *snake, beside, 0, y[:, lead:])
    return y.swapaxes(1, 2)


def launch_rows(
    x: Any,
    weight: Any,
    bias: Any,
    taps: int,
    padding: int,
    dilation: int,
    packing: str,
    out: int,
    alpha: Any,
    beta: Any,
    log_scale: bool,
    residual: Any,
    stride: int,
    y: Any,
) -> None:
    """The compiled kernel on rows of windows; y [B, T', out] may have any strides but the last; stride 0 or that of a
    transposed convolution, whose out holds all outputs of a window."""
    options = (contiguous(alpha), contiguous(beta), int(log_scale), residual, stride, y)
    x, bias = _as_it_lies(x), contiguous(bias)
    weight = contiguous(weight) if packing else weight
    try:
        _core.conv1d(x, weight, bias, taps, padding, dilation, packing, out, *options)
    except _core.NotContiguous:  # the weight, its k being no neighbours
        _core.conv1d(x, contiguous(weight), bias, taps, padding, dilation, packing, out, *options)


def _fake(
    x: Any,
    weight: Any,
    bias: Any,
    padding: int,
    dilation: int,
    kernel: int,
    packing: str,
    out: int,
    *options: Any,
) -> Any:
    length = options[-1] + _steps(x, padding, dilation, kernel)
    return x.new_empty(x.shape[0], length, out).transpose(1, 2)


_op = Op(
    "conv1d(Tensor x, Tensor weight, Tensor? bias, int padding, int dilation, int kernel, str packing, int out,"
    " Tensor? alpha, Tensor? beta, bool log_scale, Tensor? residual, int lead) -> Tensor",
    kernel=_kernel,
    reference=reference,
    fake=_fake,
    check=_check,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, weight, _, ctx.padding, ctx.dilation, ctx.kernel, ctx.packing, ctx.out = inputs[:8]
    alpha, beta, ctx.log_scale, _, ctx.lead = inputs[8:]
    ctx.save_for_backward(x, weight, alpha, beta)


def _gradient(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    x, weight, alpha, beta = ctx.saved_tensors
    needed, p, d, K, O = ctx.needs_input_grad, ctx.padding, ctx.dilation, ctx.kernel, ctx.out
    T, dy = x.shape[2], dy[:, :, ctx.lead :]
    dx = dmatrix = dbias = None
    of_snake = [needed[0], needed[8], needed[9]]
    if any(of_snake):
        # dx[c, t] = Σ_{o, k} weight[o, c, k] dy[o, t + p - k d]: dy, padded, meets the kernel backwards
        turned = weight
        if ctx.packing:
            turned = PackedWeight(weight, ctx.packing, O, K * x.shape[1]).unpack(x.dtype)
            turned = turned.view(O, K, -1).transpose(1, 2)
        dx = conv1d(dy, turned.flip(2).transpose(0, 1), None, d * (K - 1), d)[:, :, p : p + T]
    if needed[1] or needed[2]:
        windows = _windows(x, p, d, K)
        u = x if alpha is None else snake(x, alpha, beta, ctx.log_scale)
        _, dmatrix, dbias, _, _ = linear_backward(
            windows.from_time(dy.transpose(1, 2))[: windows.rows],
            windows.as_rows(windows.laid_out(u)),
            *(weight if ctx.packing else as_rows(weight), None, None, 1.0, ctx.packing, O),
            [False, needed[1], needed[2], False, False],
        )
    if needed[1] and dmatrix is not None:
        dmatrix = dmatrix.view(O, K, -1).transpose(1, 2).contiguous()
    dx, dalpha, dbeta = through_snake(dx, x, alpha, beta, ctx.log_scale, of_snake)
    dresidual = dy if needed[11] else None
    return dx, dmatrix, dbias if needed[2] else None, *[None] * 5, dalpha, dbeta, None, dresidual, None


def through_snake(
    du: Any, x: Tensor, alpha: Any, beta: Any, log_scale: bool, wanted: list[bool]
) -> tuple[Any, Any, Any]:
    """The gradients of x, alpha and beta from that of snake(x), or of x where there is no snake."""
    if alpha is None or du is None:
        return du, None, None
    grads = snake_backward(du, x, alpha, beta, log_scale, wanted)
    dx, dalpha, dbeta = (g if want else None for g, want in zip(grads, wanted, strict=True))
    return dx, dalpha, dbeta


_op.gradient(_gradient, _setup)
