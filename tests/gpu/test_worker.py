# SPDX-License-Identifier: Apache-2.0
"""The process that holds the device is lost, hangs, or never comes up. No torch here: processes start in a blink."""

from __future__ import annotations

import os
import time
from multiprocessing.connection import Connection

from .schedule import FAILED, NOT_REACHED, PASSED, Job, Result
from .worker import Worker


def misbehave(connection: Connection, device: str) -> None:
    """Serves jobs by what they are called."""
    if device == "mute":
        time.sleep(60)
    connection.send(None)
    while True:
        job = connection.recv()
        if job.op == "dies":
            os._exit(7)
        if job.op == "hangs":
            time.sleep(60)
        connection.send((Result(job, PASSED), job.op != "faults"))


def test_a_lost_process_is_replaced() -> None:
    told = {
        "fine": (PASSED, ""),
        "dies": (FAILED, "exit code 7"),
        "faults": (PASSED, ""),
        "hangs": (FAILED, "no answer"),
    }
    with Worker(misbehave, "") as worker:
        for op in ("fine", "dies", "fine", "faults", "fine"):
            result = worker(Job("values", op), 60)
            status, text = told[op]
            assert result.status == status
            assert text in result.text
        assert worker.starts == 3
        begun = time.monotonic()
        assert "no answer" in worker(Job("values", "hangs", limit=0.2), 0.2).text
        late = worker(Job("values", "hangs"), 0.4)
        assert (late.status, late.text) == (NOT_REACHED, "cut off after 0 s, when the time was over")
        assert time.monotonic() - begun < 10


def test_a_process_that_never_starts() -> None:
    with Worker(misbehave, "mute") as worker:
        result = worker(Job("values", "fine"), 0.5)
        assert (result.status, result.text) == (NOT_REACHED, "too little time was left to start a process")
