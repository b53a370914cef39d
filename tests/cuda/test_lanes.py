# SPDX-License-Identifier: Apache-2.0
"""Every case of every op in every lane: the PTX of each shipped target interpreted, the source on the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .lanes import MODES, SETS, Builds, cases_of
from .toolchain import TARGETS

Skip = Callable[..., None]
COVERED = (
    0.65  # of the PTX instructions, at least; measured 0.69 to 1.00 (unrolled loop remainders make the rest)
)
ALL = [pytest.param(op, case, id=f"{op}-{case}") for op in SETS for case in cases_of(op).CASES]


@pytest.mark.usefixtures("need_ptx")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("op", "case"), ALL)
def test_ptx(op: str, case: Any, target: int, builds: Builds, unless_verified: Skip) -> None:
    unless_verified(f"{op}/ptx-{target}")
    outcome = cases_of(op).run(case, builds.machine(op, target), builds.planner(op))
    assert outcome.clean, str(outcome)


@pytest.mark.usefixtures("need_ptx")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("op", SETS)
def test_the_cases_reach_the_ptx(op: str, target: int, builds: Builds, unless_verified: Skip) -> None:
    """After test_ptx: what its cases executed."""
    unless_verified(f"{op}/ptx-{target}")
    ran, instructions = builds.coverage(op, target)
    if ran == 0:
        pytest.skip("test_ptx did not run in this process")
    print(
        f"{op} compute_{target}: {ran} of {instructions} PTX instructions ran, {100 * ran / instructions:.1f} %"
    )
    assert ran >= COVERED * instructions


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("op", "case"), ALL)
def test_host(op: str, case: Any, mode: str, builds: Builds, unless_verified: Skip) -> None:
    unless_verified(f"{op}/host-{mode}")
    outcome = cases_of(op).run(case, builds.host(op, mode), builds.planner(op))
    assert outcome.clean, str(outcome)
