# SPDX-License-Identifier: Apache-2.0
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prestissimo.metrics.attributes import Attributes, Key, Tempo
from prestissimo.metrics.following import MEASURES, pair_following, tempo_following
from prestissimo.metrics.prompts import Prompt, fixed_prompts, read_prompts, wordings_per_tag
from prestissimo.metrics.tags import TAGS

PLAIN = Attributes(-20.0, 1000.0, 2.0, 0.1, 5.0, 0.0, Tempo(100.0, 0.5), Key(0, "major", 0.9))


def test_fixed_prompts_are_balanced_and_distinct() -> None:
    tagged = fixed_prompts("tag")
    assert {t: sum(p.tag == t for p in tagged) for t in TAGS} == dict.fromkeys(TAGS, 20)
    everything = fixed_prompts()
    assert len({p.text.lower() for p in everything}) == len({p.id for p in everything}) == len(everything)
    bpm = np.array([p.bpm for p in fixed_prompts("tempo")])
    assert ((bpm >= 60) & (bpm <= 180)).all()
    logs = np.sort(np.log(bpm / 60) / np.log(3))  # log-uniform: the distribution function is the diagonal
    assert np.abs(logs - (np.arange(60) + 0.5) / 60).max() < 0.05
    assert all(str(round(p.bpm)) in p.text for p in fixed_prompts("tempo"))


def test_no_prompt_names_another_tag() -> None:
    for prompt in fixed_prompts("tag"):
        for other in set(TAGS) - {prompt.label}:
            assert not re.search(rf"\b{other}\b", prompt.text.lower()), prompt


def test_no_prompt_is_a_training_caption() -> None:
    from prestissimo.data.captions import Attributes as Facts
    from prestissimo.data.phrases import STYLE_WORDS, caption

    def plain(text: str) -> str:
        return re.sub(r"[^a-z0-9 ]", "", text.lower()).strip()

    prompts = {plain(p.text) for p in fixed_prompts()}
    rng = np.random.default_rng(0)
    tags = [*TAGS, "slow", "fast", "quiet", "loud", "synth", "electronic"]
    for _ in range(3_000):
        heard = {str(t): rng.uniform(1, 3) for t in rng.choice(tags, rng.integers(1, 4), replace=False)}
        bpm, key = float(rng.choice([0, 90, 138])), str(rng.choice(["", "C major", "A minor"]))
        loud, bright, dense = rng.uniform(size=3)
        facts = Facts(tags=heard, bpm=bpm, key=key, loud=loud, bright=bright, dense=dense)
        played = Facts(
            instruments=tuple(str(t) for t in rng.choice(TAGS, 1)),
            style=str(rng.choice(list(STYLE_WORDS))),
            bpm=bpm,
            key=key,
            dense=dense,
            exact=True,
        )
        assert {plain(caption(facts, rng)), plain(caption(played, rng))}.isdisjoint(prompts)


def test_pairs_are_whole_and_their_measures_known() -> None:
    pairs: dict[str, set[str]] = {}
    for p in fixed_prompts("pair"):
        pairs.setdefault(p.pair, set()).add(p.label)
    assert len(pairs) == 7 * 20
    for labels in pairs.values():
        (attribute,) = {label.split(":")[0] for label in labels}
        assert {label.split(":")[1] for label in labels} == set(MEASURES[attribute][0])


def test_some_wordings() -> None:
    chosen = wordings_per_tag(fixed_prompts(), 3)
    assert len(chosen) == 30
    assert {p.tag for p in chosen} == set(TAGS)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a\ttag\tpiano\t\t", "fields"),
        ("a\tsong\tpiano\t\t\tx", "kind"),
        ("a/b\ttag\tpiano\t\t\tx", "id must be"),
        ("a\ttempo\ttempo\t\tfast\tx", "bpm must be a number"),
        ("a\ttempo\ttempo\t\t1\tx", "bpm must be 20"),
        ("a\tpair\tmode\t\t\tx", "a pair needs"),
        ("a\ttag\tpiano\t\t\t  ", "a prompt"),
    ],
)
def test_bad_tables_name_the_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "p.tsv"
    path.write_text("id\tkind\tlabel\tpair\tbpm\tprompt\n" + line + "\n")
    with pytest.raises(ValueError, match=message) as caught:
        read_prompts(path)
    assert "p.tsv:2" in str(caught.value)
    path.write_text("prompt\nx\n")
    with pytest.raises(ValueError, match="columns"):
        read_prompts(path)


def test_tempo_by_hand() -> None:
    asked = [60.0, 90.0, 100.0, 140.0]
    report = tempo_following([60.0, 180.0, 111.0, 0.0], asked)
    assert report.met.value == 0.5
    assert report.exact == 0.25
    # 60 meets no other; 180 none but 90; 111 and 0 none: nothing is met by chance
    assert report.chance == 0
    assert tempo_following([120.0] * 4, [60.0, 120.0, 240.0, 130.0]).chance == pytest.approx(9 / 12)
    with pytest.raises(ValueError, match="found and asked"):
        tempo_following([1.0], asked)


def test_tempo_chance_of_unrelated_tempi() -> None:
    rng = np.random.default_rng(0)
    found, asked = 60 * 3 ** rng.uniform(size=(2, 400))
    report = tempo_following(found.tolist(), asked.tolist())
    # within 4 % of one in an octave: about 2 log2(1.04)
    assert report.chance == pytest.approx(2 * np.log2(1.04), rel=0.15)
    assert report.met.low <= report.chance <= report.met.high


def pair(name: str, attribute: str, value: str) -> Prompt:
    return Prompt(f"{name}-{value}", "pair", f"{attribute}:{value}", name, 0, "x")


def test_pairs_by_hand() -> None:
    prompts, found = [], []
    for i, (loud, soft) in enumerate([(-10.0, -20.0), (-12.0, -13.0), (-20.0, -15.0), (-9.0, -9.0)]):
        prompts += [pair(f"p{i}", "loudness", "loud"), pair(f"p{i}", "loudness", "soft")]
        found += [replace(PLAIN, loudness=loud), replace(PLAIN, loudness=soft)]
    prompts.append(pair("lonely", "loudness", "loud"))
    found.append(PLAIN)
    (result,) = pair_following(prompts, found)
    assert result.pairs == 4
    assert result.ordered.value == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert result.medians == (-11.0, -14.0)


@pytest.mark.parametrize("attribute", MEASURES)
def test_every_attribute_has_a_direction(attribute: str) -> None:
    (large, small), _ = MEASURES[attribute]
    more = Attributes(-10.0, 3000.0, 6.0, 0.2, 9.0, 0.3, Tempo(160.0, 0.5), Key(0, "major", 0.9))
    less = Attributes(-30.0, 500.0, 1.0, 0.05, 3.0, -0.3, Tempo(70.0, 0.5), Key(0, "minor", 0.9))
    prompts = [pair("p", attribute, large), pair("p", attribute, small)]
    assert pair_following(prompts, [more, less])[0].ordered.value == 1
    assert pair_following(prompts, [less, more])[0].ordered.value == 0


def test_seeds_make_pairs_of_their_own() -> None:
    prompts = [pair("p", "energy", v) for v in ("energetic", "calm")] * 2
    found = [replace(PLAIN, flux=f) for f in (0.2, 0.1, 0.1, 0.2)]
    (result,) = pair_following(prompts, found, [0, 0, 1, 1])
    assert (result.pairs, result.ordered.value) == (2, 0.5)
    with pytest.raises(ValueError, match="one length"):
        pair_following(prompts, found, [0])
