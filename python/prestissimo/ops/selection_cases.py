# SPDX-License-Identifier: Apache-2.0
"""Cases of the ops that select: Gumbel noise and the top-k ops."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .op_case import Arguments, OpCase, Shape, cut, noise
from .ot_topk import ot_topk
from .philox_gumbel import philox_gumbel
from .philox_gumbel import reference as philox_gumbel_reference
from .relaxed_topk import relaxed_topk
from .sigmoid_topk import sigmoid_topk
from .sparse_topk import sparse_topk
from .threshold_topk import ThresholdRows
from .topk_rows import DenseRows, schema_arguments

# rows and the longest of them: empty, single, whole vectors and one more or less, primes, as long as real ones
_SMALL: tuple[Shape, ...] = (
    (3, 5), (1, 1), (7, 2), (5, 8), (4, 9), (3, 15), (9, 16), (2, 17), (6, 31), (2, 33), (3, 64), (1, 257), (40, 3),
    (0, 4), (2, 0),
)  # fmt: skip
# Lead-AE: onsets of eight songs of at most 1280 tokens, and the most notes at one of them
_WIDE: dict[str, Shape] = {"1000": (64, 1000), "4096": (64, 4096)}
_ONSETS: dict[str, Shape] = {"lead-ae-32": (8, 320, 32), "lead-ae-200": (8, 200, 200)}


def _offsets(rows: int, longest: int, rng: torch.Generator) -> Tensor:
    """Rows as onsets have them: two or three notes, now and then any number, the first as many as there can be."""
    lengths = 1 + torch.empty(rows).exponential_(0.6, generator=rng).long().clamp(max=longest - 1)
    anything = torch.randint(0, longest + 1, (rows,), generator=rng)
    lengths = torch.where(torch.rand(rows, generator=rng) < 0.1, anything, lengths)
    lengths[:1] = longest
    return torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])


def topk_case(
    op: Callable[..., Any],
    variant: str,
    *,
    k: int | None,
    csr: bool = False,
    temperature: float = 1.0,
    hard: bool = False,
    seeded: bool = False,
    most: int = 1 << 62,
    spread: float = 2.0,
    p: float | None = None,
    real: dict[str, Shape] | None = None,
) -> OpCase:
    """k None: a number for each row. A hard case selects a number of its own in each row. p: of sparse_topk."""
    name = op.__name__
    module = importlib.import_module(f"prestissimo.ops.{name}")

    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
        rows, longest = math.prod(shape[:-1]), shape[-1]
        offsets = _offsets(rows, longest, rng) if csr else None
        size = (rows, longest) if offsets is None else (int(offsets[-1]),)
        some = lambda most: torch.randint(0, most + 1, (rows,), generator=rng)  # noqa: E731
        return {
            "scores": noise(size, dtype, rng, 3.0, spread),
            "k": some(9) if k is None else k,
            "offsets": offsets,
            "temperature": temperature,
            "hard": hard,
            "slots": some(4) if hard else None,
            "seed": 11 if seeded else None,
            "stream": 5,
            **({} if p is None else {"p": p}),
        }

    def to_schema(a: Arguments) -> tuple[Any, ...]:
        shared = {name: v for name, v in a.items() if name != "p"}
        return (*schema_arguments(name, **shared, most=most), *([a["p"]] if "p" in a else []))

    def reference(**a: Any) -> Tensor:
        out = module.reference(*to_schema(a))
        y: Tensor = out[0] if isinstance(out, tuple) else out
        return y.reshape(a["scores"].shape)

    def distance(**a: Any) -> Tensor:
        """Of every soft value from the middle between the last that its row selects and the first that it does not."""
        arguments = to_schema({**a, "hard": False})
        rows = DenseRows(*arguments[:4])
        soft = rows.dense(reference(**{**a, "hard": False}), -torch.inf)
        count = rows.k if a["slots"] is None else a["slots"]
        ordered = torch.nn.functional.pad(soft.sort(-1, descending=True)[0], (1, 1), value=-torch.inf)
        ordered[:, 0] = torch.inf
        at = count.clamp(max=soft.shape[-1])[:, None]
        middle = (ordered.gather(-1, at) + ordered.gather(-1, at + 1)) / 2
        return (soft - middle).abs()[rows.valid].reshape(a["scores"].shape)

    def halvings(a: Arguments) -> Callable[[], Tensor]:
        """What eager PyTorch would run: 32 halvings of the threshold's range, in float32 all there is to gain."""
        scores, k, counts, offsets, t, _, _, _, noise, *rest = to_schema(a)

        def run() -> Tensor:
            rows = ThresholdRows(scores, k, counts, offsets, noise, t / 2 if name == "ot_topk" else t)
            n = rows.finite.to(rows.wide)
            low = torch.zeros_like(n) if rest else torch.log(rows.wanted / (n - rows.wanted))
            high = low - rows.lowest + (1 if rest else 0)
            for _ in range(32):
                middle = (low + high) / 2
                less = module.link(rows.z + middle, *rest)[0].sum(-1, keepdim=True) < rows.wanted
                low, high = torch.where(less, middle, low), torch.where(less, high, middle)
            y = torch.where(rows.all_of, 1.0, module.link(rows.z + high, *rest)[0])
            return rows.flat(torch.where(rows.none_of, 0.0, y)).reshape(a["scores"].shape)

        return run

    spoil: list[tuple[Callable[[Arguments], Arguments], type[Exception], str]] = [
        (lambda a: {**a, "temperature": 0.0}, ValueError, "temperature"),
        (lambda a: {**a, "temperature": math.inf}, ValueError, "temperature"),
        (lambda a: {**a, "slots": -2}, ValueError, "slots"),
    ]
    if k is None:
        spoil += [(cut("k"), ValueError, "k"), (lambda a: {**a, "k": a["k"].int()}, TypeError, "k")]
    else:
        spoil.append((lambda a: {**a, "k": -1}, ValueError, "k"))
    if csr:
        spoil += [
            (lambda a: {**a, "scores": a["scores"][None]}, ValueError, "scores"),
            (lambda a: {**a, "offsets": a["offsets"].int()}, TypeError, "offsets"),
        ]
    if p is not None:
        spoil += [(lambda a: {**a, "p": 1.0}, ValueError, "p"), (lambda a: {**a, "p": 2.5}, ValueError, "p")]
    work = lambda s: math.prod(s[:-1]) * (4 if csr else s[-1])  # noqa: E731
    return OpCase(
        name=name,
        op=op,
        reference=reference,
        make=make,
        small=_SMALL,
        variant=variant,
        gradients=("scores",),
        gradient_small=_SMALL,
        smooth=not hard,
        distance=distance if hard else None,
        overload_arguments=to_schema,
        baseline=halvings if hasattr(module, "link") else None,
        bad=tuple(spoil),
        real=real or {},
        bytes_moved=lambda s, item: 2 * work(s) * item,
        eager_bytes=lambda s, item: 16 * (k or 9) * math.prod(s) * item,
        flops=lambda s: 4 * (k or 9) * work(s),
    )


def _gumbel_reference(shape: Shape, seeds: Tensor, items: Tensor, stream: int) -> Tensor:
    return philox_gumbel_reference(seeds, items, stream, shape[0])


def _gumbel_make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
    B, N = shape
    seeds = torch.randint(-(2**63), 2**63 - 1, (B,), generator=rng)
    items = torch.randint(0, 2**32, (B,), generator=rng)
    return {"shape": (N,), "seeds": seeds, "items": items, "stream": 5}


SELECTION_CASES: tuple[OpCase, ...] = (
    OpCase(
        name="philox_gumbel",
        op=philox_gumbel,
        reference=_gumbel_reference,
        make=_gumbel_make,
        small=((1, 1), (3, 7), (2, 64), (1, 257), (2, 1023), (0, 5), (2, 0), (1, 128 * 345)),
        dtypes=(torch.float32,),
        exact=True,
        overload_arguments=lambda a: (a["seeds"], a["items"], a["stream"], a["shape"][0]),
        bad=(
            (lambda a: {**a, "items": a["items"][:-1]}, ValueError, "items"),
            (lambda a: {**a, "stream": -1}, ValueError, "stream"),
            (lambda a: {**a, "seeds": a["seeds"].to(torch.int32)}, TypeError, "seeds"),
        ),
        real={"lead-ae": (1, 8 * 1280)},
        bytes_moved=lambda s, item: 4 * s[0] * s[1],
        eager_bytes=lambda s, item: 4 * s[0] * s[1],
        flops=lambda s: 40 * s[0] * s[1],
    ),
    topk_case(relaxed_topk, "", k=3, most=64, real={"1024": (64, 1024)}),
    topk_case(relaxed_topk, "onsets", k=2, csr=True, most=64, real=_ONSETS),
    topk_case(relaxed_topk, "onsets-tenth", k=21, csr=True, most=64, real=_ONSETS),
    topk_case(relaxed_topk, "onsets-each", k=None, csr=True, seeded=True, most=64),
    topk_case(relaxed_topk, "hard", k=None, csr=True, hard=True, seeded=True, most=64),
    topk_case(relaxed_topk, "cold", k=4, temperature=0.5, most=64),
    topk_case(relaxed_topk, "widest", k=64, most=64, real={"4096": (64, 4096)}),
    topk_case(sigmoid_topk, "", k=3, real=_WIDE),
    topk_case(sigmoid_topk, "onsets", k=None, csr=True, seeded=True, real=_ONSETS),
    topk_case(sigmoid_topk, "hard", k=2, csr=True, hard=True),
    topk_case(sigmoid_topk, "cold", k=7, temperature=0.1, csr=True),
    topk_case(ot_topk, "", k=3, temperature=2.0, real=_WIDE),
    topk_case(ot_topk, "onsets", k=None, csr=True, temperature=2.0, real=_ONSETS),
    topk_case(ot_topk, "hard", k=None, csr=True, temperature=2.0, hard=True, seeded=True),
    topk_case(sparse_topk, "", k=3, p=2.0, real=_WIDE),
    topk_case(sparse_topk, "onsets", k=None, csr=True, seeded=True, p=4 / 3, real=_ONSETS),
    topk_case(sparse_topk, "smooth", k=5, temperature=0.3, p=4 / 3),
    topk_case(sparse_topk, "odd", k=2, csr=True, p=1.6),
    topk_case(sparse_topk, "hard", k=None, csr=True, hard=True, p=2.0),
)
