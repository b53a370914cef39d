# SPDX-License-Identifier: Apache-2.0
"""The one command for a machine with a GPU: every op checked on it, then timed.

    python -m tests.gpu [-o gpu-report] [--minutes 10] [--only WORD]

Correctness first: values, gradients, same bits, strides, NaN and infinities, streams, all read off the table of ops,
by the tolerances of docs/numerics.md; then arrays of CuPy and Numba, timings beside eager PyTorch and the ceilings of
the device, and the kernels alone as the emulated lanes know them. It needs no network, ends in time by itself, and
writes gpu.json and gpu.md. Exit code 1 if anything failed; 0 too where there is no GPU, with the reason.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from .schedule import FAILED, Phase, Result, run_within

REPORTING = 10.0  # seconds kept back for what comes after the last job


def why_not(device: str) -> str | None:
    """Why nothing can be checked here, or None."""
    import torch

    try:
        from prestissimo import _core
    except ImportError as error:
        return f"the compiled module prestissimo._core is missing ({error})"
    if device != "cuda":
        return None
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no CUDA device"
    if not _core.build_info()["cuda"]:
        return (
            "prestissimo was built without nvcc and has no CUDA kernels: `prestissimo doctor` says what to do"
        )
    major, minor = torch.cuda.get_device_capability()
    if major < 8:
        return f"{torch.cuda.get_device_name()} is sm_{major}{minor}, and the kernels need sm_80 or newer"
    return None


def machine(device: str) -> dict[str, str]:
    """What a figure must name."""
    import datetime
    import platform

    import torch

    import prestissimo

    found = {"device": platform.processor() or platform.machine()}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found = {
            "device": properties.name,
            "capability": f"sm_{properties.major}{properties.minor}",
            "memory": f"{properties.total_memory / 2**30:.0f} GiB",
            "multiprocessors": str(properties.multi_processor_count),
            "CUDA of torch": str(torch.version.cuda),
        }
    return found | {
        "torch": torch.__version__,
        "prestissimo": prestissimo.__version__,
        "Python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu-report"), help="folder of the report")
    parser.add_argument("--minutes", type=float, default=10.0, help="the most that it may take")
    parser.add_argument("--only", default="", help="only what has this word in its name, as values/adaln")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries the command itself"
    )
    o = parser.parse_args(arguments)
    started = time.monotonic()
    if 60 * o.minutes <= REPORTING:
        parser.error(f"--minutes must be more than {REPORTING / 60:.2g}, got {o.minutes:g}")
    if why := why_not(o.device):
        print(f"skipped: {why}")
        return 0

    from . import jobs
    from .report import Report
    from .worker import Worker

    phases = [Phase(p.name, [j for j in p.jobs if o.only in j.id], p.until) for p in jobs.phases(o.device)]
    if not any(p.jobs for p in phases):
        parser.error(f"--only must match some job, got {o.only!r}")
    done = 0

    def tell(phase: Phase, result: Result) -> None:
        nonlocal done
        done += 1
        if result.status == FAILED:
            print(f"FAIL {result.job.id}: {result.text}", flush=True)
        elif done % 50 == 0:
            print(f"{time.monotonic() - started:4.0f} s, {phase.name}: {result.job.id}", flush=True)

    with Worker(jobs.serve, o.device) as worker:
        seconds = 60 * o.minutes - REPORTING - (time.monotonic() - started)
        results = run_within(seconds, phases, worker, tell=tell)
    absent = {what: why for what in jobs.OPTIONAL if (why := jobs.why_absent(what))}
    report = Report(machine(o.device), o.minutes, time.monotonic() - started, absent, results)
    page, data = report.write(o.output)
    print(f"\n{report.verdict()}\n{page}, {data}")
    return int(bool(report.failed))


if __name__ == "__main__":
    raise SystemExit(main())
