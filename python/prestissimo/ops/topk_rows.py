# SPDX-License-Identifier: Apache-2.0
"""What the top-k ops share: their one signature, rows in CSR, noise, and hard selection."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .philox_gumbel import gumbel
from .philox_normal import words
from .registration import expect_shape, scratch, torch

if TYPE_CHECKING:
    from torch import Tensor

# The arguments of every top-k op after the scores, and what stands for each in its schema.
SCHEMA = (
    "Tensor scores, int k, Tensor? counts, Tensor? offsets, float temperature, bool hard, int selected,"
    " Tensor? slots, Tensor? noise"
)


def schema_arguments(
    op: str,
    scores: Any,
    k: Any,
    offsets: Any,
    temperature: float,
    hard: bool,
    slots: Any,
    seed: int | None,
    stream: int,
    most: int,
) -> tuple[Any, ...]:
    """From the public arguments of a top-k op to those of SCHEMA: scores as [rows, length] or, with offsets, [size]."""
    if offsets is None:
        if len(scores.shape) == 0:
            raise ValueError(f"{op}: scores must have at least 1 dimension, got shape []")
        rows = scores if len(scores.shape) == 2 else scores.reshape(-1, scores.shape[-1])
    else:
        rows = scores
    counts = slot_counts = None
    if hasattr(k, "dtype"):
        counts, k = k.reshape(-1), most
    if hasattr(slots, "dtype"):
        slot_counts, slots = slots.reshape(-1), -1
    noise = None
    if seed is not None:
        one, none = words(op, "seed", [seed], like=scores), words(op, "seed", [0], like=scores)
        noise = gumbel(one, none, stream, math.prod(rows.shape)).reshape(rows.shape)
    selected = -1 if slots is None else int(slots)
    if slots is not None and slot_counts is None and selected < 0:
        raise ValueError(f"{op}: slots must be at least 0, got {slots}")
    return rows, k, counts, offsets, temperature, hard, selected, slot_counts, noise


def row_count(scores: Any, offsets: Any) -> int:
    rows: int = scores.shape[0] if offsets is None else offsets.shape[0] - 1
    return rows


def check_rows(op: str, most: int, scores: Any, k: int, counts: Any, offsets: Any, temperature: float,
               hard: bool, selected: int, slots: Any, noise: Any) -> None:  # fmt: skip
    dims = 1 if offsets is not None else 2
    if len(scores.shape) != dims:
        raise ValueError(f"{op}: scores must have {dims} dimensions, got shape {list(scores.shape)}")
    if offsets is not None and (len(offsets.shape) != 1 or offsets.shape[0] < 1):
        raise ValueError(f"{op}: offsets must be [rows + 1], got {list(offsets.shape)}")
    rows = row_count(scores, offsets)
    expect_shape(op, "k", counts, (rows,))
    expect_shape(op, "slots", slots, (rows,))
    expect_shape(op, "noise", noise, tuple(scores.shape))
    for name, v in (("k", counts), ("offsets", offsets), ("slots", slots)):
        if v is not None and not str(v.dtype).endswith("int64"):
            raise TypeError(f"{op}: {name} must be int64, got {v.dtype}")
    if counts is None and not 0 <= k <= most:
        raise ValueError(f"{op}: k must be from 0 to {most}, got {k}")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"{op}: temperature must be positive, got {temperature}")


# ---- for the references: rows padded to the longest, in at least float32


class DenseRows:
    """Rows as [rows, longest] with minus infinity (or zeros) behind the short ones, and the way back."""

    def __init__(self, scores: Tensor, k: int, counts: Tensor | None, offsets: Tensor | None) -> None:
        self.shape = scores.shape
        self.wide = torch.promote_types(scores.dtype, torch.float32)
        self.dtype = scores.dtype
        if offsets is None:
            self.valid = torch.ones(scores.shape, dtype=torch.bool, device=scores.device)
        else:
            lengths = offsets.diff()
            longest = int(lengths.max()) if len(lengths) else 0
            self.valid = torch.arange(longest, device=scores.device) < lengths[:, None]
        rows = self.valid.shape[0]
        self.k = torch.full((rows,), k, device=scores.device) if counts is None else counts

    def dense(self, values: Tensor, fill: float = 0.0) -> Tensor:
        out = torch.full(self.valid.shape, fill, dtype=self.wide, device=values.device)
        return out.masked_scatter(self.valid, values.to(self.wide).reshape(-1))

    def flat(self, dense: Tensor) -> Tensor:
        return dense[self.valid].reshape(self.shape).to(self.dtype)

    def scores(self, scores: Tensor, noise: Tensor | None) -> Tensor:
        """scores + noise; a row without any score is all zeros, so that nothing divides zero by zero."""
        a = self.dense(scores, -torch.inf)
        if noise is not None:
            a = a + self.dense(noise)
        return torch.where(self.valid.any(-1, keepdim=True), a, torch.zeros_like(a))

    def straight_through(
        self, soft: Tensor, order: tuple[Tensor, ...], selected: int, slots: Tensor | None
    ) -> Tensor:
        """hard - stopgrad(soft) + soft, hard being 1 at the `slots` highest of each row by the keys of `order`, the
        weightiest first, ties to the first element."""
        count = slots if slots is not None else torch.full_like(self.k, selected) if selected >= 0 else self.k
        keys = [torch.where(self.valid, key.detach(), torch.full_like(key, -torch.inf)) for key in order]
        index = torch.arange(soft.shape[-1], device=soft.device).expand(soft.shape)
        for key in reversed(keys):
            best_first = key.gather(-1, index).sort(dim=-1, descending=True, stable=True)[1]
            index = index.gather(-1, best_first)
        chosen = torch.arange(soft.shape[-1], device=soft.device) < count[:, None]
        hard = torch.zeros_like(soft).scatter(-1, index, chosen.to(soft.dtype))
        return hard - soft.detach() + soft


def workspace(like: Any, planes: int) -> Any:
    """Floats that GPU kernels keep between passes; None on the CPU."""
    return scratch(like, (planes * math.prod(like.shape),), "float32")


def shaped(y: Any, scores: Any) -> Any:
    """`y` with the shape of the scores as they were given."""
    return y if y.shape == scores.shape else y.reshape(scores.shape)
