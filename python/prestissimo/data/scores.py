# SPDX-License-Identifier: Apache-2.0
"""MIDI files of others that may train: Freedoom's (BSD) inside its WADs, Piano Booster's lessons (CC BY)."""

from __future__ import annotations

import bisect
import hashlib
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prestissimo.data.compose.styles import PROGRAMS
from prestissimo.data.packages import PackageError

__all__ = ["Facts", "Score", "freedoom_scores", "lesson_scores", "midi_facts", "wad_lumps"]

_MAX_LUMP = 2 * 2**20

# General MIDI families of eight programs that PROGRAMS does not name.
_FAMILIES = (
    "piano", "bells", "organ", "guitar", "bass guitar", "strings", "strings", "brass",
    "saxophone", "flute", "synth lead", "synth pad", "synth pad", "plucked strings", "percussion",
    "sound effects",
)  # fmt: skip
_NAMES = {p: name for name, ps in PROGRAMS.items() if "drums" not in name for p in ps}


@dataclass(frozen=True)
class Score:
    """A MIDI file: id, bytes and what its package says of it."""

    id: str
    title: str
    author: str
    licence: str
    style: str
    data: bytes


@dataclass(frozen=True)
class Facts:
    """Notes as (start s, stop s, instrument), the usual beats per minute, and the length in seconds."""

    notes: tuple[tuple[float, float, str], ...]
    bpm: float
    seconds: float

    def instruments(self, start: float, stop: float) -> tuple[str, ...]:
        """Instruments with at least three notes, or an eighth of the time, of a span; most first."""
        count: Counter[str] = Counter()
        cover: Counter[str] = Counter()
        low = bisect.bisect_left(self.notes, (start - 30, 0.0, ""))
        for a, b, name in self.notes[low:]:
            if a >= stop:
                break
            if b > start:
                count[name] += 1
                cover[name] += min(b, stop) - max(a, start)  # type: ignore[assignment]
        return tuple(n for n, _ in cover.most_common() if count[n] >= 3 or cover[n] >= (stop - start) / 8)[:6]


def wad_lumps(data: bytes) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of the lumps of a Doom WAD. Raises ValueError for anything else or a broken directory."""
    if len(data) < 12 or data[:4] not in (b"IWAD", b"PWAD"):
        raise ValueError("data must be a WAD file that begins with IWAD or PWAD")
    count, at = struct.unpack_from("<ii", data, 4)
    if count < 0 or at < 12 or at + 16 * count > len(data):
        raise ValueError(f"the WAD's directory of {count} lumps at {at} leaves the file of {len(data)} bytes")
    for i in range(count):
        offset, size, name = struct.unpack_from("<ii8s", data, at + 16 * i)
        if offset < 0 or size < 0 or offset + size > len(data):
            raise ValueError(f"lump {i} of the WAD leaves the file")
        yield name.rstrip(b"\0").decode("ascii", "replace"), data[offset : offset + size]


def freedoom_scores(package_folder: Path) -> Iterator[Score]:
    """The distinct MIDI files of both Freedoom games; licence: package copyright, BSD with three clauses."""
    wads = sorted((package_folder / "usr/share/games/doom").glob("*.wad"))
    if not wads:
        raise PackageError("freedoom holds no WAD below usr/share/games/doom")
    seen: set[bytes] = set()
    for wad in wads:
        for name, lump in wad_lumps(wad.read_bytes()):
            digest = hashlib.sha256(lump).digest()
            if (
                name.startswith("D_")
                and lump[:4] == b"MThd"
                and digest not in seen
                and len(lump) <= _MAX_LUMP
            ):
                seen.add(digest)
                label = f"{wad.stem}-{name[2:].lower()}"
                yield Score(
                    f"freedoom/{label}", label, "Freedoom contributors", "BSD-3-Clause", "game score", lump
                )


def lesson_scores(package_folder: Path) -> Iterator[Score]:
    """Piano Booster's lessons; licence: package copyright, music/* CC BY."""
    path = package_folder / "usr/share/games/pianobooster/music/BoosterMusicBooks.zip"
    if not path.is_file():
        raise PackageError("pianobooster holds no BoosterMusicBooks.zip")
    seen: set[bytes] = set()
    with zipfile.ZipFile(path) as zipped:
        for info in sorted(zipped.infolist(), key=lambda i: i.filename):
            if not info.filename.lower().endswith(".mid") or info.file_size > _MAX_LUMP:
                continue
            data = zipped.read(info)
            digest = hashlib.sha256(data).digest()
            if digest not in seen:
                seen.add(digest)
                stem = Path(info.filename).stem
                yield Score(
                    f"pianobooster/{Path(info.filename).parent.name.replace(' ', '')}-{stem}",
                    stem,
                    "Louis J. Barman",
                    "LicenseRef-CC-BY",
                    "piano lesson",
                    data,
                )


def midi_facts(path: Path) -> Facts:
    """Notes with their instruments, and the median tempo over time. Raises ValueError for a broken file."""
    try:
        import mido
    except ImportError as error:
        raise ImportError('scores need mido: pip install "prestissimo[data]"') from error

    try:
        file = mido.MidiFile(str(path), clip=True)
        messages = list(file)
    except (OSError, EOFError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{path.name} is not a readable MIDI file: {error}") from None
    now, tempo = 0.0, 500000
    programs = [0] * 16
    sounding: dict[tuple[int, int], tuple[float, str]] = {}
    notes: list[tuple[float, float, str]] = []
    lasted: Counter[int] = Counter()
    for m in messages:
        now += m.time
        lasted[tempo] += m.time
        if m.type == "set_tempo":
            tempo = m.tempo
        elif m.type == "program_change":
            programs[m.channel] = m.program
        elif m.type in ("note_on", "note_off"):
            started = sounding.pop((m.channel, m.note), None)
            if started:
                notes.append((started[0], now, started[1]))
            if m.type == "note_on" and m.velocity:
                program = programs[m.channel]
                name = "drums" if m.channel == 9 else _NAMES.get(program, _FAMILIES[program // 8])
                sounding[m.channel, m.note] = (now, name)
    return Facts(tuple(sorted(notes)), 60e6 / _weighted_median(lasted, tempo), now)


def _weighted_median(weights: Counter[int], default: int) -> int:
    total, reached = sum(weights.values()), 0.0
    for value in sorted(weights):
        reached += weights[value]
        if reached >= total / 2 > 0:
            return value
    return default
