# SPDX-License-Identifier: Apache-2.0
"""What is run in which order when the time is limited, and what is said of what was not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

PASSED, FAILED, REFUSED, SKIPPED, NOT_REACHED = "passed", "failed", "no kernel", "skipped", "not reached"


@dataclass(frozen=True)
class Job:
    """`what` is one of the names of `jobs.RUN`; `limit`: seconds after which it counts as hanging."""

    what: str
    op: str
    detail: str = ""
    limit: float = 120.0

    @property
    def id(self) -> str:
        return "/".join(filter(None, (self.what, self.op, self.detail)))


@dataclass(frozen=True)
class Phase:
    """Jobs of one purpose; at `until`, a fraction of all the time, they make way for the next phase."""

    name: str
    jobs: Sequence[Job]
    until: float


@dataclass
class Result:
    job: Job
    status: str
    text: str = ""
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)


class Runner(Protocol):
    def __call__(self, job: Job, seconds: float) -> Result:
        """Run one job, in at most `seconds`, and never raise for what the job does."""


def run_within(
    seconds: float,
    phases: Iterable[Phase],
    run: Runner,
    *,
    clock: Callable[[], float] = time.monotonic,
    tell: Callable[[Phase, Result], None] = lambda phase, result: None,
) -> list[Result]:
    """Run the phases one after the other, then what they left, while time is left: `tell` hears of each result."""
    end = clock() + seconds
    results: list[Result] = []
    left: list[tuple[Phase, Job]] = []

    def attempt(phase: Phase, job: Job) -> None:
        result = run(job, min(job.limit, end - clock()))
        results.append(result)
        tell(phase, result)

    for phase in phases:
        stop = end - seconds * (1 - phase.until)
        for k, job in enumerate(phase.jobs):
            if clock() >= stop:
                left += [(phase, j) for j in phase.jobs[k:]]
                break
            attempt(phase, job)
    for phase, job in left:
        if clock() < end:
            attempt(phase, job)
        else:
            results.append(Result(job, NOT_REACHED, f"the {seconds / 60:.3g} minutes were over"))
    return results
