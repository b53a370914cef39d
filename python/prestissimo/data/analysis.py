# SPDX-License-Identifier: Apache-2.0
"""What a caption can say without a network: tempo, key and mode, loudness, brightness, density, width, bass.

All of it is measured from the stored log-mel and audio, in windows of one caption (64 latent frames, 5.94 s).
Tempo and key look further than the window, because six seconds of a slow piece hold neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

__all__ = [
    "KEYS",
    "WINDOW_SAMPLES",
    "Measures",
    "band_strengths",
    "estimate_key",
    "estimate_tempo",
    "measure",
    "onset_strength",
    "window_starts",
]

WINDOW_SAMPLES = 64 * 4096
_HOP = 512
_FPS = 44100 / _HOP
_WINDOW_FRAMES = WINDOW_SAMPLES // _HOP
KEYS = ("C", "C sharp", "D", "E flat", "E", "F", "F sharp", "G", "A flat", "A", "B flat", "B")

# Shares of the pitch classes, tonic first: Albrecht and Shanahan, "The use of large corpora to train a new type
# of key-finding algorithm" (Music Perception 31(1), 2013). On 28 generated clips of known key 19 right, on 66
# of our renderings 49; the ratings of Krumhansl and Kessler (1982) with log-compressed chroma: 13 and 38.
_MAJOR = np.array([0.238, 0.006, 0.111, 0.006, 0.137, 0.094, 0.016, 0.214, 0.009, 0.080, 0.008, 0.081])
_MINOR = np.array([0.220, 0.006, 0.104, 0.123, 0.019, 0.103, 0.012, 0.214, 0.062, 0.022, 0.061, 0.052])


@dataclass(frozen=True)
class Measures:
    """One window. rms_db: dBFS after the track's gain. centroid: Hz. onsets: per second. width: side over mid
    energy in dB. bass: share of energy below 150 Hz in dB. key: 0 ... 11 major from C, 12 ... 23 minor."""

    rms_db: float
    centroid: float
    onsets: float
    width: float
    bass: float
    bpm: float
    bpm_confidence: float
    key: int
    key_confidence: float


def onset_strength(log_mel: np.ndarray) -> np.ndarray:
    """Mean rise of the log-mel over one frame, each band against the maximum of its neighbours one frame ago.

    log_mel: (bands, T) of mid. Returns (T,), about 86 values a second, slow trend (1.5 s) taken off.
    Source: Boeck and Widmer, "Maximum filter vibrato suppression for onset detection" (DAFx 2013), eq. 3.
    """
    padded = np.pad(log_mel, ((1, 1), (0, 0)), mode="edge")
    neighbours = np.maximum(np.maximum(padded[:-2], padded[1:-1]), padded[2:])
    rise = np.zeros(log_mel.shape[1])
    rise[1:] = np.maximum(log_mel[:, 1:] - neighbours[:, :-1], 0).mean(0)
    width = int(1.5 * _FPS) | 1
    trend = np.convolve(np.pad(rise, width // 2, mode="edge"), np.ones(width) / width, mode="valid")
    return np.maximum(rise - trend, 0)


@lru_cache(maxsize=1)
def _tempo_grid() -> tuple[np.ndarray, np.ndarray]:
    bpm = np.exp(np.arange(np.log(45), np.log(210), 0.01))
    prior = np.exp(-0.5 * (np.log2(bpm / 105) / 0.8) ** 2)
    return bpm, prior


def band_strengths(log_mel: np.ndarray) -> np.ndarray:
    """Onset strengths (4, T) of bass, low middle, high middle and treble, for `estimate_tempo`."""
    edges = np.rint(log_mel.shape[0] * np.array([0, 10, 30, 60, 96]) / 96).astype(int)
    return np.stack([onset_strength(log_mel[a:b]) for a, b in pairwise(edges)])


def estimate_tempo(strengths: np.ndarray) -> tuple[float, float]:
    """(beats per minute, confidence 0 ... 1) from onset strengths (bands, T) of at least 4 s.

    The autocorrelations of the bands, each divided by its value at 0, are averaged, read at 1, 2, 3 and 4
    beats with weights 1, 1, 1/2, 3/4, and weighed by a log-normal prior around 105 bpm (0.8 octaves), which
    settles the octave. Confidence is the weighted autocorrelation: near 0 for music without a pulse.
    (0, 0) for silence.
    On 28 generated clips of known tempo: 20 within 4 %, 23 with the octave left open.
    """
    x = strengths - strengths.mean(1, keepdims=True)
    size = x.shape[1]
    if size < 4 * _FPS or not x.any():
        return 0.0, 0.0
    spectrum = np.fft.rfft(x, 2 * size, axis=1)
    bands = np.fft.irfft(np.abs(spectrum) ** 2, axis=1)[:, :size] / (size - np.arange(size))
    acf = (bands / (bands[:, :1] + 1e-9)).mean(0)
    bpm, prior = _tempo_grid()
    lag = 60 * _FPS / bpm
    at = np.arange(size)

    def read(beats: int) -> np.ndarray:
        return np.where(lag * beats < 0.7 * size, np.interp(lag * beats, at, acf), 0.0)

    score = (read(1) + read(2) + 0.5 * read(3) + 0.75 * read(4)) / 3.25
    best = int(np.argmax(score * prior))
    return float(bpm[best]), float(np.clip(score[best], 0, 1))


def _chroma(mono: np.ndarray, size: int = 16384) -> np.ndarray:
    """(12, frames): spectral peaks between 55 and 4000 Hz, as shares of the highest, folded on pitch classes."""
    hop = size // 2
    count = max((len(mono) - size) // hop + 1, 0)
    if not count:
        return np.zeros((12, 0))
    weights, low, high = _chroma_map(size)
    frames = np.lib.stride_tricks.sliding_window_view(mono, size)[::hop][:count]
    spectra = np.fft.rfft(frames * np.hanning(size).astype(np.float32), axis=1)
    magnitude = np.abs(spectra[:, low - 1 : high + 1])
    centre = magnitude[:, 1:-1]
    peaks = np.where((centre > magnitude[:, :-2]) & (centre >= magnitude[:, 2:]), centre, 0)
    top = peaks.max(1, keepdims=True) + 1e-9
    return weights @ (peaks / top).T * np.minimum(top[:, 0] / (size * 1e-4), 1)


@lru_cache(maxsize=4)
def _chroma_map(size: int) -> tuple[np.ndarray, int, int]:
    low, high = int(55 * size / 44100), int(4000 * size / 44100)
    hz = np.arange(low, high) * 44100 / size
    pitch = 12 * np.log2(hz / 440) + 69
    nearest = np.rint(pitch)
    weight = np.cos(np.pi * (pitch - nearest)) ** 2 * np.minimum(1, 600 / hz)
    table = np.zeros((12, high - low))
    table[nearest.astype(int) % 12, np.arange(high - low)] = weight
    return table, low, high


@lru_cache(maxsize=1)
def _key_templates() -> np.ndarray:
    rows = [np.roll(profile, tonic) for profile in (_MAJOR, _MINOR) for tonic in range(12)]
    centred = np.array([r - r.mean() for r in rows])
    return centred / np.linalg.norm(centred, axis=1, keepdims=True)


def estimate_key(chroma: np.ndarray) -> tuple[int, float]:
    """(key, confidence) of a chroma vector (12,): the template with the highest correlation.

    key: 0 ... 11 major from C upwards, 12 ... 23 minor. Confidence: the correlation's lead over the best
    other key, times 4, at most 1; 0 for silence and where no template correlates above 0.6. On windows of our
    renderings 45 % of keys below confidence 0.22 are right, 70 % to 0.6, 88 % to 0.9, 96 % above.
    """
    x = chroma - chroma.mean()
    norm = np.linalg.norm(x)
    if norm < 1e-9:
        return 0, 0.0
    score = _key_templates() @ (x / norm)
    order = np.argsort(score)
    lead = float(score[order[-1]] - score[order[-2]])
    return int(order[-1]), float(np.clip(4 * lead, 0, 1)) if score[order[-1]] > 0.6 else 0.0


def window_starts(samples: int) -> list[int]:
    """First sample that each caption window of a track hears; window i speaks for samples from i * 262144.

    The last one is moved back so that it is whole, in a track long enough.
    """
    count = max(-(-samples // WINDOW_SAMPLES), 1)
    return [min(i * WINDOW_SAMPLES, max(samples - WINDOW_SAMPLES, 0)) for i in range(count)]


def measure(audio: np.ndarray, log_mel: np.ndarray, floor: float = 1e-3) -> list[Measures]:
    """Measures of every window of a track. audio: float32 (2, N). log_mel: (2, bands, N / 512).

    Tempo is measured over the window and 6 s around it, brought to the octave of the whole track's tempo, and
    replaced by that where the two disagree and the whole is the surer;
    key over the window and 6 s around it, with the whole track's chroma at a third of the weight.
    """
    from prestissimo.nn.stft import mel_centres

    mid, side = (audio[0] + audio[1]) / 2, (audio[0] - audio[1]) / 2
    centres = mel_centres(44100, log_mel.shape[1])[1:-1]
    # Slaney's filters have unit area: times the bandwidth, so that a band stands for its share of magnitude.
    power = (np.maximum(np.exp(log_mel[0]) - floor, 0) * np.gradient(centres)[:, None] ** 0.5) ** 2
    strength = onset_strength(log_mel[0])
    size = 16384
    chroma = _chroma(mid, size)
    strengths = band_strengths(log_mel[0])
    whole_tempo, whole_confidence = estimate_tempo(strengths)
    whole_chroma = _unit(chroma.mean(1)) if chroma.shape[1] else np.zeros(12)
    results = []
    for start in window_starts(audio.shape[1]):
        stop = min(start + WINDOW_SAMPLES, audio.shape[1])
        f0, f1 = start // _HOP, max(stop // _HOP, start // _HOP + 1)
        around = int(6 * _FPS)
        bpm, confidence = estimate_tempo(strengths[:, max(f0 - around, 0) : f1 + around])
        if bpm and whole_tempo:
            bpm *= min((0.5, 1.0, 2.0), key=lambda k: abs(np.log(bpm * k / whole_tempo)))
            if abs(np.log(bpm / whole_tempo)) > 0.06 and whole_confidence >= confidence:
                bpm, confidence = whole_tempo, whole_confidence
        c0, c1 = max(start - 264600, 0) * 2 // size, (stop + 264600) * 2 // size
        local = chroma[:, c0:c1]
        key, key_confidence = estimate_key(
            _unit(local.mean(1)) + whole_chroma / 3 if local.shape[1] else whole_chroma
        )
        p = power[:, f0:f1].sum(1)
        total = p.sum() + 1e-12
        m, s = (float(np.mean(x[start:stop] ** 2, dtype=np.float64)) for x in (mid, side))
        results.append(
            Measures(
                rms_db=float(10 * np.log10(m + s + 1e-10)),
                centroid=float((p * centres).sum() / total),
                onsets=_onset_rate(strength[f0:f1]),
                width=float(10 * np.log10((s + 1e-10) / (m + 1e-10))),
                bass=float(10 * np.log10(p[centres < 150].sum() / total + 1e-6)),
                bpm=float(bpm),
                bpm_confidence=confidence,
                key=key,
                key_confidence=key_confidence,
            )
        )
    return results


def _unit(x: np.ndarray) -> np.ndarray:
    return x / (np.linalg.norm(x) + 1e-9)


def _onset_rate(strength: np.ndarray) -> float:
    """Peaks of the onset strength over 0.08 nats and over their neighbours within 50 ms, per second."""
    if len(strength) < 10:
        return 0.0
    views = np.lib.stride_tricks.sliding_window_view(np.pad(strength, 4), 9)
    peaks = (strength >= views.max(1)) & (strength > 0.08)
    return float(peaks.sum() / (len(strength) / _FPS))
