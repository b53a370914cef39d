# SPDX-License-Identifier: Apache-2.0
"""The whole data set: packages to features, then renderings; and the attributes of its windows."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from prestissimo.data.attributes import WindowAttributes, read_windows, track_windows, write_windows
from prestissimo.data.build import add_track, survey
from prestissimo.data.manifest import Track, read_manifest
from prestissimo.data.packages import find_deb, find_program, unpack
from prestissimo.data.render import SOUNDFONT_PACKAGE, soundfont
from prestissimo.data.renderings import Rendering, add_rendering, own_pieces, rendered_windows, score_pieces
from prestissimo.data.scores import freedoom_scores, lesson_scores
from prestissimo.data.sources import SOURCES, Source, source_named
from prestissimo.data.store import FeatureStore, FeatureWriter

__all__ = [
    "RENDERED",
    "Workplace",
    "build_recorded",
    "build_rendered",
    "describe",
    "package_names",
    "survey_all",
]

#: Names that `packages` understands beside the Debian packages of recorded music.
RENDERED = ("rendered", "freedoom", "pianobooster")

#: Told (name, seconds of music done, seconds in all) after each track.
Report = Callable[[str, float, float], None]


def package_names() -> list[str]:
    """Everything that the data set is made of, in build order."""
    return [s.package for s in SOURCES] + list(RENDERED)


class Workplace:
    """Where downloads and unpacked packages lie while a data set is built.

    debs: folder of downloaded packages. download: fetch what is missing. keep: leave unpacked packages there.
    """

    def __init__(
        self, out: Path, debs: Path | None = None, download: bool = True, keep: bool = False
    ) -> None:
        self.out = out
        self.debs = debs or out / "deb"
        self.unpacked = out / "packages"
        self.download, self.keep = download, keep
        for folder in (self.out, self.debs, self.unpacked):
            folder.mkdir(parents=True, exist_ok=True)

    def open(self, source: Source) -> Path:
        """Fetch and unpack a package; returns the folder that track paths start from."""
        return unpack(find_deb(source.package, self.debs, self.download), source, self.unpacked)

    def close(self, package: str) -> None:
        """Remove an unpacked package, unless it is to be kept."""
        if not self.keep:
            shutil.rmtree(self.unpacked / package, ignore_errors=True)
            for mark in self.unpacked.glob(f".{package}.*"):
                mark.unlink()


def build_recorded(
    place: Workplace,
    writer: FeatureWriter,
    packages: Sequence[str],
    report: Report,
    tracks: Sequence[Track] = (),
) -> None:
    """Append every track of the manifest that is in `packages` and not yet stored.

    tracks: another manifest. Raises PackageError where a package or a file is not what the manifest describes.
    """
    wanted = [t for t in tracks or read_manifest() if t.package in packages]
    total, done = sum(t.seconds for t in wanted), sum(t.seconds for t in wanted if t.id in writer)
    for package in dict.fromkeys(t.package for t in wanted if t.id not in writer):
        report(package, done, total)
        base = place.open(source_named(package))
        for track in (t for t in wanted if t.package == package and t.id not in writer):
            add_track(writer, track, base)
            done += track.seconds
            report(track.id, done, total)
        writer.publish()
        place.close(package)
    writer.publish()


def _renderings(place: Workplace, packages: Sequence[str], pieces: int) -> Iterator[Rendering]:
    if "rendered" in packages:
        yield from own_pieces(pieces)
    for name, scores in (("freedoom", freedoom_scores), ("pianobooster", lesson_scores)):
        if name in packages:
            yield from score_pieces(scores(place.open(Source(name, "", ()))))


def build_rendered(
    place: Workplace, writer: FeatureWriter, packages: Sequence[str], pieces: int, report: Report
) -> None:
    """Render and append `pieces` pieces of our own and the scores in `packages`, those not yet stored.

    Raises PackageError where fluidsynth or the sound font is missing.
    """
    if not set(RENDERED) & set(packages):
        return
    find_program("fluidsynth", "render our own pieces; leave them out with --packages")
    font: Path | None = None
    everything = list(_renderings(place, packages, pieces))
    total, done = sum(p.seconds for p in everything), 0.0
    for number, piece in enumerate(everything):
        if piece.id not in writer:
            if font is None:
                place.open(Source(SOUNDFONT_PACKAGE, "", ()))
                font = soundfont(place.unpacked / SOUNDFONT_PACKAGE)
            add_rendering(writer, piece, font)
            if number % 20 == 19:
                writer.publish()
        done += piece.seconds
        report(piece.id, done, total)
    writer.publish()
    for package in (SOUNDFONT_PACKAGE, *RENDERED):
        place.close(package)


def describe(
    place: Workplace, folder: Path, packages: Sequence[str], pieces: int, report: Report, tags: bool = True
) -> None:
    """Write the attributes of every window of the stored tracks to `folder`, one file a package.

    A package whose file already covers its tracks is left as it is. tags: listen with the tagger (needs the
    package musicnn). Raises ImportError where that is missing.
    """
    store = FeatureStore(place.out)
    folder.mkdir(parents=True, exist_ok=True)
    todo = []
    for package in dict.fromkeys(t.package for t in store if t.package in packages):
        file = folder / f"{package}.tsv"
        covered = {w.track for w in read_windows(file)} if file.exists() else set()
        if covered != {t.id for t in store.select(package=package)}:
            todo.append(package)
    rendered = {p.id: p for p in _renderings(place, [p for p in todo if p in RENDERED], pieces)}
    net = None
    if tags and any(p not in RENDERED for p in todo):
        from prestissimo.metrics.musicnn import MusiCNN

        net = MusiCNN("MTT_musicnn")
    total, done = sum(t.seconds for t in store if t.package in todo), 0.0
    for package in todo:
        rows: list[WindowAttributes] = []
        for track in store.select(package=package):
            if package not in RENDERED:
                rows += track_windows(store, track, net)
            elif track.id in rendered:
                rows += rendered_windows(store, rendered[track.id])
            else:
                raise ValueError(
                    f"pieces must cover the {package} that were built: {track.id} is not among them"
                )
            done += track.seconds
            report(track.id, done, total)
        write_windows(rows, folder / f"{package}.tsv")


def survey_all(
    place: Workplace, packages: Sequence[str]
) -> tuple[list[Track], list[tuple[str, str, str, float]]]:
    """Manifest entries of the recorded packages, and (package, path, reason, seconds) of what is left out."""
    tracks: list[Track] = []
    left_out: list[tuple[str, str, str, float]] = []
    for source in (s for s in SOURCES if s.package in packages):
        base = place.open(source)
        deb = find_deb(source.package, place.debs, place.download)
        found, rest = survey(source, base, place.unpacked / source.package, deb)
        tracks += found
        left_out += [(source.package, *entry) for entry in rest]
    return tracks, left_out


def stored_hours(store: FeatureStore) -> dict[tuple[str, str, str], tuple[int, float]]:
    """(package, licence, split) -> (tracks, hours) of what is stored, trimmed."""
    table: dict[tuple[str, str, str], tuple[int, float]] = {}
    for t in store:
        count, hours = table.get((t.package, t.licence, t.split), (0, 0.0))
        table[t.package, t.licence, t.split] = (count + 1, hours + t.seconds / 3600)
    return table
