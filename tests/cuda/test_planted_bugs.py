# SPDX-License-Identifier: Apache-2.0
"""Every lane that the table names catches its bug, or misses it where it says so, and no bug escapes all lanes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from . import planted
from .lanes import PLANTED, Builds
from .planted import BUGS, Bug

LANES = [
    pytest.param(bug, lane, id=f"{bug.name}-{lane}")
    for bug in BUGS
    for lane in (*bug.caught_by, *bug.missed_by)
]


@pytest.mark.usefixtures("need_ptx")
@pytest.mark.parametrize(("bug", "lane"), LANES)
def test_lane(bug: Bug, lane: str, builds: Builds, unless_verified: Callable[[str], None]) -> None:
    unless_verified(PLANTED)
    outcome = planted.run(bug, lane, builds.planner(bug.op))
    if lane in bug.missed_by:
        assert outcome.clean, f"{lane} notices now what it is said to miss: {bug.name}\n{outcome}"
    else:
        assert not outcome.clean, f"{lane} missed: {bug.name}"
    if lane in bug.silent_in:
        assert outcome.findings
        assert not outcome.wrong, str(outcome)


def test_no_bug_escapes() -> None:
    """Each bug is caught by a checker of the PTX that ships or, where PTX has no such fault, by the host lane."""
    for bug in BUGS:
        assert bug.caught_by, bug.name
        kinds = {lane.partition("-")[0] for lane in bug.caught_by}
        assert "ptx" in kinds or bug.note.startswith("ptx:"), bug.name
        assert not {*bug.caught_by} & {*bug.missed_by}
        assert {*bug.silent_in} <= {*bug.caught_by}


@pytest.mark.usefixtures("need_ptx")
@pytest.mark.parametrize("lane", ["plain", "ptx"])
def test_the_copy_without_a_bug_is_clean(lane: str, builds: Builds) -> None:
    """What the bugs' tests rest on: it is the edit that is noticed, not the copying."""
    harmless = Bug("none", "cuda/reduce.cuh", BUGS[0].old, "\n" + BUGS[0].old, BUGS[0].case, ())
    assert planted.run(harmless, lane, builds.planner(harmless.op)).clean
