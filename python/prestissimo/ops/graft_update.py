# SPDX-License-Identifier: Apache-2.0
"""A step of grafted gradient descent: the direction of one gradient with the length of another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .registration import Op, _core, empty_like, launch, one_number
from .squared_norm import expect_list, squared_norm

if TYPE_CHECKING:
    from torch import Tensor


def graft_update(
    params: Sequence[Any],
    directions: Sequence[Any],
    magnitude: Any,
    rate: float,
    direction_norm: Any = None,
) -> list[Any]:
    """y = θ − η·‖g_M‖·g_D/‖g_D‖, norms over all tensors together.

    Args:
        params: θ, one or more tensors of any shapes, all float32, bfloat16 or float16 (float64: the reference).
        directions: g_D, like params.
        magnitude: ‖g_M‖², as `squared_norm` gives it, so that nothing waits for a GPU, or a number; 1 makes the
            step of normalised gradient descent.
        rate: η.
        direction_norm: ‖g_D‖², where it is known already; else one more pass over g_D finds it.

    Returns:
        y for each parameter: shape, dtype and kind (torch, NumPy, …) of params, which stay as they are. In training,
        `p.data = y` hands a tensor over without a copy. θ itself where ‖g_D‖ is 0. Not differentiable.

    Raises:
        ValueError: lists or shapes that do not fit, or a number that is not finite, naming the argument.
        TypeError: dtypes that differ from the first one's, or that no kernel takes.

    Source: Novack et al., "Disentangling the mechanisms behind implicit regularization in SGD" (arXiv 2211.15853),
    the section on grafting, after Agarwal et al. (arXiv 2002.11803).

    >>> import numpy as np
    >>> graft_update([np.float32([1.0, 1.0])], [np.float32([3.0, 4.0])], magnitude=25.0, rate=0.25)
    [array([0.25, 0.  ], dtype=float32)]
    """
    params, directions = list(params), list(directions)
    if not params:
        expect_list("graft_update", "params", params, params, "params")
    norm = squared_norm(directions) if direction_norm is None else one_number(params[0], direction_norm)
    return _op(params, directions, one_number(params[0], magnitude), norm, rate)  # type: ignore[no-any-return]


def reference(
    params: Sequence[Tensor],
    directions: Sequence[Tensor],
    magnitude: Tensor,
    direction_norm: Tensor,
    rate: float,
) -> list[Tensor]:
    """The formula in plain PyTorch: oracle, baseline and documentation of `graft_update`."""
    factor = rate * magnitude.sqrt() / direction_norm.sqrt()
    factor = factor.masked_fill(direction_norm == 0, 0)
    return [
        (p.to(factor.dtype) - factor * g.to(factor.dtype)).to(p.dtype)
        for p, g in zip(params, directions, strict=True)
    ]


def _check(params: Any, directions: Any, magnitude: Any, direction_norm: Any, rate: float) -> None:
    expect_list("graft_update", "params", params, params, "params")
    expect_list("graft_update", "directions", directions, params, "params")
    for name, number in (("magnitude", magnitude), ("direction_norm", direction_norm)):
        if tuple(number.shape) != ():
            raise ValueError(f"graft_update: {name} must be [], got {list(number.shape)}")
    if not math.isfinite(rate):
        raise ValueError(f"graft_update: rate must be finite, got {rate}")


def _kernel(params: Any, directions: Any, magnitude: Any, direction_norm: Any, rate: float) -> list[Any]:
    if not math.isfinite(rate):
        _check(params, directions, magnitude, direction_norm, rate)
    y = [empty_like(p) for p in params]
    launch(_core.graft_update, params, directions, magnitude, direction_norm, rate, y)
    return y


_op = Op(
    "graft_update(Tensor[] params, Tensor[] directions, Tensor magnitude, Tensor direction_norm, float rate)"
    " -> Tensor[]",
    kernel=_kernel,
    reference=reference,
    fake=lambda params, *_: [p.new_empty(p.shape) for p in params],
    check=_check,
)
