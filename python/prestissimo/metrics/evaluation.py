# SPDX-License-Identifier: Apache-2.0
"""The whole evaluation of a set of generated clips, section by section, as one JSON-able dictionary."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from prestissimo.metrics.attributes import Attributes, attributes_of
from prestissimo.metrics.clips import ClipSet
from prestissimo.metrics.distances import NETWORKS, compare_sets
from prestissimo.metrics.embeddings import embed
from prestissimo.metrics.following import pair_following, tempo_following
from prestissimo.metrics.generated import CAPTIONED, UNPROMPTED, Generated
from prestissimo.metrics.prompts import Prompt
from prestissimo.metrics.sound import loudness_drift, real_or_generated, repetition, standing
from prestissimo.metrics.spectrum import spectral_profile
from prestissimo.metrics.tags import JUDGE_NETWORKS, JUDGES, tag_following

logger = logging.getLogger(__name__)
_LONG_SECONDS = 24.0
_LABEL_PROBABILITY = 0.3


class Evaluator:
    """Runs sections that share one cache.

    Args:
        cache: folder of what was measured of each clip; a second run reads it back.
        threads: torch threads of the judges.
        draws: bootstrap samples.
        progress: show progress bars.
    """

    def __init__(
        self,
        cache: str | os.PathLike[str] | None = None,
        *,
        threads: int | None = None,
        draws: int = 1000,
        progress: bool = False,
    ) -> None:
        self.cache, self.threads, self.draws, self.progress = cache, threads, draws, progress

    def attributes(self, clips: ClipSet) -> list[Attributes]:
        return attributes_of(
            clips.clips, sample_rate=clips.sample_rate, cache=self.cache, progress=self.progress
        )

    def tags(self, made: Generated, real: ClipSet | None = None) -> dict[str, Any] | None:
        """Rank and lift of the prompted tags; None where fewer than two tags were prompted.

        ``real``: held-out clips. Those that MTT_musicnn, which wrote the captions, gives the tag with 0.3 or
        more stand for real music that carries it, and the judges' lift between them and the others is what
        perfect following would measure.
        """
        of_tags = made.where(lambda p, _: p is not None and p.kind in ("tag", UNPROMPTED))
        asked = [p.tag if p else None for p in of_tags.prompts]
        if len(set(asked) - {None}) < 2:
            return None
        clips = of_tags.clips()
        judged = self._embed(clips, JUDGE_NETWORKS)
        found = tag_following(judged, asked, [p.text if p else "" for p in of_tags.prompts], draws=self.draws)
        out = found.to_dict()
        if real is not None:
            heard = self._embed(real, (*JUDGE_NETWORKS, "MTT_musicnn"))
            for row in out["tags"]:
                carries = heard["MTT_musicnn"].tag(row["tag"]) >= _LABEL_PROBABILITY
                row["real_clips"] = int(carries.sum())
                if 3 <= carries.sum() <= len(carries) - 3:
                    p = [heard[j].tag(row["tag"]) for j in JUDGES[row["tag"]]]
                    row["real_lift"] = float(np.mean([x[carries].mean() / x[~carries].mean() for x in p]))
        return out

    def tempo(self, made: Generated, *, madmom: bool = False) -> dict[str, Any] | None:
        """Asked tempi met, by signal and, where wanted, by madmom; None where fewer than two were asked."""
        of_tempo = made.where(lambda p, _: p is not None and p.kind == "tempo")
        if len(of_tempo) < 2:
            return None
        asked = [p.bpm if p else 0.0 for p in of_tempo.prompts]
        wordings = [p.id if p else "" for p in of_tempo.prompts]
        found = [a.tempo.bpm for a in self.attributes(of_tempo.clips())]
        out = {"signal": tempo_following(found, asked, wordings, draws=self.draws).to_dict()}
        if madmom:
            from prestissimo.metrics import madmom_judge

            heard = [madmom_judge.tempo(clip).bpm for clip in of_tempo.clips().clips]
            out["madmom"] = tempo_following(heard, asked, wordings, draws=self.draws).to_dict()
        return out

    def pairs(self, made: Generated) -> list[dict[str, Any]]:
        """Attribute pairs in the right order."""
        of_pairs = made.where(lambda p, _: p is not None and p.kind == "pair")
        if not len(of_pairs):
            return []
        measured = self.attributes(of_pairs.clips())
        prompts = [p for p in of_pairs.prompts if p is not None]
        return [r.to_dict() for r in pair_following(prompts, measured, of_pairs.seeds, draws=self.draws)]

    def distance(
        self, reference: ClipSet, sets: Mapping[str, ClipSet], real: str | None
    ) -> list[dict[str, Any]]:
        """See :func:`prestissimo.metrics.distances.compare_sets`."""
        rows = compare_sets(
            reference,
            sets,
            real,
            draws=min(self.draws, 200),
            cache=self.cache,
            threads=self.threads,
            progress=self.progress,
        )
        return [row.to_dict() for row in rows]

    def sound(self, made: ClipSet, real: ClipSet) -> dict[str, Any]:
        """Bands, side, pulse, key, and a classifier; drift and repetition where clips last 24 s."""
        profiles = [spectral_profile(s.clips, s.sample_rate) for s in (made, real)]
        a, b = self.attributes(made), self.attributes(real)
        out: dict[str, Any] = {
            "made": profiles[0],
            "real": profiles[1],
            "difference": {name: value - profiles[1][name] for name, value in profiles[0].items()},
            "standing": {
                "key clarity": asdict(standing([x.key.clarity for x in a], [x.key.clarity for x in b])),
                "pulse": asdict(standing([x.tempo.strength for x in a], [x.tempo.strength for x in b])),
                "onset rate": asdict(standing([x.onset_rate for x in a], [x.onset_rate for x in b])),
                "centroid": asdict(standing([x.centroid for x in a], [x.centroid for x in b])),
            },
        }
        if min(len(set(made.tracks)), len(set(real.tracks))) >= 5:
            judged = [self._embed(s, NETWORKS) for s in (real, made)]
            out["real or generated"] = {
                network: real_or_generated(
                    judged[0][network].mean_embeddings(),
                    judged[1][network].mean_embeddings(),
                    real_groups=list(real.tracks),
                    made_groups=list(made.tracks),
                )._asdict()
                for network in NETWORKS
            }
        return out

    def structure(self, made: ClipSet, real: ClipSet) -> dict[str, Any]:
        """Loudness drift (absolute dB) and repetition of long clips, against real ones."""
        sets = {"made": made, "real": real}
        drift = {name: [abs(loudness_drift(c, s.sample_rate)) for c in s.clips] for name, s in sets.items()}
        repeats = {name: [repetition(c, s.sample_rate) for c in s.clips] for name, s in sets.items()}
        return {
            "loudness drift": asdict(standing(drift["made"], drift["real"])),
            "repetition": asdict(standing(repeats["made"], repeats["real"])),
        }

    def _embed(self, clips: ClipSet, networks: Sequence[str]) -> Any:
        return embed(
            clips.clips,
            networks,
            sample_rate=clips.sample_rate,
            cache=self.cache,
            threads=self.threads,
            progress=self.progress,
        )


def evaluate_clips(
    made: Generated,
    *,
    reference: ClipSet | None = None,
    real: ClipSet | None = None,
    others: Mapping[str, ClipSet] | None = None,
    long_reference: ClipSet | None = None,
    long_real: ClipSet | None = None,
    evaluator: Evaluator | None = None,
    madmom: bool = False,
) -> dict[str, Any]:
    """Everything that can be said of generated clips with the real music that is given.

    Distance and sound are those of the clips after captions of real music, or where there are none of the tags'
    and of those without a prompt.

    Args:
        made: the clips; those named after prompts are also judged by them.
        reference: real clips of the short ones' length, to measure distance to.
        real: held-out real clips of that length, not among ``reference``.
        others: further sets for the same scale, such as codec reconstructions.
        long_reference: as ``reference``, for clips of 24 s or more.
        long_real: as ``real``, for those.
        evaluator: cache, threads, progress.
        madmom: let madmom judge tempi too.

    Returns:
        ``clips``, and where they apply ``tags``, ``tempo``, ``pairs``, ``distance``, ``distance_long``,
        ``sound``, ``structure``: plain dictionaries and lists.

    Raises:
        ValueError: no clip.
    """
    if not len(made):
        raise ValueError("made must hold at least one clip")
    run = evaluator or Evaluator()
    out: dict[str, Any] = {"clips": len(made)}
    for name, section in (
        ("tags", run.tags(made, real)),
        ("tempo", run.tempo(made, madmom=madmom)),
        ("pairs", run.pairs(made)),
    ):
        if section:
            out[name] = section
    tagged = made.where(lambda p, s: s < _LONG_SECONDS and _free(p))
    captioned = made.where(lambda p, s: s < _LONG_SECONDS and p is not None and p.kind == CAPTIONED)
    short = captioned if len(captioned) > 1 else tagged
    bare = made.where(lambda p, _: p is not None and p.kind == UNPROMPTED)
    long = made.where(lambda p, s: s >= _LONG_SECONDS)
    if reference is not None and len(short) > 1:
        sets = {"generated": short.clips()}
        if real is not None:
            sets = {"real": real, **sets}
            if len(real) < len(short):
                sets["generated"] = sets["generated"].take(len(real))
        if short is captioned and len(tagged) > 1:
            sets["generated, tags"] = tagged.clips().take(len(short))
        if len(bare) > 1:
            sets["unprompted"] = bare.clips()
        out["distance"] = run.distance(reference, {**sets, **(others or {})}, "real" if real else None)
    if real is not None and len(short) > 1:
        out["sound"] = run.sound(short.clips().take(len(real)), real)
    if long_reference is not None and len(long) > 1:
        sets = {"generated": long.clips()}
        if long_real is not None:
            count = min(len(long), len(long_real))
            sets = {"real": long_real.take(count), "generated": sets["generated"].take(count)}
        out["distance_long"] = run.distance(long_reference, sets, "real" if long_real else None)
    if long_real is not None and len(long) > 1:
        out["structure"] = run.structure(long.clips(), long_real)
    return out


def _free(prompt: Prompt | None) -> bool:
    """Clips that stand for the model's ordinary output: tags, and files without a prompt."""
    return prompt is None or prompt.kind == "tag"
