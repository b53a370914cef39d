# SPDX-License-Identifier: Apache-2.0
"""`linear` on packed weights beside oneDNN's prepacked product of the same shape, what users call, and our own bf16.

    pytest benchmarks/bench_gemm.py -s --benchmark-json=gemm.json

x is float32 for float32 products, else bfloat16. Our int8 rounds the rows of x in the time that counts; oneDNN's gets
them rounded, with one scale for all. `of_onednn` is to be 0.95 for bf16, 0.9 for the others; int8 1.7 times our bf16.
What users call: F.linear, and OpenVINO and ONNX Runtime where they are installed (float32 in and out, the former's
products in the row's dtype, int8 aside).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ceilings import DTYPES, onednn_product
from interleave import interleave, machine
from peers import peers

from prestissimo import ops

# Layers of the bundled model and of Stable Audio's: rows of x, out features, in features
SHAPES = {
    "text": (65, 1024, 1024),
    "mini-32s-attention": (345, 320, 320),
    "mini-32s-in": (345, 1536, 320),
    "mini-32s-out": (345, 320, 768),
    "open-small-qkv": (257, 3072, 1024),
    "open-small-in": (257, 8192, 1024),
    "open-small-out": (257, 1024, 4096),
    "open-1.0-attention": (1025, 1536, 1536),
    "open-1.0-in": (1025, 12288, 1536),
    "open-1.0-out": (1025, 1536, 6144),
    "ceiling": (2048, 2048, 2048),
}


@pytest.mark.parametrize("threads", [1, 2], ids=lambda n: f"{n}t")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SHAPES)
def test_linear(benchmark: Any, name: str, dtype: str, threads: int) -> None:
    M, N, K = SHAPES[name]
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(N, K, generator=rng) * K**-0.5
    x = torch.randn(M, K, generator=rng).to(torch.float32 if dtype == "float32" else torch.bfloat16)
    packed, dense = ops.pack_linear(weight, dtype), weight.to(x.dtype)
    half = ops.pack_linear(weight, "bfloat16")
    rivals: dict[str, Callable[[], Any]] = {
        "prestissimo": lambda: ops.linear(x, packed),
        "onednn": onednn_product(M, K, N, DTYPES[dtype]),
        "F.linear": lambda: torch.nn.functional.linear(x, dense),
    }
    if dtype == "int8":
        rivals["our bf16"] = lambda: ops.linear(x, half)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode(), ops.strict_kernels():
            error = ops.linear_error(x, weight, packed)
            assert error < {"float32": 1e-6, "bfloat16": 5e-3, "int8": 2e-2}[dtype]
            if dtype != "int8":
                wide = dense.float()
                exported = lambda v: torch.nn.functional.linear(v, wide)  # noqa: E731
                rivals |= peers(exported, (x,), threads, dtype, 1e-4 if dtype == "float32" else 0.05)
            times = interleave(rivals, rounds=15, seconds=3.0)
            benchmark.pedantic(rivals["prestissimo"], rounds=3)
    finally:
        torch.set_num_threads(before)
    rates = {k: 2 * M * N * K / t.fastest / 1e9 for k, t in times.items()}
    of_onednn = times["onednn"].fastest / times["prestissimo"].fastest
    print(f"\n{name} {dtype} {threads}t: {of_onednn:.3f} of oneDNN, error {error:.1e},", end=" ")
    print(", ".join(f"{k} {rate:.0f} GFLOP/s" for k, rate in rates.items()))
    benchmark.extra_info |= {
        "machine": machine(),
        "op": "linear",
        "threads": threads,
        "shape": [M, N, K],
        "dtype": dtype,
        "gflop_per_s": rates,
        "spread": {k: t.spread for k, t in times.items()},
        "of_onednn": of_onednn,
        "of_bf16": times["our bf16"].fastest / times["prestissimo"].fastest if dtype == "int8" else None,
        "relative_error": error,
    }
