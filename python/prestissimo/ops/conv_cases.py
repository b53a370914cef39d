# SPDX-License-Identifier: Apache-2.0
"""The table's entries of the convolutions over time. A shape is (in channels, out channels, time), for two samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .conv1d import conv1d
from .conv1d import reference as conv1d_reference
from .conv_transpose1d import conv_transpose1d
from .conv_transpose1d import reference as conv_transpose1d_reference
from .op_case import Arguments, OpCase, Shape, cut, noise, other_dtype, rows

BATCH = 2
_SMALL: tuple[Shape, ...] = ((5, 7, 20), (3, 4, 9), (1, 1, 9), (16, 15, 31), (9, 16, 24), (13, 33, 17))
_GRADIENT_SMALL: tuple[Shape, ...] = ((3, 4, 9), (16, 15, 31), (13, 33, 40))
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# models.md 6.2, Oobleck 44.1 kHz: the first, a middle and the last stage of a second of sound
_RESIDUAL: dict[str, Shape] = {
    "oobleck-1": (1024, 1024, 172),
    "oobleck-3": (256, 256, 5512),
    "oobleck-5": (128, 128, 44100),
}
_UP: dict[str, Shape] = {"oobleck-1": (2048, 1024, 22), "oobleck-3": (512, 256, 1378)}


def _conv_arguments(a: Arguments) -> tuple[Any, ...]:
    O, _, K = a["weight"].shape
    return (*a.values(), K, "", O)


def _conv_case(variant: str, kernel: int, dilation: int, real: dict[str, Shape] | None = None) -> OpCase:
    reach = dilation * (kernel - 1)

    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
        C, O, T = shape
        return {
            "x": rows((BATCH, C, T), dtype, rng),
            "weight": noise((O, C, kernel), dtype, rng, 0.0, (C * kernel) ** -0.5),
            "bias": noise((O,), dtype, rng, 0.3),
            "padding": reach // 2,
            "dilation": dilation,
        }

    bad: list[tuple[Callable[[Arguments], Arguments], type[Exception], str]] = [
        (cut("bias"), ValueError, "bias"),
        (other_dtype("bias"), TypeError, "bias"),
        (lambda a: {**a, "x": a["x"][0]}, ValueError, "x"),
        (lambda a: {**a, "padding": -1}, ValueError, "padding"),
        (lambda a: {**a, "dilation": 0}, ValueError, "dilation"),
        (lambda a: {**a, "x": a["x"][:, :0]}, ValueError, "weight"),
        (other_dtype("weight"), TypeError, "weight"),
    ]
    return OpCase(
        name="conv1d",
        op=conv1d,
        reference=conv1d_reference,
        make=make,
        small=_SMALL,
        variant=variant,
        dtypes=_DTYPES,
        gradients=("x", "weight", "bias"),
        gradient_small=_GRADIENT_SMALL,
        not_finite=("x", "bias"),  # an infinite weight meets the zeros of the padding here, not in eager
        overload_arguments=_conv_arguments,
        bad=tuple(bad),
        real=real or {},
        bytes_moved=lambda s, item: (BATCH * (s[0] + s[1]) * s[2] + s[0] * s[1] * kernel) * item,
        eager_bytes=lambda s, item: (BATCH * (s[0] + s[1]) * s[2] + s[0] * s[1] * kernel) * item,
        flops=lambda s: 2 * BATCH * s[0] * s[1] * s[2] * kernel,
    )


def _up_arguments(a: Arguments) -> tuple[Any, ...]:
    _, O, K = a["weight"].shape
    return (*a.values(), K, "", O)


def _up_case(variant: str, stride: int, kernel: int, real: dict[str, Shape] | None = None) -> OpCase:
    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
        C, O, T = shape
        return {
            "x": rows((BATCH, C, T), dtype, rng),
            "weight": noise((C, O, kernel), dtype, rng, 0.0, (2 * C) ** -0.5),
            "bias": noise((O,), dtype, rng, 0.3),
            "stride": stride,
            "padding": -(-stride // 2),
        }

    bad: list[tuple[Callable[[Arguments], Arguments], type[Exception], str]] = [
        (cut("bias"), ValueError, "bias"),
        (other_dtype("bias"), TypeError, "bias"),
        (lambda a: {**a, "x": a["x"][0]}, ValueError, "x"),
        (lambda a: {**a, "padding": -1}, ValueError, "padding"),
        (lambda a: {**a, "stride": 0}, ValueError, "stride"),
        (lambda a: {**a, "x": a["x"][:, :0]}, ValueError, "weight"),
        (other_dtype("weight"), TypeError, "weight"),
    ]
    return OpCase(
        name="conv_transpose1d",
        op=conv_transpose1d,
        reference=conv_transpose1d_reference,
        make=make,
        small=_SMALL,
        variant=variant,
        dtypes=_DTYPES,
        gradients=("x", "weight", "bias"),
        gradient_small=_GRADIENT_SMALL,
        not_finite=("x", "bias"),  # an infinite weight meets the zeros of the padding here, not in eager
        overload_arguments=_up_arguments,
        bad=tuple(bad),
        real=real or {},
        bytes_moved=lambda s, item: (BATCH * (s[0] + s[1] * stride) * s[2] + s[0] * s[1] * kernel) * item,
        eager_bytes=lambda s, item: (BATCH * (s[0] + s[1] * stride) * s[2] + s[0] * s[1] * kernel) * item,
        flops=lambda s: 2 * BATCH * s[0] * s[1] * s[2] * kernel,
    )


CONV_CASES: tuple[OpCase, ...] = (
    _conv_case("k7", 7, 1, _RESIDUAL),
    _conv_case("k3-dilation-3", 3, 3),
    _conv_case("k1", 1, 1),
    _up_case("stride-2", 2, 4),
    _up_case("stride-8", 8, 16, _UP),
    _up_case("stride-5", 5, 10),
)
