# SPDX-License-Identifier: Apache-2.0
"""The top-k ops forward and backward beside eager PyTorch and, where they are installed, entmax and POT.

    pytest benchmarks/bench_selection.py --benchmark-json=selection.json

Sizes: Lead-AE's rows (papers' onsets of one song batch, CSR) and long dense rows. The loop is what eager PyTorch would
run: k softmaxes over padded rows, or 32 halvings of the threshold's range (bench_ops.py has it compiled). Values are
compared before anything is timed; extra_info holds the rivals' times, taken in turn with ours.
"""

from __future__ import annotations

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


def peers(case: OpCase, a: dict[str, Any], g: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """The same rows by libraries that have them: dense, one k."""
    scores, k = a["scores"], a["k"]
    if a["offsets"] is not None or not isinstance(k, int):
        return {}
    if case.name == "sparse_topk" and a["p"] == 2.0:
        try:
            from entmax import budget_bisect
        except ImportError:
            return {}
        t = a["temperature"]
        return {"entmax": both_directions(lambda: budget_bisect(scores / t, budget=k, n_iter=24), scores, g)}
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
