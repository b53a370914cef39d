# SPDX-License-Identifier: Apache-2.0
"""The gated activation of Llama-style feed-forwards, in one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .gated_linear_unit import check, fake, halves, output
from .registration import Op, _core, empty_like, launch

if TYPE_CHECKING:
    from torch import Tensor


def swiglu(x: Any, gate_first: bool = False) -> Any:
    """y = a · silu(b) with silu(b) = b / (1 + exp(−b)) and (a, b) the halves of x's last dimension.

    Args:
        x: [..., 2F], float32, bfloat16 or float16 (float64 runs through the reference).
        gate_first: the halves are (b, a), as in Llama and ACE-Step 1.5; otherwise (a, b), as in Stable Audio.

    Returns:
        [..., F], dtype and kind (torch, NumPy, …) of x. Differentiable.

    Raises:
        ValueError: a last dimension that is odd or absent.
        TypeError: a dtype that no kernel takes.

    Source: Shazeer, "GLU variants improve transformer", arXiv 2002.05202, section 2.

    >>> import numpy as np
    >>> swiglu(np.array([[3.0, 1.0]], np.float32)).round(4)
    array([[2.1932]], dtype=float32)
    """
    return _op(x, gate_first)


def reference(x: Tensor, gate_first: bool = False) -> Tensor:
    """The formula in plain PyTorch: oracle, baseline and documentation of `swiglu`."""
    import torch.nn.functional as F

    a, b = halves(x, gate_first)
    return a * F.silu(b)


def _check(x: Any, gate_first: bool) -> None:
    check("swiglu", x)


def _kernel(x: Any, gate_first: bool) -> Any:
    y = output("swiglu", x)
    launch(_core.swiglu, x, gate_first, y)
    return y


_op = Op(
    "swiglu(Tensor x, bool gate_first) -> Tensor",
    kernel=_kernel,
    reference=reference,
    fake=lambda x, gate_first: fake(x),
    check=_check,
)


# ---- backward


def backward_reference(dy: Tensor, x: Tensor, gate_first: bool) -> Tensor:
    """The closed form in csrc/ops/gated_linear_unit.h, in plain PyTorch, in at least float32."""
    import torch

    wide = torch.promote_types(x.dtype, torch.float32)
    a, b = halves(x.to(wide), gate_first)
    s = b.sigmoid()
    da, db = dy.to(wide) * b * s, dy.to(wide) * a * s * (1 + b * (1 - s))
    return torch.cat([db, da] if gate_first else [da, db], dim=-1).to(x.dtype)


def _backward_kernel(dy: Any, x: Any, gate_first: bool) -> Any:
    dx = empty_like(x)
    launch(_core.swiglu_backward, dy, x, gate_first, dx)
    return dx


_backward_op = Op(
    "swiglu_backward(Tensor dy, Tensor x, bool gate_first) -> Tensor",
    kernel=_backward_kernel,
    reference=backward_reference,
    fake=lambda dy, x, gate_first: x.new_empty(x.shape),
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, ctx.gate_first = inputs
    ctx.save_for_backward(x)


def _gradient(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    return _backward_op(dy, *ctx.saved_tensors, ctx.gate_first), None


_op.gradient(_gradient, _setup)
