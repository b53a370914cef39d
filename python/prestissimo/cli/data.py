# SPDX-License-Identifier: Apache-2.0
"""`prestissimo data`: gather the training music, render our own, describe it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from prestissimo.data.dataset import Report, Workplace

__all__ = ["app"]

app = typer.Typer(
    help="The training data: Debian packages of free music, and renderings with exact captions.",
    no_args_is_help=True,
)

_Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the data set (16 h of music: 12 GB).")]
_Packages = Annotated[
    list[str] | None,
    typer.Option(
        "--packages", "-p", help="Only these (repeatable, or separated by commas).", show_default="everything"
    ),
]
_Debs = Annotated[
    Path | None, typer.Option("--deb-dir", help="Folder of downloaded packages.", show_default="OUT/deb")
]
_Download = Annotated[bool, typer.Option(help="Fetch missing packages with apt-get download.")]
_Pieces = Annotated[int | None, typer.Option(help="Pieces of our own to render.", show_default="268")]


def _names(packages: list[str] | None) -> list[str]:
    from prestissimo.data.dataset import package_names

    known = package_names()
    wanted = [n for item in packages or [] for n in item.split(",") if n]
    for name in wanted:
        if name not in known:
            raise ValueError(f"--packages must be among {', '.join(known)}, got {name!r}")
    return wanted or known


def _count(pieces: int | None) -> int:
    from prestissimo.data.renderings import PIECES

    if pieces is not None and not 0 <= pieces <= 100_000:
        raise ValueError(f"--pieces must be in 0 ... 100000, got {pieces}")
    return PIECES if pieces is None else pieces


class _Bar:
    """A progress bar over seconds of music, on standard error."""

    def __init__(self, title: str, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.2f} of {task.total:.2f} h"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[name]}"),
            console=Console(stderr=True),
            disable=quiet,
        )
        self._task = self._progress.add_task(title, total=1.0, name="")

    def __enter__(self) -> Report:
        self._progress.start()
        return self._report

    def _report(self, name: str, done: float, total: float) -> None:
        self._progress.update(
            self._task, completed=done / 3600, total=max(total, 1e-9) / 3600, name=name[-48:]
        )

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


@app.command()
def build(
    out: _Out = Path("data"),
    packages: _Packages = None,
    deb_dir: _Debs = None,
    download: _Download = True,
    pieces: _Pieces = None,
    keep: Annotated[bool, typer.Option(help="Leave unpacked packages in OUT/packages.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Download, verify, decode and render everything into OUT; run it again to go on after an interruption.

    \b
    prestissimo data build -o data                                    everything
    prestissimo data build -o data -p zaz-data -p hyperrogue-music    two small packages
    """
    from prestissimo.data.dataset import RENDERED, Workplace, build_recorded, build_rendered
    from prestissimo.data.store import FeatureStore, FeatureWriter

    names, count = _names(packages), _count(pieces)
    place = Workplace(out, deb_dir, download, keep)
    writer = FeatureWriter(out)
    with _Bar("recorded", quiet) as report:
        build_recorded(place, writer, names, report)
    if set(RENDERED) & set(names):
        with _Bar("rendered", quiet) as report:
            build_rendered(place, writer, names, count, report)
    if not quiet:
        _table(FeatureStore(out))


@app.command()
def report(out: _Out = Path("data")) -> None:
    """Print hours by package, licence and split of a built data set."""
    from prestissimo.data.store import FeatureStore

    _table(FeatureStore(out))


@app.command("credits")
def print_credits(
    out: _Out = Path("data"),
    split: Annotated[str, typer.Option(help="train, heldout or heldout_package.")] = "train",
) -> None:
    """Print the credits (Markdown) that weights trained on a built data set must carry."""
    from prestissimo.data.credits import credits
    from prestissimo.data.manifest import SPLITS
    from prestissimo.data.store import FeatureStore

    if split not in SPLITS:
        raise ValueError(f"--split must be one of {', '.join(SPLITS)}, got {split!r}")
    print(credits(FeatureStore(out).select(split)), end="")


@app.command()
def describe(
    out: _Out = Path("data"),
    packages: _Packages = None,
    deb_dir: _Debs = None,
    download: _Download = True,
    pieces: _Pieces = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where attribute files go.", show_default="OUT/windows")
    ] = None,
    tags: Annotated[bool, typer.Option(help="Listen with the tagger (package musicnn).")] = True,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Measure and tag every window again. The attributes that ship make this unnecessary for the same tracks."""
    from prestissimo.data import dataset

    names, count = _names(packages), _count(pieces)
    place: Workplace = dataset.Workplace(out, deb_dir, download)
    with _Bar("windows", quiet) as progress:
        dataset.describe(place, folder or out / "windows", names, count, progress, tags)


@app.command()
def survey(
    out: _Out = Path("data"),
    packages: _Packages = None,
    deb_dir: _Debs = None,
    download: _Download = True,
    manifest: Annotated[Path | None, typer.Option(help="Write a manifest (TSV) here.")] = None,
) -> None:
    """List every music file of the packages with the decision on its licence, for review."""
    from prestissimo.data.dataset import Workplace, survey_all
    from prestissimo.data.manifest import write_manifest

    tracks, left_out = survey_all(Workplace(out, deb_dir, download, keep=True), _names(packages))
    for t in tracks:
        print(f"{t.split}\t{t.seconds:.0f} s\t{t.licence}\t{t.id}\t{t.author}")
    for package, path, reason, seconds in left_out:
        print(f"left out\t{seconds:.0f} s\t{reason}\t{package}/{path}")
    if manifest is not None:
        write_manifest(tracks, manifest)


def _table(store) -> None:  # type: ignore[no-untyped-def]
    from rich.console import Console
    from rich.table import Table

    from prestissimo.data.dataset import stored_hours

    table = Table("package", "licence", "split", "tracks", "hours")
    for (package, licence, split), (count, hours) in sorted(stored_hours(store).items()):
        table.add_row(package, licence, split, str(count), f"{hours:.2f}")
    for split in ("train", "heldout", "heldout_package"):
        table.add_row(
            "all", "", split, str(len(store.select(split))), f"{store.hours(split):.2f}", style="bold"
        )
    Console().print(table)
