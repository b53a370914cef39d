# SPDX-License-Identifier: Apache-2.0
"""One table row per decoder: how far its reconstructions lie from the clips they were made of."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from prestissimo.metrics.embeddings import DEFAULT_NETWORKS, Clip, embed, stereo_clip
from prestissimo.metrics.frechet import frechet_distance, frechet_interval
from prestissimo.metrics.intervals import Interval
from prestissimo.metrics.spectrum import band_energies, log_mel_l1, side_mid_ratio

_AUDIBLE_SIDE_DB = -30.0


@dataclass(frozen=True)
class CodecReport:
    """Reconstruction against the same clips.

    Attributes:
        clips: how many.
        frechet: Fréchet distance per network, 4 patches of 3 s a clip, with an interval over tracks where
            one was asked for.
        log_mel_l1: mean absolute difference of the log-mel spectra of mid and side, nats.
        band_db: mean signed difference of energy in 0-4, 4-8 and 8-16 kHz, dB.
        band_abs_db: mean absolute difference of the same.
        side_mid_db: mean signed difference of the side/mid ratio over clips with a side above -30 dB.
        side_mid_abs_db: mean absolute difference of the same.
        real_time_factor: seconds of audio per second of ``reconstruct``.
    """

    clips: int
    frechet: dict[str, Interval]
    log_mel_l1: float
    band_db: tuple[float, float, float]
    band_abs_db: tuple[float, float, float]
    side_mid_db: float
    side_mid_abs_db: float
    real_time_factor: float

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "frechet": {name: d._asdict() for name, d in self.frechet.items()}}

    def row(self) -> str:
        """One line for a log: distances, log-mel error, bands, side/mid, speed."""
        distances = " / ".join(f"{d.value:.2f}" for d in self.frechet.values())
        bands = " / ".join(f"{b:+.1f}" for b in self.band_db)
        return (
            f"Fréchet {distances} ({', '.join(self.frechet)}), log-mel {self.log_mel_l1:.3f}, "
            f"bands {bands} dB, side/mid {self.side_mid_abs_db:.1f} dB, "
            f"{self.real_time_factor:.0f} x real time"
        )


def codec_report(
    reconstruct: Callable[[Tensor], Tensor],
    clips: Sequence[Clip] | Tensor,
    *,
    sample_rate: int = 44_100,
    networks: Sequence[str] = DEFAULT_NETWORKS,
    batch: int = 4,
    tracks: Sequence[object] | None = None,
    draws: int = 0,
    cache: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    progress: bool = False,
) -> CodecReport:
    """Passes clips through a codec and measures what came back.

    Args:
        reconstruct: (B, 2, N) float32 -> (B, 2, M) with M >= N (cut to N), or M < N (the clips are cut).
        clips: held-out clips (2, N) of one length; 60 or more of 5.94 s for figures worth comparing.
        sample_rate: in Hz.
        networks: judges for the Fréchet distance.
        batch: clips per call of ``reconstruct``.
        tracks: the track of each clip, for bootstrap intervals; each clip alone where None.
        draws: bootstrap samples; 0 gives intervals of no width.
        cache: see :func:`prestissimo.metrics.embeddings.embed`.
        threads: torch threads of the judges.
        progress: show progress bars.

    Raises:
        ValueError: clips of different lengths, fewer than two, or a reconstruction of another shape.
    """
    if len(clips) < 2:
        raise ValueError(f"clips must hold at least two clips, got {len(clips)}")
    if tracks is not None and len(tracks) != len(clips):
        raise ValueError(f"tracks must name each of the {len(clips)} clips, got {len(tracks)}")
    originals = [stereo_clip(clip, f"clip {i}") for i, clip in enumerate(clips)]
    lengths = {clip.shape[1] for clip in originals}
    if len(lengths) != 1:
        raise ValueError(f"clips must have one length, got {sorted(lengths)}")
    n = lengths.pop()
    rebuilt: list[Tensor] = []
    spent = 0.0
    with torch.no_grad():
        for start in range(0, len(originals), batch):
            x = torch.stack(originals[start : start + batch])
            before = time.perf_counter()
            y = reconstruct(x)
            spent += time.perf_counter() - before
            if y.ndim != 3 or y.shape[:2] != x.shape[:2] or y.shape[2] < 1:
                raise ValueError(f"reconstruct must return {tuple(x.shape)}, got {tuple(y.shape)}")
            rebuilt += [stereo_clip(clip, "reconstruct's result") for clip in y[..., :n]]
        originals = [clip[:, : rebuilt[0].shape[1]] for clip in originals]
        rows = []
        for x, y in zip(originals, rebuilt, strict=True):
            bands = (band_energies(y[None], sample_rate) - band_energies(x[None], sample_rate))[0]
            ratio = side_mid_ratio(x[None])[0]
            side = side_mid_ratio(y[None])[0] - ratio
            has_side = (ratio > _AUDIBLE_SIDE_DB).float()
            rows.append(torch.stack([log_mel_l1(x[None], y[None])[0], *bands, side, has_side]))
    table = torch.stack(rows).double()
    sides = table[table[:, 5] > 0, 4]
    options = {
        "sample_rate": sample_rate,
        "patches": 4,
        "cache": cache,
        "threads": threads,
        "progress": progress,
    }
    real, made = embed(originals, networks, **options), embed(rebuilt, networks, **options)  # type: ignore[arg-type]
    groups = [track for track in (range(len(clips)) if tracks is None else tracks) for _ in range(4)]
    distances = {}
    for name in networks:
        a, b = made[name].patch_embeddings(), real[name].patch_embeddings()
        if draws:
            distances[name] = frechet_interval(a, b, groups_a=groups, paired=True, draws=draws)
        else:
            distance = frechet_distance(a, b)
            distances[name] = Interval(distance, distance, distance)
    signed, absolute = table[:, 1:4].mean(dim=0).tolist(), table[:, 1:4].abs().mean(dim=0).tolist()
    return CodecReport(
        clips=len(clips),
        frechet=distances,
        log_mel_l1=float(table[:, 0].mean()),
        band_db=(signed[0], signed[1], signed[2]),
        band_abs_db=(absolute[0], absolute[1], absolute[2]),
        side_mid_db=float(sides.mean()) if len(sides) else 0.0,
        side_mid_abs_db=float(sides.abs().mean()) if len(sides) else 0.0,
        real_time_factor=len(clips) * n / sample_rate / max(spent, 1e-9),
    )
