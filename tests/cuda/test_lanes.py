# SPDX-License-Identifier: Apache-2.0
"""Every case of every op in every lane: the PTX of each shipped target interpreted, the source on the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .devices import HostDevice
from .lanes import MODES, SETS, Builds, cases_of
from .toolchain import TARGETS

Skip = Callable[[str], None]
ALL = [pytest.param(op, case, id=f"{op}-{case}") for op in SETS for case in cases_of(op).CASES]


@pytest.mark.usefixtures("need_ptx")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("op", "case"), ALL)
def test_ptx(
    op: str, case: Any, target: int, builds: Builds, planner: HostDevice, unless_verified: Skip
) -> None:
    unless_verified(f"{op}/ptx-{target}")
    outcome = cases_of(op).run(case, builds.machine(op, target), planner)
    assert outcome.clean, str(outcome)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("op", "case"), ALL)
def test_host(
    op: str, case: Any, mode: str, builds: Builds, planner: HostDevice, unless_verified: Skip
) -> None:
    unless_verified(f"{op}/host-{mode}")
    outcome = cases_of(op).run(case, builds.host(mode), planner)
    assert outcome.clean, str(outcome)
