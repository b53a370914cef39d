# SPDX-License-Identifier: Apache-2.0
"""What an entry of the table of ops (cases.py) holds, and what the makers of its arguments share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Shape = tuple[int, ...]
Arguments = dict[str, Any]
Spoiled = tuple[Callable[[Arguments], Arguments], type[Exception], str]


@dataclass(frozen=True)
class OpCase:
    """One op under one setting of its options.

    make(shape, dtype, generator): the arguments by name, tensors with a mean away from zero and a few outliers;
    gradients: names of the differentiable ones, tried on gradient_small; not_finite: those tried with NaN and
    infinities, the differentiable ones where absent; smooth: whether small differences of the reference in float64 are
    its derivative, which rounding inside and straight-through are not; terms: of gradients that are one number each,
    how large the terms are that cancel in it, which its rounding is relative to; distance(**arguments): for outputs
    that jump, how far each element lies from its jump (docs/numerics.md); conditioned(arguments, result): what of the
    result is well-conditioned and is held to the tolerance, the result itself where absent; overload_arguments: those
    of torch.ops, from the named ones; baseline(arguments): what eager PyTorch would run in its place where that is not
    the reference (weights in eager's own layout); bad: how to spoil good arguments, the error that this must raise and
    the argument it must name; real: the sizes of public models by name; bytes_moved: what the op must read and write at
    least; eager_bytes: what the reference in eager PyTorch moves; flops likewise.
    """

    name: str
    op: Callable[..., Any]
    reference: Callable[..., Any]
    make: Callable[[Shape, torch.dtype, torch.Generator], Arguments]
    small: tuple[Shape, ...]
    variant: str = ""
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16, torch.float16)
    gradients: tuple[str, ...] = ()
    gradient_small: tuple[Shape, ...] = ()
    terms: Mapping[str, float] = field(default_factory=dict)
    not_finite: tuple[str, ...] | None = None
    exact: bool = False
    conditioned: Callable[[Arguments, Any], Any] | None = None
    smooth: bool = True
    distance: Callable[..., Tensor] | None = None
    overload_arguments: Callable[[Arguments], tuple[Any, ...]] = lambda arguments: tuple(arguments.values())
    baseline: Callable[[Arguments], Callable[[], Any]] | None = None
    bad: tuple[Spoiled, ...] = ()
    real: Mapping[str, Shape] = field(default_factory=dict)
    bytes_moved: Callable[[Shape, int], int] = lambda shape, item: 0
    eager_bytes: Callable[[Shape, int], int] = lambda shape, item: 0
    flops: Callable[[Shape], int] = lambda shape: 0

    @property
    def id(self) -> str:
        return f"{self.name}-{self.variant}" if self.variant else self.name


# The bundled model and Stable Audio's: (batch, tokens, width)
DIT_SIZES: dict[str, Shape] = {
    "mini-12s": (2, 129, 320),
    "mini-32s": (1, 345, 320),
    "open-small": (1, 257, 1024),
    "open-1.0": (1, 1025, 1536),
    "open-1.0-batch-8": (8, 1025, 1536),
    "sa3-medium-380s": (1, 4160, 1536),
    "ace-step-1.5-xl": (2, 3000, 2560),
}


def noise(
    shape: Shape, dtype: torch.dtype, rng: torch.Generator, mean: float = 0.0, std: float = 1.0
) -> Tensor:
    return (torch.randn(shape, generator=rng, dtype=torch.float64) * std + mean).to(dtype)


def rows(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Tensor:
    """Rows of different means and scales, one element in a thousand thirty times as large."""
    x = noise(shape, torch.float64, rng)
    x = x * (1 + 29 * (torch.rand(shape, generator=rng) < 0.001))
    scale = 0.5 + torch.rand(*shape[:-1], 1, generator=rng, dtype=torch.float64) * 2
    return (x * scale + noise((*shape[:-1], 1), torch.float64, rng, std=1.5)).to(dtype)


def cut(name: str) -> Callable[[Arguments], Arguments]:
    return lambda a: {**a, name: a[name][..., :-1]}


def other_dtype(name: str) -> Callable[[Arguments], Arguments]:
    return lambda a: {
        **a,
        name: a[name].to(torch.float64 if a[name].dtype == torch.float32 else torch.float32),
    }
