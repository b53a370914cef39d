# SPDX-License-Identifier: Apache-2.0
"""From a music file to training audio: decode, resample, trim, one gain for the whole track."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

__all__ = ["SAMPLE_RATE", "checksum", "decode", "metadata", "normalise_gain", "sounding"]

SAMPLE_RATE = 44100
#: RMS of the louder parts of every track, -20 dBFS.
TARGET_RMS = 0.1
MAX_GAIN_DB = 24.0
_BLOCK = SAMPLE_RATE // 10


def checksum(paths: Sequence[Path]) -> str:
    """SHA-256 of the bytes of the files, one after another."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


def decode(paths: Sequence[Path]) -> np.ndarray:
    """The sum of the files as float32 (N, 2) at 44.1 kHz; mono becomes two equal channels.

    Raises ValueError for an unreadable file, more than two channels, or samples that are not finite.
    """
    import soundfile
    import soxr

    total: np.ndarray | None = None
    for path in paths:
        try:
            audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, OSError) as error:
            raise ValueError(f"{path.name} cannot be decoded: {error}") from None
        if audio.shape[1] > 2:
            raise ValueError(f"{path.name} must have 1 or 2 channels, got {audio.shape[1]}")
        if audio.shape[1] == 1:
            audio = np.repeat(audio, 2, axis=1)
        if rate != SAMPLE_RATE:
            audio = soxr.resample(audio, rate, SAMPLE_RATE, quality="HQ")
        if total is None:
            total = audio
        else:
            if len(audio) > len(total):
                total, audio = audio, total
            total = total.copy()
            total[: len(audio)] += audio
    if total is None:
        raise ValueError("paths must name at least one file, got none")
    if not np.isfinite(total).all():
        raise ValueError(f"{paths[0].name} holds samples that are not finite")
    return np.ascontiguousarray(total, dtype=np.float32)


def metadata(path: Path) -> dict[str, str]:
    """Title, artist, genre and other text tags of a file, those that are not empty."""
    import soundfile

    with soundfile.SoundFile(path) as file:
        return {k: v.strip() for k, v in file.copy_metadata().items() if v.strip()}


def _block_power(audio: np.ndarray) -> np.ndarray:
    count = len(audio) // _BLOCK
    blocks = audio[: count * _BLOCK].reshape(count, _BLOCK * audio.shape[1])
    return np.einsum("bn,bn->b", blocks, blocks, dtype=np.float64) / blocks.shape[1]


def sounding(audio: np.ndarray, threshold_db: float = -50.0, multiple: int = 4096) -> slice:
    """The samples that are kept of a track (N, 2): silent ends cut off (blocks of 0.1 s below `threshold_db`
    relative to the loudest), then the tail, so that the length is a multiple of `multiple`. May be empty."""
    power = _block_power(audio)
    if not len(power) or power.max() <= 0:
        return slice(0, 0)
    loud = np.flatnonzero(power > power.max() * 10 ** (threshold_db / 10))
    start = int(loud[0]) * _BLOCK
    end = len(audio) if loud[-1] == len(power) - 1 else (int(loud[-1]) + 1) * _BLOCK
    return slice(start, start + (end - start) // multiple * multiple)


def normalise_gain(audio: np.ndarray) -> float:
    """One gain in dB for a track: gated rms to TARGET_RMS, held back where a peak would pass full scale.

    The gate keeps the 0.1 s blocks within 10 dB of the mean power, as ITU-R BS.1770 does for loudness, so
    that a long quiet introduction does not make the rest loud. Differences inside the track are kept.
    """
    power = _block_power(audio)
    if not len(power) or power.max() <= 0:
        return 0.0
    gated = power[power >= power.mean() / 10]
    gain = TARGET_RMS / np.sqrt(gated.mean())
    gain = min(gain, 0.999 / float(np.abs(audio).max()), 10 ** (MAX_GAIN_DB / 20))
    return float(20 * np.log10(gain))
