# SPDX-License-Identifier: Apache-2.0
"""The variance of a hidden state, sample by sample: what dropping layers must preserve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .registration import Op, _core, empty_like, launch, new_empty

if TYPE_CHECKING:
    from torch import Tensor


def hidden_variance(x: Any) -> Any:
    """variance[b] = mean((x[b] − mean(x[b]))²) over tokens and channels, sums in float32 or wider.

    Args:
        x: [B, T, C], float32, bfloat16 or float16 (float64 runs through the reference).

    Returns:
        [B], float32 (float64 for float64), kind of x. Differentiable.

    Raises:
        ValueError: x that is not [B, T, C].
        TypeError: a dtype that no kernel takes.

    Source: Presto (Novack et al., arXiv 2410.05167), the layer distillation.

    >>> import numpy as np
    >>> hidden_variance(np.array([[[1.0, 3.0], [5.0, 7.0]]], np.float32))
    array([5.], dtype=float32)
    """
    return _op(x)[0]


def reference(x: Tensor) -> Tensor:
    """The formula in plain PyTorch: oracle, baseline and documentation of `hidden_variance`."""
    return _reference(x)[0]


def _reference(x: Tensor) -> tuple[Tensor, Tensor]:
    """(variance, mean)"""
    import torch

    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    mean = wide.mean((1, 2))
    return (wide - mean[:, None, None]).square().mean((1, 2)), mean


def _check(x: Any) -> None:
    if len(x.shape) != 3:
        raise ValueError(f"hidden_variance: x must have 3 dimensions, got shape {list(x.shape)}")


def _kernel(x: Any) -> tuple[Any, Any]:
    B, T, _ = x.shape if len(x.shape) == 3 else (0, 0, 0)
    variance, mean = (new_empty(x, (B,), "float32") for _ in range(2))
    launch(_core.hidden_variance, x, new_empty(x, (B, T, 2), "float32"), variance, mean)
    return variance, mean


def _fake(x: Tensor) -> tuple[Tensor, Tensor]:
    import torch

    wide = torch.promote_types(x.dtype, torch.float32)
    return x.new_empty(x.shape[:1], dtype=wide), x.new_empty(x.shape[:1], dtype=wide)


_op = Op(
    "hidden_variance(Tensor x) -> (Tensor, Tensor)",
    kernel=_kernel,
    reference=_reference,
    fake=_fake,
    check=_check,
)


# ---- backward


def backward_reference(x: Tensor, dvariance: Tensor, mean: Tensor) -> Tensor:
    """The closed form in csrc/ops/hidden_variance.h, in plain PyTorch."""
    each = lambda v: v[:, None, None]  # noqa: E731
    return ((x - each(mean)) * each(2 * dvariance / (x.shape[1] * x.shape[2]))).to(x.dtype)


def _backward_kernel(x: Any, dvariance: Any, mean: Any) -> Any:
    dx = empty_like(x)
    launch(_core.hidden_variance_backward, dvariance, x, mean, dx)
    return dx


_backward_op = Op(
    "hidden_variance_backward(Tensor x, Tensor dvariance, Tensor mean) -> Tensor",
    kernel=_backward_kernel,
    reference=backward_reference,
    fake=lambda x, dvariance, mean: x.new_empty(x.shape),
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(inputs[0], output[1])


def _gradient(ctx: Any, dvariance: Tensor, dmean: Tensor) -> tuple[Any, ...]:
    x, mean = ctx.saved_tensors
    return (_backward_op(x, dvariance, mean),)


_op.gradient(_gradient, _setup)
