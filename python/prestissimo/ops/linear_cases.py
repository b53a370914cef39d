# SPDX-License-Identifier: Apache-2.0
"""The table's entries of `linear` and `pack_linear`. A shape is (rows of x, out features, in features)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .linear import linear
from .linear import reference as linear_reference
from .op_case import Arguments, OpCase, Shape, cut, noise, other_dtype, rows
from .pack_linear import STEP, PackedWeight, pack_linear, packed_bytes
from .pack_linear import reference as pack_linear_reference

_RANK = 3
# One and several panels of rows (4, 6, 14) and columns (32, half of it), whole and ragged lines (16, 32, 64 values),
# sums of more than one block (256, 512, 1024 values)
_SMALL: tuple[Shape, ...] = (
    (5, 33, 64), (1, 1, 1), (3, 7, 2), (2, 8, 5), (14, 16, 16), (15, 17, 31), (29, 32, 33), (4, 65, 130), (13, 31, 63),
    (6, 48, 65), (43, 97, 129), (3, 18, 2090), (0, 4, 16), (2, 0, 16), (2, 5, 0), (70, 40, 24),
)  # fmt: skip
_GRADIENT_SMALL = tuple(s for s in _SMALL if min(s))
# The bundled model and Stable Audio's: feed-forward in and out, attention's projections
_SIZES: dict[str, Shape] = {
    "mini-32s": (345, 320, 320),
    "open-small-in": (257, 8192, 1024),
    "open-small-out": (257, 1024, 4096),
    "open-1.0": (1025, 1536, 1536),
}
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _make(packing: str, lora: bool) -> Callable[[Shape, torch.dtype, torch.Generator], Arguments]:
    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
        M, N, K = shape
        deviation = max(K, 1) ** -0.5
        weight: Any = noise((N, K), dtype, rng, 0.2 * deviation, deviation)
        if packing:
            weight = pack_linear(weight.float(), packing)
        return {
            "x": rows((M, K), dtype, rng) if K else noise((M, K), dtype, rng),
            "weight": weight,
            "bias": noise((N,), dtype, rng, 0.3),
            "down": noise((_RANK, K), dtype, rng, 0.1 * deviation, deviation) if lora else None,
            "up": noise((N, _RANK), dtype, rng, 0.1, 0.5) if lora else None,
            "lora_scale": 0.75 if lora else 1.0,
        }

    return make


def _overload_arguments(a: Arguments) -> tuple[Any, ...]:
    w, rest = a["weight"], (a["bias"], a["down"], a["up"], a["lora_scale"])
    if isinstance(w, PackedWeight):
        return (a["x"], w.data, *rest, w.dtype, w.out_features)
    return (a["x"], w, *rest, "", w.shape[0])


def _baseline(a: Arguments) -> Callable[[], Any]:
    x = a["x"]
    weight = a["weight"].unpack(x.dtype)
    return lambda: linear_reference(**{**a, "weight": weight})


def _other_features(a: Arguments) -> Arguments:
    w = a["weight"]
    return {**a, "weight": PackedWeight(w.data, w.dtype, w.out_features, w.in_features + 1)}


def _cut_bytes(a: Arguments) -> Arguments:
    w = a["weight"]
    return {**a, "weight": PackedWeight(w.data[:-1], w.dtype, w.out_features, w.in_features)}


def _linear_case(
    variant: str,
    packing: str,
    lora: bool,
    dtypes: tuple[torch.dtype, ...],
    real: dict[str, Shape] | None = None,
) -> OpCase:
    gradients = ("x", *(() if packing else ("weight",)), "bias", *(("down", "up") if lora else ()))
    bad: list[tuple[Callable[[Arguments], Arguments], type[Exception], str]] = [
        (cut("bias"), ValueError, "bias"),
        (other_dtype("bias"), TypeError, "bias"),
        (lambda a: {**a, "x": a["x"][:0, 0].sum()}, ValueError, "x"),
    ]
    if packing:
        bad += [(_other_features, ValueError, "weight"), (_cut_bytes, ValueError, "weight")]
    else:
        bad += [(cut("weight"), ValueError, "weight"), (other_dtype("weight"), TypeError, "weight")]
    if lora:
        bad += [
            (cut("down"), ValueError, "down"),
            (cut("up"), ValueError, "up"),
            (lambda a: {**a, "up": None}, ValueError, "up"),
            (other_dtype("down"), TypeError, "down"),
        ]
    return OpCase(
        name="linear",
        op=linear,
        reference=linear_reference,
        make=_make(packing, lora),
        small=_SMALL,
        variant=variant,
        dtypes=dtypes,
        gradients=gradients,
        gradient_small=_GRADIENT_SMALL,
        smooth=packing in ("", "float32"),
        overload_arguments=_overload_arguments,
        baseline=_baseline if packing else None,
        bad=tuple(bad),
        real=real or {},
        bytes_moved=lambda s, item: (
            packed_bytes(packing or "float32", s[1], s[2]) + s[0] * (s[1] + s[2]) * item
        ),
        eager_bytes=lambda s, item: s[1] * s[2] * item + s[0] * (s[1] + s[2]) * item,
        flops=lambda s: 2 * s[0] * s[1] * s[2],
    )


def _pack_make(
    packing: str, given: bool, layout: str
) -> Callable[[Shape, torch.dtype, torch.Generator], Arguments]:
    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
        _, N, K = shape
        if given:
            weight = torch.randint(-128, 128, (N, K), generator=rng, dtype=torch.int8)
            scale = torch.rand(N, generator=rng)
            return {"weight": weight, "dtype": packing, "scale": scale, "layout": layout}
        weight = rows((N, K), dtype, rng) if K else noise((N, K), dtype, rng)
        weight[1:2] = 0
        return {"weight": weight, "dtype": packing, "scale": None, "layout": layout}

    return make


def _pack_case(variant: str, packing: str, given: bool = False, layout: str = "panels") -> OpCase:
    bad: list[tuple[Callable[[Arguments], Arguments], type[Exception], str]] = [
        (lambda a: {**a, "weight": a["weight"][0]}, ValueError, "weight"),
        (lambda a: {**a, "dtype": "int4"}, ValueError, "dtype"),
        (lambda a: {**a, "layout": "columns"}, ValueError, "layout"),
        (lambda a: {**a, "scale": None if given else torch.ones(a["weight"].shape[0])}, ValueError, "scale"),
    ]
    if given:
        bad += [(cut("scale"), ValueError, "scale"), (other_dtype("scale"), TypeError, "scale")]
        bad += [(lambda a: {**a, "dtype": "float32"}, ValueError, "dtype")]
    return OpCase(
        name="pack_linear",
        op=lambda **a: pack_linear(**a).data,
        reference=pack_linear_reference,
        make=_pack_make(packing, given, layout),
        small=_SMALL,
        variant=variant,
        dtypes=(torch.float32,) if given else _DTYPES,
        exact=True,
        overload_arguments=lambda a: (a["weight"], a["scale"], a["dtype"], a["layout"]),
        bad=tuple(bad),
        real={"open-1.0": (1, 1536, 1536)} if layout == "panels" else {},
        bytes_moved=lambda s, item: packed_bytes(packing, s[1], s[2]) + s[1] * s[2] * item,
        eager_bytes=lambda s, item: (3 * STEP[packing] + item) * s[1] * s[2],
    )


LINEAR_CASES: tuple[OpCase, ...] = (
    _linear_case("dense", "", False, _DTYPES),
    _linear_case("dense-lora", "", True, _DTYPES),
    _linear_case("float32", "float32", False, (torch.float32, torch.bfloat16), _SIZES),
    _linear_case("bfloat16", "bfloat16", False, (torch.bfloat16, torch.float32), _SIZES),
    _linear_case("int8", "int8", False, _DTYPES, _SIZES),
    _linear_case("bfloat16-lora", "bfloat16", True, (torch.bfloat16, torch.float32)),
    _linear_case("int8-lora", "int8", True, _DTYPES),
    _pack_case("float32", "float32"),
    _pack_case("bfloat16", "bfloat16"),
    _pack_case("int8", "int8"),
    _pack_case("int8-given", "int8", given=True),
    _pack_case("float32-rows", "float32", layout="rows"),
    _pack_case("bfloat16-rows", "bfloat16", layout="rows"),
    _pack_case("int8-rows", "int8", layout="rows"),
    _pack_case("int8-rows-given", "int8", given=True, layout="rows"),
)
