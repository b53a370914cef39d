# SPDX-License-Identifier: Apache-2.0
"""Linear layers on weights packed once, with products of float32, bfloat16 or int8 and a low-rank side path."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .cublaslt import load_cublaslt
from .pack_linear import PackedWeight, packed_bytes, quantised_rows, row_sizes, unpacked
from .registration import Op, _core, expect_shape, launch, new_empty, scratch

if TYPE_CHECKING:
    from torch import Tensor


def linear(
    x: Any, weight: Any, bias: Any = None, down: Any = None, up: Any = None, lora_scale: float = 1.0
) -> Any:
    """y = x Wᵀ + bias + lora_scale·(x downᵀ) upᵀ, sums in float32.

    Args:
        x: [..., K], float32, bfloat16 or float16 (float64 runs through the reference).
        weight: [N, K] of x's dtype, or a `PackedWeight` of that shape (`pack_linear`), which alone is fast: its dtype
            is that of the products. int8: every row of x is rounded to int8 by its own scale, max|row| / 127; the sums
            are exact, the same bits on every instruction set.
        bias: [N]; may be absent.
        down, up: [R, K] and [N, R], the side path of LoRA; both or none.
        lora_scale: its factor.

    Returns:
        [..., N], dtype and kind (torch, NumPy, …) of x. Differentiable in x, bias, down, up and a weight that is not
        packed; through int8 as if x had not been rounded.

    Raises:
        ValueError: a shape that does not fit, naming the argument.
        TypeError: dtypes that differ from x's, or that no kernel takes.

    Source: LoRA (Hu et al., arXiv 2106.09685); int8 with scales per row and channel (arXiv 2208.07339, without its
    outliers).

    >>> import numpy as np
    >>> from prestissimo.ops import pack_linear
    >>> x = np.array([[1, 2, 3]], np.float32)
    >>> linear(x, pack_linear(np.eye(2, 3, dtype=np.float32), "float32"), np.array([0, 10], np.float32))
    array([[ 1., 12.]], dtype=float32)
    """
    packing, N, data = "", weight.shape[0] if len(getattr(weight, "shape", ())) else 0, weight
    if isinstance(weight, PackedWeight):
        packing, N, data = weight.packing, weight.out_features, weight.data
        if len(x.shape) and x.shape[-1] != weight.in_features:
            raise ValueError(
                f"linear: weight must be [{N}, {x.shape[-1]}], got a packed [{N}, {weight.in_features}]"
            )
    return _op(x, data, bias, down, up, lora_scale, packing, N)


def linear_error(x: Tensor, weight: Tensor, packed: PackedWeight) -> float:
    """Root mean square of linear(x, packed) - x weightᵀ over that of x weightᵀ in float64: what packing costs a layer.

    >>> import torch
    >>> from prestissimo.ops import pack_linear
    >>> x, weight = torch.eye(8), torch.linspace(-1, 1, 128).reshape(16, 8)
    >>> [f"{linear_error(x, weight, pack_linear(weight, d)):.0e}" for d in ("float32", "bfloat16", "int8")]
    ['0e+00', '1e-03', '2e-03']
    """
    exact = x.double() @ weight.double().T
    error = linear(x, packed).double() - exact
    return float(error.square().mean().sqrt() / exact.square().mean().sqrt())


def straight_through(value: Tensor, through: Tensor) -> Tensor:
    """`value`, with the gradient of `through`."""
    import torch

    class StraightThrough(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: Tensor, through: Tensor) -> Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx: Any, *dy: Any) -> Any:
            return None, dy[0]

    return StraightThrough.apply(value, through)  # type: ignore[no-any-return, no-untyped-call]


def reference(
    x: Tensor,
    weight: Any,
    bias: Tensor | None = None,
    down: Tensor | None = None,
    up: Tensor | None = None,
    lora_scale: float = 1.0,
    packing: str = "",
    out_features: int = 0,
) -> Tensor:
    """The formula in plain PyTorch: oracle, baseline and documentation of `linear`."""
    import torch
    import torch.nn.functional as F

    if isinstance(weight, PackedWeight):
        weight, packing, out_features = weight.data, weight.packing, weight.out_features
    if not packing:
        y = F.linear(x, weight, bias)
    else:
        values, scale = _values(weight, packing, out_features, x.shape[-1])
        wide = torch.promote_types(x.dtype, torch.float32)
        if scale is None:
            wide = x.dtype if x.dtype == values.dtype else wide
            rounded = x.to(wide)
            if values.dtype == torch.bfloat16:
                rounded = straight_through(x.detach().bfloat16().to(wide), rounded)
            y = F.linear(rounded, values.to(wide), None if bias is None else bias.to(wide)).to(x.dtype)
        else:
            through = F.linear(x, (values.float() * scale[:, None]).to(x.dtype))
            q, row_scale = quantised_rows(x.detach())
            sums = F.linear(q.to(wide), values.to(wide))
            y = sums * row_scale[..., None].to(wide) * scale.to(wide)
            y = (y if bias is None else y + bias.detach().to(wide)).to(x.dtype)
            y = straight_through(y, through if bias is None else through + bias)
    if down is None or up is None:
        return y
    return y + lora_scale * F.linear(F.linear(x, down), up)


def _values(weight: Any, packing: str, N: int, K: int) -> tuple[Tensor, Tensor | None]:
    dtype, _, rows = packing.partition("-")
    return unpacked(weight, dtype, N, K, rows or "panels")


def _check(
    x: Any, weight: Any, bias: Any, down: Any, up: Any, lora_scale: float, packing: str, out_features: int
) -> None:
    if not len(x.shape):
        raise ValueError("linear: x must have at least 1 dimension, got shape []")
    N, K = out_features, x.shape[-1]
    if packing:
        expect_shape("linear", "weight", weight, (packed_bytes(packing, N, K),))
    else:
        expect_shape("linear", "weight", weight, (N, K))
    expect_shape("linear", "bias", bias, (N,))
    if (down is None) != (up is None):
        given, missing = ("down", "up") if up is None else ("up", "down")
        raise ValueError(f"linear: {missing} must be given with {given}")
    if down is not None:
        R = down.shape[0] if len(down.shape) else 0
        expect_shape("linear", "down", down, (R, K))
        expect_shape("linear", "up", up, (N, R))
    for name, v in (("weight", None if packing else weight), ("bias", bias), ("down", down), ("up", up)):
        if v is not None and v.dtype != x.dtype:
            raise TypeError(f"linear: {name} must be {x.dtype} like x, got {v.dtype}")


def _workspace(x: Any, M: int, down: Any, packing: str, N: int) -> int:
    """linear_workspace(a).bytes of csrc/ops/linear.h."""
    low = 0 if down is None else M * down.shape[0] * x.dtype.itemsize
    if not packing.startswith("int8"):
        return -(-low // 16) * 16
    n, k = row_sizes("int8", N, x.shape[-1])
    return M * k + -(-M * 4 // 16) * 16 + M * n * 4 + -(-low // 16) * 16


def _by_torch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    down: Tensor | None,
    up: Tensor | None,
    lora_scale: float,
    packing: str,
    out_features: int,
) -> Tensor:
    """On a GPU: torch's own products, which are cuBLASLt's with its choice of algorithm and workspace."""
    import torch.nn.functional as F

    _check(x, weight, bias, down, up, lora_scale, packing, out_features)
    w = weight
    if packing:
        w, _ = _values(weight, packing, out_features, x.shape[-1])
        if w.dtype != x.dtype:
            raise TypeError(f"linear: x must be {w.dtype} like the packed weight on a GPU, got {x.dtype}")
    y = F.linear(x, w, bias)
    if down is None or up is None:
        return y
    return y.add_(F.linear(F.linear(x, down), up), alpha=lora_scale)


def _kernel(
    x: Any, weight: Any, bias: Any, down: Any, up: Any, lora_scale: float, packing: str, out_features: int
) -> Any:
    if not len(x.shape):
        raise ValueError("linear: x must have at least 1 dimension, got shape []")
    if getattr(x, "is_cuda", False) and not packing.startswith("int8"):
        return _by_torch(x, weight, bias, down, up, lora_scale, packing, out_features)
    y = new_empty(x, (*x.shape[:-1], out_features))
    M = math.prod(x.shape[:-1])
    rows, y_rows = x.reshape(M, x.shape[-1]), y.reshape(M, out_features)
    workspace = scratch(x, (_workspace(x, M, down, packing, out_features),), "uint8")
    if workspace is not None:  # arrays of a GPU
        load_cublaslt()
    launch(_core.linear, rows, weight, bias, down, up, lora_scale, packing, out_features, workspace, y_rows)
    return y


_op = Op(
    "linear(Tensor x, Tensor weight, Tensor? bias, Tensor? down, Tensor? up, float lora_scale, str packing,"
    " SymInt out_features) -> Tensor",
    kernel=_kernel,
    reference=reference,
    fake=lambda x, *rest: x.new_empty((*x.shape[:-1], rest[-1])),
    check=_check,
)


# ---- backward: an op of its own; gradients that nobody wants come back as empty arrays


def backward_reference(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    down: Tensor | None,
    up: Tensor | None,
    lora_scale: float,
    packing: str,
    out_features: int,
    wanted: list[bool],
) -> tuple[Tensor, ...]:
    """The closed form in csrc/ops/linear.h, in plain PyTorch."""
    w = weight
    if packing:
        q, scale = _values(weight, packing, out_features, x.shape[-1])
        w = (q.float() if scale is None else q.float() * scale[:, None]).to(x.dtype)
    dy_, x_ = dy.reshape(-1, out_features), x.reshape(-1, x.shape[-1])
    none = x.new_empty(0)
    u = none if up is None else lora_scale * (dy_ @ up)
    dx = dy_ @ w if wanted[0] else none
    if wanted[0] and down is not None:
        dx = dx + u @ down
    return (
        dx.reshape(x.shape) if wanted[0] else none,
        dy_.T @ x_ if wanted[1] else none,
        dy_.sum(0) if wanted[2] else none,
        u.T @ x_ if wanted[3] else none,
        lora_scale * (dy_.T @ (x_ @ down.T)) if wanted[4] and down is not None else none,
    )


def _gradient_shapes(
    x: Any, down: Any, out_features: int, wanted: list[bool]
) -> list[tuple[int, ...] | None]:
    N, K, R = out_features, x.shape[-1], 0 if down is None else down.shape[0]
    shapes = (tuple(x.shape), (N, K), (N,), (R, K), (N, R))
    return [s if want else None for s, want in zip(shapes, wanted, strict=True)]


def _backward_kernel(
    dy: Any,
    x: Any,
    weight: Any,
    down: Any,
    up: Any,
    lora_scale: float,
    packing: str,
    out_features: int,
    wanted: list[bool],
) -> tuple[Any, ...]:
    if getattr(x, "is_cuda", False):  # torch's products are cuBLAS already
        return backward_reference(dy, x, weight, down, up, lora_scale, packing, out_features, wanted)
    shapes = _gradient_shapes(x, down, out_features, wanted)
    out = [None if s is None else new_empty(x, s) for s in shapes]
    M, K = math.prod(x.shape[:-1]), x.shape[-1]
    dx = None if out[0] is None else out[0].reshape(M, K)
    rows, dy_rows = x.reshape(M, K), dy.reshape(M, out_features)
    launch(
        _core.linear_backward,
        *(dy_rows, rows, weight, down, up, lora_scale, packing, out_features, dx, *out[1:]),
    )
    return tuple(new_empty(x, (0,)) if o is None else o for o in out)


def _backward_fake(dy: Any, x: Any, weight: Any, down: Any, *rest: Any) -> tuple[Any, ...]:
    *_, out_features, wanted = rest
    shapes = _gradient_shapes(x, down, out_features, wanted)
    return tuple(x.new_empty(0 if s is None else s) for s in shapes)


_backward_op = Op(
    "linear_backward(Tensor dy, Tensor x, Tensor weight, Tensor? down, Tensor? up, float lora_scale, str packing,"
    " SymInt out_features, bool[] wanted) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    kernel=_backward_kernel,
    reference=backward_reference,
    fake=_backward_fake,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, weight, _, down, up, ctx.lora_scale, ctx.packing, ctx.out_features = inputs
    ctx.save_for_backward(x, weight, down, up)


def _gradient(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    needed = list(ctx.needs_input_grad[:5])
    x, weight, down, up = ctx.saved_tensors
    grads = _backward_op(dy, x, weight, down, up, ctx.lora_scale, ctx.packing, ctx.out_features, needed)
    return (*(g if n else None for g, n in zip(grads, needed, strict=True)), None, None, None)


_op.gradient(_gradient, _setup)
