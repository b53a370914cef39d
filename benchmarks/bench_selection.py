# SPDX-License-Identifier: Apache-2.0
"""The top-k ops forward and backward beside eager PyTorch and, where they are installed, torchsort, entmax and POT.

    pytest benchmarks/bench_selection.py --benchmark-json=selection.json

Sizes: Lead-AE's rows (papers' onsets of one song batch, CSR) and long dense rows. The loop is what eager PyTorch would
run: k softmaxes over padded rows, or 32 halvings of the threshold's range (bench_ops.py has it compiled). Values are
compared before anything is timed; extra_info holds the rivals' times, taken in turn with ours. torchsort has soft ranks
and no top-k: what it shares is their isotonic regression. It is built against the torch that is there:
`pip install --no-build-isolation torchsort`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch
from interleave import interleave, machine

from prestissimo import ops
from prestissimo.ops.cases import CASES, OpCase, Shape

ROWS = [
    pytest.param(case, size, shape, threads, id=f"{case.id}-{size}-{threads}t")
    for case in CASES
    if case.name.endswith("_topk")
    for size, shape in case.real.items()
    for threads in (1, 2)
]


def both_directions(
    f: Callable[[], torch.Tensor], scores: torch.Tensor, g: torch.Tensor
) -> Callable[[], Any]:
    def run() -> Any:
        return torch.autograd.grad(f(), scores, g)

    return run


class Pooled(torch.autograd.Function):
    """torchsort's SoftRank with k ones and zeros in the place of its ranks: sparse top-k with p = 2."""

    @staticmethod
    def forward(ctx: Any, scores: torch.Tensor, k: int, temperature: float) -> torch.Tensor:
        from torchsort.isotonic_cpu import isotonic_l2

        s, order = torch.sort(scores / temperature, descending=True)
        place = torch.arange(s.shape[1])
        back = torch.empty_like(order).scatter_(1, order, place.expand_as(order))
        pooled = isotonic_l2(s - (place < k).to(s.dtype))
        ctx.temperature = temperature
        ctx.save_for_backward(s, pooled, order, back)
        return (s - pooled).gather(1, back)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:  # type: ignore[override]
        from torchsort.isotonic_cpu import isotonic_l2_backward

        s, pooled, order, back = ctx.saved_tensors
        less = isotonic_l2_backward(s, pooled, g.gather(1, order)).gather(1, back)
        return (g - less) / ctx.temperature, None, None


def peers(case: OpCase, a: dict[str, Any], g: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """The same rows by libraries that have them: dense, one k."""
    scores, k = a["scores"], a["k"]
    if a["offsets"] is not None or not isinstance(k, int):
        return {}
    if case.name == "sparse_topk" and a["p"] == 2.0:
        t, found = a["temperature"], {}
        if importlib.util.find_spec("entmax"):
            from entmax import budget_bisect

            found["entmax"] = lambda: budget_bisect(scores / t, budget=k, n_iter=24)
        if importlib.util.find_spec("torchsort"):
            found["torchsort"] = lambda: Pooled.apply(scores, k, t)
        for name, f in found.items():
            assert (f() - case.op(**a)).abs().max() < 1e-3, name
        return {name: both_directions(f, scores, g) for name, f in found.items()}
    if case.name == "ot_topk":
        try:
            import ot
        except ImportError:
            return {}
        D = scores.shape[-1]
        cost = ((scores.detach()[..., None] - torch.tensor([0.0, 1.0])) ** 2).double().numpy()
        rows, columns = torch.full((D,), 1.0 / D).numpy(), torch.tensor([(D - k) / D, k / D]).numpy()
        plan = lambda c: ot.sinkhorn(rows, columns, c, reg=a["temperature"], stopThr=1e-6, warn=False)  # noqa: E731
        return {"POT, forward alone": lambda: [plan(c) for c in cost]}
    return {}


@pytest.mark.parametrize(("case", "size", "shape", "threads"), ROWS)
def test_topk(benchmark: Any, case: OpCase, size: str, shape: Shape, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        a = case.make(shape, torch.float32, torch.Generator().manual_seed(0))
        a["scores"].requires_grad_()
        g = torch.randn(a["scores"].shape, generator=torch.Generator().manual_seed(1))
        loop = case.baseline(a) if case.baseline else (lambda: case.reference(**a))
        assert (case.op(**a) - loop()).abs().max() < 2e-5
        ours = both_directions(lambda: case.op(**a), a["scores"], g)
        rivals = {
            "prestissimo": ours,
            "loop": both_directions(loop, a["scores"], g),
            **peers(case, a, g),
        }
        with ops.strict_kernels():
            times = interleave(rivals, rounds=7)
        benchmark.pedantic(ours, rounds=5, warmup_rounds=1)
    finally:
        torch.set_num_threads(before)
    fastest = {name: t.fastest for name, t in times.items()}
    gains = {name: t / fastest["prestissimo"] for name, t in fastest.items()}
    print(
        "", case.id, size, f"{threads} threads", {k: f"{1e6 * v:.0f} µs" for k, v in fastest.items()}, gains
    )
    benchmark.extra_info |= {
        "machine": machine(),
        "op": case.name,
        "threads": threads,
        "shape": list(shape),
        "microseconds": {k: v * 1e6 for k, v in fastest.items()},
        "gain": gains,
    }
