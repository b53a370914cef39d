# SPDX-License-Identifier: Apache-2.0
"""Are asked tempi met, and do prompts that differ in one word differ in the right direction?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from prestissimo.metrics.attributes import Attributes, tempo_matches
from prestissimo.metrics.intervals import Interval, bootstrap_mean
from prestissimo.metrics.prompts import Prompt

#: attribute -> (its two values, what measures it); the first value is the larger one
MEASURES: Mapping[str, tuple[tuple[str, str], Callable[[Attributes], float]]] = {
    "mode": (("major", "minor"), lambda a: a.mode_lead),
    "loudness": (("loud", "soft"), lambda a: a.loudness),
    "brightness": (("bright", "dark"), lambda a: a.centroid),
    "energy": (("energetic", "calm"), lambda a: a.flux),
    "density": (("dense", "sparse"), lambda a: a.onset_rate),
    "speed": (("fast", "slow"), lambda a: a.tempo.bpm),
    "instruments": (("many", "few"), lambda a: a.bands_active),
}


@dataclass(frozen=True)
class TempoFollowing:
    """Attributes:
    clips: how many asked for a tempo.
    met: share within the tolerance up to octaves.
    exact: share within the tolerance without octaves.
    chance: share met when every clip is held against the tempi that the others asked for.
    """

    clips: int
    met: Interval
    exact: float
    chance: float

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met._asdict()}


def tempo_following(
    found: Sequence[float],
    asked: Sequence[float],
    wordings: Sequence[object] | None = None,
    *,
    tolerance: float = 0.04,
    draws: int = 1000,
) -> TempoFollowing:
    """Share of clips whose tempo is the asked one within ``tolerance`` up to octaves.

    Args:
        found: beats per minute measured in each clip, 0 where none was found.
        asked: beats per minute in each prompt.
        wordings: the prompt of each clip, resampled together.
        tolerance: relative.
        draws: bootstrap samples.

    Raises:
        ValueError: fewer than two clips, or lengths that differ.
    """
    if len(found) != len(asked) or len(found) < 2:
        raise ValueError(f"found and asked must hold two or more each, got {len(found)} and {len(asked)}")
    n = len(found)
    matches = np.array([[tempo_matches(f, a, tolerance) for a in asked] for f in found], dtype=float)
    other = ~np.equal.outer(np.asarray(asked, dtype=float), np.asarray(asked, dtype=float))
    exact = np.mean([a > 0 and abs(f / a - 1) <= tolerance for f, a in zip(found, asked, strict=True)])
    return TempoFollowing(
        clips=n,
        met=bootstrap_mean(matches.diagonal().copy(), wordings, draws=draws),
        exact=float(exact),
        chance=float(matches[other].mean()) if other.any() else float("nan"),
    )


@dataclass(frozen=True)
class PairFollowing:
    """Attributes:
    attribute: which one.
    values: the larger and the smaller.
    pairs: how many pairs of clips.
    ordered: share of pairs with the larger measure on the larger value; a tie counts half; chance 0.5.
    medians: of the measure for each value.
    """

    attribute: str
    values: tuple[str, str]
    pairs: int
    ordered: Interval
    medians: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ordered": self.ordered._asdict()}


def pair_following(
    prompts: Sequence[Prompt],
    attributes: Sequence[Attributes],
    seeds: Sequence[int] | None = None,
    *,
    draws: int = 1000,
) -> list[PairFollowing]:
    """For each attribute, the share of pairs in which the measure goes the way that the prompts say.

    Args:
        prompts: of each clip; other kinds than ``pair`` are left out.
        attributes: of each clip.
        seeds: of each clip: the two of a pair share one, so that the noise is the same.
        draws: bootstrap samples over pairs.

    A pair with one clip missing is left out, as are attributes without a measure.
    """
    if not len(prompts) == len(attributes) == len(seeds if seeds is not None else prompts):
        raise ValueError("prompts, attributes and seeds must have one length")
    found: dict[str, dict[tuple[str, int], dict[str, float]]] = {}
    for i, (prompt, measured) in enumerate(zip(prompts, attributes, strict=True)):
        if prompt.kind == "pair" and prompt.attribute in MEASURES:
            pairs = found.setdefault(prompt.attribute, {})
            value = MEASURES[prompt.attribute][1](measured)
            pairs.setdefault((prompt.pair, seeds[i] if seeds is not None else 0), {})[prompt.value] = value
    results = []
    for attribute, by_pair in found.items():
        large, small = MEASURES[attribute][0]
        whole = {k: v for k, v in by_pair.items() if large in v and small in v}
        if whole:
            order = [(1 + np.sign(v[large] - v[small])) / 2 for v in whole.values()]
            medians = [float(np.median([v[name] for v in whole.values()])) for name in (large, small)]
            results.append(
                PairFollowing(
                    attribute,
                    (large, small),
                    len(whole),
                    bootstrap_mean(order, [wording for wording, _ in whole], draws=draws),
                    (medians[0], medians[1]),
                )
            )
    return results
