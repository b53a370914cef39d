# SPDX-License-Identifier: Apache-2.0
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from prestissimo.data.analysis import Measures
from prestissimo.data.attributes import (
    TAGS,
    WINDOWS,
    WindowAttributes,
    read_windows,
    tag_track,
    write_windows,
)
from prestissimo.data.captions import Attributes, CaptionStore, caption
from prestissimo.data.manifest import read_manifest
from prestissimo.data.phrases import STYLE_WORDS
from prestissimo.data.store import StoredTrack

MEASURES = Measures(-20.0, 1500.0, 2.0, -8.0, -6.0, 120.0, 0.4, 9, 0.5)
WINDOW = 262144


def track(track_id, windows, split="train", title="", genre=""):
    return StoredTrack(
        track_id, "p", split, title, "A", "MIT", genre, 0, windows * WINDOW, 0, windows * 512, 0.0
    )


def rows(track_id, tags, **changes):
    return [
        WindowAttributes(
            track_id, i, replace(MEASURES, **changes), tuple((TAGS.index(k), v) for k, v in t.items())
        )
        for i, t in enumerate(tags)
    ]


@pytest.fixture
def store(tmp_path):
    plain = [{"techno": 0.2, "drums": 0.1}] * 20
    special = [{"flute": 0.9}, {"flute": 0.9}, {"piano": 0.8, "slow": 0.5}, {"piano": 0.8}]
    write_windows(
        rows("p/plain", plain, onsets=4.0) + rows("p/special", special, bpm=72.0, key=21), tmp_path / "p.tsv"
    )
    return CaptionStore([track("p/plain", 20), track("p/special", 4, title="Blue")], tmp_path)


def test_text_round_trip(tmp_path):
    windows = [
        WindowAttributes("a/b c", 0, MEASURES, ((3, 0.52), (5, 0.11)), ("pan flute", "harp"), "flute duo"),
        WindowAttributes("a/b c", 1, replace(MEASURES, key=23, bpm=0.0)),
    ]
    write_windows(windows, tmp_path / "w.tsv")
    assert list(read_windows(tmp_path / "w.tsv")) == windows
    (tmp_path / "w.tsv").write_text((tmp_path / "w.tsv").read_text().replace("120.0", "fast"))
    with pytest.raises(ValueError, match="line 2"):
        list(read_windows(tmp_path / "w.tsv"))
    (tmp_path / "w.tsv").write_text("a\tb\n")
    with pytest.raises(ValueError, match="columns"):
        list(read_windows(tmp_path / "w.tsv"))


def test_a_stretch_speaks_of_the_windows_it_covers(store):
    seconds = WINDOW / 44100
    first = store.window("p/special", 0.0, 2 * seconds)
    assert set(first.tags) == {"flute"}
    assert first.section == "intro"
    last = store.window("p/special", 2 * seconds, 2 * seconds)
    assert next(iter(last.tags)) == "piano"
    assert "flute" not in last.tags
    assert last.section == "ending"
    assert (last.key, last.minor) == ("A minor", True)
    assert last.bpm == pytest.approx(72)
    both = store.window("p/special", seconds, 2 * seconds)
    assert {"flute", "piano"} <= set(both.tags)
    assert store.window("p/plain", 0, 6).dense > store.window("p/special", 0, 6).dense


def test_unknown_tracks_and_empty_stretches_are_refused(store, tmp_path):
    with pytest.raises(KeyError):
        store.window("p/none", 0, 6)
    for start, seconds in ((0, 0), (-1, 5), (0, float("nan"))):
        with pytest.raises(ValueError, match="seconds positive"):
            store.window("p/special", start, seconds)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="attribute files"):
        CaptionStore([], tmp_path / "empty")


def test_disagreeing_tempi_and_keys_are_not_named(tmp_path):
    windows = [
        WindowAttributes("p/a", i, replace(MEASURES, bpm=b, key=k))
        for i, (b, k) in enumerate([(80, 0), (120, 5), (101, 9)])
    ]
    write_windows(windows, tmp_path / "p.tsv")
    a = CaptionStore([track("p/a", 3)], tmp_path).window("p/a", 0, 18)
    assert (a.bpm, a.key) == (0.0, "")


def captions_of(a, count=300):
    rng = np.random.default_rng(0)
    return [caption(a, rng) for _ in range(count)]


def test_captions_vary_and_repeat_with_the_seed():
    a = Attributes({"piano": 3.0, "slow": 2.0, "classical": 1.2}, bpm=72, key="A minor", loud=0.1, dense=0.1)
    texts = captions_of(a)
    assert texts == captions_of(a)
    assert len(set(texts)) > 200
    assert all(t and t == t.strip() and len(t) < 300 for t in texts)
    assert min(map(len, texts)) <= 10
    assert max(map(len, texts)) >= 80
    share = {w: np.mean([w in t.lower() for t in texts]) for w in ("piano", "slow", "72", "minor")}
    assert share["piano"] > 0.5
    assert all(0.05 < share[w] < 0.8 for w in ("slow", "72", "minor"))
    assert not re.search(r"\b(fast|loud|major|happy|energetic)\b", " ".join(texts).lower())


def test_captions_of_renderings_name_only_facts():
    a = Attributes(
        instruments=("flute", "harp"), style="flute duo", bpm=140, key="D major", exact=True, dense=0.9
    )
    text = " ".join(captions_of(a)).lower()
    for word in ("flute", "harp", "140", "d major", "fast"):
        assert word in text
    for word in ("drums", "minor", "slow", "guitar", "techno"):
        assert word not in text
    quartet = Attributes(instruments=("violin", "viola", "cello"), style="string quartet", exact=True)
    text = captions_of(quartet)
    assert 0.1 < np.mean(["strings" in t.lower() for t in text]) < 0.9
    assert not any("drums" in t or "flute" in t for t in text)


def test_nothing_known_still_says_something():
    assert all(len(t) > 3 for t in captions_of(Attributes(), 100))


def test_words_are_not_said_twice():
    a = Attributes(
        {"classical": 2, "classic": 2, "strings": 2, "violin": 2, "cello": 2, "drums": 2, "beats": 2}
    )
    for text in captions_of(a):
        words = re.findall(r"[a-z]+", text.lower())
        assert not any(x == y for x, y in pairwise(words)), text


def test_every_style_has_words():
    from prestissimo.data.compose import STYLES

    assert set(STYLES) <= set(STYLE_WORDS)


def test_shipped_attributes_cover_the_manifest():
    lengths = {}
    for file in WINDOWS.glob("*.tsv"):
        for w in read_windows(file):
            lengths[w.track] = lengths.get(w.track, 0) + 1
            assert all(0.04 <= p <= 1 for _, p in w.tags)
    for t in read_manifest():
        expected = t.seconds * 44100 / WINDOW
        assert 0.5 * expected < lengths.get(t.id, 0) <= expected + 1, t.id
    assert sum(f.stat().st_size for f in WINDOWS.glob("*.tsv")) < 6_000_000


class FakeTagger:
    """Hears a tag whose strength is the loudness of the patch."""

    tags = TAGS

    def __call__(self, audio, patches):
        import torch

        p = torch.zeros(len(audio), 1, len(TAGS))
        p[:, 0, 9] = audio.abs().amax(1)
        return type("Output", (), {"probabilities": p})


def test_windows_between_the_tagged_ones_are_interpolated():
    level = np.repeat([0.2, 0.9, 0.6, 0.9, 1.0, 0.1, 0.4], WINDOW)
    audio = np.stack([level * np.sin(np.arange(len(level)) / 20)] * 2).astype(np.float32)
    found = [dict(row)[9] for row in tag_track(FakeTagger(), audio, stride=2)]
    assert found == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 0.7, 0.4], abs=0.02)
    assert len(tag_track(FakeTagger(), audio[:, :50000])) == 1
    tagger = FakeTagger()
    tagger.tags = ("a",)
    with pytest.raises(ValueError, match="MTT_musicnn"):
        tag_track(tagger, audio)
