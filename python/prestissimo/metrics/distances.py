# SPDX-License-Identifier: Apache-2.0
"""One scale for all sets of clips: how far from the reference, beside real music of the same size."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from prestissimo.metrics.clips import ClipSet, evenly
from prestissimo.metrics.embeddings import embed
from prestissimo.metrics.frechet import frechet_distance, frechet_interval
from prestissimo.metrics.intervals import Interval
from prestissimo.metrics.mmd import mmd
from prestissimo.metrics.prdc import Prdc, prdc

NETWORKS = ("MSD_musicnn", "MSD_vgg")


@dataclass(frozen=True)
class Distance:
    """One set of clips by one network, one mean embedding a clip.

    Attributes:
        name: of the set.
        network: the judge.
        clips: size of the set.
        frechet: distance to the reference, interval over tracks or prompts.
        real: distance of as many held-out real clips to the same reference; None without such clips.
        ratio: frechet over real.
        mmd: see :func:`prestissimo.metrics.mmd.mmd`.
        prdc: see :func:`prestissimo.metrics.prdc.prdc`; None for sets of five clips or fewer.
    """

    name: str
    network: str
    clips: int
    frechet: Interval
    real: float | None
    ratio: float | None
    mmd: float
    prdc: Prdc | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "network": self.network,
            "clips": self.clips,
            "frechet": self.frechet._asdict(),
            "real": self.real,
            "ratio": self.ratio,
            "mmd": self.mmd,
            "prdc": None if self.prdc is None else self.prdc._asdict(),
        }


def compare_sets(
    reference: ClipSet,
    sets: Mapping[str, ClipSet],
    real: str | None = None,
    *,
    networks: Sequence[str] = NETWORKS,
    draws: int = 200,
    cache: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    progress: bool = False,
) -> list[Distance]:
    """Distance of every set to the reference.

    Args:
        reference: clips of real music, the more the better, of the sets' length.
        sets: clips by name.
        real: the name, among ``sets``, of held-out real music; every other set is compared with as many of
            its clips, evenly spread, because the distance of small sets is biased upwards.
        networks: judges.
        draws: bootstrap samples.
        cache: see :func:`prestissimo.metrics.embed`.
        threads: torch threads of the judges.
        progress: show progress bars.

    Raises:
        ValueError: fewer than two clips in a set, or ``real`` is not one of them.
    """
    if real is not None and real not in sets:
        raise ValueError(f"real must be one of {', '.join(sets)}, got {real!r}")

    def vectors(clips: ClipSet) -> dict[str, NDArray[Any]]:
        judged = embed(
            clips.clips,
            networks,
            sample_rate=clips.sample_rate,
            cache=cache,
            threads=threads,
            progress=progress,
        )
        return {name: j.mean_embeddings() for name, j in judged.items()}

    base = vectors(reference)
    found = {name: vectors(clips) for name, clips in sets.items()}
    rows = []
    for network in networks:
        for name, clips in sets.items():
            x = found[name][network]
            distance = frechet_interval(x, base[network], groups_a=list(clips.tracks), draws=draws)
            beside = None
            if real is not None and len(found[real][network]) >= len(x):
                beside = frechet_distance(
                    found[real][network][evenly(range(len(sets[real])), len(x))], base[network]
                )
            rows.append(
                Distance(
                    name=name,
                    network=network,
                    clips=len(x),
                    frechet=distance,
                    real=beside,
                    ratio=distance.value / beside if beside else None,
                    mmd=mmd(x, base[network]),
                    prdc=prdc(base[network], x) if min(len(x), len(base[network])) > 5 else None,
                )
            )
    return rows
