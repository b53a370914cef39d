# SPDX-License-Identifier: Apache-2.0
"""What is asked of every op of `prestissimo.ops.cases` on a device, one job a question, and the process that answers.

All is read off the table: an op that is added there is checked and timed here.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch

from prestissimo import ops
from prestissimo.cli.bench import _folder as benchmarks
from prestissimo.ops.cases import CASES, OpCase

from ..op_checks import (
    NOT_FINITE,
    STRIDES,
    check_gradients,
    check_values,
    clone,
    differentiable,
    each,
    generator,
    gradients,
    outputs,
    strided,
    with_not_finite,
)
from .schedule import FAILED, PASSED, REFUSED, SKIPPED, Job, Phase, Result

ROUNDS, TURN = 20, 0.005  # of each timing: rounds, seconds that a rival's turn takes about
PRODUCT = {"cuda": 8192, "cpu": 512}  # M = K = N of the ceilings
COPIED = {"cuda": 1 << 30, "cpu": 1 << 24}  # bytes read by the copy of the ceilings

Figures = dict[str, Any]


def case_of(id: str) -> OpCase:
    return next(c for c in CASES if c.id == id)


def dtype_of(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


# ---- correctness ---------------------------------------------------------------------------------------------------


def values(case: OpCase, dtype: torch.dtype, device: str) -> None:
    for seed, shape in enumerate(case.small):
        check_values(case, case.make(shape, dtype, generator(seed)), device)


def gradients_too(case: OpCase, dtype: torch.dtype, device: str) -> None:
    for seed, shape in enumerate(case.gradient_small):
        check_gradients(case, shape, dtype, seed, device)


def not_finite(case: OpCase, dtype: torch.dtype, device: str) -> None:
    for value in NOT_FINITE:
        for arguments in with_not_finite(case, dtype, value):
            check_values(case, arguments, device)


def strides(case: OpCase, dtype: torch.dtype, device: str) -> None:
    for kind in STRIDES:
        for shape in case.small:
            check_values(
                case, case.make(shape, dtype, generator()), device, lay=lambda t, kind=kind: strided(t, kind)
            )


def same_bits(case: OpCase, dtype: torch.dtype, device: str) -> None:
    """Twice, gradients too; inputs unchanged."""
    arguments = case.make(case.real.get("mini-32s", case.small[-1]), dtype, generator())
    runs = []
    for _ in range(2):
        a = clone(arguments, None, case.gradients, device)
        y = outputs(case.op(**a))
        torch.autograd.backward([o.float().square().sum() for o in differentiable(y)])
        runs.append([o.detach() for o in y] + gradients(a, case.gradients))
        for name, before in arguments.items():
            if isinstance(before, torch.Tensor):
                assert torch.equal(before, a[name].detach().cpu()), f"{case.id} changed {name}"
    for i, (one, two) in enumerate(zip(*runs, strict=True)):
        assert torch.equal(one, two), f"{case.id}: result {i} differs from run to run"


def stream(case: OpCase, dtype: torch.dtype, device: str) -> None:
    """On a stream of its own, behind work that takes a while: a kernel on another stream would read NaN."""
    arguments = clone(case.make(case.small[-1], dtype, generator()), device=device)
    expected = outputs(case.op(**arguments))
    late = {
        k: torch.full_like(v, torch.nan) if isinstance(v, torch.Tensor) and v.is_floating_point() else v
        for k, v in arguments.items()
    }
    busy = torch.zeros(4096, 4096, device=device)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(10):
            busy = busy @ busy
        for k, v in late.items():
            if v is not arguments[k]:
                v.copy_(arguments[k])
        result = outputs(case.op(**late))
    torch.cuda.synchronize()
    for e, r in zip(expected, result, strict=True):
        assert torch.equal(e, r), f"{case.id} does not keep to the current stream"


Check = Callable[[OpCase, torch.dtype, str], None]
CHECKS: dict[str, Check] = {
    "values": values,
    "gradients": gradients_too,
    "same bits": same_bits,
    "strides": strides,
    "NaN and infinities": not_finite,
    "stream": stream,
}


def check(job: Job, device: str) -> Figures:
    CHECKS[job.what](case_of(job.op), dtype_of(job.detail), device)
    return {}


# ---- arrays of other libraries ---------------------------------------------------------------------------------


def through(case: OpCase, to: Callable[[torch.Tensor], Any], back: Callable[[Any], torch.Tensor]) -> None:
    """The same bits as from torch tensors."""
    arguments = clone(case.make(case.small[0], torch.float32, generator()), device="cuda")
    expected = outputs(case.op(**arguments))
    torch.cuda.synchronize()
    result = outputs(case.op(**{k: each(v, to) for k, v in arguments.items()}))
    for e, r in zip(expected, result, strict=True):
        assert not isinstance(r, torch.Tensor), f"{case.id} returned torch's tensors"
        assert torch.equal(e, back(r)), f"{case.id} differs from the same op on torch's tensors"


def cupy(job: Job, device: str) -> Figures:
    """On a stream of CuPy's that waits for no other."""
    import cupy

    with cupy.cuda.Stream(non_blocking=True) as own:

        def back(result: Any) -> torch.Tensor:
            own.synchronize()
            return torch.from_dlpack(result)

        through(case_of(job.op), cupy.from_dlpack, back)
    return {}


def numba(job: Job, device: str) -> Figures:
    from numba import cuda

    through(case_of(job.op), cuda.as_cuda_array, lambda result: torch.as_tensor(result, device="cuda"))
    return {}


# ---- figures ---------------------------------------------------------------------------------------------------


def interleaved(rivals: dict[str, Callable[[], Any]], device: str) -> dict[str, Any]:
    """benchmarks/interleave.py, waiting for the device after each turn."""
    if (folder := str(benchmarks())) not in sys.path:
        sys.path.insert(0, folder)
    interleave = importlib.import_module("interleave").interleave
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    timings: dict[str, Any] = interleave(rivals, ROUNDS, TURN, wait, rest=0.0)
    return timings


def ceiling(job: Job, device: str) -> Figures:
    if job.op == "copy":
        source = torch.zeros(COPIED[device], dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        took = interleaved({"copy": lambda: target.copy_(source)}, device)["copy"].fastest
        return {"gb_per_s": 2 * source.numel() / took / 1e9}
    n, dtype = PRODUCT[device], dtype_of(job.op)
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    took = interleaved({"product": lambda: a @ b}, device)["product"].fastest
    return {"gflop_per_s": 2 * n**3 / took / 1e9}


def timing(job: Job, device: str) -> Figures:
    """Checked, then timed: ours, eager PyTorch and a copy that moves as many bytes, in turn."""
    case, (size, name) = case_of(job.op), job.detail.split("/")
    shape, dtype = case.real[size], dtype_of(name)
    with torch.inference_mode():
        made = case.make(shape, dtype, generator())
        on_cpu = case.exact or case.distance is not None  # judged bit by bit, or at jumps
        check_values(case, made, device, "cpu" if on_cpu else device)
        arguments = clone(made, device=device)
        eager = case.baseline(arguments) if case.baseline else lambda: case.reference(**arguments)
        moved = case.bytes_moved(shape, dtype.itemsize)
        source = torch.zeros(moved // 2, dtype=torch.uint8, device=device)
        rivals = {"prestissimo": lambda: case.op(**arguments), "eager": eager, "copy": source.clone}
        times = interleaved(rivals, device)
    ours = times["prestissimo"].fastest
    return {
        "shape": list(shape),
        "microseconds": {k: t.fastest * 1e6 for k, t in times.items()},
        "spread": {k: t.spread for k, t in times.items()},
        "bytes": moved,
        "flops": case.flops(shape),
        "gain": times["eager"].fastest / ours,
        "bytes_ratio": case.eager_bytes(shape, dtype.itemsize) / moved if moved else 0.0,
        "of_copy": times["copy"].fastest / ours,
    }


# ---- the kernels alone: cubins of the verified PTX, the cases of the emulated lanes ----------------------------------

_builds: Any = None


def kernels(job: Job, device: str) -> Figures:
    global _builds
    from ..cuda import gpu
    from ..cuda.lanes import Builds, cases_of

    cuda = gpu.driver()
    assert cuda is not None
    _builds = _builds or Builds()
    cases = cases_of(job.op).CASES
    for case in cases:
        kernel = gpu.kernels_of(cuda, job.op)
        try:
            outcome = cases_of(job.op).run(case, kernel, _builds.planner(job.op))
        finally:
            kernel.close()
        assert outcome.clean, f"{case}: {outcome}"
    return {"cases": len(cases)}


# ---- the plan ----------------------------------------------------------------------------------------------------

T = TypeVar("T")


def in_turn(groups: Iterable[Sequence[T]]) -> list[T]:
    """The first of each group, then the second of each, and so on."""
    return [x for row in itertools.zip_longest(*groups) for x in row if x is not None]


def by_op(cases: Iterable[OpCase]) -> list[list[OpCase]]:
    groups: dict[str, list[OpCase]] = {}
    for c in cases:
        groups.setdefault(c.name, []).append(c)
    return list(groups.values())


def phases(device: str, cases: Sequence[OpCase] = CASES) -> list[Phase]:
    """Correctness first, ops in turn so that each has been asked the first question before any is asked the second."""
    turn = in_turn(by_op(cases))
    checks = [
        Job(what, c.id, str(d)[6:])
        for what in CHECKS
        if what != "stream" or device == "cuda"
        for c in turn
        for d in c.dtypes
        if c.gradients or what != "gradients"
    ]
    sizes = [
        [
            Job("time", c.id, f"{size}/{str(d)[6:]}")
            for c, size in sorted(
                ((c, s) for c in group for s in c.real),
                key=lambda row: -row[0].bytes_moved(row[0].real[row[1]], 2),
            )
            for d in c.dtypes
            if d != torch.float16
        ]
        for group in by_op(cases)
    ]
    ceilings = [Job("ceiling", name) for name in ("copy", "float32", "bfloat16")]
    plan = [Phase("correctness", checks, 0.6), Phase("timings", ceilings + in_turn(sizes), 0.95)]
    if device == "cuda":
        arrays = [
            Job(library, c.id) for library in ("cupy", "numba") for c in turn if not why_absent(library)
        ]
        lanes = [] if why_absent("kernels") else [Job("kernels", op, limit=240) for op in kernel_sets()]
        plan[1:1] = [Phase("arrays", arrays, 0.7)]
        plan += [Phase("kernels alone", lanes, 1.0)]
    return plan


def kernel_sets() -> list[str]:
    from ..cuda.lanes import SETS

    return list(SETS)


OPTIONAL = ("cupy", "numba", "tensorrt", "kernels")


def why_absent(what: str) -> str | None:
    """Why a part that not every machine has is skipped, or None."""
    if what == "kernels":
        from ..cuda.toolchain import missing_for

        return missing_for("ptx")
    if importlib.util.find_spec(what) is None:
        return f"{what} is not installed"
    return "nothing of this package runs on TensorRT" if what == "tensorrt" else None


RUN: dict[str, Callable[[Job, str], Figures]] = {
    **dict.fromkeys(CHECKS, check),
    "cupy": cupy,
    "numba": numba,
    "ceiling": ceiling,
    "time": timing,
    "kernels": kernels,
}


# ---- the process ---------------------------------------------------------------------------------------------------


def run(job: Job, device: str) -> tuple[Result, bool]:
    """The result, and whether the process can go on."""
    try:
        figures = RUN[job.what](job, device)
        if device == "cuda":
            torch.cuda.synchronize()
        return Result(job, PASSED, figures=figures), True
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        result = Result(job, SKIPPED, f"out of memory: {str(error).splitlines()[0]}")
    except AssertionError as error:
        result = Result(job, FAILED, str(error) or "an assertion without a text")
    except Exception as error:  # whatever an op does is the op's result
        text = f"{type(error).__name__}: {error}"
        result = Result(job, REFUSED if "has no CUDA kernel" in text else FAILED, text)
    try:
        if device == "cuda":
            torch.cuda.synchronize()
    except RuntimeError as error:
        result.text += f"; then {error}"
        return result, False
    return result, True


def serve(connection: Connection, device: str) -> None:
    """Answer jobs until the other side is gone."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.zeros(1, device=device).sum().item()
    connection.send(None)
    with ops.strict_kernels():
        while True:
            try:
                job = connection.recv()
            except EOFError:
                return
            connection.send(run(job, device))
