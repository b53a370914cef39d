# SPDX-License-Identifier: Apache-2.0
"""Every op of `prestissimo.ops.cases` at the sizes of real models, beside eager PyTorch, torch.compile and a copy.

    pytest benchmarks/bench_ops.py --benchmark-json=ops.json

Values are checked before anything is timed. One pytest-benchmark row per op, size, dtype and thread count holds our
time; its extra_info holds the rivals', taken in turn with it: `gain` over eager against the ratio of bytes moved,
`of_compile` against torch.compile, `of_copy` against a copy with the same footprint, `of_ceiling` of ops that are
products against oneDNN's prepacked product of M = K = N = 2048. attention, linear and the losses over all pairs have
files of their own, which time the backward too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from ceilings import DTYPES, onednn_product
from interleave import interleave, machine
from peers import peers

from prestissimo import ops
from prestissimo.ops.cases import CASES, OpCase, Shape
from prestissimo.ops.tolerance import assert_close

# Elsewhere: bench_attention.py, bench_gemm.py, bench_pairs.py
ELSEWHERE = {"attention", "linear", "info_nce", "segment_similarity"}
PRODUCTS = {"hierarchy_argmax", "conv1d", "conv_transpose1d"}
# What OpenVINO and ONNX Runtime have an op or a fusion for, and the tensors that it takes
EXPORTED = {
    "adaln_modulate": ("x", "shift", "scale"),
    "gated_residual": ("x", "branch", "gate"),
    "swiglu": ("x",),
    "geglu": ("x",),
}


def time_last(case: OpCase) -> OpCase:
    """The same on channels of times, as convolutions elsewhere leave them."""

    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> dict[str, Any]:
        arguments = case.make(shape, dtype, rng)
        return {**arguments, "x": arguments["x"].contiguous()}

    return replace(case, variant=case.variant.replace("channels-last", "time-last"), make=make)


def packed(case: OpCase) -> OpCase:
    """With its weight packed once, as a decoder holds it."""
    held: dict[str, Any] = {}

    def op(**arguments: Any) -> Any:
        weight = arguments["weight"]
        if held.get("dense") is not weight:
            dtype = str(weight.dtype)[6:]
            rows = (
                ops.pack_conv_transpose1d(weight, arguments["stride"], dtype)
                if case.name == "conv_transpose1d"
                else ops.pack_conv1d(weight, dtype)
            )
            held.update(dense=weight, packed=rows)
        return case.op(**{**arguments, "weight": held["packed"]})

    return replace(case, variant=f"{case.variant}-packed", op=op)


MORE = [time_last(case) for case in CASES if case.name == "depthwise_conv1d" and case.real]
MORE += [packed(case) for case in CASES if case.name in ("conv1d", "conv_transpose1d") and case.real]
ROWS = [
    pytest.param(case, size, shape, dtype, threads, id=f"{case.id}-{size}-{str(dtype)[6:]}-{threads}t")
    for case in (*CASES, *MORE)
    if case.name not in ELSEWHERE
    for size, shape in case.real.items()
    for dtype in case.dtypes
    if dtype != torch.float16
    for threads in (1, 2)
]


def outputs(y: Any) -> tuple[torch.Tensor, ...]:
    return tuple(y) if isinstance(y, (tuple, list)) else (y,)


def in_float64(v: Any) -> Any:
    if isinstance(v, list):
        return [in_float64(t) for t in v]
    return v.double() if torch.is_tensor(v) and v.is_floating_point() else v


def verify(case: OpCase, arguments: dict[str, Any]) -> None:
    wide = {k: in_float64(v) for k, v in arguments.items()}
    rows = zip(
        outputs(case.op(**arguments)),
        outputs(case.reference(**arguments)),
        outputs(case.reference(**wide)),
        strict=True,
    )
    for ours, same, exact in rows:
        if case.conditioned:
            ours, same, exact = (case.conditioned(arguments, v) for v in (ours, same, exact))
        if case.exact:
            assert torch.equal(ours, same), case.id
        else:
            assert_close(ours, same, exact, name=case.id)


def exported(
    case: OpCase, arguments: dict[str, Any], dtype: torch.dtype, threads: int
) -> dict[str, Callable[[], Any]]:
    """The op's rivals out of its exported reference."""
    names = tuple(n for n in EXPORTED.get(case.name, ()) if arguments.get(n) is not None)
    if not names or arguments[names[0]].dtype != dtype:
        return {}
    rest = {k: v.float() if torch.is_tensor(v) else v for k, v in arguments.items() if k not in names}

    def f(*tensors: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = case.reference(**rest, **dict(zip(names, tensors, strict=True)))
        return y

    given = tuple(arguments[n] for n in names)
    return peers(f, given, threads, str(dtype)[6:], 1e-4 if dtype == torch.float32 else 0.05)


@pytest.fixture(autouse=True, scope="session")
def machine_info() -> None:
    print("\n" + ", ".join(f"{k} {v}" for k, v in machine().items()))


@pytest.mark.parametrize(("case", "size", "shape", "dtype", "threads"), ROWS)
def test_op(benchmark: Any, case: OpCase, size: str, shape: Shape, dtype: torch.dtype, threads: int) -> None:
    torch._dynamo.reset()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode(), ops.strict_kernels():
            arguments = case.make(shape, dtype, torch.Generator().manual_seed(0))
            verify(case, arguments)
            reference = lambda: case.reference(**arguments)  # noqa: E731
            eager = case.baseline(arguments) if case.baseline else reference
            compiled = torch.compile(eager)
            item = torch.empty(0, dtype=dtype).element_size()
            # a copy that reads and writes, together, what the op must read and write, and allocates its result as
            # the op does: above 32 MB malloc maps fresh pages, whose faults cost ten times the copy (3.4 GB/s here)
            source = torch.zeros(case.bytes_moved(shape, item) // 2, dtype=torch.uint8)
            rivals: dict[str, Callable[[], Any]] = {
                "prestissimo": lambda: case.op(**arguments),
                "eager": eager,
                "compile": compiled,
                "copy": lambda: source.clone(),
                **exported(case, arguments, dtype, threads),
            }
            if case.name in PRODUCTS:
                rivals["ceiling"] = onednn_product(2048, 2048, 2048, dtype)
            times = interleave(rivals, seconds=4.0)
            benchmark.pedantic(lambda: case.op(**arguments), rounds=3)
    finally:
        torch.set_num_threads(before)
    ours = times["prestissimo"].fastest
    moved = case.bytes_moved(shape, item)
    if "ceiling" in times:
        ceiling = 2 * 2048**3 / times["ceiling"].fastest
        benchmark.extra_info["of_ceiling"] = case.flops(shape) / ours / ceiling
    benchmark.extra_info |= {
        "machine": machine(),
        "op": case.name,
        "threads": threads,
        "shape": list(shape),
        "dtype": str(dtype)[6:],
        "microseconds": {k: t.fastest * 1e6 for k, t in times.items()},
        "spread": {k: t.spread for k, t in times.items()},
        "gb_per_s": moved / ours / 1e9,
        "gain": times["eager"].fastest / ours,
        "bytes_ratio": case.eager_bytes(shape, item) / moved,
        "of_compile": times["compile"].fastest / ours,
        "of_copy": times["copy"].fastest / ours,
        "megabytes": moved / 1e6,
        "flops": case.flops(shape),
        "bytes": moved,
    }


@pytest.mark.parametrize("threads", [1, 2], ids=lambda n: f"{n}t")
@pytest.mark.parametrize("dtype", DTYPES)
def test_ceiling(benchmark: Any, dtype: str, threads: int) -> None:
    """oneDNN's prepacked product, M = K = N = 2048, and a copy far beyond the caches: the lines of the roofline."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            source = torch.zeros(64 << 20, dtype=torch.uint8)
            target = torch.empty_like(source)
            times = interleave(
                {
                    "product": onednn_product(2048, 2048, 2048, DTYPES[dtype]),
                    "copy": lambda: target.copy_(source),
                },
                rounds=10,
            )
            benchmark.pedantic(lambda: None)
    finally:
        torch.set_num_threads(before)
    benchmark.extra_info |= {
        "machine": machine(),
        "threads": threads,
        "dtype": dtype,
        "ceiling_gflop_per_s": 2 * 2048**3 / times["product"].fastest / 1e9,
        "copy_gb_per_s": 2 * source.numel() / times["copy"].fastest / 1e9,
    }


@pytest.mark.parametrize("mode", ["inference", "grad enabled", "recording"])
def test_call_overhead(benchmark: Any, mode: str) -> None:
    """A small call through torch.ops: at most 5, 10 and 20 µs."""
    x, s = torch.randn(1, 8, 64), torch.randn(1, 64)
    if mode == "recording":
        x.requires_grad_()
    op = torch.ops.prestissimo.adaln_modulate.default
    with torch.inference_mode(mode == "inference"):
        times = interleave(
            {"op": lambda: op(x, s, s, None, None, 1e-6, "layer"), "addcmul": lambda: torch.addcmul(x, x, x)}
        )
        benchmark.pedantic(lambda: op(x, s, s, None, None, 1e-6, "layer"), rounds=20, iterations=1000)
    benchmark.extra_info |= {
        "microseconds": times["op"].fastest * 1e6,
        "native": times["addcmul"].fastest * 1e6,
    }
