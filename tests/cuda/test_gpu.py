# SPDX-License-Identifier: Apache-2.0
"""The lanes' cases and tolerances on a GPU, from cubins of the verified PTX: `pytest -m cuda tests/cuda`.

What a machine with a GPU should run first is `python -m tests.gpu`, which runs these too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from . import adaln_modulate
from .gpu import Driver, GpuDevice, driver, kernels_of
from .lanes import SETS, Builds, cases_of
from .toolchain import TARGETS

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("need_ptx")]


@pytest.fixture(scope="module")
def cuda() -> Driver:
    found = driver()
    if found is None:
        pytest.skip("no CUDA driver or device")
    if found.capability() < min(TARGETS):
        pytest.skip(f"{found.name()} is older than sm_{min(TARGETS)}")
    return found


@contextmanager
def on_gpu(cuda: Driver, op: str) -> Iterator[GpuDevice]:
    try:
        device = kernels_of(cuda, op)
    except LookupError as why:
        pytest.skip(str(why))
    try:
        yield device
    finally:
        device.close()


@pytest.mark.parametrize(
    ("op", "case"), [pytest.param(s, c, id=f"{s}-{c}") for s in SETS for c in cases_of(s).CASES]
)
def test_case(op: str, case: Any, cuda: Driver, builds: Builds) -> None:
    with on_gpu(cuda, op) as device:
        outcome = cases_of(op).run(case, device, builds.planner(op))
    assert outcome.clean, str(outcome)


@pytest.mark.parametrize("shape", [(16, 345, 320), (1, 1025, 1536), (8, 1025, 1536)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_speed(shape: tuple[int, int, int], dtype: str, cuda: Driver, builds: Builds) -> None:
    """Prints the time and the bytes that must move over it; asserts nothing about them."""
    case = adaln_modulate.Case(*shape, dtype)
    with on_gpu(cuda, "adaln_modulate") as device:
        plan, moved = adaln_modulate.timed_forward(case, device, builds.planner("adaln_modulate"))
        for kernel, grid, block, shared in plan.launches:
            ms = device.milliseconds(kernel, (grid, 1, 1), (block, 1, 1), plan.parameters, shared)
            print(f"{cuda.name()}, {kernel} {shape}: {1000 * ms:.1f} us, {moved / ms / 1e6:.0f} GB/s")
