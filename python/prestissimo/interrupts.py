# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM where they must wait: between an optimizer's steps, in a C library that calls Python back."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = ["signals_held"]


@contextlib.contextmanager
def signals_held() -> Iterator[list[int]]:
    """Within the block Ctrl-C and SIGTERM are only noted in the list, a second one acts at once; afterwards the
    first acts as it would have. Where they are ignored, as in a job in the background, they stay so."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # which alone may set handlers
        yield noted
        return

    def note(number: int, frame: FrameType | None) -> None:
        if noted:
            restore()
            signal.raise_signal(number)
        noted.append(number)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    both = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in both.items() if handler != signal.SIG_IGN}
    for number in before:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        restore()
    if noted:
        signal.raise_signal(noted[0])
