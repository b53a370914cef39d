# SPDX-License-Identifier: Apache-2.0
"""Cases of the ops over hierarchies of labels; part of the table in cases.py."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .hierarchy_argmax import hierarchy_argmax
from .hierarchy_argmax import reference as hierarchy_argmax_reference
from .hierarchy_probs import hierarchy_probs
from .hierarchy_probs import reference as hierarchy_probs_reference
from .op_case import Arguments, OpCase, Shape, cut, noise, other_dtype

# Food-101 with 50 subclasses each is the largest of CHiLS's label sets, Fruits-360 the next
_FOOD_CLASSES = 101
_SCALE = 100.0


def _parents(S: int, C: int, rng: torch.Generator) -> Tensor:
    """Some classes with many subclasses, some with none, in no order."""
    return (torch.rand(S, generator=rng) ** 2 * C).long()


def _classes(S: int) -> int:
    return _FOOD_CLASSES if S > 1000 else 1 + S // 4


# ---- hierarchy_argmax: (N, S, E)

_PRODUCT_SMALL: tuple[Shape, ...] = (
    (3, 9, 8), (1, 1, 1), (5, 33, 7), (14, 31, 16), (15, 32, 17), (29, 65, 33), (2, 131, 40), (1, 300, 24),
    (450, 40, 31), (0, 4, 8),
)  # fmt: skip


def _unit(shape: Shape, rng: torch.Generator) -> Tensor:
    v = noise(shape, torch.float64, rng)
    return v / v.norm(dim=-1, keepdim=True)


def _argmax_case(variant: str, reweighted: bool, real: dict[str, Shape] | None = None) -> OpCase:
    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
        N, S, E = shape
        parents = _parents(S, _classes(S), rng)
        classes = _unit((_classes(S), E), rng)
        subclasses = _unit((S, E), rng) + 0.7 * classes[parents]
        features = _unit((N, E), rng) + 0.3 * subclasses[torch.randint(0, S, (N,), generator=rng)]
        return {
            "features": features.to(dtype),
            "subclasses": subclasses.to(dtype),
            "parents": parents,
            "classes": classes.to(dtype) if reweighted else None,
        }

    def rating(a: Arguments, chosen: Tensor) -> Tensor:
        """The exact rating of each row's chosen class, which says how good a choice among near equals is."""
        wide = {k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in a.items()}
        weights = wide["subclasses"]
        if reweighted:
            weights = weights + wide["classes"][a["parents"]]
        rated = (wide["features"] @ weights.T).masked_fill(a["parents"] != chosen[:, None], -torch.inf)
        return rated.amax(-1).to(a["features"].dtype)

    def two_softmaxes(a: Arguments) -> Callable[[], Tensor]:
        """As the paper has it."""
        x, w, parents, u = a.values()

        def run() -> Tensor:
            p = torch.softmax(_SCALE * (x @ w.T), -1)
            if u is not None:
                p = p * torch.softmax(_SCALE * (x @ u.T), -1)[:, parents]
            return parents[p.argmax(-1)]

        return run

    names = ("subclasses", *(("classes",) if reweighted else ()))
    bad = [(cut(name), ValueError, name) for name in names] + [
        (other_dtype(name), TypeError, name) for name in names
    ]
    return OpCase(
        name="hierarchy_argmax",
        op=hierarchy_argmax,
        reference=hierarchy_argmax_reference,
        make=make,
        small=_PRODUCT_SMALL,
        variant=variant,
        not_finite=("features", *names),
        conditioned=rating,
        baseline=two_softmaxes,
        bad=(
            (lambda a: {**a, "features": a["features"][0]}, ValueError, "features"),
            *bad,
            (lambda a: {**a, "subclasses": a["subclasses"][:0]}, ValueError, "subclasses"),
            (cut("parents"), ValueError, "parents"),
            (lambda a: {**a, "parents": a["parents"].int()}, TypeError, "parents"),
        ),
        real=real or {},
        bytes_moved=lambda s, item: (
            (s[0] + s[1] + reweighted * _classes(s[1])) * s[2] * item + 8 * (s[0] + s[1])
        ),
        # the product, its softmax, and, re-weighted, that of the classes, gathered, and their product
        eager_bytes=lambda s, item: s[0] * s[2] * item + (9 if reweighted else 5) * s[0] * s[1] * item,
        flops=lambda s: 2 * s[0] * s[1] * s[2],
    )


# ---- hierarchy_probs: (..., S)

_ROWS_SMALL: tuple[Shape, ...] = (
    (3, 24), (1, 1), (5, 7), (2, 8), (4, 9), (3, 15), (6, 16), (2, 17), (7, 31), (9, 33), (2, 257), (0, 5), (3, 0),
)  # fmt: skip


def _probs_make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
    N, S = math.prod(shape[:-1]), shape[-1]
    return {
        "subclass_logits": noise((N, S), dtype, rng, 2.0, 3.0),
        "class_logits": noise((N, _classes(S)), dtype, rng, -1.0, 2.0),
        "parents": _parents(S, _classes(S), rng),
    }


HIERARCHY_CASES: tuple[OpCase, ...] = (
    _argmax_case("", True, {"food-101": (50_000, 4244, 768)}),
    _argmax_case("subclasses-alone", False, {"fruits-360": (10_000, 2418, 768)}),
    OpCase(
        name="hierarchy_probs",
        op=hierarchy_probs,
        reference=hierarchy_probs_reference,
        make=_probs_make,
        small=_ROWS_SMALL,
        gradients=("subclass_logits", "class_logits"),
        # one class or subclass has no gradient but rounding errors
        gradient_small=tuple(s for s in _ROWS_SMALL if s[-1] > 3),
        bad=(
            (lambda a: {**a, "subclass_logits": a["subclass_logits"][0]}, ValueError, "subclass_logits"),
            (lambda a: {**a, "class_logits": a["class_logits"][:-1]}, ValueError, "class_logits"),
            (other_dtype("class_logits"), TypeError, "class_logits"),
            (cut("parents"), ValueError, "parents"),
            (lambda a: {**a, "parents": a["parents"].int()}, TypeError, "parents"),
        ),
        real={"food-101": (4096, 4244)},
        bytes_moved=lambda s, item: s[0] * (2 * s[1] + _FOOD_CLASSES) * item,
        eager_bytes=lambda s, item: s[0] * (7 * s[1] + 2 * _FOOD_CLASSES) * item,
        flops=lambda s: s[0] * 30 * s[1],
    ),
)
