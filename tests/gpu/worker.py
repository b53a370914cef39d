# SPDX-License-Identifier: Apache-2.0
"""Jobs in a process of their own: a fault on a GPU ends every later call of the process, and a kernel may never end.

The process that plans and reports touches no device. It starts another where one was lost.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType

from .schedule import FAILED, NOT_REACHED, Job, Result

ENOUGH = 60.0  # seconds in which a process must have come up, importing torch above all
# serve(connection, device): sends None when ready, then answers every Job with (Result, whether the process is whole)
Serve = Callable[[Connection, str], None]


class Worker:
    """A `Runner` over one process at a time."""

    def __init__(self, serve: Serve, device: str) -> None:
        self._serve, self._device = serve, device
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None
        self.starts = 0

    def _begin(self, seconds: float) -> Connection | None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=self._serve, args=(theirs, self._device), daemon=True)
        self._process.start()
        theirs.close()
        self.starts += 1
        return self._connection if self._answer(self._connection, seconds)[0] else None

    @staticmethod
    def _answer(connection: Connection, seconds: float) -> tuple[bool, object]:
        """(whether there was one, the answer or why not)"""
        try:
            return (True, connection.recv()) if connection.poll(max(seconds, 0)) else (False, "late")
        except (EOFError, OSError):
            return False, "died"

    def __call__(self, job: Job, seconds: float) -> Result:
        begun = time.monotonic()
        connection = self._connection or self._begin(seconds)
        took = time.monotonic() - begun
        if connection is None:
            self.close()
            if seconds < ENOUGH:
                return Result(job, NOT_REACHED, "too little time was left to start a process", took)
            return Result(job, FAILED, "the process for the device did not start", took)
        try:
            connection.send(job)
            answered, answer = self._answer(connection, seconds - took)
        except OSError:
            answered, answer = False, "died"
        took = time.monotonic() - begun
        if not answered:
            code = self.close()
            if answer == "late" and seconds < job.limit:
                return Result(job, NOT_REACHED, f"cut off after {took:.0f} s, when the time was over", took)
            why = (
                f"no answer after {took:.0f} s" if answer == "late" else f"the process died, exit code {code}"
            )
            return Result(job, FAILED, why, took)
        assert isinstance(answer, tuple)
        result, whole = answer
        if not whole:
            self.close()
        result.seconds = took
        return result

    def close(self) -> int | None:
        """End the process; its exit code, if it had ended by itself."""
        process, self._process = self._process, None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if process is None:
            return None
        process.join(0.5)
        code = process.exitcode
        if code is None:
            process.kill()
            process.join(5)
        return code

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
