# SPDX-License-Identifier: Apache-2.0
"""`dit_block` beside the same ops one after another, eager PyTorch and the ceiling of its products.

    pytest benchmarks/bench_block.py -s --benchmark-json=block.json

The ceiling is oneDNN's prepacked product of M = K = N = 2048 in the same run, of which `GOALS` must be reached. Eager
has plain bfloat16 weights and torch's own attention.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ceilings import DTYPES, onednn_product
from interleave import interleave, machine

from prestissimo import ops
from prestissimo.ops.cases import CASES

dit_block = importlib.import_module("prestissimo.ops.dit_block")
BLOCKS = {case.variant: case for case in CASES if case.name == "dit_block"}
# models.md 6.1: batch, tokens, heads, head dim, inner width, tokens of the context
SIZES = {
    "open-small": (1, 257, 8, 128, 4096, 65),
    "open-1.0": (1, 1025, 24, 64, 6144, 130),
    "open-1.0-int8": (1, 1025, 24, 64, 6144, 130),
}
GOALS = {"bfloat16": 0.8, "int8": 0.6}


@pytest.mark.parametrize("threads", [1, 2], ids=lambda n: f"{n}t")
@pytest.mark.parametrize("variant", SIZES)
def test_block(benchmark: Any, variant: str, threads: int) -> None:
    case, shape = BLOCKS[variant], SIZES[variant]
    a = case.make(shape, torch.bfloat16, torch.Generator().manual_seed(0))
    product = "int8" if "int8" in variant else "bfloat16"
    flat = case.overload_arguments(a)
    assert case.baseline is not None
    rivals: dict[str, Callable[[], Any]] = {
        "prestissimo": lambda: case.op(**a),
        "ops": lambda: dit_block.composed(dit_block._BY_OPS, *flat),
        "eager": case.baseline(a),
        "ceiling": onednn_product(2048, 2048, 2048, DTYPES[product]),
    }
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode(), ops.strict_kernels():
            want = rivals["eager"]().float()
            error = float((rivals["prestissimo"]().float() - want).norm() / want.norm())
            assert error < {"bfloat16": 2e-2, "int8": 6e-2}[product]
            times = interleave(rivals, rounds=7)
            benchmark.pedantic(rivals["prestissimo"], rounds=3)
    finally:
        torch.set_num_threads(before)
    work = {name: case.flops(shape) for name in rivals} | {"ceiling": 2 * 2048**3}
    rates = {name: work[name] / t.fastest / 1e9 for name, t in times.items()}
    of_ceiling = rates["prestissimo"] / rates["ceiling"]
    print(f"\n{variant} {threads}t: {of_ceiling:.3f} of the ceiling, error {error:.1e},", end=" ")
    print(", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in rates.items()))
    benchmark.extra_info |= {
        "machine": machine(),
        "threads": threads,
        "shape": list(shape),
        "dtype": product,
        "gflop_per_s": rates,
        "spread": {name: t.spread for name, t in times.items()},
        "of_ceiling": of_ceiling,
        "goal_of_ceiling": GOALS[product],
        "relative_error": error,
    }
