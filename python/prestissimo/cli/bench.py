# SPDX-License-Identifier: Apache-2.0
"""`prestissimo bench`: the benchmarks on this machine, beside their rivals, with every loss marked."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from prestissimo.atomic import write_bytes

__all__ = ["Suite", "bench"]


class Suite(str, Enum):
    """What is timed; each is one file of the benchmarks."""

    ops = "ops"
    block = "block"
    decode = "decode"
    generate = "generate"


def bench(
    suite: Annotated[
        Suite,
        typer.Argument(
            help="ops: every op at the sizes of real models; block: whole transformer blocks; "
            "decode, generate: stages of the model."
        ),
    ] = Suite.ops,
    only: Annotated[
        str | None,
        typer.Option("--only", "-k", help="Rows whose names match, as pytest's -k.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Keep the figures here (JSON).", show_default=False),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw a roofline picture (PNG or SVG).", show_default=False),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the figures as JSON, not as a table.")
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace files that exist.")] = False,
) -> None:
    """Time ops, blocks, the decoder or the whole path against eager PyTorch, torch.compile, OpenVINO and a copy.

    Values are checked before anything is timed; rivals take turns inside one run. A row below a goal says which.
    Needs pip install "prestissimo\\[bench]" and a quiet machine.

    \b
    prestissimo bench ops -k "ceiling or adaln_modulate" --plot roofline.png
    """
    if importlib.util.find_spec("pytest_benchmark") is None:
        raise ImportError('bench needs pytest-benchmark: pip install "prestissimo[bench]"')
    if plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise ImportError('--plot needs matplotlib: pip install "prestissimo[plot]"')
    for option, path in (("--output", output), ("--plot", plot)):
        if path is not None and path.exists() and not overwrite:
            raise FileExistsError(f"{option}: {path} exists; --overwrite replaces it")
        if path is not None and not path.absolute().parent.is_dir():
            raise FileNotFoundError(f"{option}: there is no folder {path.parent}")

    folder = _folder()
    sys.path.insert(0, str(folder))
    rows = _run(folder / f"bench_{suite.value}.py", only)
    if output is not None:
        write_bytes(output, (json.dumps(rows, indent=1) + "\n").encode(), overwrite=overwrite)
    if plot is not None:
        _draw(rows, plot)
    if as_json:
        print(json.dumps(rows))
    else:
        print(importlib.import_module("report").table(rows))


def _folder() -> Path:
    """The benchmarks: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "benchmarks", package.parent.parent / "benchmarks"):
        if (folder / "bench_ops.py").exists():
            return folder
    raise FileNotFoundError(f"the benchmarks are missing from {package}: reinstall the package")


def without_pytest(environment: Mapping[str, str]) -> dict[str, str]:
    """Without the settings of a pytest around this one: in xdist's workers pytest-benchmark times nothing."""
    return {name: value for name, value in environment.items() if not name.startswith("PYTEST_")}


def _run(file: Path, only: str | None) -> list[dict[str, Any]]:
    """One pytest process, its progress shown on standard error."""
    with tempfile.TemporaryDirectory() as place:
        figures = Path(place) / "figures.json"
        command = [sys.executable, "-m", "pytest", str(file), "-q", "-p", "no:cacheprovider", "--no-header"]
        command += ["-o", "addopts=", "-o", "console_output_style=count", "--benchmark-disable-gc"]
        command += [
            "-o",
            "filterwarnings=",
            "--benchmark-columns=min",
            "--benchmark-quiet",
            f"--benchmark-json={figures}",
        ]
        command += ["-k", only] if only else []
        # standard error: standard output is ours
        done = subprocess.run(command, stdout=2, cwd=file.parent, env=without_pytest(os.environ))
        if done.returncode == 5:
            raise ValueError(f"only must match some row, got {only!r}")
        if done.returncode or not figures.exists():
            raise RuntimeError(f"a benchmark failed (pytest's exit code {done.returncode}): see above")
        rows: list[dict[str, Any]] = importlib.import_module("report").rows_of(figures)
        return rows


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    importlib.import_module("roofline").draw(rows).savefig(path)
