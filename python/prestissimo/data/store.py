# SPDX-License-Identifier: Apache-2.0
"""The built data set on disk: audio and log-mel of all tracks in two flat files, and their index.

audio.i16     int16 (samples, 2), left and right, all tracks one after another, gain applied
logmel.f16    float16 (frames, 192): 96 bands of mid, then 96 of side; frame t is centred at sample 512 t
journal.jsonl one line a finished track, written after its data: what a killed build resumes from
index.json    the same entries and the constants, replaced atomically; readers trust only this
Every track's length is a multiple of 4096 samples = 8 frames = 1 latent frame.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prestissimo.nn.stft import MelConfig, log_mel

__all__ = ["FeatureStore", "FeatureWriter", "StoredTrack"]

_CHUNK_FRAMES = 2048
_CONTEXT_FRAMES = 4
_FORMAT = 1


@dataclass(frozen=True)
class StoredTrack:
    """Where one track lies. Offsets and lengths in samples (audio) and frames (log-mel); cut: seconds of
    silence taken off the front."""

    id: str
    package: str
    split: str
    title: str
    author: str
    licence: str
    genre: str
    audio_offset: int
    samples: int
    mel_offset: int
    frames: int
    gain_db: float
    cut: float = 0.0

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.samples / 44100


class FeatureStore:
    """Read access to a built data set, by track and position. Files are mapped, not loaded.

    store.audio(track, start, count)    float32 (2, count), start and count in samples
    store.log_mel(track, start, count)  float32 (2, 96, count), start and count in frames of 512 samples
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        path = self.folder / "index.json"
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: build the data set with `prestissimo data build`")
        index = json.loads(path.read_text(encoding="utf-8"))
        if index.get("format") != _FORMAT:
            raise ValueError(f"{path.name} must have format {_FORMAT}, got {index.get('format')!r}")
        self.mel = MelConfig(**index["mel"])
        self.tracks = [StoredTrack(**entry) for entry in index["tracks"]]
        self._by_id = {t.id: t for t in self.tracks}
        samples = max((t.audio_offset + t.samples for t in self.tracks), default=0)
        frames = max((t.mel_offset + t.frames for t in self.tracks), default=0)
        self._audio = self._map("audio.i16", np.int16, samples, 2)
        self._mel = self._map("logmel.f16", np.float16, frames, 2 * self.mel.n_mels)

    def _map(self, name: str, dtype: type, rows: int, columns: int) -> np.ndarray:
        path = self.folder / name
        need = rows * columns * np.dtype(dtype).itemsize
        have = path.stat().st_size if path.exists() else 0
        if have < need:
            raise ValueError(f"{name} must have {need} bytes by the index, got {have}")
        if not rows:
            return np.zeros((0, columns), dtype)
        return np.memmap(path, dtype, "r", shape=(rows, columns))

    def __len__(self) -> int:
        return len(self.tracks)

    def __getitem__(self, track_id: str) -> StoredTrack:
        """The track of that id. Raises KeyError."""
        return self._by_id[track_id]

    def __contains__(self, track_id: object) -> bool:
        return track_id in self._by_id

    def select(self, split: str | None = None, package: str | None = None) -> list[StoredTrack]:
        """Tracks of a split ("train", "heldout", "heldout_package") and of a package, in stored order."""
        return [t for t in self.tracks if split in (None, t.split) and package in (None, t.package)]

    def hours(self, split: str | None = None) -> float:
        """Hours of music in a split, or in all."""
        return sum(t.seconds for t in self.select(split)) / 3600

    def audio(self, track: StoredTrack | str, start: int = 0, count: int | None = None) -> Tensor:
        """Samples start ... start + count of a track, float32 (2, count) in [-1, 1].

        Raises ValueError where that leaves the track.
        """
        track = self[track] if isinstance(track, str) else track
        count = track.samples - start if count is None else count
        _check_range(start, count, track.samples, "samples")
        at = track.audio_offset + start
        return torch.from_numpy(self._audio[at : at + count].astype(np.float32).T / 32768.0)

    def log_mel(self, track: StoredTrack | str, start: int = 0, count: int | None = None) -> Tensor:
        """Frames start ... start + count of log(mel + floor), float32 (2, n_mels, count), mid then side.

        Raises ValueError where that leaves the track.
        """
        track = self[track] if isinstance(track, str) else track
        count = track.frames - start if count is None else count
        _check_range(start, count, track.frames, "frames")
        at = track.mel_offset + start
        rows = self._mel[at : at + count].astype(np.float32)
        return torch.from_numpy(rows.reshape(count, 2, self.mel.n_mels).transpose(1, 2, 0).copy())

    def __iter__(self) -> Iterator[StoredTrack]:
        return iter(self.tracks)


def _check_range(start: int, count: int, size: int, unit: str) -> None:
    if start < 0 or count < 1 or start + count > size:
        raise ValueError(f"start and count must stay in 0 ... {size} {unit}, got {start} and {count}")


class FeatureWriter:
    """Appends tracks to a data set; drops what an interrupted run wrote after its last journal line."""

    def __init__(self, folder: Path | str, mel: MelConfig | None = None) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.mel = mel or MelConfig()
        self._journal = self.folder / "journal.jsonl"
        self.tracks = self._recover()

    def _recover(self) -> list[StoredTrack]:
        tracks: list[StoredTrack] = []
        if self._journal.exists():
            good = 0
            for line in self._journal.read_bytes().splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    break
                tracks.append(StoredTrack(**json.loads(line)))
                good += len(line)
            os.truncate(self._journal, good)
        samples = sum(t.samples for t in tracks)
        frames = sum(t.frames for t in tracks)
        for name, size in (("audio.i16", samples * 4), ("logmel.f16", frames * 4 * self.mel.n_mels)):
            path = self.folder / name
            path.touch()
            have = path.stat().st_size
            if have < size:
                raise ValueError(f"{name} has {have} bytes but the journal says {size}: delete {self.folder}")
            os.truncate(path, size)
        return tracks

    def __contains__(self, track_id: object) -> bool:
        return any(t.id == track_id for t in self.tracks)

    def add(self, audio: np.ndarray, gain_db: float, cut: float = 0.0, **entry: str) -> StoredTrack:
        """Append one track: audio float32 (N, 2) before the gain; N a positive multiple of 8 hops.

        entry: id, package, split, title, author, licence, genre.
        """
        if audio.ndim != 2 or audio.shape[1] != 2 or not len(audio) or len(audio) % (8 * self.mel.hop):
            raise ValueError(
                f"audio must be [N, 2] with N a multiple of {8 * self.mel.hop}, got {audio.shape}"
            )
        pcm = np.clip(np.rint(audio * (10 ** (gain_db / 20) * 32768.0)), -32768, 32767).astype(np.int16)
        with (self.folder / "logmel.f16").open("ab") as file:
            for rows in mel_rows(pcm, self.mel):
                file.write(rows.tobytes())
            _sync(file)
        with (self.folder / "audio.i16").open("ab") as file:
            file.write(pcm.tobytes())
            _sync(file)
        track = StoredTrack(
            audio_offset=sum(t.samples for t in self.tracks),
            samples=len(pcm),
            mel_offset=sum(t.frames for t in self.tracks),
            frames=len(pcm) // self.mel.hop,
            gain_db=round(gain_db, 3),
            cut=round(cut, 3),
            **entry,
        )
        with self._journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(track), ensure_ascii=False) + "\n")
            _sync(file)
        self.tracks.append(track)
        return track

    def publish(self) -> None:
        """Replace index.json by one that lists every track so far."""
        index = {"format": _FORMAT, "mel": asdict(self.mel), "tracks": [asdict(t) for t in self.tracks]}
        partial = self.folder / "index.json.partial"
        partial.write_text(json.dumps(index, ensure_ascii=False), encoding="utf-8")
        partial.replace(self.folder / "index.json")


def _sync(file) -> None:  # type: ignore[no-untyped-def]
    file.flush()
    os.fsync(file.fileno())


def mel_rows(pcm: np.ndarray, mel: MelConfig) -> Iterator[np.ndarray]:
    """float16 pieces (frames, 2 * n_mels) of the log-mel of int16 (N, 2) audio; N a multiple of the hop.

    Pieces overlap by enough frames that they join to exactly what one transform of the whole would give.
    """
    frames = len(pcm) // mel.hop
    for first in range(0, frames, _CHUNK_FRAMES):
        last = min(first + _CHUNK_FRAMES, frames)
        low, high = max(first - _CONTEXT_FRAMES, 0), min(last + _CONTEXT_FRAMES, frames)
        piece = pcm[low * mel.hop : high * mel.hop].astype(np.float32).T / 32768.0
        rows = log_mel(torch.from_numpy(piece)[None], mel)[0].permute(2, 0, 1).flatten(1)
        yield rows[first - low : last - low].to(torch.float16).numpy()
