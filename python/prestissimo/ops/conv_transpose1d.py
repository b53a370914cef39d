# SPDX-License-Identifier: Apache-2.0
"""Transposed convolution over time, as one product of overlapping windows (time_windows.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .linear import _backward_op as linear_backward
from .linear import linear
from .linear import reference as linear_reference
from .pack_linear import PackedWeight, pack_linear
from .registration import Op, _core, expect_shape, launch
from .time_windows import TimeWindows

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PackedConvTranspose1d:
    """A weight [in_channels, out_channels, kernel] as `conv_transpose1d` of one stride reads it."""

    rows: PackedWeight
    stride: int
    kernel: int


def pack_conv_transpose1d(weight: Any, stride: int, dtype: str = "bfloat16") -> PackedConvTranspose1d:
    """Weight [C, O, K] (torch) → the product's weight [stride·O, taps·C], packed as `pack_linear` does.

    Raises ValueError for a weight that has not three dimensions, a stride below 1 or an unknown dtype.
    """
    if len(weight.shape) != 3:
        raise ValueError(
            f"pack_conv_transpose1d: weight must have 3 dimensions, got shape {list(weight.shape)}"
        )
    if stride < 1:
        raise ValueError(f"pack_conv_transpose1d: stride must be at least 1, got {stride}")
    return PackedConvTranspose1d(pack_linear(as_rows(weight, stride), dtype), stride, weight.shape[2])


def conv_transpose1d(x: Any, weight: Any, bias: Any = None, stride: int = 1, padding: int = 0) -> Any:
    """y[o, n] = bias[o] + Σ_{c, t} x[c, t]·weight[c, o, n + padding - t·stride]: torch's own, sums in float32.

    A kernel that is no multiple of the stride is filled up with zeros, which an infinite x turns into NaN.
    Output n = q·stride + r - padding meets the taps r, r + stride, … of the kernel, the same for all q: with channels
    last it is one product of windows of x with stride·O columns, whose rows are the output's samples in order.

    Args:
        x: [B, C, T], float32, bfloat16 or float16 (float64 runs through the reference); fastest with channels last in
            memory, which is also how y lies.
        weight: [C, O, K] of x's dtype, or a `PackedConvTranspose1d` of this stride (`pack_conv_transpose1d`).
        bias: [O]; may be absent.
        stride, padding: at least 1; at least 0.

    Returns:
        [B, O, (T - 1)·stride - 2·padding + K], dtype and kind of x. Differentiable in x, bias and a weight that is not
        packed.

    Raises:
        ValueError: a shape, stride or padding that does not fit, naming the argument.
        TypeError: dtypes that differ from x's.

    Source: the upsampling of Oobleck decoders (Stable Audio Open, arXiv 2407.14358): K = 2·stride.

    >>> import numpy as np
    >>> x, weight = np.array([[[1, 10]]], np.float32), np.array([[[1, 2, 3, 4]]], np.float32)
    >>> conv_transpose1d(x, weight, stride=2)
    array([[[ 1.,  2., 13., 24., 30., 40.]]], dtype=float32)
    """
    if not isinstance(weight, PackedConvTranspose1d):
        kernel = weight.shape[2] if len(weight.shape) == 3 else 0
        out = weight.shape[1] if len(weight.shape) == 3 else 0
        return _op(x, weight, bias, stride, padding, kernel, "", out)
    if weight.stride != stride:
        raise ValueError(f"conv_transpose1d: weight is packed for stride {weight.stride}, got {stride}")
    packed = weight.rows
    taps = -(-weight.kernel // stride)
    if len(x.shape) == 3 and packed.in_features != taps * x.shape[1]:
        raise ValueError(
            f"conv_transpose1d: x must have {packed.in_features // taps} channels, got {x.shape[1]}"
        )
    return _op(
        x, packed.data, bias, stride, padding, weight.kernel, packed.dtype, packed.out_features // stride
    )


def as_rows(weight: Any, stride: int) -> Any:
    """[C, O, K] → [stride·O, taps·C]: row (r, o), column (j, c) is weight[c, o, r + (taps - 1 - j)·stride], 0 beyond
    K."""
    C, O, K = weight.shape
    taps = -(-K // stride)
    if taps * stride > K:
        import torch

        weight = torch.nn.functional.pad(torch.as_tensor(weight), (0, taps * stride - K))
    by_tap = weight.reshape(C, O, taps, stride)
    order = by_tap.permute(3, 1, 2, 0).flip(2) if hasattr(by_tap, "permute") else by_tap.transpose(3, 1, 2, 0)
    if not hasattr(by_tap, "permute"):
        order = order[:, :, ::-1]
    return order.reshape(stride * O, taps * C)


def _windows(x: Any, stride: int, kernel: int) -> TimeWindows:
    taps = -(-kernel // stride)
    return TimeWindows(x.shape[0], x.shape[1], x.shape[2], taps, 1, taps - 1, taps - 1)


def _length(x: Any, stride: int, padding: int, kernel: int) -> int:
    T = x.shape[2]
    return int((T - 1) * stride - 2 * padding + kernel)


def _check(
    x: Any, weight: Any, bias: Any, stride: int, padding: int, kernel: int, packing: str, out: int
) -> None:
    op = "conv_transpose1d"
    if len(x.shape) != 3:
        raise ValueError(f"{op}: x must have 3 dimensions, got shape {list(x.shape)}")
    if not packing and len(weight.shape) != 3:
        raise ValueError(f"{op}: weight must have 3 dimensions, got shape {list(weight.shape)}")
    if not packing:
        expect_shape(op, "weight", weight, (x.shape[1], out, kernel))
    expect_shape(op, "bias", bias, (out,))
    if stride < 1:
        raise ValueError(f"{op}: stride must be at least 1, got {stride}")
    if padding < 0:
        raise ValueError(f"{op}: padding must be at least 0, got {padding}")
    if kernel < 1 or x.shape[2] < 1 or _length(x, stride, padding, kernel) < 1:
        raise ValueError(
            f"{op}: x must be long enough for an output, got {x.shape[2]} steps with kernel {kernel}, padding {padding}"
        )
    for name, v in (("weight", None if packing else weight), ("bias", bias)):
        if v is not None and v.dtype != x.dtype:
            raise TypeError(f"{op}: {name} must be {x.dtype} like x, got {v.dtype}")


def reference(
    x: Tensor,
    weight: Any,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    kernel: int = 0,
    packing: str = "",
    out: int = 0,
) -> Tensor:
    """The formula in plain PyTorch: oracle, baseline and documentation of `conv_transpose1d`."""
    import torch.nn.functional as F

    if isinstance(weight, PackedConvTranspose1d):
        weight, kernel, packing = weight.rows.data, weight.kernel, weight.rows.dtype
        out = bias.shape[0] if bias is not None else out
    if not packing:
        return F.conv_transpose1d(x, weight, bias, stride, padding)
    windows = _windows(x, stride, kernel)
    rows = windows.as_rows(windows.laid_out(x))
    y = linear_reference(rows, weight, _tiled(bias, stride), packing=packing, out_features=stride * out)
    full = y.new_zeros(x.shape[0] * windows.steps, stride * out)
    full[: windows.rows] = y
    return _cropped(windows.by_time(full), _length(x, stride, padding, kernel), padding, out)


def _tiled(bias: Any, stride: int) -> Any:
    if bias is None:
        return None
    return bias.repeat(stride) if hasattr(bias, "new_empty") else bias[None].repeat(stride, 0).reshape(-1)


def _cropped(rows: Any, length: int, padding: int, out: int) -> Any:
    """[B, windows, stride·O] to [B, O, length], channels last in memory."""
    return rows.reshape(rows.shape[0], -1, out)[:, padding : padding + length].swapaxes(1, 2)


def _kernel(
    x: Any, weight: Any, bias: Any, stride: int, padding: int, kernel: int, packing: str, out: int
) -> Any:
    _check(x, weight, bias, stride, padding, kernel, packing, out)
    if getattr(x, "is_cuda", False):  # cuDNN's
        return reference(x, weight, bias, stride, padding, kernel, packing, out)
    windows = _windows(x, stride, kernel)
    rows = windows.as_rows(windows.laid_out(x))
    matrix = weight if packing else as_rows(weight, stride)
    y = windows.buffer(x, stride * out)
    launch(
        _core.linear,
        *(rows, matrix, _tiled(bias, stride), None, None, 1.0, packing, stride * out, y[: windows.rows]),
    )
    return _cropped(windows.by_time(y), _length(x, stride, padding, kernel), padding, out)


def _fake(
    x: Any, weight: Any, bias: Any, stride: int, padding: int, kernel: int, packing: str, out: int
) -> Any:
    windows = _windows(x, stride, kernel)
    rows = x.new_empty(x.shape[0], windows.steps, stride * out)[:, : windows.windows]
    return _cropped(rows, _length(x, stride, padding, kernel), padding, out)


_op = Op(
    "conv_transpose1d(Tensor x, Tensor weight, Tensor? bias, int stride, int padding, int kernel, str packing, int out)"
    " -> Tensor",
    kernel=_kernel,
    reference=reference,
    fake=_fake,
    check=_check,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, weight, _, ctx.stride, ctx.padding, ctx.kernel, ctx.packing, ctx.out = inputs
    ctx.save_for_backward(x, weight)


def _gradient(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    x, weight = ctx.saved_tensors
    needed, s, p, O, K = list(ctx.needs_input_grad[:3]), ctx.stride, ctx.padding, ctx.out, ctx.kernel
    (B, C, T), taps = x.shape, -(-K // s)
    samples = dy.new_zeros(B, (T + taps - 1) * s, O)
    samples[:, p : p + dy.shape[2]] = dy.transpose(1, 2)
    dx = dmatrix = None
    if needed[0]:  # dx[c, t] = Σ_{o, k} weight[c, o, k] dy[o, t s + k - p]: windows s steps apart
        if ctx.packing:
            matrix = PackedWeight(weight, ctx.packing, s * O, taps * C).unpack(x.dtype)
            by_output = _from_rows(matrix, s, O, K).permute(0, 2, 1).reshape(C, K * O)
        else:
            by_output = weight.permute(0, 2, 1).reshape(C, K * O)
        rows = samples.as_strided((B * (T + taps - 1) - taps + 1, K * O), (s * O, 1))
        full = dy.new_zeros(B * (T + taps - 1), C)
        full[: rows.shape[0]] = linear(rows, by_output)
        dx = full.view(B, T + taps - 1, C)[:, :T].transpose(1, 2)
    if needed[1]:
        windows = _windows(x, s, K)
        dy_rows = windows.from_time(samples.view(B, windows.windows, s * O))[: windows.rows]
        matrix = weight if ctx.packing else as_rows(weight, s)
        _, dmatrix, *_ = linear_backward(
            *(dy_rows, windows.as_rows(windows.laid_out(x)), matrix, None, None, 1.0, ctx.packing, s * O),
            [False, True, False, False, False],
        )
    return (
        dx,
        _from_rows(dmatrix, s, O, K) if needed[1] else None,
        dy.sum((0, 2)) if needed[2] else None,
        *[None] * 5,
    )


def _from_rows(matrix: Any, stride: int, out: int, kernel: int) -> Any:
    """The inverse of `as_rows` (torch)."""
    taps = -(-kernel // stride)
    by_tap = matrix.view(stride, out, taps, -1).flip(2).permute(3, 1, 2, 0)
    return by_tap.reshape(-1, out, taps * stride)[..., :kernel]


_op.gradient(_gradient, _setup)
