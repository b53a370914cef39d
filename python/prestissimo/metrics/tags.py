# SPDX-License-Identifier: Apache-2.0
"""Does the music follow its text? Rank and lift of the prompted tag, by networks that never captioned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prestissimo.metrics.embeddings import Judgement
from prestissimo.metrics.intervals import Interval, percentile_interval

#: The judges of each tag. Captions were made with MTT_musicnn, which therefore judges none of them; the MSD
#: networks know only four of the ten.
JUDGES: Mapping[str, tuple[str, ...]] = {
    "metal": ("MSD_musicnn", "MSD_vgg"),
    "rock": ("MSD_musicnn", "MSD_vgg"),
    "ambient": ("MSD_musicnn", "MSD_vgg"),
    "guitar": ("MSD_musicnn", "MSD_vgg"),
    "flute": ("MTT_vgg",),
    "drums": ("MTT_vgg",),
    "classical": ("MTT_vgg",),
    "techno": ("MTT_vgg",),
    "strings": ("MTT_vgg",),
    "piano": ("MTT_vgg",),
}
TAGS = tuple(JUDGES)
JUDGE_NETWORKS = ("MSD_musicnn", "MSD_vgg", "MTT_vgg")


@dataclass(frozen=True)
class TagResult:
    """One tag among the prompts.

    Attributes:
        tag: the tag that was prompted and listened for.
        clips: clips whose prompt asked for it.
        probability: its mean probability over those clips and its judges.
        elsewhere: its mean probability over the clips that asked for another tag.
        rank: 1 where no other prompt raises the tag more; 1 + the number of prompts that do.
        lift: probability with the prompt over the mean of the other prompts, mean over judges.
        lift_unprompted: the same over clips generated without text, where there are any.
    """

    tag: str
    clips: int
    probability: float
    elsewhere: float
    rank: Interval
    lift: Interval
    lift_unprompted: float | None = None


@dataclass(frozen=True)
class TagFollowing:
    """All tags, the mean rank, and how likely shuffled prompts would reach it.

    Attributes:
        tags: a result per tag.
        mean_rank: over the tags; (K + 1) / 2 by chance for K tags.
        chance_rank: that value.
        p_value: share of shufflings of wordings among the tags with a mean rank as low.
    """

    tags: tuple[TagResult, ...]
    mean_rank: Interval
    chance_rank: float
    p_value: float

    def to_dict(self) -> dict[str, Any]:
        out = asdict(self)
        for row, result in zip(out["tags"], self.tags, strict=True):
            row["rank"], row["lift"] = result.rank._asdict(), result.lift._asdict()
        out["mean_rank"] = self.mean_rank._asdict()
        return out


def check_tags(prompted: Sequence[str | None], judges: Mapping[str, Sequence[str]] = JUDGES) -> None:
    """Raises ValueError where a prompted tag has no judge."""
    unknown = sorted({t for t in prompted if t is not None} - set(judges))
    if unknown:
        raise ValueError(f"prompted names tags that no judge knows: {', '.join(unknown)}")


def tag_following(
    judgements: Mapping[str, Judgement],
    prompted: Sequence[str | None],
    wordings: Sequence[object] | None = None,
    *,
    judges: Mapping[str, Sequence[str]] = JUDGES,
    draws: int = 1000,
    seed: int = 0,
) -> TagFollowing:
    """Rank and lift of every prompted tag, with 95 % bootstrap intervals over wordings.

    For tag t and judge j let v_j[p] be the mean probability of t over the clips whose prompt asked for p.
    Judges are combined as s[p] = mean_j v_j[p] / mean_q v_j[q]. Then rank(t) = 1 + #{p != t: s[p] > s[t]}
    and lift(t) = mean_j v_j[t] / mean_{p != t} v_j[p].

    Args:
        judgements: the networks' views of the same clips, from :func:`prestissimo.metrics.embed`.
        prompted: the tag that each clip's prompt asked for; None for clips generated without text.
        wordings: the wording of each clip's prompt, resampled together within its tag; each clip alone
            where None.
        judges: the networks that judge each tag.
        draws: bootstrap samples, and shufflings of the permutation test.
        seed: of both.

    Raises:
        ValueError: fewer than two prompted tags, a tag without judges, a judge that is not among
            ``judgements``, or lengths that differ.
    """
    n = len(prompted)
    tags = [t for t in judges if t in set(prompted)]
    check_tags(prompted, judges)
    if len(tags) < 2:
        raise ValueError(f"prompted must name at least two tags, got {len(tags)}")
    if wordings is not None and len(wordings) != n:
        raise ValueError(f"wordings must name each of the {n} clips, got {len(wordings)}")
    missing = sorted({j for t in tags for j in judges[t]} - set(judgements))
    if missing:
        raise ValueError(f"judgements lack {', '.join(missing)}")
    for name, judgement in judgements.items():
        if len(judgement) != n:
            raise ValueError(f"judgements[{name!r}] must hold {n} clips, got {len(judgement)}")

    # heard[t]: (judges of t, n) probabilities of t
    heard = [np.stack([judgements[j].tag(t).astype(np.float64) for j in judges[t]]) for t in tags]
    labels = np.array([tags.index(t) if t is not None else -1 for t in prompted])
    names = list(range(n)) if wordings is None else list(wordings)
    clusters: list[list[NDArray[np.int64]]] = []  # by tag, then by wording
    for k in range(len(tags)):
        members: dict[object, list[int]] = {}
        for i in np.flatnonzero(labels == k):
            members.setdefault(names[i], []).append(int(i))
        clusters.append([np.array(m, dtype=np.int64) for m in members.values()])

    value = _ranks_and_lifts(heard, [np.concatenate(c) for c in clusters])
    rng = np.random.default_rng(seed)
    samples = np.stack(
        [
            _ranks_and_lifts(
                heard, [np.concatenate([c[i] for i in rng.integers(len(c), size=len(c))]) for c in clusters]
            )
            for _ in range(draws)
        ]
    )  # (draws, 2, tags)
    pool = [c for tag_clusters in clusters for c in tag_clusters]
    ends = np.cumsum([len(c) for c in clusters])[:-1]
    shuffled = []
    for _ in range(draws):
        parts = np.split(rng.permutation(len(pool)), ends)
        rows = [np.concatenate([pool[i] for i in part]) for part in parts]
        shuffled.append(_ranks_and_lifts(heard, rows)[0].mean())

    results = []
    for k, tag in enumerate(tags):
        mine, silent = heard[k][:, labels == k].mean(axis=1), heard[k][:, labels == -1]
        others = heard[k][:, (labels != k) & (labels >= 0)].mean(axis=1)
        results.append(
            TagResult(
                tag=tag,
                clips=int((labels == k).sum()),
                probability=float(mine.mean()),
                elsewhere=float(others.mean()),
                rank=percentile_interval(value[0, k], samples[:, 0, k]),
                lift=percentile_interval(value[1, k], samples[:, 1, k]),
                lift_unprompted=float((mine / silent.mean(axis=1)).mean()) if silent.size else None,
            )
        )
    mean_rank = float(value[0].mean())
    return TagFollowing(
        tags=tuple(results),
        mean_rank=percentile_interval(mean_rank, samples[:, 0].mean(axis=1)),
        chance_rank=(len(tags) + 1) / 2,
        p_value=float((1 + sum(r <= mean_rank for r in shuffled)) / (1 + draws)),
    )


def _ranks_and_lifts(
    heard: Sequence[NDArray[np.float64]], rows: Sequence[NDArray[np.int64]]
) -> NDArray[np.float64]:
    """(2, tags): rank and lift of each tag, given the clips of each prompt."""
    out = np.empty((2, len(rows)))
    for k, probabilities in enumerate(heard):
        v = np.stack([probabilities[:, r].mean(axis=1) for r in rows], axis=1)  # (judges, prompts)
        v = np.maximum(v, 1e-12)
        score = (v / v.mean(axis=1, keepdims=True)).mean(axis=0)
        others = np.delete(v, k, axis=1)
        out[0, k] = 1 + (np.delete(score, k) > score[k]).sum()
        out[1, k] = (v[:, k] / others.mean(axis=1)).mean()
    return out
