# SPDX-License-Identifier: Apache-2.0
"""Does it sound like real music? Pulse, key, drift, repetition, and a classifier that tries to tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prestissimo.metrics.embeddings import Clip, stereo_clip
from prestissimo.metrics.frechet import embedding_matrix
from prestissimo.metrics.intervals import Interval, bootstrap_mean
from prestissimo.nn.stft import MelConfig, log_mel

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Standing:
    """Where a measure of generated clips stands among real ones.

    Attributes:
        median: over the generated clips.
        real_median: over the real clips.
        quartile: the real clips' 25th percentile.
        percentile: share of real clips below the generated median; 0.5 where nothing tells them apart.
    """

    median: float
    real_median: float
    quartile: float
    percentile: float


def standing(made: ArrayLike, real: ArrayLike) -> Standing:
    """Median of ``made`` (n,) among ``real`` (m,). Raises ValueError where one is empty.

    >>> standing([2.0], [0.0, 1.0, 2.0, 3.0]).percentile
    0.625
    """
    a, b = np.asarray(made, dtype=np.float64), np.asarray(real, dtype=np.float64)
    if a.ndim != 1 or b.ndim != 1 or not a.size or not b.size:
        raise ValueError(f"made and real must be (n,) and (m,), got {a.shape} and {b.shape}")
    median = float(np.median(a))
    below = float(((b < median).sum() + 0.5 * (b == median).sum()) / b.size)
    return Standing(median, float(np.median(b)), float(np.quantile(b, 0.25)), below)


def loudness_drift(clip: Clip, sample_rate: int = 44_100) -> float:
    """Level of the last third less that of the first third, dB of rms: fading and swelling over a clip."""
    x = stereo_clip(clip)
    third = x.shape[1] // 3
    if third < sample_rate // 10:
        raise ValueError(f"clip must last 0.3 s or more, got {x.shape[1] / sample_rate:.2f} s")
    first, last = (float(part.square().mean()) for part in (x[:, :third], x[:, -third:]))
    return 10 * float(np.log10((last + 1e-10) / (first + 1e-10)))


def repetition(clip: Clip, sample_rate: int = 44_100, shortest: float = 1.0) -> float:
    """Highest mean cosine between the clip and itself moved by ``shortest`` seconds or more, at most half.

    Frames are log-mel (40 bands, 93 ms) less their mean over time: near 1 for a loop, near 0 for noise.
    """
    x = stereo_clip(clip)
    mel = log_mel(x[None], MelConfig(sample_rate=sample_rate, n_fft=4096, hop=1024, n_mels=40))[0, 0].double()
    frames = mel.unfold(1, 4, 4).mean(dim=2).T.numpy() if mel.shape[1] >= 4 else mel.T.numpy()
    frames = frames - frames.mean(axis=0)
    frames = frames / (np.linalg.norm(frames, axis=1, keepdims=True) + 1e-6)
    rate = sample_rate / 4096
    lags = range(max(1, round(shortest * rate)), len(frames) // 2 + 1)
    if not lags:
        raise ValueError(f"clip must last {2 * shortest:g} s or more, got {x.shape[1] / sample_rate:.2f} s")
    return max(float((frames[lag:] * frames[:-lag]).sum(axis=1).mean()) for lag in lags)


def real_or_generated(
    real: ArrayLike,
    made: ArrayLike,
    *,
    real_groups: Sequence[object] | None = None,
    made_groups: Sequence[object] | None = None,
    folds: int = 5,
    ridge: float = 1.0,
    seed: int = 0,
) -> Interval:
    """Accuracy of a linear classifier that tells real from generated embeddings; 0.5 is indistinguishable.

    Ridge regression to +-1 on standardised embeddings, trained on ``folds`` - 1 parts and tested on the
    remaining one; a track or a prompt lies in one part only. Both sets weigh alike.

    Args:
        real: (n, E) embeddings of real clips.
        made: (m, E) embeddings of generated clips.
        real_groups: the track of each real clip.
        made_groups: the prompt of each generated clip.
        folds: parts.
        ridge: penalty, in units of the number of training clips.
        seed: of the division.

    Raises:
        ValueError: a set of another shape, or fewer groups than parts.
    """
    x, y = embedding_matrix(real, "real"), embedding_matrix(made, "made")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"both sets must have one width, got {x.shape[1]} and {y.shape[1]}")
    rng = np.random.default_rng(seed)

    def parts(groups: Sequence[object] | None, n: int, name: str) -> NDArray[np.int64]:
        labels = list(range(n)) if groups is None else list(groups)
        if len(labels) != n:
            raise ValueError(f"{name} must name each of the {n} clips, got {len(labels)}")
        names = list(dict.fromkeys(labels))
        if len(names) < folds:
            raise ValueError(f"{name} must hold at least {folds} groups, got {len(names)}")
        place = dict(zip(names, rng.permutation(len(names)) % folds, strict=True))
        return np.array([place[label] for label in labels])

    part = np.concatenate(
        [parts(real_groups, len(x), "real_groups"), parts(made_groups, len(y), "made_groups")]
    )
    data = np.concatenate([x, y])
    target = np.concatenate([np.ones(len(x)), -np.ones(len(y))])
    weight = np.where(target > 0, 0.5 / len(x), 0.5 / len(y))
    right = np.empty(len(data))
    for fold in range(folds):
        train, test = part != fold, part == fold
        w = weight[train] / weight[train].sum()
        mean = w @ data[train]
        scale = np.sqrt(w @ (data[train] - mean) ** 2) + 1e-9
        z = (data[train] - mean) / scale
        gram = (z * w[:, None]).T @ z + ridge * np.eye(z.shape[1])
        coefficients = np.linalg.solve(gram, (z * w[:, None]).T @ (target[train] - w @ target[train]))
        score = ((data[test] - mean) / scale) @ coefficients + w @ target[train]
        right[test] = np.sign(score) == target[test]
    n = min(len(x), len(y))
    balanced = np.concatenate([right[: len(x)][:n], right[len(x) :][:n]])
    value = (right[: len(x)].mean() + right[len(x) :].mean()) / 2
    interval = bootstrap_mean(balanced)
    centre = float(value) - interval.value
    return Interval(float(value), max(0.0, interval.low + centre), min(1.0, interval.high + centre))
