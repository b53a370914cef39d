# SPDX-License-Identifier: Apache-2.0
"""Classifier-free guidance, with the rescale that keeps its contrast."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .registration import Op, _core, empty_like, expect_latent, expect_like, launch
from .sampler_step import guided, step_gradients

if TYPE_CHECKING:
    from torch import Tensor


def cfg_combine(conditional: Any, unconditional: Any, scale: float, rescale: float = 0.0) -> Any:
    """y = u + w·(c − u); then y ← y·(φ·std(c)/std(y) + 1 − φ), the standard deviation over channels.

    Args:
        conditional: c, [B, ...] (rescale: [B, C, ...]), float32, bfloat16 or float16 (float64: the reference).
        unconditional: u, like c.
        scale: w; 1 gives c, exactly.
        rescale: φ in [0, 1], against the growth of contrast with w.

    Returns:
        Shape, dtype and kind (torch, NumPy, …) of c. Differentiable in c and u.

    Raises:
        ValueError: a shape, scale or rescale that does not fit, naming the argument.
        TypeError: dtypes that differ from c's, or that no kernel takes.

    Source: Ho and Salimans (arXiv 2207.12598); the rescale of Lin et al. (arXiv 2305.08891), section 3.4.

    >>> import numpy as np
    >>> cfg_combine(np.float32([[3.0, 1.0]]), np.float32([[1.0, 2.0]]), scale=3.0)
    array([[ 7., -1.]], dtype=float32)
    """
    return _op(conditional, unconditional, scale, rescale)


def reference(conditional: Tensor, unconditional: Tensor, scale: float, rescale: float = 0.0) -> Tensor:
    """The formula in plain PyTorch: oracle, baseline and documentation of `cfg_combine`."""
    y = guided(None, conditional, unconditional, 0.0, 1.0, scale, rescale)
    return y.clone() if y is conditional else y


def _check(conditional: Any, unconditional: Any, scale: float, rescale: float) -> None:
    expect_latent("cfg_combine", "conditional", conditional)
    expect_like("cfg_combine", "unconditional", unconditional, conditional, "conditional")
    _check_numbers(scale, rescale)
    if rescale and len(conditional.shape) < 2:
        shape = list(conditional.shape)
        raise ValueError(f"cfg_combine: conditional must have at least 2 dimensions for rescale, got {shape}")


def _check_numbers(scale: float, rescale: float) -> None:
    if not math.isfinite(scale):
        raise ValueError(f"cfg_combine: scale must be finite, got {scale}")
    if not 0 <= rescale <= 1:
        raise ValueError(f"cfg_combine: rescale must be in [0, 1], got {rescale}")


def _kernel(conditional: Any, unconditional: Any, scale: float, rescale: float) -> Any:
    _check_numbers(scale, rescale)
    y = empty_like(conditional)
    launch(_core.cfg_combine, conditional, unconditional, scale, rescale, y)
    return y


_op = Op(
    "cfg_combine(Tensor conditional, Tensor unconditional, float scale, float rescale) -> Tensor",
    kernel=_kernel,
    reference=reference,
    fake=lambda conditional, *_: conditional.new_empty(conditional.shape),
    check=_check,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    conditional, unconditional, scale, rescale = inputs
    ctx.weights = [scale - 1, rescale, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    ctx.save_for_backward(*((conditional, unconditional) if rescale and scale != 1 else (None, None)))


def _gradient(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    needed = [False, *ctx.needs_input_grad[:2], False]
    _, dc, du, _ = step_gradients(dy, None, (None, *ctx.saved_tensors), ctx.weights, needed)
    return dc, du, None, None


_op.gradient(_gradient, _setup)
