# SPDX-License-Identifier: Apache-2.0
"""Named stages of a run: wall time for the report, NVTX ranges for Nsight Systems where nvtx is installed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

try:
    import nvtx
except ImportError:
    nvtx = None

__all__ = ["Stages"]


class Stages:
    """Seconds per stage, in the order in which they ran.

    >>> stages = Stages()
    >>> with stages("text"):
    ...     pass
    >>> stages.seconds["text"] >= 0
    True
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Counts the block under `name`, also where it raises."""
        marked = contextlib.nullcontext() if nvtx is None else nvtx.annotate(name, domain="prestissimo")
        begun = time.perf_counter()
        try:
            with marked:
                yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun
