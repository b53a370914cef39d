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
from .depthwise_conv1d import depthwise_conv1d
from .depthwise_conv1d import reference as depthwise_conv1d_reference
from .op_case import Arguments, OpCase, Shape, Spoiled, cut, noise, other_dtype, rows
from .snake import reference as snake_reference
from .snake import snake

BATCH = 2
_SMALL: tuple[Shape, ...] = ((5, 7, 20), (3, 4, 9), (1, 1, 9), (16, 15, 31), (9, 16, 24), (13, 33, 17))
_GRADIENT_SMALL: tuple[Shape, ...] = ((3, 4, 9), (16, 15, 31), (13, 33, 40))
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Oobleck at 44.1 kHz (Stable Audio Open): the first, a middle and the last stage of a second of sound
_RESIDUAL: dict[str, Shape] = {
    "oobleck-1": (1024, 1024, 172),
    "oobleck-3": (256, 256, 5512),
    "oobleck-5": (128, 128, 44100),
}
_UP: dict[str, Shape] = {"oobleck-1": (2048, 1024, 22), "oobleck-3": (512, 256, 1378)}


def _conv_arguments(a: Arguments) -> tuple[Any, ...]:
    O, _, K = a["weight"].shape
    options = (a.get(name, default) for name, default in _OPTIONS.items())
    return (*(a[name] for name in ("x", "weight", "bias", "padding", "dilation")), K, "", O, *options)


_OPTIONS: Arguments = {"alpha": None, "beta": None, "log_scale": True, "residual": None, "lead": 0}


def _snake_options(C: int, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
    return {
        "alpha": noise((C,), dtype, rng, 0.1, 0.3),
        "beta": noise((C,), dtype, rng, 0.2, 0.3),
        "lead": 3,
    }


_BAD_SNAKE: tuple[Spoiled, ...] = (
    (cut("alpha"), ValueError, "alpha"),
    (cut("beta"), ValueError, "beta"),
    (lambda a: {**a, "alpha": None}, ValueError, "alpha"),
    (other_dtype("beta"), TypeError, "beta"),
    (lambda a: {**a, "lead": -1}, ValueError, "lead"),
)


def _conv_case(
    variant: str, kernel: int, dilation: int, real: dict[str, Shape] | None = None, unit: bool = False
) -> OpCase:
    """`unit`: as in a residual unit, with a snake before and a residual behind."""
    reach = dilation * (kernel - 1)

    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
        C, O, T = shape
        arguments = {
            "x": rows((BATCH, C, T), dtype, rng),
            "weight": noise((O, C, kernel), dtype, rng, 0.0, (C * kernel) ** -0.5),
            "bias": noise((O,), dtype, rng, 0.3),
            "padding": reach // 2,
            "dilation": dilation,
        }
        if not unit:
            return arguments
        residual = rows((BATCH, O, T + 2 * (reach // 2) - reach), dtype, rng)
        return {**arguments, **_snake_options(C, dtype, rng), "residual": residual}

    bad: list[tuple[Callable[[Arguments], Arguments], type[Exception], str]] = [
        (cut("bias"), ValueError, "bias"),
        (other_dtype("bias"), TypeError, "bias"),
        (lambda a: {**a, "x": a["x"][0]}, ValueError, "x"),
        (lambda a: {**a, "padding": -1}, ValueError, "padding"),
        (lambda a: {**a, "dilation": 0}, ValueError, "dilation"),
        (lambda a: {**a, "x": a["x"][:, :0]}, ValueError, "weight"),
        (other_dtype("weight"), TypeError, "weight"),
    ]
    if unit:
        bad += [*_BAD_SNAKE, (cut("residual"), ValueError, "residual")]
    options = ("alpha", "beta", "residual") if unit else ()
    return OpCase(
        name="conv1d",
        op=conv1d,
        reference=conv1d_reference,
        make=make,
        small=_SMALL,
        variant=variant,
        dtypes=_DTYPES,
        gradients=("x", "weight", "bias", *options),
        gradient_small=_GRADIENT_SMALL,
        not_finite=(
            "x",
            "bias",
            *options,
        ),  # an infinite weight meets the zeros of the padding here, not in eager
        overload_arguments=_conv_arguments,
        bad=tuple(bad),
        real=real or {},
        bytes_moved=lambda s, item: (BATCH * (s[0] + s[1]) * s[2] + s[0] * s[1] * kernel) * item,
        eager_bytes=lambda s, item: (BATCH * (s[0] + s[1]) * s[2] + s[0] * s[1] * kernel) * item,
        flops=lambda s: 2 * BATCH * s[0] * s[1] * s[2] * kernel,
    )


def _up_arguments(a: Arguments) -> tuple[Any, ...]:
    _, O, K = a["weight"].shape
    options = (a.get(name, default) for name, default in _OPTIONS.items() if name != "residual")
    return (*(a[name] for name in ("x", "weight", "bias", "stride", "padding")), K, "", O, *options)


def _up_case(
    variant: str, stride: int, kernel: int, real: dict[str, Shape] | None = None, snaked: bool = False
) -> OpCase:
    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
        C, O, T = shape
        return {
            "x": rows((BATCH, C, T), dtype, rng),
            "weight": noise((C, O, kernel), dtype, rng, 0.0, (2 * C) ** -0.5),
            "bias": noise((O,), dtype, rng, 0.3),
            "stride": stride,
            "padding": -(-stride // 2),
            **(_snake_options(C, dtype, rng) if snaked else {}),
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
    bad += _BAD_SNAKE if snaked else ()
    options = ("alpha", "beta") if snaked else ()
    return OpCase(
        name="conv_transpose1d",
        op=conv_transpose1d,
        reference=conv_transpose1d_reference,
        make=make,
        small=_SMALL,
        variant=variant,
        dtypes=_DTYPES,
        gradients=("x", "weight", "bias", *options),
        gradient_small=_GRADIENT_SMALL,
        not_finite=(
            "x",
            "bias",
            *options,
        ),  # an infinite weight meets the zeros of the padding here, not in eager
        overload_arguments=_up_arguments,
        bad=tuple(bad),
        real=real or {},
        bytes_moved=lambda s, item: (BATCH * (s[0] + s[1] * stride) * s[2] + s[0] * s[1] * kernel) * item,
        eager_bytes=lambda s, item: (BATCH * (s[0] + s[1] * stride) * s[2] + s[0] * s[1] * kernel) * item,
        flops=lambda s: 2 * BATCH * s[0] * s[1] * s[2] * kernel,
    )


# (samples, channels, time); ConvNeXt blocks of the bundled decoder (32 s), of Vocos (30 s) and of ACE-Step's vocoder
_DEPTHWISE_SMALL: tuple[Shape, ...] = (
    (2, 5, 24), (1, 1, 1), (1, 3, 2), (2, 8, 3), (1, 15, 7), (1, 16, 9), (3, 17, 5), (1, 31, 64), (2, 33, 65),
    (1, 48, 130), (0, 4, 9), (1, 320, 11),
)  # fmt: skip
_DEPTHWISE_SIZES: dict[str, Shape] = {
    "mini-32s": (1, 288, 1380),
    "vocos-30s": (1, 512, 2584),
    "ace-step-1.5-xl": (2, 6400, 3000),
}


def _depthwise_case(
    variant: str,
    kernel: int,
    dilation: int,
    bias: bool = True,
    channels_last: bool = False,
    real: dict[str, Shape] | None = None,
) -> OpCase:
    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
        x = rows(shape, dtype, rng)
        return {
            # as ConvNeXt blocks hand it on, whose norms and products take rows of channels
            "x": x.transpose(1, 2).contiguous().transpose(1, 2) if channels_last else x,
            "weight": noise((shape[1], 1, kernel), dtype, rng, 0.1, kernel**-0.5),
            "bias": noise((shape[1],), dtype, rng, 0.3) if bias else None,
            "padding": -(-dilation * (kernel - 1) // 2),
            "dilation": dilation,
        }

    bad: list[tuple[Callable[[Arguments], Arguments], type[Exception], str]] = [
        (lambda a: {**a, "x": a["x"][0]}, ValueError, "x"),
        (lambda a: {**a, "x": a["x"][:, :-1]}, ValueError, "weight"),
        (lambda a: {**a, "weight": a["weight"][:, 0]}, ValueError, "weight"),
        (other_dtype("weight"), TypeError, "weight"),
        (lambda a: {**a, "padding": -1}, ValueError, "padding"),
        (lambda a: {**a, "dilation": 0}, ValueError, "dilation"),
        (lambda a: {**a, "dilation": 100}, ValueError, "x"),
    ]
    if bias:
        bad += [(cut("bias"), ValueError, "bias"), (other_dtype("bias"), TypeError, "bias")]
    if kernel == 1:  # which no dilation makes too long
        bad = [b for b in bad if b[2] != "x" or b[0] is bad[0][0]]
    return OpCase(
        name="depthwise_conv1d",
        op=depthwise_conv1d,
        reference=depthwise_conv1d_reference,
        make=make,
        small=_DEPTHWISE_SMALL,
        variant=variant,
        dtypes=_DTYPES,
        gradients=("x", "weight", *(("bias",) * bias)),
        gradient_small=((2, 5, 24), (1, 16, 9), (3, 17, 5), (2, 33, 130)),
        not_finite=("x", *(("bias",) * bias)),  # zeros of the padding: as above
        bad=tuple(bad),
        real=real or {},
        bytes_moved=lambda s, item: 2 * s[0] * s[1] * s[2] * item,
        eager_bytes=lambda s, item: 2 * s[0] * s[1] * s[2] * item,
        flops=lambda s: 2 * kernel * s[0] * s[1] * s[2],
    )


# (samples, channels, time): every stage of a second of sound of Oobleck 44.1 kHz
_SNAKE_SMALL: tuple[Shape, ...] = (
    (2, 5, 64), (1, 1, 1), (1, 3, 7), (2, 2, 8), (1, 9, 2), (3, 4, 15), (1, 16, 4), (2, 17, 3), (1, 31, 33),
    (1, 2, 4097), (2, 3, 331), (0, 4, 16), (2, 4, 0), (1, 320, 64),
)  # fmt: skip
_SNAKE_SIZES: dict[str, Shape] = {
    "oobleck-1": (1, 1024, 172),
    "oobleck-3": (1, 256, 5512),
    "oobleck-5": (1, 128, 44100),
}


def _snake_case(
    variant: str, log_scale: bool, channels_last: bool, real: dict[str, Shape] | None = None
) -> OpCase:
    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
        x = rows(shape, dtype, rng)
        return {
            "x": x.transpose(1, 2).contiguous().transpose(1, 2) if channels_last else x,
            "alpha": noise((shape[1],), dtype, rng, 0.1 if log_scale else 1.5, 0.3),
            "beta": noise((shape[1],), dtype, rng, 0.2 if log_scale else 1.5, 0.3),
            "log_scale": log_scale,
        }

    return OpCase(
        name="snake",
        op=snake,
        reference=snake_reference,
        make=make,
        small=_SNAKE_SMALL,
        variant=variant,
        dtypes=_DTYPES,
        gradients=("x", "alpha", "beta"),
        gradient_small=((2, 5, 64), (1, 3, 7), (2, 17, 3), (1, 2, 4097), (1, 31, 130)),
        bad=(
            (lambda a: {**a, "x": a["x"][0]}, ValueError, "x"),
            (cut("alpha"), ValueError, "alpha"),
            (cut("beta"), ValueError, "beta"),
            (other_dtype("alpha"), TypeError, "alpha"),
            (other_dtype("beta"), TypeError, "beta"),
        ),
        real=real or {},
        bytes_moved=lambda s, item: 2 * s[0] * s[1] * s[2] * item,
        eager_bytes=lambda s, item: 11 * s[0] * s[1] * s[2] * item,
        flops=lambda s: 20 * s[0] * s[1] * s[2],
    )


CONV_CASES: tuple[OpCase, ...] = (
    _conv_case("k7", 7, 1, _RESIDUAL),
    _conv_case("k3-dilation-3", 3, 3),
    _conv_case("k1", 1, 1),
    _conv_case("k7-unit", 7, 1, _RESIDUAL, unit=True),
    _conv_case("k3-unit", 3, 3, unit=True),
    _conv_case("k1-unit", 1, 1, unit=True),
    _up_case("stride-2", 2, 4),
    _up_case("stride-8", 8, 16, _UP),
    _up_case("stride-5", 5, 10),
    _up_case("stride-4-snake", 4, 8, snaked=True),
    _depthwise_case("k7-channels-last", 7, 1, channels_last=True, real=_DEPTHWISE_SIZES),
    _depthwise_case("k3-dilation-2", 3, 2, bias=False),
    _depthwise_case("k1", 1, 1),
    _depthwise_case("k6-dilation-3", 6, 3),
    _snake_case("log", True, False, _SNAKE_SIZES),
    _snake_case("log-channels-last", True, True, _SNAKE_SIZES),
    _snake_case("plain", False, False),
    _snake_case("plain-channels-last", False, True),
)
