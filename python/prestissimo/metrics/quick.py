# SPDX-License-Identifier: Apache-2.0
"""The short evaluation that chooses checkpoints: distance to real music, text adherence, sound."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from prestissimo.metrics.embeddings import Clip, Judgement, embed, stereo_clip
from prestissimo.metrics.frechet import embedding_matrix, frechet_interval
from prestissimo.metrics.intervals import Interval
from prestissimo.metrics.spectrum import spectral_profile
from prestissimo.metrics.tags import JUDGE_NETWORKS, JUDGES, TagFollowing, check_tags, tag_following

if TYPE_CHECKING:
    from rich.console import Group


@dataclass(frozen=True)
class QuickReport:
    """Attributes:
    clips: how many clips were judged.
    frechet: distance to the reference per network, one mean embedding a clip, intervals over prompts.
    reference_clips: size of the reference per network.
    tags: rank and lift of the prompted tags; None where fewer than two tags were prompted.
    profile: shares of the bands and side/mid ratio, dB (:func:`prestissimo.metrics.spectral_profile`).
    """

    clips: int
    frechet: dict[str, Interval]
    reference_clips: dict[str, int]
    tags: TagFollowing | None
    profile: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "frechet": {name: d._asdict() for name, d in self.frechet.items()},
            "tags": self.tags.to_dict() if self.tags else None,
        }

    def row(self) -> str:
        """One line for a training log."""
        parts = [f"Fréchet {name} {d}" for name, d in self.frechet.items()]
        if self.tags:
            parts.append(f"mean rank {self.tags.mean_rank} of chance {self.tags.chance_rank:g}")
            parts += [f"{t.tag} {t.rank.value:g} (x{t.lift.value:.2f})" for t in self.tags.tags]
        parts += [f"{name} {value:.1f} dB" for name, value in self.profile.items()]
        return ", ".join(parts)

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.table import Table

        distances = Table(
            "Network", "Fréchet distance (95 %)", "Reference clips", title=f"{self.clips} clips"
        )
        for name, distance in self.frechet.items():
            distances.add_row(name, str(distance), str(self.reference_clips[name]))
        sound = Table(*self.profile, title="Medians over clips, dB")
        sound.add_row(*(f"{value:.1f}" for value in self.profile.values()))
        return Group(distances, *([tag_table(self.tags)] if self.tags else []), sound)


def tag_table(following: TagFollowing) -> Any:
    """Rank and lift of each tag as a rich table."""
    from rich.table import Table

    table = Table("Tag", "Clips", "Probability", "Elsewhere", "Rank (95 %)", "Lift (95 %)", "Over no text")
    for t in following.tags:
        bare = "" if t.lift_unprompted is None else f"{t.lift_unprompted:.2f}"
        table.add_row(
            t.tag, str(t.clips), f"{t.probability:.3f}", f"{t.elsewhere:.3f}", str(t.rank), str(t.lift), bare
        )
    table.title = (
        f"Mean rank {following.mean_rank}; chance {following.chance_rank:g}, p = {following.p_value:.3g}"
    )
    return table


def reference_embeddings(
    clips: Sequence[Clip],
    networks: Sequence[str] = JUDGE_NETWORKS,
    *,
    sample_rate: int = 44_100,
    cache: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    progress: bool = False,
) -> dict[str, ArrayLike]:
    """Mean embeddings (n, E) of real clips per network, as :func:`quick_report` wants them."""
    judged = embed(clips, networks, sample_rate=sample_rate, cache=cache, threads=threads, progress=progress)
    return {name: judgement.mean_embeddings() for name, judgement in judged.items()}


def quick_report(
    clips: Sequence[Clip],
    prompts: Sequence[str],
    tags: Sequence[str | None],
    reference_embeddings: Mapping[str, ArrayLike],
    *,
    sample_rate: int = 44_100,
    cache: str | os.PathLike[str] | None = None,
    threads: int | None = 1,
    draws: int = 200,
    progress: bool = False,
) -> QuickReport:
    """Judges generated clips: one call between two stretches of training.

    Args:
        clips: stereo clips (2, N), 3 s or longer.
        prompts: the text of each; clips of one text are resampled together.
        tags: the tag of :data:`prestissimo.metrics.tags.JUDGES` that each prompt asks for, or None.
        reference_embeddings: (n, E) mean embeddings of real clips per network
            (:func:`prestissimo.metrics.quick.reference_embeddings`); each network here gives a Fréchet
            distance. For a small bias let n be at least the number of clips, and compare only reports with
            equal numbers.
        sample_rate: in Hz.
        cache: see :func:`prestissimo.metrics.embed`.
        threads: torch threads of the judges; one by default, to leave the rest to training.
        draws: bootstrap samples.
        progress: show a progress bar.

    Raises:
        ValueError: lengths that differ, an unknown tag, a clip or a reference of the wrong shape.
        ImportError: the judges' weights are not installed.
    """
    for name, values in (("prompts", prompts), ("tags", tags)):
        if len(values) != len(clips):
            raise ValueError(f"{name} must hold one for each of the {len(clips)} clips, got {len(values)}")
    check_tags(tags)
    asked = [t for t in JUDGES if t in set(tags)]
    networks = list(
        dict.fromkeys([*reference_embeddings, *(j for t in asked for j in JUDGES[t] if len(asked) > 1)])
    )
    audio = [stereo_clip(clip, f"clip {i}") for i, clip in enumerate(clips)]
    judged: dict[str, Judgement] = embed(
        audio, networks, sample_rate=sample_rate, cache=cache, threads=threads, progress=progress
    )
    distances, sizes = {}, {}
    for name, reference in reference_embeddings.items():
        real = embedding_matrix(reference, f"reference_embeddings[{name!r}]")
        distances[name] = frechet_interval(
            judged[name].mean_embeddings(), real, groups_a=list(prompts), draws=draws
        )
        sizes[name] = len(real)
    following = None
    if len(asked) > 1:
        following = tag_following(judged, tags, prompts, draws=draws)
    return QuickReport(
        clips=len(clips),
        frechet=distances,
        reference_clips=sizes,
        tags=following,
        profile=spectral_profile(audio, sample_rate),
    )
