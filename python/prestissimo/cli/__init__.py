# SPDX-License-Identifier: Apache-2.0
"""The `prestissimo` command: one file per subcommand, and the one place where errors become exit codes.

0 done; 1 failed (disk, memory, a defect); 2 the input was wrong; 130 interrupted. Errors are one line on
standard error; PRESTISSIMO_DEBUG=1 lets the traceback through.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

__all__ = ["describe", "main", "run"]

INTERRUPTED = 128 + signal.SIGINT


def main() -> NoReturn:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code."""
    debug = os.environ.get("PRESTISSIMO_DEBUG", "0") not in ("", "0")
    log, warnings = logging.getLogger("prestissimo"), logging.StreamHandler()
    warnings.setFormatter(_Formatter())
    log.addHandler(warnings)
    log.setLevel(logging.WARNING)
    before = None
    try:
        if threading.current_thread() is threading.main_thread():
            # what Ctrl-C does, so that a killed run cleans up too
            before = signal.signal(signal.SIGTERM, _terminate)
        from prestissimo.cli.app import app

        code = app(list(arguments), prog_name="prestissimo", standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:  # what newer typers make of Ctrl-C
            return _report(KeyboardInterrupt())
        return code if isinstance(code, int) else 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except BaseException as error:
        if debug and not isinstance(error, KeyboardInterrupt):
            raise
        return _report(error)
    finally:
        log.removeHandler(warnings)
        if before is not None:
            signal.signal(signal.SIGTERM, before)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"prestissimo: {record.levelname.lower()}: {_one_line(record.getMessage())}"


def _report(error: BaseException) -> int:
    text, code = describe(error)
    print(f"prestissimo: error: {text}", file=sys.stderr)
    return code


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def describe(error: BaseException) -> tuple[str, int]:
    """One line for an exception, and the exit code that goes with it."""
    import typer

    usage_error = typer.BadParameter.__base__ or Exception
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return "interrupted", INTERRUPTED
    if isinstance(error, usage_error.__base__ or usage_error):  # every exception that the parser raises
        return _one_line(getattr(error, "format_message", lambda: str(error))()), 2
    if isinstance(error, OSError):
        wrong = isinstance(
            error, FileNotFoundError | FileExistsError | IsADirectoryError | NotADirectoryError
        )
        where = f"{error.filename}: " if error.filename else ""
        hint = " (--overwrite replaces it)" if isinstance(error, FileExistsError) else ""
        return _one_line(f"{where}{error.strerror or error}{hint}"), 2 if wrong else 1
    if isinstance(error, MemoryError):
        return "out of memory", 1
    if isinstance(error, ValueError | ImportError):
        return _one_line(str(error)) or type(error).__name__, 2
    if isinstance(error, FloatingPointError):  # of sampling and training, which say what to change
        return _one_line(str(error)), 1
    hint = "set PRESTISSIMO_DEBUG=1 for the traceback"
    return f"{type(error).__name__}: {_one_line(str(error))} ({hint})", 1


def _one_line(text: str) -> str:
    return " ".join(text.split())
