# SPDX-License-Identifier: Apache-2.0
"""Losses and scores over all pairs, forward and backward, beside what they replace, and their memory.

    pytest benchmarks/bench_pairs.py --benchmark-json=pairs.json

`of_ceiling`: floating-point operations per second, the backward's recomputed products counted, over those of oneDNN's
prepacked product of M = K = N = 2048 in the same run. bfloat16 is to be 1.7 times our own float32. Memory is the
process's peak in one call at full size less what was resident before, less result and gradients, which every
implementation must allocate.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ceilings import onednn_product
from interleave import interleave, machine

from prestissimo import ops
from prestissimo.ops.segment_similarity import reference

DTYPES = [torch.float32, torch.bfloat16]
FOUR_PRODUCTS = 8  # operations per pair and depth: forward, the same again, and two products of gradients


def clip_loss(a: torch.Tensor, b: torch.Tensor, logit_scale: torch.Tensor) -> torch.Tensor:
    """What open_clip's ClipLoss (3.3) computes in one process: both directions by a product of their own."""
    labels = torch.arange(len(a))
    per_image, per_text = logit_scale * a @ b.T, logit_scale * b @ a.T
    return (F.cross_entropy(per_image, labels) + F.cross_entropy(per_text, labels)) / 2


def unit(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return F.normalize(torch.randn(shape), dim=-1).to(dtype)


def both_ways(f: Callable[..., torch.Tensor], *leaves: torch.Tensor) -> Callable[[], Any]:
    """A step: forward, and backward of the sum."""
    leaves = tuple(v.requires_grad_() for v in leaves)

    def step() -> Any:
        return torch.autograd.grad(f(*leaves).float().sum(), leaves)

    return step


def our_float32(dtype: torch.dtype, f: Callable[..., torch.Tensor], *leaves: torch.Tensor) -> dict[str, Any]:
    """What bfloat16 is compared with beside its rivals."""
    wide = [v.detach().float() for v in leaves]
    return {} if dtype == torch.float32 else {"our fp32": both_ways(f, *wide)}


def run(
    benchmark: Any,
    op: str,
    shape: tuple[int, ...],
    threads: int,
    dtype: torch.dtype,
    flops: float,
    rivals: dict[str, Callable[[], Any]],
    rounds: int,
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rivals["ceiling"] = onednn_product(2048, 2048, 2048, dtype)
        times = interleave(rivals, rounds=rounds)
        benchmark.pedantic(rivals["prestissimo"], rounds=1)
    finally:
        torch.set_num_threads(before)
    seconds = {name: t.fastest for name, t in times.items()}
    benchmark.extra_info |= {
        "machine": machine(),
        "op": op,
        "threads": threads,
        "shape": list(shape),
        "dtype": str(dtype)[6:],
        "seconds": seconds,
        "of_ceiling": flops / seconds["prestissimo"] / (2 * 2048**3 / seconds["ceiling"]),
        "gain": {
            n: s / seconds["prestissimo"]
            for n, s in seconds.items()
            if n not in ("prestissimo", "our fp32", "ceiling")
        },
        "of_fp32": seconds["our fp32"] / seconds["prestissimo"] if "our fp32" in seconds else None,
    }
    print(
        f"\n{str(dtype)[6:]}, {threads} threads: {benchmark.extra_info['of_ceiling']:.2f} of the ceiling;",
        end="",
    )
    print(" seconds", {n: round(s, 4) for n, s in seconds.items()}, "gain", benchmark.extra_info["gain"])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
def test_info_nce(benchmark: Any, dtype: torch.dtype, threads: int) -> None:
    B, E = 4096, 512
    a, b, s = unit(B, E, dtype=dtype), unit(B, E, dtype=dtype), torch.tensor(14.3)
    ours, theirs = both_ways(ops.info_nce, a, b, s), both_ways(clip_loss, a, b, s.to(dtype))
    for x, y in zip(ours(), theirs(), strict=True):
        torch.testing.assert_close(x.float(), y.float(), rtol=0.1, atol=0.05 * y.abs().max().item())
    rivals = {"prestissimo": ours, "clip_loss": theirs, **our_float32(dtype, ops.info_nce, a, b, s)}
    run(benchmark, "info_nce", (B, E), threads, dtype, FOUR_PRODUCTS * B**2 * E, rivals, 5)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
def test_segment_similarity(benchmark: Any, dtype: torch.dtype, threads: int) -> None:
    """At a quarter of the batch that the memory is measured at: there einsum takes gigabytes."""
    B, S, E = 512, 30, 512
    segments, text, tau = unit(B, S, E, dtype=dtype), unit(B, E, dtype=dtype), torch.tensor(0.1)
    ours = both_ways(ops.segment_similarity, segments, text, tau)
    theirs = both_ways(reference, segments, text, tau.to(dtype))
    for x, y in zip(ours(), theirs(), strict=True):
        torch.testing.assert_close(x.float(), y.float(), rtol=0.1, atol=0.05 * y.abs().max().item())
    flops = FOUR_PRODUCTS * B**2 * S * E
    wide = our_float32(dtype, ops.segment_similarity, segments, text, tau)
    rivals = {"prestissimo": ours, "einsum": theirs, **wide}
    run(benchmark, "segment_similarity", (B, S, E), threads, dtype, flops, rivals, 5)


_MEMORY = """
import resource, sys, time, torch
from prestissimo import ops
name, dtype, B, S, E = sys.argv[1], getattr(torch, sys.argv[2]), *map(int, sys.argv[3:])
torch.set_num_threads(2)
def unit(*shape):
    x = torch.randn(shape, dtype=dtype)  # nothing beside it: what making it takes would hide what the op takes
    return x.div_(torch.linalg.vector_norm(x, dim=-1, keepdim=True)).requires_grad_()
a, b = unit(*((B, S, E) if S else (B, E))), unit(B, E)
number = torch.tensor(0.1 if S else 14.3, requires_grad=True)
op = getattr(ops, name)
op(a[:8].detach().requires_grad_(), b[:8].detach().requires_grad_(), number).sum().backward()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
resident = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
start = time.perf_counter()
y = op(a, b, number)
y.sum().backward()
given = sum(v.numel() * v.element_size() for v in (a.grad, b.grad, y)) / 2**20
print(peak() - resident - given, time.perf_counter() - start)
"""


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
@pytest.mark.parametrize(
    ("name", "shape", "limit"),
    [
        pytest.param("info_nce", (32768, 0, 512), 300, id="info_nce-32768x512"),
        pytest.param("segment_similarity", (2048, 30, 512), 100, id="segment_similarity-2048x30x512"),
    ],
)
def test_memory(benchmark: Any, name: str, shape: tuple[int, ...], limit: float, dtype: torch.dtype) -> None:
    """Megabytes beyond inputs, result and gradients, at the sizes of the largest batches; two threads."""
    command = [sys.executable, "-c", _MEMORY, name, str(dtype)[6:], *map(str, shape)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    megabytes, seconds = map(float, done.stdout.split())
    benchmark.pedantic(lambda: None)
    benchmark.extra_info |= {
        "machine": machine(),
        "op": name,
        "shape": list(shape),
        "dtype": str(dtype)[6:],
        "memory_mb": megabytes,
        "memory_limit_mb": limit,
        "seconds": seconds,
    }
    print(f"\n{name} {shape} {str(dtype)[6:]}: {megabytes:.0f} MB, {seconds:.1f} s")
    assert megabytes < limit
