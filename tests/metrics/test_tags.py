# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from prestissimo.metrics.embeddings import Judgement
from prestissimo.metrics.tags import JUDGES, TAGS, tag_following

NAMES = ("a", "b", "c", "d")
ONE_JUDGE = {name: ("net",) for name in NAMES}


def judgement(probabilities: np.ndarray, tags: tuple[str, ...] = NAMES) -> Judgement:
    """One patch a clip."""
    rows = tuple(p[None].astype(np.float32) for p in probabilities)
    return Judgement(tags, tuple(np.zeros((1, 3), np.float32) for _ in rows), rows)


def following_clips(strength: float, each: int = 12, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    prompted = [name for name in NAMES for _ in range(each)]
    p = np.random.default_rng(seed).uniform(0.1, 0.3, size=(len(prompted), 4))
    for i, name in enumerate(prompted):
        p[i, NAMES.index(name)] *= strength
    return p, prompted


def test_perfect_following() -> None:
    p = np.full((32, 4), 0.1)
    prompted = [name for name in NAMES for _ in range(8)]
    for i, name in enumerate(prompted):
        p[i, NAMES.index(name)] = 0.4
    report = tag_following({"net": judgement(p)}, prompted, judges=ONE_JUDGE, draws=200)
    for result in report.tags:
        assert result.rank == (1, 1, 1)
        assert result.lift.value == pytest.approx(4)
        assert (result.probability, result.elsewhere) == pytest.approx((0.4, 0.1))
        assert result.clips == 8
        assert result.lift_unprompted is None
    assert report.mean_rank.value == 1
    assert report.chance_rank == 2.5
    assert report.p_value < 0.05


def test_by_hand() -> None:
    # tag a is heard 0.2, 0.3, 0.1 under prompts a, b, c: rank 2, lift 0.2 / 0.2
    tags = ("a", "b", "c")
    p = np.array([[0.2, 0.1, 0.5], [0.3, 0.6, 0.1], [0.1, 0.2, 0.3]])
    report = tag_following(
        {"net": judgement(p, tags)}, list(tags), judges={t: ("net",) for t in tags}, draws=10
    )
    assert [r.rank.value for r in report.tags] == [2, 1, 2]
    assert [r.lift.value for r in report.tags] == pytest.approx([1, 4, 1])
    assert report.mean_rank.value == pytest.approx(5 / 3)


def test_judges_are_combined_by_their_own_scale() -> None:
    # one judge gives tiny probabilities; it must weigh as much as the other
    tags = ("a", "b")
    loud = judgement(np.array([[0.5, 0.1], [0.6, 0.1]]), tags)
    faint = judgement(np.array([[0.003, 0.1], [0.001, 0.1]]), tags)
    report = tag_following(
        {"loud": loud, "faint": faint}, ["a", "b"], judges={"a": ("loud", "faint"), "b": ("loud",)}, draws=10
    )
    assert report.tags[0].rank.value == 1
    assert report.tags[0].lift.value == pytest.approx((0.5 / 0.6 + 3) / 2)


def test_no_following_is_chance() -> None:
    p, prompted = following_clips(1.0, each=40)
    report = tag_following({"net": judgement(p)}, prompted, judges=ONE_JUDGE, draws=400)
    assert report.mean_rank.low <= 2.5 <= report.mean_rank.high
    assert report.p_value > 0.05


def test_weak_following_is_found_and_less_of_it_is_less() -> None:
    strong, prompted = following_clips(1.6)
    report = tag_following({"net": judgement(strong)}, prompted, judges=ONE_JUDGE, draws=400)
    assert report.mean_rank.high < 2.5
    assert report.p_value < 0.05
    weaker = tag_following({"net": judgement(following_clips(1.2)[0])}, prompted, judges=ONE_JUDGE, draws=50)
    assert all(s.lift.value > w.lift.value for s, w in zip(report.tags, weaker.tags, strict=True))


def test_repeats_of_a_wording_are_no_new_evidence() -> None:
    p, prompted = following_clips(1.3, each=4)
    p, prompted = np.repeat(p, 5, axis=0), [t for t in prompted for _ in range(5)]
    wordings = [i // 5 for i in range(len(prompted))]
    together = tag_following({"net": judgement(p)}, prompted, wordings, judges=ONE_JUDGE, draws=400)
    alone = tag_following({"net": judgement(p)}, prompted, judges=ONE_JUDGE, draws=400)
    for a, b in zip(together.tags, alone.tags, strict=True):
        assert a.lift.value == pytest.approx(b.lift.value)
        assert a.lift.high - a.lift.low > 1.5 * (b.lift.high - b.lift.low)


def test_clips_without_text_are_a_baseline_of_their_own() -> None:
    p, prompted = following_clips(2.0)
    silent = np.full((10, 4), 0.1)
    report = tag_following(
        {"net": judgement(np.concatenate([p, silent]))}, [*prompted, *[None] * 10], judges=ONE_JUDGE, draws=10
    )
    same = tag_following({"net": judgement(p)}, prompted, judges=ONE_JUDGE, draws=10)
    for r, s in zip(report.tags, same.tags, strict=True):
        assert r.lift.value == pytest.approx(s.lift.value)
        assert r.lift_unprompted == pytest.approx(r.probability / 0.1, rel=1e-5)


def test_bad_arguments_name_themselves() -> None:
    p, prompted = following_clips(1.0, each=1)
    judged = {"net": judgement(p)}
    with pytest.raises(ValueError, match="no judge knows: kazoo"):
        tag_following(judged, ["a", "b", "c", "kazoo"], judges=ONE_JUDGE)
    with pytest.raises(ValueError, match="at least two tags"):
        tag_following(judged, ["a"] * 4, judges=ONE_JUDGE)
    with pytest.raises(ValueError, match="wordings"):
        tag_following(judged, prompted, [1], judges=ONE_JUDGE)
    with pytest.raises(ValueError, match="lack net"):
        tag_following({}, prompted, judges=ONE_JUDGE)
    with pytest.raises(ValueError, match=r"judgements\['net'\] must hold 5 clips"):
        tag_following(judged, [*prompted, "a"], judges=ONE_JUDGE)


@pytest.mark.usefixtures("judges")
def test_every_judge_knows_its_tags_and_none_captioned() -> None:
    from prestissimo.metrics.embeddings import judge

    assert len(TAGS) == 10
    for tag, names in JUDGES.items():
        for name in names:
            assert name != "MTT_musicnn"
            assert tag in judge(name).tags
