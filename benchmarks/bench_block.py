# SPDX-License-Identifier: Apache-2.0
"""`dit_block` beside the same ops one after another, eager PyTorch, torch.compile, OpenVINO and its products' ceiling.

    pytest benchmarks/bench_block.py -s --benchmark-json=block.json

The ceiling is oneDNN's prepacked product of M = K = N = 2048 in the same run, of which `GOALS` must be reached. Eager
has plain bfloat16 weights and torch's own attention; OpenVINO, where it is installed, computes in bfloat16. Training is
a step forward and backward with gradients of x, the conditioning and all weights, in bfloat16.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from bench_ops import test_ceiling  # noqa: F401 - the roofline's lines, in this run too
from ceilings import DTYPES, onednn_product
from interleave import interleave, machine
from peers import openvino

from prestissimo import ops
from prestissimo.ops.cases import CASES

dit_block = importlib.import_module("prestissimo.ops.dit_block")
BLOCKS = {case.variant: case for case in CASES if case.name == "dit_block"}
# Blocks of Stable Audio Open Small and Open 1.0: batch, tokens, heads, head dim, inner width, tokens of the context
SIZES = {
    "open-small": (1, 257, 8, 128, 4096, 65),
    "open-1.0": (1, 1025, 24, 64, 6144, 130),
    "open-1.0-int8": (1, 1025, 24, 64, 6144, 130),
}
GOALS = {"bfloat16": 0.8, "int8": 0.6}
TRAINING_GAIN = 1.3


def exported(a: dict[str, Any], threads: int) -> dict[str, Callable[[], Any]]:
    """OpenVINO's block, of the same weights in float32, which it rounds to bfloat16."""
    weights = dit_block.WEIGHTS
    wide = {n: a[n].unpack(torch.float32) if hasattr(a.get(n), "unpack") else a.get(n) for n in weights}
    wide = {n: v.float() if torch.is_tensor(v) else None for n, v in wide.items()}
    rest = {n: v for n, v in a.items() if n not in (*weights, "x", "heads", "k", "v")}
    kept = dit_block.DiTBlockWeights(**wide)

    def f(x: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = dit_block.reference(x, kept, a["heads"], k=k, v=v, fast_attention=True, **rest)
        return y

    rival = openvino(f, tuple(a[n].float() for n in ("x", "k", "v")), threads, "bfloat16")
    return {} if rival is None else {"openvino": rival}


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
        "compile": torch.compile(case.baseline(a)),
        "ceiling": onednn_product(2048, 2048, 2048, DTYPES[product]),
    }
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode(), ops.strict_kernels():
            want = rivals["eager"]().float()
            error = float((rivals["prestissimo"]().float() - want).norm() / want.norm())
            for name, rival in exported(a, threads).items():
                assert float((torch.from_numpy(rival()) - want).norm() / want.norm()) < 2e-2
                rivals[name] = rival
            assert error < {"bfloat16": 2e-2, "int8": 6e-2}[product]
            times = interleave(rivals, rounds=7)
            benchmark.pedantic(rivals["prestissimo"], rounds=3)
    finally:
        torch.set_num_threads(before)
    work = dict.fromkeys(rivals, case.flops(shape)) | {"ceiling": 2 * 2048**3}
    rates = {name: work[name] / t.fastest / 1e9 for name, t in times.items()}
    of_ceiling = rates["prestissimo"] / rates["ceiling"]
    print(f"\n{variant} {threads}t: {of_ceiling:.3f} of the ceiling, error {error:.1e},", end=" ")
    print(", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in rates.items()))
    benchmark.extra_info |= {
        "machine": machine(),
        "op": "dit_block",
        "threads": threads,
        "shape": list(shape),
        "dtype": product,
        "gflop_per_s": rates,
        "spread": {name: t.spread for name, t in times.items()},
        "of_ceiling": of_ceiling,
        "goal_of_ceiling": GOALS[product],
        "relative_error": error,
        "flops": case.flops(shape),
        "bytes": case.bytes_moved(shape, 1 if product == "int8" else 2),
        "microseconds": {name: t.fastest * 1e6 for name, t in times.items()},
    }


@pytest.mark.parametrize("threads", [1, 2], ids=lambda n: f"{n}t")
@pytest.mark.parametrize("variant", ["open-small", "open-1.0"])
def test_block_training(benchmark: Any, variant: str, threads: int) -> None:
    """With plain weights and every option of the table's entry "mini", at a real size."""
    case = BLOCKS["mini"]
    a = case.make(SIZES[variant], torch.bfloat16, torch.Generator().manual_seed(0))
    leaves = [a[name].requires_grad_() for name in case.gradients]
    assert case.baseline is not None
    eager = case.baseline(a)
    g = torch.randn(a["x"].shape, generator=torch.Generator().manual_seed(1)).bfloat16()

    def step(f: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(f(), leaves, g)

    rivals = {"prestissimo": step(lambda: case.op(**a)), "eager": step(eager)}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with ops.strict_kernels():
            for mine, theirs in zip(rivals["prestissimo"](), rivals["eager"](), strict=True):
                assert float((mine.float() - theirs.float()).norm() / theirs.float().norm()) < 0.1
            times = interleave(rivals, rounds=5)
            benchmark.pedantic(rivals["prestissimo"], rounds=1)
    finally:
        torch.set_num_threads(before)
    gain = times["eager"].fastest / times["prestissimo"].fastest
    print(f"\n{variant} {threads}t: a training step {gain:.2f} times as fast as eager")
    benchmark.extra_info |= {
        "machine": machine(),
        "op": "dit_block",
        "threads": threads,
        "shape": list(SIZES[variant]),
        "dtype": "bfloat16",
        "microseconds": {name: t.fastest * 1e6 for name, t in times.items()},
        "spread": {name: t.spread for name, t in times.items()},
        "training_gain": gain,
        "goal_gain": TRAINING_GAIN,
    }
