# SPDX-License-Identifier: Apache-2.0
"""Side-by-side timing: rivals take turns inside one run, so that a drifting machine slows all of them alike."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

# Seconds before every turn, in which the last rival's threads fall asleep
REST = 0.002


@dataclass(frozen=True)
class Timing:
    """Seconds per call: the fastest round, the median, and the spread (median over fastest)."""

    fastest: float
    median: float

    @property
    def spread(self) -> float:
        return self.median / self.fastest


def interleave(
    rivals: Mapping[str, Callable[[], Any]],
    rounds: int = 30,
    seconds_per_call: float = 0.01,
    finish: Callable[[], Any] = lambda: None,
    seconds: float = float("inf"),
    rest: float = REST,
) -> dict[str, Timing]:
    """Time every rival once per round, in turn, each turn long enough (about `seconds_per_call`) to be measured.

    `finish` waits for what the calls of a turn have only started, as on a GPU; its time counts. There are fewer rounds,
    at least 3 of them, where `rounds` would take longer than `seconds` in all. `rest`: seconds before every turn.
    """
    repeats, turn = {}, 0.0
    for name, run in rivals.items():
        run()
        finish()
        start = time.perf_counter()
        run()
        finish()
        once = max(time.perf_counter() - start, 1e-7)
        repeats[name] = max(1, round(seconds_per_call / once))
        turn += once * repeats[name]
    rounds = int(min(rounds, max(3, seconds / turn)))
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, run in rivals.items():
            time.sleep(rest)
            start = time.perf_counter()
            for _ in range(repeats[name]):
                run()
            finish()
            times[name].append((time.perf_counter() - start) / repeats[name])
    return {name: Timing(min(t), statistics.median(t)) for name, t in times.items()}


def machine() -> dict[str, str]:
    """What a figure must name: processor, cores, ISA, versions, date."""
    import torch

    import prestissimo
    from prestissimo import _core

    model = platform.processor()
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
        fields = dict(line.split(":", 1) for line in first.splitlines() if ":" in line)
        fields = {k.strip(): v.strip() for k, v in fields.items()}
        model = f"{fields['model name']} (family {fields['cpu family']}, model {fields['model']})"
    except (OSError, KeyError):
        pass
    return {
        "cpu": model,
        "cores": str(os.cpu_count()),
        "isa": _core.isa(),
        "torch": torch.__version__,
        "prestissimo": prestissimo.__version__,
        "date": date.today().isoformat(),
    }
