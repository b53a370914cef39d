# SPDX-License-Identifier: Apache-2.0
"""What sigmoid_topk, ot_topk and sparse_topk share: y = h((scores - s) / t) with the s at which a row sums to k."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .registration import Op, _core, empty_like, expect_shape, launch, new_empty, torch
from .topk_rows import SCHEMA, DenseRows, check_rows, row_count, workspace

if TYPE_CHECKING:
    from torch import Tensor

MOST = 2**63 - 1  # kMostTopk of csrc/ops/threshold_topk.h
NO_THRESHOLD = 3.4e38  # kNoThreshold
Link = Callable[..., "tuple[Tensor, Tensor]"]


def threshold_op(
    name: str, reference: Callable[..., Any], link: Link, scale: float = 1.0, p: bool = False
) -> Op:
    """The op and its backward. link(u, *p): h(u) and h'(u); `scale` times the temperature is t; p: whether there is a
    last argument of that name."""
    extra = ", float p" if p else ""

    def check(*arguments: Any) -> None:
        check_rows(name, MOST, *arguments[:9])
        _check_p(name, *arguments[9:])

    def outputs(scores: Any, offsets: Any) -> tuple[Any, Any]:
        return empty_like(scores), new_empty(scores, (row_count(scores, offsets), 2), "float32")

    def kernel(*arguments: Any) -> tuple[Any, Any]:
        scores, k, counts, offsets, temperature, hard, *rest = arguments
        out, thresholds = outputs(scores, offsets)
        head = (scores, k, counts, offsets, temperature, int(hard), *rest)
        launch(getattr(_core, name), *head, workspace(scores, 2), out, thresholds)
        return out, thresholds

    def fake(scores: Any, k: int, counts: Any, offsets: Any, *_: Any) -> tuple[Any, Any]:
        kind = torch.float64 if scores.dtype == torch.float64 else torch.float32
        return scores.new_empty(scores.shape), scores.new_empty((row_count(scores, offsets), 2), dtype=kind)

    op = Op(
        f"{name}({SCHEMA}{extra}) -> (Tensor, Tensor)",
        kernel=kernel,
        reference=reference,
        fake=fake,
        check=check,
    )

    def backward_check(
        dout: Any, scores: Any, thresholds: Any, offsets: Any, temperature: float, noise: Any, *p: float
    ) -> None:
        backward = f"{name}_backward"
        check_rows(backward, MOST, scores, 0, None, offsets, temperature, False, -1, None, noise)
        expect_shape(backward, "dout", dout, tuple(scores.shape))
        expect_shape(backward, "thresholds", thresholds, (row_count(scores, offsets), 2))
        _check_p(backward, *p)

    def backward_kernel(dout: Any, scores: Any, *rest: Any) -> Any:
        dscores = empty_like(scores)
        launch(getattr(_core, f"{name}_backward"), dout, scores, *rest, dscores)
        return dscores

    def backward_reference(
        dout: Tensor, scores: Tensor, thresholds: Tensor, offsets: Tensor | None, temperature: float,
        noise: Tensor | None, *p: float,
    ) -> Tensor:  # fmt: skip
        """The closed form in csrc/ops/threshold_topk.h, in plain PyTorch."""
        rows = DenseRows(scores, 0, None, offsets)
        t = temperature * scale
        shift, rest = thresholds.to(rows.wide).unbind(-1)
        v = link((rows.scores(scores, noise) - shift[:, None]) / t - rest[:, None], *p)[1]
        dy, total = rows.dense(dout), v.sum(-1, keepdim=True)
        mean = (v * dy).sum(-1, keepdim=True) / total
        return rows.flat(v * (dy - torch.where(total == 0, 0, mean)) / t)

    backward_op = Op(
        f"{name}_backward(Tensor dout, Tensor scores, Tensor thresholds, Tensor? offsets, float temperature,"
        f" Tensor? noise{extra}) -> Tensor",
        kernel=backward_kernel,
        reference=backward_reference,
        fake=lambda dout, scores, *_: scores.new_empty(scores.shape),
        check=backward_check,
    )

    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, Any]) -> None:
        scores, _, _, offsets, ctx.temperature, _, _, _, noise, *ctx.p = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(scores, output[1], offsets, noise)

    def gradient(ctx: Any, dout: Tensor, _: Any) -> tuple[Any, ...]:
        scores, thresholds, offsets, noise = ctx.saved_tensors
        dscores = backward_op(dout, scores, thresholds, offsets, ctx.temperature, noise, *ctx.p)
        return (dscores, *(None,) * (8 + len(ctx.p)))

    op.gradient(gradient, setup)
    return op


def _check_p(op: str, p: float = 2.0) -> None:
    if not 1.0 < p <= 2.0:
        raise ValueError(f"{op}: p must be above 1 and at most 2, got {p}")


# ---- for the references


class ThresholdRows(DenseRows):
    """Rows whose sum of h((a - s) / t) is to be k, and what becomes of them."""

    def __init__(
        self,
        scores: Tensor,
        k: int,
        counts: Tensor | None,
        offsets: Tensor | None,
        noise: Tensor | None,
        t: float,
    ) -> None:
        super().__init__(scores, k, counts, offsets)
        self.a, self.t = self.scores(scores, noise), t
        first = self.a.detach() if self.a.shape[-1] else self.a.new_zeros(len(self.a), 1)
        self.highest = first.amax(-1, keepdim=True)
        self.z = (self.a - self.highest) / t
        least = first.masked_fill(first == -torch.inf, torch.inf).amin(-1, keepdim=True)
        self.lowest = ((least - self.highest) / t).clamp(max=0)  # of z, of the finite scores
        self.finite = (self.a > -torch.inf).sum(-1, keepdim=True)
        wanted, n = self.k[:, None], self.finite
        self.all_of, self.none_of = wanted >= n, wanted <= 0
        # those rows need no threshold; half of their scores has one, and gradients without NaN
        self.wanted = torch.where(self.all_of | self.none_of, n / 2, wanted).to(self.wide)

    def bisect(self, sums: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
        """The b of [low, high] with sums(b) = k, the middle of all that have it: 100 halvings from each side."""
        ends = []
        for side in (torch.lt, torch.le):
            below, above = low, high
            for _ in range(100):
                middle = below + (above - below) / 2
                less = side(sums(middle), self.wanted)
                below, above = torch.where(less, middle, below), torch.where(less, above, middle)
            ends.append(below + (above - below) / 2)
        return (ends[0] + ends[1]) / 2

    def finish(
        self, b: Tensor, link: Link, p: tuple[float, ...], hard: bool, selected: int, slots: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """y and the thresholds, from the b with sum h(z + b) = k. One differentiable step of Newton, whose value is
        nothing, gives b the derivative that the sum implies."""
        value, slope = link(self.z + b, *p)
        total = slope.detach().sum(-1, keepdim=True)
        flat = total == 0
        step = (self.wanted - value.sum(-1, keepdim=True)) / torch.where(flat, 1, total)
        b = b + torch.where(flat, 0, step)
        y = link(self.z + b, *p)[0]
        all_of, none_of = self.all_of, self.none_of
        odd = (self.highest - self.highest).expand(y.shape)  # NaN where the highest is infinite or NaN
        y = torch.where(all_of, (self.a > -torch.inf).to(y.dtype) + odd, y)
        y = torch.where(none_of, 0, y)
        shift = (self.highest - b * self.t).detach()
        shift = torch.where(all_of, -NO_THRESHOLD + odd[:, :1], shift)
        shift = torch.where(none_of, NO_THRESHOLD, shift)
        if hard:
            y = self.straight_through(y, (self.a,), selected, slots)
        kind = torch.float64 if self.wide == torch.float64 else torch.float32
        return self.flat(y), torch.cat([shift, torch.zeros_like(shift)], -1).to(kind)
