# SPDX-License-Identifier: Apache-2.0
"""Cases of the ops over similarities of all pairs of two batches; part of the table in cases.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .info_nce import info_nce
from .info_nce import reference as info_nce_reference
from .op_case import Arguments, OpCase, Shape, cut, noise, other_dtype
from .segment_similarity import reference as segment_similarity_reference
from .segment_similarity import segment_similarity


def _without(name: str) -> Callable[[Arguments], Arguments]:
    return lambda a: {**a, name: None}


def _set(name: str, value: object) -> Callable[[Arguments], Arguments]:
    return lambda a: {**a, name: value}


# ---- info_nce --------------------------------------------------------------------------------------------------------

# (..., width): pairs are all but the last dimension. Lanes, panels of 32 columns and strips of 222 or 224 rows, one
# less and one more.
_PAIRS_SMALL: tuple[Shape, ...] = (
    (5, 24), (1, 1), (2, 3), (3, 7), (8, 16), (13, 17), (14, 15), (15, 33), (31, 8), (32, 31), (33, 64), (65, 40),
    (7, 131), (223, 12), (450, 40),
)  # fmt: skip


def _pair(shape: Shape, rng: torch.Generator, extra: int = 0, offset: int = 0) -> tuple[Tensor, Tensor]:
    """Unit rows; those of b that belong to a are turned towards it."""
    M, E = math.prod(shape[:-1]), shape[-1]
    a, b = noise((M, E), torch.float64, rng), noise((M + extra, E), torch.float64, rng)
    b[offset : offset + M] += 0.5 * a
    return tuple(v / v.norm(dim=-1, keepdim=True) for v in (a, b))  # type: ignore[return-value]


def _beside_logits(arguments: Arguments, loss: Tensor) -> Tensor:
    """The loss and the largest logit: a loss is a difference of logits, and their rounding is its own."""
    return torch.stack([loss, arguments["logit_scale"].to(loss.dtype)])


def _info_nce_case(
    variant: str,
    form: str = "symmetric",
    left_out: bool = False,
    normalize: bool = False,
    real: Mapping[str, Shape] | None = None,
) -> OpCase:
    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
        M = math.prod(shape[:-1])
        extra, offset = (0, 0) if form == "symmetric" else (M + 3, M // 2)
        a, b = _pair(shape, rng, extra, offset)
        if normalize:  # rows of different lengths
            a, b = (v * (0.2 + 3 * torch.rand(len(v), 1, generator=rng, dtype=torch.float64)) for v in (a, b))
        mask = groups = None
        if left_out:
            mask = torch.rand(M, M + extra, generator=rng) < 0.9
            groups = torch.randint(-1, 2 + M // 4, (2 * M + extra,), generator=rng)
            groups[0] = groups[M + offset] = 1  # at least one anchor
            mask[0, offset] = True
        bias = torch.tensor(-4.0, dtype=dtype) if form == "sigmoid" else None
        return {
            "a": a.to(dtype),
            "b": b.to(dtype),
            "logit_scale": torch.tensor(7.0, dtype=dtype),
            "logit_bias": bias,
            "mask": mask,
            "a_group": groups[:M] if groups is not None else None,
            "b_group": groups[M:] if groups is not None else None,
            "form": form,
            "offset": offset,
            "normalize": normalize,
        }

    gradients = ("a", "b", "logit_scale", *(("logit_bias",) if form == "sigmoid" else ()))
    bad: list[tuple[Callable[[Arguments], Arguments], type[Exception], str]] = [
        (lambda a: {**a, "a": a["a"][0]}, ValueError, "a"),
        (cut("b"), ValueError, "b"),
        (other_dtype("b"), TypeError, "b"),
        (_set("form", "triplet"), ValueError, "form"),
        (_set("offset", -1), ValueError, "offset"),
        (_set("offset", 1000), ValueError, "offset"),
    ]
    if form != "sigmoid":
        bad.append((_set("logit_bias", 1.0), ValueError, "logit_bias"))
    if left_out:
        bad += [(cut(name), ValueError, name) for name in ("mask", "a_group", "b_group")]
        bad += [(other_dtype(name), TypeError, name) for name in ("mask", "a_group", "b_group")]
        bad.append((_without("b_group"), ValueError, "a_group"))
    return OpCase(
        name="info_nce",
        op=info_nce,
        reference=info_nce_reference,
        make=make,
        small=_PAIRS_SMALL,
        variant=variant,
        gradients=gradients,
        gradient_small=_PAIRS_SMALL[2:],  # the loss of one pair is zero, its gradient rounding errors
        terms={"logit_scale": 1.0, "logit_bias": 1.0},
        conditioned=_beside_logits,
        bad=tuple(bad),
        real=real or {},
        bytes_moved=lambda s, item: 2 * s[0] * s[1] * item,
        # the product, its scaled copy, and for each direction log-probabilities
        eager_bytes=lambda s, item: 2 * s[0] * s[1] * item + s[0] ** 2 * (3 * item + 16),
        flops=lambda s: 2 * s[0] ** 2 * s[1],
    )


# ---- segment_similarity ----------------------------------------------------------------------------------------------

# (songs, segments, width), with twice as many texts and one more. Songs that fit a strip of 224 rows, that fill it,
# that do not.
_SEGMENTS_SMALL: tuple[Shape, ...] = (
    (2, 3, 24), (1, 1, 1), (3, 1, 5), (1, 7, 8), (7, 30, 16), (16, 2, 33), (2, 111, 12), (1, 224, 7), (2, 225, 9),
    (1, 301, 17), (0, 3, 4), (8, 30, 40), (40, 13, 20),
)  # fmt: skip


def _segment_similarity_case(variant: str, masked: bool, real: Mapping[str, Shape] | None = None) -> OpCase:
    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
        B, S, E = shape
        text = noise((2 * B + 1, E), torch.float64, rng)
        segments = noise(shape, torch.float64, rng)
        segments = segments + 0.7 * text[:B, None] * (torch.rand(B, S, 1, generator=rng) < 0.3)
        mask = torch.rand(B, S, generator=rng) < 0.7
        mask[:, 0] = True
        return {
            "segments": (segments / segments.norm(dim=-1, keepdim=True)).to(dtype),
            "text": (text / text.norm(dim=-1, keepdim=True)).to(dtype),
            "temperature": torch.tensor(0.1, dtype=dtype),
            "mask": mask if masked else None,
        }

    bad: list[tuple[Callable[[Arguments], Arguments], type[Exception], str]] = [
        (lambda a: {**a, "segments": a["segments"][0]}, ValueError, "segments"),
        (lambda a: {**a, "segments": a["segments"][:, :0]}, ValueError, "segments"),
        (cut("text"), ValueError, "text"),
        (other_dtype("text"), TypeError, "text"),
    ]
    if masked:
        bad += [(cut("mask"), ValueError, "mask"), (other_dtype("mask"), TypeError, "mask")]
    return OpCase(
        name="segment_similarity",
        op=segment_similarity,
        reference=segment_similarity_reference,
        make=make,
        small=_SEGMENTS_SMALL,
        variant=variant,
        gradients=("segments", "text", "temperature"),
        gradient_small=tuple(s for s in _SEGMENTS_SMALL if s[0] > 0),
        terms={"temperature": 1.0},
        bad=tuple(bad),
        real=real or {},
        bytes_moved=lambda s, item: (s[0] * s[1] * s[2] + 2 * s[0] * s[2] + 2 * s[0] ** 2) * item,
        # the product, and c / tau, softmax and weighted products, each written and read
        eager_bytes=lambda s, item: s[0] * s[1] * s[2] * item + 2 * s[0] ** 2 * s[1] * (2 * item + 3 * 8),
        flops=lambda s: 4 * s[0] ** 2 * s[1] * s[2],
    )


SIMILARITY_CASES: tuple[OpCase, ...] = (
    _info_nce_case("symmetric", real={"clip-4096": (4096, 512)}),
    _info_nce_case("cosine-left-out", left_out=True, normalize=True),
    _info_nce_case("rows", "rows"),
    _info_nce_case("rows-left-out", "rows", left_out=True),
    _info_nce_case("sigmoid", "sigmoid", normalize=True),
    _info_nce_case("sigmoid-left-out", "sigmoid", left_out=True),
    _segment_similarity_case("", False, {"collap-512": (512, 30, 512)}),
    _segment_similarity_case("masked", True),
)
