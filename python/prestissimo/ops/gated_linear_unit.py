# SPDX-License-Identifier: Apache-2.0
"""What `swiglu` and `geglu` share: two halves along the last dimension."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .registration import new_empty

if TYPE_CHECKING:
    from torch import Tensor


def halves(x: Tensor, gate_first: bool) -> tuple[Tensor, Tensor]:
    """(values, gates) of [..., 2F], in this order unless gate_first."""
    one, two = x.chunk(2, dim=-1)
    return (two, one) if gate_first else (one, two)


def check(op: str, x: Any) -> None:
    if len(x.shape) < 1:
        raise ValueError(f"{op}: x must have at least 1 dimension")
    if x.shape[-1] % 2:
        raise ValueError(f"{op}: x must have an even last dimension, got shape {list(x.shape)}")


def output(op: str, x: Any) -> Any:
    """An uninitialised [..., F]."""
    check(op, x)
    return new_empty(x, (*x.shape[:-1], x.shape[-1] // 2))


def fake(x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 2))
