# SPDX-License-Identifier: Apache-2.0
"""`prestissimo demo`: a static page of fixed prompts with players, spectrograms, seeds and figures."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from prestissimo._version import __version__

__all__ = ["PROMPTS", "demo"]

PROMPTS = (
    "calm solo piano in a minor key",
    "fast and angry heavy metal with distorted guitars",
    "energetic techno at 128 bpm",
    "slow ambient pads, dark and wide",
    "a lively flute tune over soft strings",
    "orchestral strings, sad and slow",
    "acoustic guitar, warm and simple, in a major key",
    "a drum solo, loud and dense",
    "bright classical music for a small ensemble",
    "rock with drums, bass and electric guitar",
)

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 0.3rem; } audio, img { width: 100%; display: block; }
p { color: #555; margin: 0.2rem 0; } table { border-collapse: collapse; }
td, th { padding: 0.15rem 1rem 0.15rem 0; text-align: left; border-bottom: 1px solid #ddd; }
"""


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the page.")] = Path("demo"),
    model: Annotated[str, typer.Option(help="A bundled model or a folder of weights.")] = "mini",
    prompts: Annotated[
        Path | None,
        typer.Option(help="A text or CSV file of prompts, as generate takes.", show_default="ten fixed ones"),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Length of each piece.")] = 20.0,
    seed: Annotated[int, typer.Option(help="Of the first piece; the others count on.")] = 1,
    format: Annotated[str, typer.Option(help="mp3, opus, ogg, flac or wav.")] = "mp3",
    evaluation: Annotated[
        Path | None,
        typer.Option(help="report.json of `prestissimo evaluate`, shown below.", show_default=False),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", show_default="all")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no report.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Make pieces anew that are there already.")] = False,
) -> None:
    """Write a page (index.html) with a player, a spectrogram and a seed for each prompt.

    Pieces that an earlier, interrupted run finished are kept. Needs pip install "prestissimo\\[plot]".

    \b
    prestissimo demo -o demo --seconds 20
    """
    from prestissimo.atomic import write_bytes
    from prestissimo.cli import generate, jobs, picture

    picture.require_matplotlib()
    rows = jobs.read_prompts(prompts) if prompts else [jobs.Row({"prompt": p}, "") for p in PROMPTS]
    figures = None if evaluation is None else _figures(evaluation)
    index = output / "index.html"
    if index.exists() and not overwrite:
        raise FileExistsError(f"output: {index} exists; --overwrite makes the page anew")
    output.mkdir(parents=True, exist_ok=True)
    todo = jobs.plan(
        rows, {"seconds": seconds}, seed=seed, output=f"{output}/", format=format, plot=True, overwrite=True
    )

    from prestissimo.nn import parameter_count
    from prestissimo.pipeline import load

    pipe = load(model, threads=threads)
    todo = [job.with_request(pipe.resolve(job.request)) for job in todo]
    missing = [job for job in todo if overwrite or not (_is_there(job.path) and _is_there(job.picture))]
    entries: list[dict[str, Any]] = []
    settings = {"bit_depth": None, "lufs": -16.0 if seconds >= 0.4 else None, "overwrite": True}
    generate.make_all(pipe, missing, None, settings, entries, generate.console_for(quiet))
    made = {entry["file"]: entry for entry in entries}
    pieces = [
        _piece(job, made.get(str(job.path)), job.request)
        for job in todo
        if job.path is not None and job.picture is not None
    ]
    counts = {
        name: parameter_count(module) for name, module in (("transformer", pipe.dit), ("decoder", pipe.codec))
    }
    about = (
        f"Model {pipe.name} ({', '.join(f'{name} {n / 1e6:.1f} M parameters' for name, n in counts.items())}), "
        f"prestissimo {__version__}, {pipe.threads} CPU threads. Nothing was chosen: the seeds count from {seed}."
    )
    page = _page(about, pieces, figures)
    write_bytes(index, page.encode(), overwrite=overwrite)
    if not quiet:
        print(index)


def _is_there(path: Path | None) -> bool:
    return path is not None and path.exists()


def _figures(path: Path) -> str:
    """The tables of an evaluation as HTML. Raises OSError, or ValueError naming the file."""
    from prestissimo.metrics import report

    try:
        tables = report.tables(json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"evaluation: {path} is no report of `prestissimo evaluate`") from error
    return "".join(report.table_html(table) for table in tables)


def _piece(job: Any, entry: dict[str, Any] | None, request: Any) -> str:
    text = html.escape(request.prompt)
    timing = f", made in {entry['timing']['total']:.2f} s" if entry else ""
    return (
        f"<h2>{text}</h2>"
        f'<audio controls preload="none" src="{html.escape(job.path.name)}"></audio>'
        f'<img alt="waveform and spectrogram of: {text}" loading="lazy" src="{html.escape(job.picture.name)}">'
        f"<p>seed {request.seed}, {request.seconds:g} s, {request.steps} steps of {request.sampler}, "
        f"guidance {request.guidance:g}{timing}</p>"
    )


def _page(about: str, pieces: list[str], figures: str | None) -> str:
    measured = f"<h1>Measured</h1>{figures}" if figures else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>Prestissimo</title>'
        f"<style>{_STYLE}</style></head><body><h1>Text in, music out</h1><p>{html.escape(about)}</p>"
        f"{''.join(pieces)}{measured}</body></html>\n"
    )
