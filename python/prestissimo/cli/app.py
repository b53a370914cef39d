# SPDX-License-Identifier: Apache-2.0
"""The tree of commands. Modules named here import nothing heavy at their top: `--help` loads them all."""

from __future__ import annotations

from typing import Annotated

import typer

from prestissimo._version import __version__
from prestissimo.cli import bench, data, demo, doctor, evaluate, generate, train

__all__ = ["app"]

app = typer.Typer(
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"prestissimo {__version__}")
        raise typer.Exit


@app.callback()
def prestissimo(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Text in, music out: a diffusion model that runs on any CPU.

    \b
    prestissimo generate "calm solo piano in a minor key" --seconds 12 -o out.wav
    prestissimo doctor
    """


app.command()(generate.generate)
app.command()(demo.demo)
app.command()(evaluate.evaluate)
app.command()(bench.bench)
app.add_typer(data.app, name="data")
app.add_typer(train.app, name="train")
app.command()(doctor.doctor)
