# SPDX-License-Identifier: Apache-2.0
"""Rows as int8 with a scale each: what products of int8 read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .pack_linear import quantised_rows
from .registration import Op, _core, launch, new_empty

if TYPE_CHECKING:
    from torch import Tensor


def quantize_rows(x: Any) -> tuple[Any, Any]:
    """scale = max|row| / 127; y = round(row · 127 / max|row|), halves to even, so that row ≈ y · scale.

    Args:
        x: [..., C], float32, bfloat16 or float16.

    Returns:
        (y, scale): int8 [..., C], whole numbers from −127 to 127, and float32 [...]. The same bits on every device and
        instruction set, and those that `linear` with int8 weights makes of x. A row with an infinity or NaN gives
        zeros and a scale of NaN; a row of zeros a scale of zero. Not differentiable.

    Raises:
        ValueError: x without dimensions.
        TypeError: a dtype that no kernel takes.

    Source: LLM.int8 (Dettmers et al., arXiv 2208.07339), section 2.1, row-wise.

    >>> import numpy as np
    >>> y, scale = quantize_rows(np.array([[0.5, -2.0, 1.0]], np.float32))
    >>> y, scale.round(5)
    (array([[  32, -127,   64]], dtype=int8), array([0.01575], dtype=float32))
    """
    return _op(x)


def reference(x: Tensor) -> tuple[Tensor, Tensor]:
    """The formula in plain PyTorch, in float32: oracle, baseline and documentation of `quantize_rows`."""
    import torch

    values, scale = quantised_rows(x)
    return values.to(torch.int8), scale


def _check(x: Any) -> None:
    if len(x.shape) < 1:
        raise ValueError("quantize_rows: x must have at least 1 dimension, got shape []")
    if not str(x.dtype).endswith(("float32", "bfloat16", "float16", "float64")):
        raise TypeError(f"quantize_rows: x must be float32, bfloat16 or float16, got {x.dtype}")


def _kernel(x: Any) -> tuple[Any, Any]:
    y, scale = new_empty(x, x.shape, "int8"), new_empty(x, x.shape[:-1], "float32")
    launch(_core.quantize_rows, x, y, scale)
    return y, scale


def _fake(x: Tensor) -> tuple[Tensor, Tensor]:
    import torch

    return x.new_empty(x.shape, dtype=torch.int8), x.new_empty(x.shape[:-1], dtype=torch.float32)


_op = Op(
    "quantize_rows(Tensor x) -> (Tensor, Tensor)",
    kernel=_kernel,
    reference=reference,
    fake=_fake,
    check=_check,
)
