# SPDX-License-Identifier: Apache-2.0
"""Is a clip a copy? Its nearest training window, by cross-correlation at every offset."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prestissimo.metrics.sound import standing

_BLOCK = 1 << 15


class Match(NamedTuple):
    """The window of the library that a clip resembles most.

    Attributes:
        score: normalised cross-correlation, -1 to 1.
        track: which sequence of the library.
        frame: where in it the window begins.
    """

    score: float
    track: int
    frame: int


class Library:
    """Feature sequences to search: latents, or chroma, of the training tracks.

    The library's mean is taken off each feature, of library and query alike, so that what all music has in
    common does not count as likeness.

    Args:
        sequences: (D, T) features per track, of one width D.

    Raises:
        ValueError: no sequence, or one of another shape.
    """

    def __init__(self, sequences: Sequence[Tensor | NDArray[np.floating]]) -> None:
        arrays = [torch.as_tensor(np.asarray(s, dtype=np.float32)) for s in sequences]
        if not arrays or any(a.ndim != 2 or a.shape[0] != arrays[0].shape[0] for a in arrays):
            raise ValueError("sequences must be (D, T) of one width D, at least one")
        self._lengths = np.array([a.shape[1] for a in arrays])
        self._starts = np.concatenate([[0], np.cumsum(self._lengths)[:-1]])
        joined = torch.cat(arrays, dim=1)
        self._mean = joined.mean(dim=1, keepdim=True)
        self._frames = joined - self._mean
        self._energy = torch.cat(
            [torch.zeros(1, dtype=torch.float64), self._frames.double().square().sum(0).cumsum(0)]
        )

    @property
    def width(self) -> int:
        return int(self._frames.shape[0])

    @property
    def tracks(self) -> int:
        return len(self._lengths)

    def nearest(self, query: Tensor | NDArray[np.floating], *, without: int | None = None) -> Match:
        """The best window for a query (D, F).

        score(t) = <q, l_t> / (|q| |l_t|) over all windows l_t of F frames within one track; products for all
        offsets at once by FFT, block by block.

        Args:
            query: (D, F) features, F at most the longest track.
            without: leave this track out: the one that a real query was cut from.

        Raises:
            ValueError: another width, or no track as long as the query.
        """
        q = torch.as_tensor(np.asarray(query, dtype=np.float32))
        if q.ndim != 2 or q.shape[0] != self.width:
            raise ValueError(f"query must be ({self.width}, F), got {tuple(q.shape)}")
        q = q - self._mean
        frames, total = q.shape[1], self._frames.shape[1]
        size = 1 << max(int(np.ceil(np.log2(_BLOCK + frames))), 1)
        spectrum = torch.fft.rfft(q, size).conj()
        best, place = -np.inf, -1
        for start in range(0, total - frames + 1, _BLOCK):
            block = self._frames[:, start : start + _BLOCK + frames - 1]
            count = block.shape[1] - frames + 1
            product = torch.fft.irfft((torch.fft.rfft(block, size) * spectrum).sum(0), size)[:count]
            windows = (
                self._energy[start + frames : start + frames + count] - self._energy[start : start + count]
            )
            score = (product / (windows.clamp_min(1e-12).sqrt().float() * q.norm() + 1e-9)).numpy()
            score = np.where(self._whole(start, count, frames, without), score, -np.inf)
            if score.max(initial=-np.inf) > best:
                best, place = float(score.max()), start + int(score.argmax())
        if place < 0:
            raise ValueError(f"query of {frames} frames is longer than every track of the library")
        track = int(np.searchsorted(self._starts, place, side="right") - 1)
        return Match(best, track, place - int(self._starts[track]))

    def _whole(self, start: int, count: int, frames: int, without: int | None) -> NDArray[np.bool_]:
        """Which windows lie within one track that may be used."""
        first = np.arange(start, start + count)
        track = np.searchsorted(self._starts, first, side="right") - 1
        inside = first + frames <= self._starts[track] + self._lengths[track]
        return inside & (track != without) if without is not None else inside


def copy_report(
    library: Library,
    titles: Sequence[str],
    made: Iterable[tuple[str, Tensor]],
    real: Iterable[Tensor],
    *,
    closest: int = 5,
) -> dict[str, Any]:
    """How near generated clips come to the training music, beside held-out real clips.

    Args:
        library: of the training tracks.
        titles: of its tracks.
        made: name and features (D, F) of each generated clip.
        real: features of held-out real clips.
        closest: how many pairs to name.

    Returns:
        ``score``: where the generated clips' best scores stand among the real ones', ``most`` the highest score
        of each set, ``closest`` the nearest pairs with title and frame.
    """
    if len(titles) != library.tracks:
        raise ValueError(f"titles must name each of the {library.tracks} tracks, got {len(titles)}")
    found = sorted(((library.nearest(f), name) for name, f in made), reverse=True)
    beside = [library.nearest(f).score for f in real]
    return {
        "score": asdict(standing([m.score for m, _ in found], beside)),
        "most": {"made": found[0][0].score, "real": max(beside)},
        "closest": [
            {"clip": name, "score": m.score, "title": titles[m.track], "frame": m.frame}
            for m, name in found[:closest]
        ],
    }
