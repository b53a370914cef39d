# SPDX-License-Identifier: Apache-2.0
"""`attention` forward and backward beside torch's scaled_dot_product_attention and the ceiling of its products.

    pytest benchmarks/bench_attention.py --benchmark-json=attention.json

The ceiling is oneDNN's prepacked product of M = K = N = 2048 in the same run. `of_ceiling` counts the work that is
done: pairs outside a window are not, the backward is five products for the forward's two. torch gets a window or
padding as a mask made beforehand, and two softmaxes as two calls. The backward is timed alone, its graph kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ceilings import onednn_product
from interleave import interleave, machine

from prestissimo import ops
from prestissimo.ops.cases import CASES, OpCase, Shape

ROWS = [
    pytest.param(case, size, shape, dtype, threads, id=f"{case.variant}-{size}-{str(dtype)[6:]}-{threads}t")
    for case in CASES
    if case.name == "attention"
    for size, shape in case.real.items()
    for dtype in (torch.float32, torch.bfloat16)
    for threads in (1, 2)
]
rows = pytest.mark.parametrize(("case", "size", "shape", "dtype", "threads"), ROWS)


def run(
    benchmark: Any,
    rivals: dict[str, Callable[[], Any]],
    shape: Shape,
    dtype: torch.dtype,
    threads: int,
    flops: int,
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rivals["ceiling"] = onednn_product(2048, 2048, 2048, dtype)
        with ops.strict_kernels():
            times = interleave(rivals, rounds=15, seconds=3.0)
            benchmark.pedantic(rivals["prestissimo"], rounds=3)
    finally:
        torch.set_num_threads(before)
    ours = times["prestissimo"].fastest
    benchmark.extra_info |= {
        "machine": machine(),
        "op": "attention",
        "threads": threads,
        "shape": list(shape),
        "dtype": str(dtype)[6:],
        "microseconds": {k: t.fastest * 1e6 for k, t in times.items()},
        "spread": {k: t.spread for k, t in times.items()},
        "of_ceiling": flops / ours / (2 * 2048**3 / times["ceiling"].fastest),
        "of_sdpa": times["sdpa"].fastest / ours,
        "flops": flops,
    }
    info = benchmark.extra_info
    print(f"\n{info['of_ceiling']:.2f} of the ceiling, {info['of_sdpa']:.2f} times as fast as torch")


@rows
def test_forward(
    benchmark: Any, case: OpCase, size: str, shape: Shape, dtype: torch.dtype, threads: int
) -> None:
    a = case.make(shape, dtype, torch.Generator().manual_seed(0))
    assert case.baseline is not None
    with torch.inference_mode():
        ours, theirs = (lambda: case.op(**a)), case.baseline(a)
        torch.testing.assert_close(ours().float(), theirs().float(), rtol=0.05, atol=0.02)
        rivals: dict[str, Callable[[], Any]] = {"prestissimo": ours, "sdpa": theirs}
        run(benchmark, rivals, shape, dtype, threads, case.flops(shape))


@rows
def test_backward(
    benchmark: Any, case: OpCase, size: str, shape: Shape, dtype: torch.dtype, threads: int
) -> None:
    a = case.make(shape, dtype, torch.Generator().manual_seed(0))
    leaves = [a[name].requires_grad_() for name in case.gradients]
    assert case.baseline is not None
    y, z = case.op(**a), case.baseline(a)()
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype)

    def gradient(output: torch.Tensor) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(output, leaves, g, retain_graph=True)

    for mine, theirs in zip(gradient(y)(), gradient(z)(), strict=True):
        close = 0.05 * float(theirs.float().abs().max())
        torch.testing.assert_close(mine.float(), theirs.float(), rtol=0.1, atol=close)
    rivals = {"prestissimo": gradient(y), "sdpa": gradient(z)}
    run(benchmark, rivals, shape, dtype, threads, 5 * case.flops(shape) // 2)
