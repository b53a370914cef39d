# SPDX-License-Identifier: Apache-2.0
"""Batches of latents and captions, each a function of (seed, step) alone: any run can be resumed or repeated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from prestissimo.data.beats import BeatGrid, Beats
from prestissimo.data.captions import CaptionStore, caption

from .pca import read_latents


class Captions(Protocol):
    """What training asks of captions; `StoredCaptions` is one."""

    def __contains__(self, track_id: object) -> bool:
        """Whether the track has captions at all."""

    def text(self, track_id: str, start: float, seconds: float, rng: np.random.Generator) -> str:
        """A caption of that window, another one for another state of `rng`."""

    def tags(self, track_id: str, start: float, seconds: float) -> Sequence[str]:
        """The words by which sampling is balanced."""

    def beats(self, track_id: str, start: float, seconds: float) -> Beats:
        """Tempo and phase of the beat in that window, where they are known."""


class StoredCaptions:
    """Captions of a data set that `prestissimo data build` made, out of its windows' attributes."""

    def __init__(self, store: CaptionStore, grid: BeatGrid | None = None) -> None:
        self._store, self._grid = store, grid

    def __contains__(self, track_id: object) -> bool:
        return track_id in self._store

    def text(self, track_id: str, start: float, seconds: float, rng: np.random.Generator) -> str:
        """See `Captions`."""
        return caption(self._store.window(track_id, start, seconds), rng)

    def tags(self, track_id: str, start: float, seconds: float) -> Sequence[str]:
        """The four strongest tags; of a rendering, its instruments and style."""
        a = self._store.window(track_id, start, seconds)
        return (*a.instruments[:3], a.style) if a.exact else tuple(a.tags)[:4]

    def beats(self, track_id: str, start: float, seconds: float) -> Beats:
        """The captions' tempo; without a grid, or where they know none, no phase."""
        known = self._store.window(track_id, start, seconds)
        if self._grid is None or not known.bpm:
            return Beats(known.bpm, float("nan"))
        return self._grid.beats(track_id, start, seconds, known.bpm, 0.003 if known.exact else 0.01)


@dataclass(frozen=True)
class Batch:
    """latents (B, C, T) float32; one caption, one length in seconds and one tempo (0: unknown) per item; beats
    (B, T): the beat that each latent begins on, counted from the first or an earlier one of its bar, NaN: unknown."""

    latents: Tensor
    captions: list[str]
    seconds: Tensor
    tempo: Tensor
    beats: Tensor


@dataclass(frozen=True)
class Lengths:
    """frames[i] latent frames with probability weights[i] of all tokens; every batch has about `tokens` of them."""

    frames: tuple[int, ...] = (64, 129, 215, 345)
    weights: tuple[float, ...] = (0.4, 0.3, 0.15, 0.15)
    tokens: int = 1792

    def __post_init__(self) -> None:
        if len(self.frames) != len(self.weights) or not self.frames or min(self.frames) < 1:
            raise ValueError(f"frames and weights must be of one length and positive, got {self}")

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """(batch, frames) of a batch."""
        p = np.array(self.weights) / sum(self.weights)
        frames = int(rng.choice(self.frames, p=p))
        return max(1, round(self.tokens / frames)), frames


class LatentWindows:
    """Random windows of the tracks of one split, balanced by tags; leave_out: packages, which begin their tracks' ids.

    A position is drawn with probability proportional to the mean of count(tag)^-1/2 over the tags of its six seconds:
    half-way between the corpus as it is and equal shares for every tag.
    """

    def __init__(
        self,
        folder: Path,
        captions: Captions,
        split: str = "train",
        scale: Tensor | None = None,
        seed: int = 0,
        leave_out: Collection[str] = (),
    ) -> None:
        latents, index = read_latents(folder)
        self.rate = index["sample_rate"] / index["hop"]
        self.captions, self.seed = captions, seed
        factor = (
            np.ones(index["channels"]) if scale is None else np.asarray(scale) / np.asarray(index["scale"])
        )
        tracks = [
            t
            for t in index["tracks"]
            if t["split"] == split and t["id"] in captions and t["id"].partition("/")[0] not in leave_out
        ]
        if not tracks:
            raise ValueError(f"{folder} has no captioned track of split {split!r}")
        self.ids = [t["id"] for t in tracks]
        self.frames = np.array([t["frames"] for t in tracks])
        self.offsets = np.concatenate([[0], np.cumsum(self.frames)])
        parts = [latents[t["offset"] : t["offset"] + t["frames"]].astype(np.float32) * factor for t in tracks]
        self.latents = torch.from_numpy(np.concatenate(parts).astype(np.float16))
        self._grid, self._weights = self._balance()

    def _balance(self) -> tuple[np.ndarray, np.ndarray]:
        """Starts (track, frame) every 64 frames and their probabilities."""
        grid = [(i, f) for i, n in enumerate(self.frames) for f in range(0, max(1, n - 32), 64)]
        tags = [tuple(self.captions.tags(self.ids[i], f / self.rate, 64 / self.rate)) for i, f in grid]
        count = Counter(tag for row in tags for tag in row)
        weights = np.array([np.mean([count[t] ** -0.5 for t in row]) if row else 0.0 for row in tags])
        weights[weights == 0] = weights[weights > 0].min() if weights.any() else 1.0
        return np.array(grid), weights / weights.sum()

    def window(self, track: int, start: int, frames: int) -> Tensor:
        """Latents (C, frames) of a track from latent frame `start`."""
        at = int(self.offsets[track]) + start
        return self.latents[at : at + frames].float().T

    def batch(self, step: int, lengths: Lengths) -> Batch:
        """The batch of optimizer step `step`. Raises ValueError for a length that no track has."""
        if max(lengths.frames) > self.frames.max():
            longest = int(self.frames.max())
            raise ValueError(
                f"lengths.frames must be at most {longest}, the longest track, got {lengths.frames}"
            )
        rng = np.random.default_rng((self.seed, step))
        size, frames = lengths.draw(rng)
        latents: list[Tensor] = []
        captions: list[str] = []
        places: list[tuple[int, int]] = []
        while len(latents) < size:
            track, start = self._grid[rng.choice(len(self._grid), p=self._weights)]
            if self.frames[track] < frames:
                continue
            start = int(np.clip(start + rng.integers(-32, 32), 0, self.frames[track] - frames))
            latents.append(self.window(track, start, frames))
            captions.append(self.captions.text(self.ids[track], start / self.rate, frames / self.rate, rng))
            places.append((int(track), start))
        # Which beat begins a bar is unknown: any of four.
        bars = rng.integers(0, 4, size)
        return self._batch(latents, captions, places, frames, bars)

    def _batch(
        self,
        latents: list[Tensor],
        captions: list[str],
        places: Sequence[tuple[int, int]],
        frames: int,
        bars: np.ndarray,
    ) -> Batch:
        seconds = frames / self.rate
        found = [self.captions.beats(self.ids[i], f / self.rate, seconds) for i, f in places]
        tempo = torch.tensor([b.tempo for b in found])
        phase = torch.tensor([b.phase for b in found]) + torch.from_numpy(bars)
        beats = phase[:, None] + tempo[:, None] / 60 * torch.arange(frames) / self.rate
        return Batch(torch.stack(latents), captions, torch.full((len(found),), seconds), tempo, beats.float())

    def fixed(self, count: int, frames: int) -> Batch:
        """`count` windows evenly spread over the split: the same ones whenever the split is the same."""
        rng = np.random.default_rng(self.seed)
        usable = [(i, f) for i, f in self._grid if f + frames <= self.frames[i]]
        if not usable:
            raise ValueError(f"no track of the split has {frames} latent frames")
        chosen = [usable[int(k)] for k in np.linspace(0, len(usable) - 1, count)]
        latents = [self.window(i, f, frames) for i, f in chosen]
        seconds = frames / self.rate
        captions = [self.captions.text(self.ids[i], f / self.rate, seconds, rng) for i, f in chosen]
        return self._batch(latents, captions, chosen, frames, np.zeros(count))
