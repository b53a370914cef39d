# SPDX-License-Identifier: Apache-2.0
"""Cases of the ops on hidden states of whole samples and rows; part of the table in cases.py."""

from __future__ import annotations

import torch

from .hidden_variance import hidden_variance
from .hidden_variance import reference as hidden_variance_reference
from .layer_drop import layer_drop
from .layer_drop import reference as layer_drop_reference
from .op_case import DIT_SIZES, Arguments, OpCase, Shape, Spoiled, cut, noise, rows
from .quantize_rows import quantize_rows
from .quantize_rows import reference as quantize_rows_reference

_SIZES = {k: DIT_SIZES[k] for k in ("mini-32s", "open-small", "open-1.0", "sa3-medium-380s")}

# ---- quantize_rows: shapes are (batch, tokens, width) ----------------------------------------------------------------

_ROWS_SMALL: tuple[Shape, ...] = (
    (2, 5, 64), (1, 1, 1), (1, 3, 7), (2, 2, 8), (1, 2, 9), (3, 4, 15), (1, 4, 16), (2, 3, 17), (1, 2, 31),
    (2, 129, 33), (2, 3, 331), (0, 4, 16), (2, 0, 16), (5, 0), (7, 33),
)  # fmt: skip
_QUANTIZE_CASE = OpCase(
    name="quantize_rows",
    op=quantize_rows,
    reference=quantize_rows_reference,
    make=lambda shape, dtype, rng: {"x": rows(shape, dtype, rng)},
    small=_ROWS_SMALL,
    not_finite=("x",),
    exact=True,
    bad=(
        (lambda a: {"x": a["x"].int()}, TypeError, "x"),
        (lambda a: {"x": a["x"][0, 0, 0]}, ValueError, "x"),
    ),
    real=_SIZES,
    bytes_moved=lambda s, item: s[0] * s[1] * s[2] * (item + 1),
    # magnitude, maximum, product (of float32), rounding, narrowing
    eager_bytes=lambda s, item: s[0] * s[1] * s[2] * ((item + 4 if item < 4 else 0) + 8 + 4 + 8 + 8 + 5),
    flops=lambda s: 4 * s[0] * s[1] * s[2],
)


# ---- hidden_variance, layer_drop: shapes are (batch, tokens, width) and, of layer_drop, the depth --------------------

_HIDDEN_SMALL: tuple[Shape, ...] = (
    (2, 5, 32), (1, 1, 1), (1, 3, 7), (2, 2, 8), (3, 4, 15), (1, 4, 16), (2, 3, 17), (1, 2, 31), (2, 66, 33),
    (1, 3, 331), (0, 4, 16),
)  # fmt: skip

_VARIANCE_CASE = OpCase(
    name="hidden_variance",
    op=hidden_variance,
    reference=hidden_variance_reference,
    make=lambda shape, dtype, rng: {"x": rows(shape, dtype, rng)},
    small=_HIDDEN_SMALL,
    gradients=("x",),
    gradient_small=_HIDDEN_SMALL,
    bad=((lambda a: {"x": a["x"][0]}, ValueError, "x"),),
    real=_SIZES,
    bytes_moved=lambda s, item: s[0] * s[1] * s[2] * item,
    # mean, difference, square, mean
    eager_bytes=lambda s, item: s[0] * s[1] * s[2] * ((item + 4 if item < 4 else 0) + 24),
    flops=lambda s: 4 * s[0] * s[1] * s[2],
)


def _drop_case(variant: str, rescaled: bool, real: dict[str, Shape]) -> OpCase:
    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
        (B, T, C), (L,) = shape[:3], shape[3:] or (3,)
        wide = torch.promote_types(dtype, torch.float32)
        return {
            "hidden": [rows((B, T, C), dtype, rng) for _ in range(L)],
            "budget": (torch.arange(B) * 2 + 1) % L + 1,  # 2, 1, 3 of 3
            "target_variance": noise((B,), wide, rng, 4.0, 0.3) if rescaled else None,
        }

    bad: list[Spoiled] = [
        (lambda a: {**a, "hidden": [*a["hidden"][:-1], a["hidden"][-1][:, :-1]]}, ValueError, "hidden"),
        (lambda a: {**a, "hidden": [*a["hidden"][:-1], a["hidden"][-1].double()]}, TypeError, "hidden"),
        (lambda a: {**a, "hidden": []}, ValueError, "hidden"),
        (lambda a: {**a, "budget": a["budget"][:-1]}, ValueError, "budget"),
        (lambda a: {**a, "budget": a["budget"].int()}, TypeError, "budget"),
    ]
    bad += [(cut("target_variance"), ValueError, "target_variance")] * rescaled
    small = tuple(s for s in _HIDDEN_SMALL if s[1] * s[2] > 1) if rescaled else _HIDDEN_SMALL
    return OpCase(
        name="layer_drop",
        op=layer_drop,
        reference=layer_drop_reference,
        make=make,
        small=small,
        variant=variant,
        gradients=("hidden",),
        gradient_small=small,
        bad=tuple(bad),
        real=real,
        bytes_moved=lambda s, item: (3 if rescaled else 2) * s[0] * s[1] * s[2] * item,
        # the stack is read and written, gathered, copied; mean, difference, square, mean
        eager_bytes=lambda s, item: s[0] * s[1] * s[2] * ((2 * s[3] + 4) * item + 24),
        flops=lambda s: 4 * s[0] * s[1] * s[2],
    )


_DROP_SIZES: dict[str, Shape] = {"mini-32s": (2, 345, 320, 8), "open-1.0": (2, 1025, 1536, 24)}

HIDDEN_CASES: tuple[OpCase, ...] = (
    _QUANTIZE_CASE,
    _VARIANCE_CASE,
    _drop_case("", False, _DROP_SIZES),
    _drop_case("rescaled", True, _DROP_SIZES),
)
