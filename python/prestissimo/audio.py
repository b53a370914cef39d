# SPDX-License-Identifier: Apache-2.0
"""Audio files in and out: float32 arrays (channels, samples) in [-1, 1] on one side, WAV, FLAC, MP3 and Opus
on the other, through libsndfile (``soundfile``), soxr and pyloudnorm."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prestissimo import atomic
from prestissimo._version import __version__
from prestissimo.interrupts import signals_held

__all__ = [
    "FORMATS",
    "AudioFormat",
    "check_bit_depth",
    "duration",
    "encode",
    "format_for",
    "limit_peak",
    "match_loudness",
    "measure_loudness",
    "read",
    "read_tags",
    "resample",
    "write",
]

Audio = npt.NDArray[np.float32]


@dataclass(frozen=True)
class AudioFormat:
    """One kind of file: libsndfile's names, the bit depths it offers (the first is the default), and the peak
    in dBFS that is left below full scale."""

    name: str
    suffixes: tuple[str, ...]
    container: str
    subtypes: Mapping[str, str]
    sample_rates: tuple[int, ...] | None = None
    latin_tags: bool = False

    @property
    def lossy(self) -> bool:
        return list(self.subtypes) == [""]

    @property
    def peak_dbfs(self) -> float:
        """A lossy codec overshoots the samples it was given; EBU R 128 leaves 1 dB for that."""
        return -1.0 if self.lossy else -0.1


FORMATS: dict[str, AudioFormat] = {
    f.name: f
    for f in (
        AudioFormat("wav", (".wav", ".wave"), "WAV", {"16": "PCM_16", "24": "PCM_24", "float": "FLOAT"}),
        AudioFormat("flac", (".flac",), "FLAC", {"16": "PCM_16", "24": "PCM_24"}),
        # LAME takes its ID3 text as Latin-1
        AudioFormat("mp3", (".mp3",), "MP3", {"": "MPEG_LAYER_III"}, (32000, 44100, 48000), latin_tags=True),
        AudioFormat("opus", (".opus",), "OGG", {"": "OPUS"}, (48000,)),
        AudioFormat("ogg", (".ogg", ".oga"), "OGG", {"": "VORBIS"}),
    )
}


def format_for(path: str | os.PathLike[str], name: str | None = None) -> AudioFormat:
    """The format of a name from :data:`FORMATS`, or of the path's suffix where no name is given.

    >>> format_for("song.FLAC").name
    'flac'
    """
    if name is not None:
        if name.lower() not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {name!r}")
        return FORMATS[name.lower()]
    suffix = Path(path).suffix.lower()
    for candidate in FORMATS.values():
        if suffix in candidate.suffixes:
            return candidate
    known = ", ".join(s for f in FORMATS.values() for s in f.suffixes)
    raise ValueError(f"cannot tell the audio format of {str(path)!r}: its name must end in one of {known}")


def check_bit_depth(format: AudioFormat, bit_depth: str | None) -> str:
    """libsndfile's name for a bit depth, the format's own default where it is None.

    >>> check_bit_depth(FORMATS["flac"], "24")
    'PCM_24'
    """
    depth = next(iter(format.subtypes)) if bit_depth is None else bit_depth
    if depth not in format.subtypes:
        offered = "it is lossy and has none" if format.lossy else f"it has {', '.join(format.subtypes)}"
        raise ValueError(f"bit_depth {depth!r} does not go with {format.name}: {offered}")
    return format.subtypes[depth]


def _stereo_array(audio: Any, argument: str = "audio") -> Audio:
    """(channels, samples) float32, one or two channels, finite."""
    array = np.asarray(audio, dtype=np.float32)
    if array.ndim != 2 or array.shape[0] not in (1, 2) or array.shape[1] == 0:
        raise ValueError(f"{argument} must be (1 or 2 channels, samples), got {list(array.shape)}")
    if not np.isfinite(array).all():
        raise ValueError(f"{argument} holds NaN or infinite samples")
    return array


def resample(audio: Any, rate: int, new_rate: int) -> Audio:
    """(C, N) at ``rate`` to (C, N * new_rate / rate) at ``new_rate``, both in Hz, band-limited, by soxr."""
    array = _stereo_array(audio)
    if rate == new_rate:
        return array
    import soxr

    return np.ascontiguousarray(soxr.resample(array.T, rate, new_rate, quality="HQ").T, dtype=np.float32)


def read(path: str | os.PathLike[str], sample_rate: int | None = None, *, convert: bool = False) -> Audio:
    """The file's samples as float32 (2, N); mono is repeated on both sides.

    ``sample_rate`` is the rate wanted, in Hz: another rate in the file raises ValueError, unless ``convert``
    is true, which resamples it. Raises FileNotFoundError, IsADirectoryError, and ValueError where the file is
    no audio that libsndfile can read, is empty, has more than two channels, or holds NaN.
    """
    name = os.fspath(path)
    with _opened(path) as sound:
        rate = sound.samplerate
        array = sound.read(dtype="float32", always_2d=True).T
    if array.shape[1] == 0:
        raise ValueError(f"{name}: holds no audio")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: holds NaN or infinite samples")
    if array.shape[0] == 1:
        array = np.repeat(array, 2, axis=0)
    if sample_rate is not None and rate != sample_rate:
        if not convert:
            raise ValueError(f"{name}: is sampled at {rate} Hz, {sample_rate} Hz is needed")
        array = resample(array, rate, sample_rate)
    return np.ascontiguousarray(array)


def duration(path: str | os.PathLike[str]) -> float:
    """Seconds of audio that the file's header tells of. Raises as :func:`read`."""
    with _opened(path) as sound:
        return float(sound.frames / sound.samplerate)


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    """The file as a soundfile.SoundFile of one or two channels."""
    import soundfile

    name = os.fspath(path)
    with Path(path).open("rb") as file:  # for the system's own reason, where there is one
        try:
            with signals_held(), soundfile.SoundFile(file) as sound:  # held: as in `encode`
                if sound.channels > 2:
                    raise ValueError(
                        f"{name}: has {sound.channels} channels, only mono and stereo can be read"
                    )
                yield sound
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise ValueError(f"{name}: not a readable audio file ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    text = getattr(error, "error_string", None) or str(error)
    return text.strip().rstrip(".")


def limit_peak(audio: Any, peak_dbfs: float = -0.1) -> tuple[Audio, float]:
    """audio * min(1, 10^(peak_dbfs / 20) / max|audio|) and that gain in dB, never above 0: quiet music is
    left as it is, loud music is turned down as a whole, nothing is clipped.

    >>> limit_peak(np.float32([[0.5, -0.25]]))[1]
    0.0
    >>> round(limit_peak(np.float32([[2.0, -0.25]]), 0.0)[1], 2)
    -6.02
    """
    array = _stereo_array(audio)
    peak, ceiling = float(np.abs(array).max()), 10.0 ** (peak_dbfs / 20.0)
    if peak <= ceiling:
        return array, 0.0
    return array * np.float32(ceiling / peak), 20.0 * math.log10(ceiling / peak)


def measure_loudness(audio: Any, sample_rate: int) -> float:
    """Integrated loudness in LUFS, ITU-R BS.1770-4 (pyloudnorm); -inf for silence.

    Raises ValueError for less than 0.4 s, one gating block.
    """
    import pyloudnorm

    array = _stereo_array(audio)
    if array.shape[1] < 0.4 * sample_rate:
        raise ValueError(
            f"loudness is defined for 0.4 s or more of audio, got {array.shape[1] / sample_rate:.3f} s"
        )
    return float(pyloudnorm.Meter(sample_rate).integrated_loudness(array.T.astype(np.float64)))


def match_loudness(audio: Any, sample_rate: int, lufs: float, peak_dbfs: float = -0.1) -> tuple[Audio, float]:
    """The audio at ``lufs`` LUFS, or as near below as the peak allows, and the loudness reached.

    Raises ValueError for a target that is not between -70 and 0, for silence, and for less than 0.4 s.
    """
    if not -70.0 <= lufs <= 0.0:
        raise ValueError(f"lufs must be between -70 and 0, got {lufs:g}")
    before = measure_loudness(audio, sample_rate)
    if math.isinf(before):
        raise ValueError("lufs cannot be set: the audio is silent")
    array, _ = limit_peak(_stereo_array(audio) * np.float32(10.0 ** ((lufs - before) / 20.0)), peak_dbfs)
    return array, measure_loudness(array, sample_rate)


def encode(
    audio: Any,
    sample_rate: int,
    format: AudioFormat | str = "wav",
    *,
    bit_depth: str | None = None,
    title: str = "",
    comment: Mapping[str, Any] | None = None,
) -> bytes:
    """The bytes of a file of (C, N) audio: WAV ("16", "24", "float" bits), FLAC ("16", "24"), MP3, Opus, Ogg.

    ``title`` and ``comment`` (written as one line of ASCII JSON) go into the file's metadata. MP3's tag takes
    Latin-1 only, so accents are stripped from its title; the comment escapes them and keeps every format
    exact. Opus knows 48 kHz only, other rates are converted. Samples beyond full scale are clipped by integer
    formats: see :func:`limit_peak`.
    """
    import soundfile

    kind = format if isinstance(format, AudioFormat) else format_for("", format)
    subtype = check_bit_depth(kind, bit_depth)
    array = _stereo_array(audio)
    if kind.sample_rates is not None and sample_rate not in kind.sample_rates:
        array, sample_rate = resample(array, sample_rate, kind.sample_rates[-1]), kind.sample_rates[-1]
    if kind.latin_tags:
        title = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
    buffer = io.BytesIO()
    # libsndfile writes through callbacks into Python, which lose an exception: Ctrl-C would become a failed write
    with (
        signals_held(),
        soundfile.SoundFile(
            buffer, "w", sample_rate, array.shape[0], subtype=subtype, format=kind.container
        ) as sound,
    ):
        if title:
            sound.title = title
        if comment:
            sound.comment = json.dumps(dict(comment), separators=(",", ":"))
        sound.software = f"prestissimo {__version__}"
        # libsndfile's Vorbis encoder overruns its stack when it is handed minutes in one call
        for start in range(0, array.shape[1], 1 << 16):
            sound.write(array[:, start : start + (1 << 16)].T)
    return buffer.getvalue()


def write(
    path: str | os.PathLike[str],
    audio: Any,
    sample_rate: int,
    format: AudioFormat | str | None = None,
    *,
    bit_depth: str | None = None,
    title: str = "",
    comment: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """:func:`encode`, then :func:`prestissimo.atomic.write_bytes`: the file appears whole or not at all."""
    kind = format if isinstance(format, AudioFormat) else format_for(path, format)
    data = encode(audio, sample_rate, kind, bit_depth=bit_depth, title=title, comment=comment)
    return atomic.write_bytes(path, data, overwrite=overwrite)


def read_tags(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The metadata that :func:`write` left: ``title``, ``software``, and the mapping given as ``comment``."""
    import soundfile

    with Path(path).open("rb") as file, signals_held(), soundfile.SoundFile(file) as sound:
        tags: dict[str, Any] = dict(sound.copy_metadata())
    try:
        tags["comment"] = json.loads(tags["comment"])
    except (KeyError, ValueError):
        tags.pop("comment", None)
    return tags
