# SPDX-License-Identifier: Apache-2.0
"""From packages to features: survey a source, verify each file against the manifest, decode, append."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from prestissimo.data import audio as audio_files
from prestissimo.data.licences import licence_of, parse_copyright, trainable
from prestissimo.data.manifest import Track, split_of
from prestissimo.data.packages import PackageError, package_version
from prestissimo.data.sources import Rule, Source
from prestissimo.data.store import FeatureWriter, StoredTrack

__all__ = ["MIN_SECONDS", "add_track", "review", "survey"]

MIN_SECONDS = 20.0
_SUFFIXES = {".ogg", ".opus"}
#: Tags that repeat one title over a whole album, or name the game.
_BAD_TITLES = {"living caves", "supertuxkart"}
_BAD_GENRES = {"game", "soundtrack", "soundtrck", "other", "game music", "game soundtrack", "vgm"}


def _groups(source: Source, base: Path) -> Iterator[tuple[str, ...]]:
    """Paths of each track relative to the source's root; the parts of one song together."""
    root = base / source.root
    found = sorted(p for p in root.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
    if not found:
        raise PackageError(f"{source.package} holds no music below {source.root}: has the package changed?")
    if not source.stems:
        yield from ((str(p.relative_to(root)),) for p in found)
        return
    for folder in sorted({p.parent for p in found}):
        parts = tuple(str((folder / s).relative_to(root)) for s in source.stems if (folder / s).exists())
        if parts:
            yield parts


def review(
    source: Source, base: Path, package_root: Path
) -> Iterator[tuple[tuple[str, ...], Rule | None, str]]:
    """(paths, rule, reason) of every music file; reason is "" where the track is used, else why it is not.

    Raises PackageError where a rule that admits a track contradicts the package's own copyright file.
    """
    text = package_root / "usr/share/doc" / source.package / "copyright"
    entries = parse_copyright(text.read_text(encoding="utf-8")) if source.origin is not None else []
    for paths in _groups(source, base):
        rule = source.rule(paths[0])
        if rule is None:
            yield paths, None, "no reviewed rule names it"
        elif source.evaluation:
            yield paths, rule, "" if rule.licence else rule.evidence
        elif not trainable(rule.licence):
            yield paths, rule, f"licence {rule.licence}"
        else:
            if source.origin is not None:
                entry = licence_of(source.origin + paths[0], entries)
                if entry is None or set(rule.licence.split(" OR ")) != set(entry.licence.split(" OR ")):
                    raise PackageError(
                        f"{source.package}: the reviewed licence of {paths[0]} is {rule.licence}, "
                        f"but its copyright file says {entry.licence if entry else 'nothing'}"
                    )
            yield paths, rule, ""


def _words(stem: str) -> str:
    stem = re.sub(r"^(hr3|hr|music|van|manolo_camp|aminos|asak)[-_]", "", stem.lstrip("@"))
    stem = re.sub(r"[-_]+(looping|v001|short)\b", "", stem, flags=re.IGNORECASE)
    stem = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", stem)
    return re.sub(r"[-_\s]+", " ", stem).strip()


def _title(source: Source, paths: tuple[str, ...], tags: dict[str, str]) -> str:
    title = tags.get("title", "")
    if source.stems:
        title = _words(Path(paths[0]).parent.name)
    elif not title or title.lower() in _BAD_TITLES or "kind permission" in title:
        title = _words(Path(paths[0]).stem)
    title = re.sub(r"\(fof \w+\)|_looping|[_\s]+", " ", title, flags=re.IGNORECASE).strip()
    return title[:1].upper() + title[1:]


def survey(
    source: Source, base: Path, package_root: Path, deb: Path
) -> tuple[list[Track], list[tuple[str, str, float]]]:
    """Manifest entries of a source, and (path, reason, seconds) of the music it holds that is not used."""
    import soundfile

    tracks, left_out = [], []
    for paths, rule, reason in review(source, base, package_root):
        files = [base / source.root / p for p in paths]
        info = soundfile.info(files[0])
        seconds = info.frames / info.samplerate
        if not reason and seconds < MIN_SECONDS:
            reason = f"shorter than {MIN_SECONDS:.0f} s"
        if reason or rule is None:
            left_out.append((paths[0], reason, seconds))
            continue
        tags = audio_files.metadata(files[0])
        name = Path(paths[0]).parent.as_posix() if source.stems else Path(paths[0]).with_suffix("").as_posix()
        track_id = f"{source.package}/{name}"
        genre = tags.get("genre", "").lower()
        tracks.append(
            Track(
                id=track_id,
                package=source.package,
                version=package_version(deb),
                path="|".join(source.root + p for p in paths),
                title=_title(source, paths, tags),
                author=rule.author,
                licence=rule.licence,
                sha256=audio_files.checksum(files),
                seconds=round(seconds, 2),
                split=split_of(track_id, source.evaluation),
                genre=rule.genre or ("" if genre in _BAD_GENRES else genre),
            )
        )
    return tracks, left_out


def add_track(writer: FeatureWriter, track: Track, base: Path) -> StoredTrack:
    """Verify, decode and append one track of the manifest.

    Raises PackageError where the file is missing or is not the one that the manifest describes.
    """
    files = [base / p for p in track.paths]
    for file in files:
        if not file.is_file():
            raise PackageError(
                f"{track.package} holds no {file.relative_to(base)}: the manifest knows {track.version}"
            )
    found = audio_files.checksum(files)
    if found != track.sha256:
        raise PackageError(f"{track.id} has SHA-256 {found[:16]}…, the manifest says {track.sha256[:16]}…")
    audio = audio_files.decode(files)
    kept = audio_files.sounding(audio)
    audio = audio[kept]
    if len(audio) < MIN_SECONDS / 2 * audio_files.SAMPLE_RATE:
        heard = len(audio) / audio_files.SAMPLE_RATE
        raise PackageError(f"{track.id} has only {heard:.1f} s that are not silent")
    return writer.add(
        audio,
        audio_files.normalise_gain(audio),
        kept.start / audio_files.SAMPLE_RATE,
        id=track.id,
        package=track.package,
        split=track.split,
        title=track.title,
        author=track.author,
        licence=track.licence,
        genre=track.genre,
    )
