# SPDX-License-Identifier: Apache-2.0
"""What must hold beyond single cases: any schedule, hardware's freedoms, far offsets, traffic, coverage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from . import adaln_modulate, philox_normal, probes
from .adaln_modulate import Args, BackwardArgs, Case, RowView
from .devices import Device, HostOptions
from .lanes import SETS, Builds, cases_of
from .ptx import Options

Skip = Callable[..., None]
SCHEDULES = [
    HostOptions(seed=2),
    HostOptions(seed=3, skew=False, cp_async_late=False),
    HostOptions(seed=4, cp_async_late=False, mma_truncate=True),
    HostOptions(shuffle=False, skew=False),
]
SOME = [pytest.param(s, c, id=f"{s}-{c}") for s in SETS for c in list(cases_of(s).CASES)[2::7]]


def identical(a: torch.Tensor, b: torch.Tensor) -> bool:
    """The same values, not-a-number being the same as itself."""
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


@pytest.mark.parametrize("mode", ["plain", "race"])
@pytest.mark.parametrize(("op", "case"), SOME)
def test_no_schedule_matters(op: str, case: Any, mode: str, builds: Builds, unless_verified: Skip) -> None:
    """Clean and the same bits for any order of blocks, warps and threads."""
    unless_verified(f"{op}/host-{mode}", counts=False)
    first = cases_of(op).run(case, builds.host(op, mode), builds.planner(op))
    for options in SCHEDULES:
        outcome = cases_of(op).run(case, builds.host(op, mode, options), builds.planner(op))
        assert outcome.clean, str(outcome)
        if not options.mma_truncate:
            assert all(identical(first.results[k], v) for k, v in outcome.results.items())


@pytest.mark.usefixtures("need_ptx")
@pytest.mark.parametrize(
    "options",
    [
        Options(approximate=1),
        Options(approximate=-1),
        Options(cp_async_late=False),
        Options(mma_truncate=True),
    ],
    ids=["approximations high", "approximations low", "copies land early", "tensor cores truncate"],
)
@pytest.mark.parametrize(("op", "case"), SOME)
def test_hardware_may_differ(
    op: str, case: Any, options: Options, builds: Builds, unless_verified: Skip
) -> None:
    unless_verified(f"{op}/ptx-80", counts=False)
    outcome = cases_of(op).run(case, builds.machine(op, 80, options), builds.planner(op))
    assert outcome.clean, str(outcome)


# ---- far offsets: buffers whose base lies so far before them that only 64-bit arithmetic finds them


def _device(lane: str, op: str, builds: Builds) -> Device:
    return builds.machine(op, int(lane)) if lane.isdigit() else builds.host(op, lane)


def _far(address: int, offset: int) -> int:
    """The base that puts `address` at `offset` bytes."""
    return address - offset & (1 << 64) - 1


FAR = pytest.mark.parametrize("lane", ["80", "90", "100", "120", "plain", "race"])


@FAR
@pytest.mark.usefixtures("need_ptx")
def test_the_last_of_many_rows(lane: str, builds: Builds) -> None:
    """Row 2^30 - 1 of 2^30: block index near the grid's limit, 16 GiB from the base, forward and backward."""
    device = _device(lane, "adaln_modulate", builds)
    C, time = 8, 1 << 30
    row = time - 1
    x = torch.randn(C, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
    far = row * C * 4
    rows = {name: device.allocate(4 * C, x.numpy().tobytes()) for name in ("x", "dy")}
    rows |= {name: device.allocate(4 * C, None) for name in ("y", "dx")}
    view = {name: RowView(_far(address, far), 0, C) for name, address in rows.items()}
    args = Args(x=view["x"], y=view["y"], batch=1, time=time, channels=C, eps=1e-6, norm=0, dtype=0)
    exact = torch.nn.functional.layer_norm(x.double().requires_grad_(), (C,), eps=1e-6)
    for op, a in (
        ("adaln_modulate", args),
        ("adaln_modulate_backward", BackwardArgs(forward=args, dy=view["dy"], dx=view["dx"])),
    ):
        plan = builds.planner("adaln_modulate").plan(op, bytes(a))
        ((kernel, grid, block, shared),) = plan.launches
        assert grid == time
        assert device.launch(kernel, (grid, 1, 1), (block, 1, 1), plan.parameters, shared, [row]) == []
    y = torch.frombuffer(bytearray(device.read(rows["y"], 4 * C)), dtype=torch.float32)
    assert torch.allclose(y.double(), exact.detach(), atol=1e-5)
    # dy = x: the gradient of a normalised row along itself vanishes up to eps
    dx = torch.frombuffer(bytearray(device.read(rows["dx"], 4 * C)), dtype=torch.float32)
    assert dx.abs().max() < 1e-4


@FAR
@pytest.mark.usefixtures("need_ptx")
def test_the_last_block_of_many_samples(lane: str, builds: Builds) -> None:
    """The last time block of the last of 127 samples of 2^24 rows: x, dy, statistics and sums all lie far."""
    device = _device(lane, "adaln_modulate", builds)
    B, T, C, rows = 127, 1 << 24, 256, adaln_modulate.TIME_BLOCK
    b, t0 = B - 1, T - rows
    rng = np.random.default_rng(5)
    x, dy = (rng.standard_normal((rows, C)).astype(np.float32) for _ in range(2))
    first_row = b * T + t0
    base = {
        n: _far(device.allocate(v.nbytes, v.tobytes()), 4 * first_row * C) for n, v in (("x", x), ("dy", dy))
    }
    view = {n: RowView(a, T * C, C) for n, a in base.items()}
    forward = Args(x=view["x"], batch=B, time=T, channels=C, eps=1e-6, norm=0, dtype=0)
    block_row = b * (T // rows) + T // rows - 1
    partial = device.allocate(4 * C, None)
    args = BackwardArgs(
        forward=forward,
        dy=view["dy"],
        dx=RowView(16, T * C, C),
        dbias=16,
        partial=_far(partial, 4 * block_row * C),
    )
    plan = builds.planner("adaln_modulate").plan("adaln_modulate_backward", bytes(args))
    kernel, grid, block, shared = plan.launches[1]
    statistics = np.stack([x.mean(1), 1 / x.std(1)], 1).astype(np.float32)
    address = _far(device.allocate(statistics.nbytes, statistics.tobytes()), 8 * first_row)
    parameters = plan.parameters[:-8] + address.to_bytes(8, "little")  # the last member
    tiles = grid // (B * T // rows)
    last = [grid - tiles + k for k in range(tiles)]
    assert device.launch(kernel, (grid, 1, 1), (block, 1, 1), parameters, shared, last) == []
    got = np.frombuffer(device.read(partial, 4 * C), np.float32)
    assert np.allclose(got, dy.astype(np.float64).sum(0), atol=1e-4)


@FAR
@pytest.mark.usefixtures("need_ptx")
@pytest.mark.parametrize("case", philox_normal.FAR_CASES, ids=str)
@pytest.mark.parametrize("op", ["philox_normal", "philox_gumbel"])
def test_the_last_numbers_of_a_long_item(op: str, case: Any, lane: str, builds: Builds) -> None:
    """Philox counters above 2^32 reach the generator whole, and their numbers the right place."""
    outcome = cases_of(op).run(case, _device(lane, op, builds), builds.planner(op))
    assert outcome.clean, str(outcome)


# ---- traffic, counted on the PTX


@pytest.mark.usefixtures("need_ptx")
def test_rows_are_read_once_in_whole_sectors(builds: Builds) -> None:
    case = Case(2, 4, 1024, "bfloat16")
    device = builds.machine("adaln_modulate", 80, Options(statistics=True))
    adaln_modulate.run_forward(case, device, builds.planner("adaln_modulate"))
    counts = device.machine.statistics.counts
    row = 2 * case.channels
    rows = case.batch * case.time
    assert counts["global_load_bytes"] == 3 * rows * row  # x, scale, shift
    assert counts["global_store_bytes"] == rows * row
    assert 32 * counts["global_load_sectors"] == counts["global_load_bytes"]
    assert 32 * counts["global_store_sectors"] == counts["global_store_bytes"]


@pytest.mark.usefixtures("need_ptx")
def test_shared_memory_has_no_bank_conflicts(builds: Builds) -> None:
    """Backward of adaln_modulate, and the attention probe with its padded rows."""
    for module, case in (
        (adaln_modulate, Case(1, 64, 512, "bfloat16")),
        (probes, probes.Case("attention", 65)),
    ):
        name = module.__name__.rpartition(".")[2]
        device = builds.machine(name, 80, Options(statistics=True))
        assert module.run(case, device, builds.planner(name)).clean
        counts = device.machine.statistics.counts
        for what in ("load", "store"):
            assert counts[f"shared_{what}_cycles"] <= 1.05 * counts[f"shared_{what}_phases"], (name, what)
