# SPDX-License-Identifier: Apache-2.0
"""Cases of the ops on lists of tensors; part of the table in cases.py."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .graft_update import graft_update
from .graft_update import reference as graft_update_reference
from .op_case import Arguments, OpCase, Shape, noise
from .squared_norm import reference as squared_norm_reference
from .squared_norm import squared_norm


def _resnet_18(classes: int = 10) -> list[Shape]:
    """The parameters of the ResNet-18 for images of 32 x 32 (the micro-batch paper's): 62 tensors."""
    shapes: list[Shape] = [(64, 3, 3, 3), (64,), (64,)]
    width = 64
    for stage in (64, 128, 256, 512):
        for block in range(2):
            shapes += [(stage, width, 3, 3), (stage,), (stage,), (stage, stage, 3, 3), (stage,), (stage,)]
            if block == 0 and stage != width:
                shapes += [(stage, width, 1, 1), (stage,), (stage,)]
            width = stage
    return [*shapes, (classes, 512), (classes,)]


_RESNET_18: Shape = (sum(map(math.prod, _resnet_18())),)
_SMALL: tuple[Shape, ...] = (
    (2, 3, 24), (1, 1, 1), (1, 2, 7), (3, 1, 8), (0, 4, 16), (2, 0, 16), (2, 7, 13), (3, 4, 17), (1, 1, 4095),
    (1, 1, 4096), (1, 1, 4097), (2, 5, 900), (1, 33, 600),
)  # fmt: skip
_MANY: tuple[Shape, ...] = ((2, 3, 24), (1, 1, 1), (2, 1, 65))


def _shapes(shape: Shape, many: bool) -> list[Shape]:
    if shape == _RESNET_18:
        return _resnet_18()
    few: list[Shape] = [(shape[-1],), shape, (), shape[1:]]
    return few * 18 if many else few  # 72: more than fit one group


def _list(shape: Shape, dtype: torch.dtype, rng: torch.Generator, mean: float, many: bool) -> list[Tensor]:
    return [noise(s, dtype, rng, mean) for s in _shapes(shape, many)]


def _spoil(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Arguments], Arguments]:
    """The second tensor of a list changed."""
    return lambda a: {**a, name: [a[name][0], change(a[name][1]), *a[name][2:]]}


def _size(shape: Shape) -> int:
    return sum(map(math.prod, _shapes(shape, False)))


def _squared_norm_case(variant: str, small: tuple[Shape, ...], real: dict[str, Shape]) -> OpCase:
    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
        return {"tensors": _list(shape, dtype, rng, 0.3, variant == "many")}

    return OpCase(
        name="squared_norm",
        op=squared_norm,
        reference=squared_norm_reference,
        make=make,
        small=small,
        variant=variant,
        gradients=("tensors",),
        gradient_small=small,
        bad=(
            (lambda a: {"tensors": []}, ValueError, "tensors"),
            (_spoil("tensors", torch.Tensor.double), TypeError, "tensors"),
        ),
        real=real,
        bytes_moved=lambda shape, item: _size(shape) * item,
        eager_bytes=lambda shape, item: 4 * _size(shape) * item,
        flops=lambda shape: 2 * _size(shape),
    )


def _graft_update_case(variant: str, small: tuple[Shape, ...], real: dict[str, Shape]) -> OpCase:
    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
        params, directions = (_list(shape, dtype, rng, mean, variant == "many") for mean in (0.3, -0.2))
        return {
            "params": params,
            "directions": directions,
            "magnitude": torch.tensor(2.5),
            "direction_norm": squared_norm_reference(directions).float(),
            "rate": 0.1,
        }

    return OpCase(
        name="graft_update",
        op=graft_update,
        reference=graft_update_reference,
        make=make,
        small=small,
        variant=variant,
        not_finite=("params", "directions"),
        overload_arguments=lambda a: (
            a["params"],
            a["directions"],
            a["magnitude"],
            a["direction_norm"],
            a["rate"],
        ),
        bad=(
            (lambda a: {**a, "params": [], "directions": []}, ValueError, "params"),
            (_spoil("params", torch.Tensor.double), TypeError, "params"),
            (_spoil("directions", lambda t: t[..., :-1]), ValueError, "directions"),
            (_spoil("directions", torch.Tensor.double), TypeError, "directions"),
            (lambda a: {**a, "directions": a["directions"][1:]}, ValueError, "directions"),
            (lambda a: {**a, "rate": math.inf}, ValueError, "rate"),
        ),
        real=real,
        bytes_moved=lambda shape, item: 3 * _size(shape) * item,
        eager_bytes=lambda shape, item: 5 * _size(shape) * item,
        flops=lambda shape: 2 * _size(shape),
    )


TENSOR_LIST_CASES: tuple[OpCase, ...] = (
    _squared_norm_case("few", _SMALL, {"resnet-18": _RESNET_18}),
    _squared_norm_case("many", _MANY, {}),
    _graft_update_case("few", _SMALL, {"resnet-18": _RESNET_18}),
    _graft_update_case("many", _MANY, {}),
)
