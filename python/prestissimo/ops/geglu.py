# SPDX-License-Identifier: Apache-2.0
"""The gated activation of T5- and Gemma-style feed-forwards, in one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .gated_linear_unit import check, fake, halves, output
from .registration import Op, _core, empty_like, launch

if TYPE_CHECKING:
    from torch import Tensor


def geglu(x: Any, gate_first: bool = False, approximate: str = "none") -> Any:
    """y = a · gelu(b), gelu(b) = b P(b), P the normal distribution function; (a, b) the halves of x's last dimension.

    Args:
        x: [..., 2F], float32, bfloat16 or float16 (float64 runs through the reference).
        gate_first: the halves are (b, a), as in T5Gemma; otherwise (a, b), as in diffusers' GEGLU.
        approximate: "none", or "tanh": gelu(b) = b (1 + tanh(√(2/π) (b + 0.044715 b³))) / 2.

    Returns:
        [..., F], dtype and kind (torch, NumPy, …) of x. Differentiable.

    Raises:
        ValueError: a last dimension that is odd or absent, an unknown approximate.
        TypeError: a dtype that no kernel takes.

    Source: Shazeer, "GLU variants improve transformer", arXiv 2002.05202, section 2.

    >>> import numpy as np
    >>> geglu(np.array([[3.0, 1.0]], np.float32)).round(4)
    array([[2.524]], dtype=float32)
    """
    return _op(x, gate_first, approximate)


def reference(x: Tensor, gate_first: bool = False, approximate: str = "none") -> Tensor:
    """The formula in plain PyTorch: oracle, baseline and documentation of `geglu`."""
    import torch.nn.functional as F

    a, b = halves(x, gate_first)
    return a * F.gelu(b, approximate=approximate)


def _check(x: Any, gate_first: bool, approximate: str) -> None:
    check("geglu", x)
    if approximate not in ("none", "tanh"):
        raise ValueError(f"geglu: approximate must be 'none' or 'tanh', got '{approximate}'")


def _kernel(x: Any, gate_first: bool, approximate: str) -> Any:
    y = output("geglu", x)
    launch(_core.geglu, x, gate_first, approximate, y)
    return y


_op = Op(
    "geglu(Tensor x, bool gate_first, str approximate) -> Tensor",
    kernel=_kernel,
    reference=reference,
    fake=lambda x, *_: fake(x),
    check=_check,
)


# ---- backward


def backward_reference(dy: Tensor, x: Tensor, gate_first: bool, approximate: str) -> Tensor:
    """The closed form in csrc/ops/gated_linear_unit.h, in plain PyTorch, in at least float32."""
    import math

    import torch

    wide = torch.promote_types(x.dtype, torch.float32)
    a, b = halves(x.to(wide), gate_first)
    if approximate == "none":
        cdf = torch.special.erfc(b / -math.sqrt(2)) / 2
        slope = cdf + b * torch.exp(-b * b / 2) / math.sqrt(2 * math.pi)
    else:
        k = math.sqrt(2 / math.pi)
        t = torch.tanh(k * (b + 0.044715 * b**3))
        cdf = (1 + t) / 2
        slope = cdf + b / 2 * (1 - t * t) * k * (1 + 3 * 0.044715 * b * b)
    da, db = dy.to(wide) * b * cdf, dy.to(wide) * a * slope
    return torch.cat([db, da] if gate_first else [da, db], dim=-1).to(x.dtype)


def _backward_kernel(dy: Any, x: Any, gate_first: bool, approximate: str) -> Any:
    dx = empty_like(x)
    launch(_core.geglu_backward, dy, x, gate_first, approximate, dx)
    return dx


_backward_op = Op(
    "geglu_backward(Tensor dy, Tensor x, bool gate_first, str approximate) -> Tensor",
    kernel=_backward_kernel,
    reference=backward_reference,
    fake=lambda dy, x, *_: x.new_empty(x.shape),
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, *ctx.options = inputs
    ctx.save_for_backward(x)


def _gradient(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    return _backward_op(dy, *ctx.saved_tensors, *ctx.options), None, None


_op.gradient(_gradient, _setup)
