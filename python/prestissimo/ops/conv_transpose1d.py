# SPDX-License-Identifier: Apache-2.0
"""Transposed convolution over time, as one product of windows, with a snake on its input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .conv1d import check_snake, launch_rows, through_snake
from .linear import _backward_op as linear_backward
from .linear import linear
from .linear import reference as linear_reference
from .pack_linear import PackedWeight, pack_linear
from .registration import Op, expect_shape, new_empty
from .snake import reference as snake_reference
from .snake import snake
from .time_windows import TimeWindows

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class PackedConvTranspose1d:
    """A weight [in_channels, out_channels, kernel] as `conv_transpose1d` of one stride reads it."""

    rows: PackedWeight
    stride: int
    kernel: int


def pack_conv_transpose1d(
    weight: Any, stride: int, dtype: str | torch.dtype = "bfloat16"
) -> PackedConvTranspose1d:
    """Weight [C, O, K] (torch) → the product's weight [stride·O, taps·C], packed as `pack_linear` does.

    Raises ValueError for a weight that has not three dimensions, a stride below 1 or an unknown dtype.
    """
    if len(weight.shape) != 3:
        raise ValueError(
            f"pack_conv_transpose1d: weight must have 3 dimensions, got shape {list(weight.shape)}"
        )
    if stride < 1:
        raise ValueError(f"pack_conv_transpose1d: stride must be at least 1, got {stride}")
    rows = pack_linear(as_rows(weight, stride), dtype, layout="panels")
    return PackedConvTranspose1d(rows, stride, weight.shape[2])


def conv_transpose1d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: int = 1,
    padding: int = 0,
    alpha: Any = None,
    beta: Any = None,
    log_scale: bool = True,
    lead: int = 0,
) -> Any:
    """y[o, n] = bias[o] + Σ_{c, t} s(x[c, t])·weight[c, o, n + padding - t·stride], sums in float32.

    A kernel that is no multiple of the stride is filled up with zeros, which an infinite x turns into NaN.
    Output n = q·stride + r - padding meets the taps r, r + stride, … of the kernel, the same for all q: with channels
    last it is one product of windows of x with stride·O columns, whose rows are the output's samples in order.

    Args:
        x: [B, C, T], float32, bfloat16 or float16 (float64 runs through the reference); fastest with channels last in
            memory, which is also how y lies.
        weight: [C, O, K] of x's dtype, or a `PackedConvTranspose1d` of this stride (`pack_conv_transpose1d`).
        bias: [O]; may be absent.
        stride, padding: at least 1; at least 0.
        alpha, beta, log_scale: s is the `snake` of these, the identity without alpha; beta as alpha where absent.
        lead: steps of zeros before y, where a caller who decodes in tiles puts what came before.

    Returns:
        [B, O, lead + (T - 1)·stride - 2·padding + K], dtype and kind of x. Differentiable in x, bias, alpha, beta and
        a weight that is not packed.

    Raises:
        ValueError: a shape, stride or padding that does not fit, naming the argument.
        TypeError: dtypes that differ from x's.

    Source: the upsampling of Oobleck decoders (Stable Audio Open, arXiv 2407.14358): K = 2·stride.

    >>> import numpy as np
    >>> x, weight = np.array([[[1, 10]]], np.float32), np.array([[[1, 2, 3, 4]]], np.float32)
    >>> conv_transpose1d(x, weight, stride=2)
    array([[[ 1.,  2., 13., 24., 30., 40.]]], dtype=float32)
    """
    options = (alpha, alpha if beta is None else beta, log_scale, lead)
    if not isinstance(weight, PackedConvTranspose1d):
        kernel = weight.shape[2] if len(weight.shape) == 3 else 0
        out = weight.shape[1] if len(weight.shape) == 3 else 0
        return _op(x, weight, bias, stride, padding, kernel, "", out, *options)
    if weight.stride != stride:
        raise ValueError(f"conv_transpose1d: weight is packed for stride {weight.stride}, got {stride}")
    packed = weight.rows
    taps = -(-weight.kernel // stride)
    if len(x.shape) == 3 and packed.in_features != taps * x.shape[1]:
        raise ValueError(
            f"conv_transpose1d: x must have {packed.in_features // taps} channels, got {x.shape[1]}"
        )
    out = packed.out_features // stride
    return _op(x, packed.data, bias, stride, padding, weight.kernel, packed.dtype, out, *options)


def as_rows(weight: Any, stride: int) -> Any:
    """[C, O, K] → [stride·O, taps·C]: row (r, o), column (j, c) is weight[c, o, r + (taps - 1 - j)·stride], 0 beyond
    K."""
    C, O, K = weight.shape
    taps = -(-K // stride)
    if taps * stride > K:
        import torch

        weight = torch.nn.functional.pad(torch.as_tensor(weight), (0, taps * stride - K))
    # one transposition, then whole rows of C: in one step every value comes from a line of its own
    by_output = weight.reshape(C, O * taps * stride).swapaxes(0, 1)
    by_output = by_output.contiguous() if hasattr(weight, "permute") else by_output.copy()
    by_tap = by_output.reshape(O, taps, stride, C).swapaxes(0, 2)
    order = by_tap.flip(1) if hasattr(weight, "permute") else by_tap[:, ::-1]
    return order.swapaxes(1, 2).reshape(stride * O, taps * C)


def _windows(x: Any, stride: int, kernel: int) -> TimeWindows:
    taps = -(-kernel // stride)
    return TimeWindows(x.shape[0], x.shape[1], x.shape[2], taps, 1, taps - 1, taps - 1)


def _length(x: Any, stride: int, padding: int, kernel: int) -> int:
    length: int = (x.shape[2] - 1) * stride - 2 * padding + kernel  # symbolic where x's are
    return length


def _check(
    x: Any,
    weight: Any,
    bias: Any,
    stride: int,
    padding: int,
    kernel: int,
    packing: str,
    out: int,
    alpha: Any,
    beta: Any,
    log_scale: bool,
    lead: int,
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
    check_snake(op, x, alpha, beta, lead)
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
    alpha: Tensor | None = None,
    beta: Tensor | None = None,
    log_scale: bool = True,
    lead: int = 0,
) -> Tensor:
    """The formula in plain PyTorch: oracle, baseline and documentation of `conv_transpose1d`."""
    import torch.nn.functional as F

    if isinstance(weight, PackedConvTranspose1d):
        out = weight.rows.out_features // stride
        weight, kernel, packing = weight.rows.data, weight.kernel, weight.rows.dtype
    if alpha is not None:
        x = snake_reference(x, alpha, beta, log_scale)
    if packing:
        windows = _windows(x, stride, kernel)
        rows = windows.as_rows(windows.laid_out(x))
        rows = linear_reference(
            rows, weight, _tiled(bias, stride), packing=packing, out_features=stride * out
        )
        full = rows.new_zeros(x.shape[0] * windows.steps, stride * out)
        full[: windows.rows] = rows
        full = windows.by_time(full).reshape(x.shape[0], -1, out)
        y = full[:, padding : padding + _length(x, stride, padding, kernel)].transpose(1, 2)
    else:
        y = F.conv_transpose1d(x, weight, bias, stride, padding)
    return F.pad(y, (lead, 0)) if lead else y


def _tiled(bias: Any, stride: int) -> Any:
    if bias is None:
        return None
    return bias.repeat(stride) if hasattr(bias, "new_empty") else bias[None].repeat(stride, 0).reshape(-1)


def _kernel(
    x: Any,
    weight: Any,
    bias: Any,
    stride: int,
    padding: int,
    kernel: int,
    packing: str,
    out: int,
    alpha: Any,
    beta: Any,
    log_scale: bool,
    lead: int,
) -> Any:
    options = (alpha, beta, log_scale, lead)
    _check(x, weight, bias, stride, padding, kernel, packing, out, *options)
    if getattr(x, "is_cuda", False):  # cuDNN's
        return reference(x, weight, bias, stride, padding, kernel, packing, out, *options)
    taps, length = -(-kernel // stride), _length(x, stride, padding, kernel)
    rows = x.shape[2] + taps - 1
    y = new_empty(x, (x.shape[0], lead + rows * stride, out))
    plain, offset = weight if packing else weight.swapaxes(0, 1), _tiled(bias, stride)
    by_row = y[:, lead:].reshape(x.shape[0], rows, stride * out)  # a view
    snake = (alpha, beta, log_scale)
    launch_rows(x, plain, offset, taps, taps - 1, 1, packing, stride * out, *snake, None, stride, by_row)
    y = y[:, padding : padding + lead + length]
    y[:, :lead] = 0
    return y.swapaxes(1, 2)


def _fake(
    x: Any,
    weight: Any,
    bias: Any,
    stride: int,
    padding: int,
    kernel: int,
    packing: str,
    out: int,
    *options: Any,
) -> Any:
    lead, steps = options[-1], x.shape[2] - (-kernel // stride) - 1
    rows = x.new_empty(x.shape[0], lead + steps * stride, out)
    return rows[:, padding : padding + lead + _length(x, stride, padding, kernel)].transpose(1, 2)


_op = Op(
    "conv_transpose1d(Tensor x, Tensor weight, Tensor? bias, int stride, int padding, int kernel, str packing, int out,"
    " Tensor? alpha, Tensor? beta, bool log_scale, int lead) -> Tensor",
    kernel=_kernel,
    reference=reference,
    fake=_fake,
    check=_check,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, weight, _, ctx.stride, ctx.padding, ctx.kernel, ctx.packing, ctx.out = inputs[:8]
    alpha, beta, ctx.log_scale, ctx.lead = inputs[8:]
    ctx.save_for_backward(x, weight, alpha, beta)


def _gradient(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    x, weight, alpha, beta = ctx.saved_tensors
    needed, s, p, O, K = ctx.needs_input_grad, ctx.stride, ctx.padding, ctx.out, ctx.kernel
    (B, C, T), taps, dy = x.shape, -(-K // s), dy[:, :, ctx.lead :]
    samples = dy.new_zeros(B, (T + taps - 1) * s, O)
    samples[:, p : p + dy.shape[2]] = dy.transpose(1, 2)
    dx = dmatrix = None
    of_snake = [needed[0], needed[8], needed[9]]
    if any(of_snake):  # dx[c, t] = Σ_{o, k} weight[c, o, k] dy[o, t s + k - p]: windows s steps apart
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
        u = x if alpha is None else snake(x, alpha, beta, ctx.log_scale)
        dy_rows = windows.from_time(samples.view(B, windows.windows, s * O))[: windows.rows]
        matrix = weight if ctx.packing else as_rows(weight, s)
        _, dmatrix, *_ = linear_backward(
            *(dy_rows, windows.as_rows(windows.laid_out(u)), matrix, None, None, 1.0, ctx.packing, s * O),
            [False, True, False, False, False],
        )
    dx, dalpha, dbeta = through_snake(dx, x, alpha, beta, ctx.log_scale, of_snake)
    return (
        dx,
        _from_rows(dmatrix, s, O, K) if needed[1] else None,
        dy.sum((0, 2)) if needed[2] else None,
        *[None] * 5,
        *(dalpha, dbeta, None, None),
    )


def _from_rows(matrix: Any, stride: int, out: int, kernel: int) -> Any:
    """The inverse of `as_rows` (torch)."""
    taps = -(-kernel // stride)
    by_tap = matrix.view(stride, out, taps, -1).flip(2).permute(3, 1, 2, 0)
    return by_tap.reshape(-1, out, taps * stride)[..., :kernel]


_op.gradient(_gradient, _setup)
