# SPDX-License-Identifier: Apache-2.0
"""From packages made on the spot to features, captions and the command line."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from tests.data.debs import make_deb, make_zip, needs_dpkg
from typer.testing import CliRunner

from prestissimo.cli import describe as one_line
from prestissimo.cli.data import app
from prestissimo.data import FeatureStore, FeatureWriter, dataset
from prestissimo.data.captions import CaptionStore
from prestissimo.data.dataset import RENDERED, Workplace, build_recorded, build_rendered, describe, survey_all
from prestissimo.data.packages import PackageError
from prestissimo.data.sources import Rule, Source

pytestmark = needs_dpkg

COPYRIGHT = b"""\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: X
License: GPL-2+

Files: tunes/free*.ogg
Copyright: Ann
License: CC-BY-SA-3.0
"""


def song(tmp_path, seconds=24, hz=220.0):
    t = np.arange(int(seconds * 44100)) / 44100
    beat = (np.sin(2 * np.pi * 2 * t) > 0.9) * 0.3
    audio = np.stack([0.2 * np.sin(2 * np.pi * hz * t) + beat, 0.2 * np.sin(2 * np.pi * 1.5 * hz * t)], 1)
    path = tmp_path / "song.ogg"
    # libsndfile's Vorbis encoder overruns its stack on long blocks
    with soundfile.SoundFile(path, "w", 44100, 2, format="OGG", subtype="VORBIS") as f:
        for i in range(0, len(audio), 8192):
            f.write(audio[i : i + 8192])
    return path.read_bytes()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Two packages: one with a copyright file in Debian's format, one with an archive and parts of songs."""
    debs = tmp_path / "debs"
    debs.mkdir()
    free, other = song(tmp_path), song(tmp_path, hz=330.0)
    make_deb(
        debs,
        "alpha-data",
        {
            "usr/share/doc/alpha-data/copyright": COPYRIGHT,
            "usr/share/alpha/free1.ogg": free,
            "usr/share/alpha/free_short.ogg": song(tmp_path, seconds=5),
            "usr/share/alpha/owned.ogg": other,
            "usr/share/alpha/unknown.ogg": other,
        },
    )
    inner = make_zip(tmp_path / "b.zip", {"m/One Song/song.ogg": free, "m/One Song/guitar.ogg": other})
    make_deb(debs, "beta-data", {"usr/share/beta/b.zip": inner})
    sources = (
        Source(
            "alpha-data",
            "usr/share/alpha/",
            (
                Rule("free*.ogg", "CC-BY-SA-3.0", "Ann", "dep5"),
                Rule("owned.ogg", "GPL-2.0-or-later", "X", "dep5"),
            ),
            origin="tunes/",
        ),
        Source(
            "beta-data",
            "m/",
            (Rule("*", "MIT", "Bea", "text", "rock"),),
            archive="usr/share/beta/b.zip",
            stems=("song.ogg", "guitar.ogg"),
            evaluation=True,
        ),
    )
    monkeypatch.setattr(dataset, "SOURCES", sources)
    monkeypatch.setattr(dataset, "source_named", lambda name: next(s for s in sources if s.package == name))
    return Workplace(tmp_path / "out", debs, download=False)


def quiet(name, done, total):
    assert 0 <= done <= total + 1e-6


def test_survey_keeps_what_is_reviewed_free_and_long_enough(place):
    tracks, left_out = survey_all(place, ["alpha-data", "beta-data"])
    assert [(t.id, t.licence, t.author) for t in tracks] == [
        ("alpha-data/free1", "CC-BY-SA-3.0", "Ann"),
        ("beta-data/One Song", "MIT", "Bea"),
    ]
    assert tracks[1].split == "heldout_package"
    assert tracks[1].paths == ("m/One Song/song.ogg", "m/One Song/guitar.ogg")
    assert {path: reason for _, path, reason, _ in left_out} == {
        "free_short.ogg": "shorter than 20 s",
        "owned.ogg": "licence GPL-2.0-or-later",
        "unknown.ogg": "no reviewed rule names it",
    }


def test_a_rule_that_contradicts_the_package_stops_the_survey(place, monkeypatch):
    alpha = dataset.SOURCES[0]
    wrong = replace(alpha, rules=(Rule("owned.ogg", "CC0-1.0", "X", "wishful"), *alpha.rules))
    monkeypatch.setattr(dataset, "SOURCES", (wrong,))
    with pytest.raises(PackageError, match=r"owned\.ogg is CC0-1\.0, but its copyright file says GPL-2"):
        survey_all(place, ["alpha-data"])


def test_build_resumes_verifies_and_describes(place, tmp_path):
    tracks, _ = survey_all(place, ["alpha-data", "beta-data"])
    writer = FeatureWriter(place.out)
    build_recorded(place, writer, ["alpha-data"], quiet, tracks)
    assert [t.id for t in writer.tracks] == ["alpha-data/free1"]
    size = (place.out / "audio.i16").stat().st_size
    build_recorded(place, FeatureWriter(place.out), ["alpha-data", "beta-data"], quiet, tracks)
    store = FeatureStore(place.out)
    assert [t.id for t in store] == ["alpha-data/free1", "beta-data/One Song"]
    assert (place.out / "audio.i16").stat().st_size == 2 * size
    assert not (place.unpacked / "beta-data").exists(), "unpacked packages are removed"
    rms = store.audio("alpha-data/free1").square().mean().sqrt()
    assert 0.05 < rms < 0.15
    # the sum of both parts: tones of both
    mix = np.abs(np.fft.rfft(store.audio("beta-data/One Song", 0, 44100).numpy()[0]))
    assert min(mix[220], mix[330]) > 100 * np.median(mix)

    folder = tmp_path / "windows"
    describe(place, folder, ["alpha-data", "beta-data"], 0, quiet, tags=False)
    captions = CaptionStore(store, folder)
    attributes = captions.window("beta-data/One Song", 0, 12)
    assert attributes.genre == "rock"
    assert attributes.section == "intro"

    bad = [replace(tracks[0], id="alpha-data/other", sha256="0" * 64)]
    with pytest.raises(PackageError, match=r"alpha-data/other has SHA-256"):
        build_recorded(place, FeatureWriter(place.out), ["alpha-data"], quiet, bad)
    gone = [replace(tracks[0], id="alpha-data/gone", path="usr/share/alpha/gone.ogg")]
    with pytest.raises(PackageError, match=r"holds no usr/share/alpha/gone\.ogg"):
        build_recorded(place, FeatureWriter(place.out), ["alpha-data"], quiet, gone)
    assert len(FeatureWriter(place.out).tracks) == 2


def test_renderings_are_appended_once_with_exact_attributes(place, tmp_path, monkeypatch):
    pytest.importorskip("mido", reason='needs the extra "data"')
    from prestissimo.data import renderings

    rng = np.random.default_rng(0)
    calls = []

    def sound(midi, font, seconds):
        calls.append(midi.stat().st_size)
        silence = np.zeros((22050, 2), np.float32)
        return np.concatenate([silence, rng.normal(0, 0.05, (int(seconds * 44100), 2)).astype(np.float32)])

    monkeypatch.setattr(renderings, "render", sound)
    monkeypatch.setattr(dataset, "soundfont", lambda folder: folder)
    monkeypatch.setattr(dataset, "find_program", lambda name, why: name)
    make_deb(place.debs, "fluid-soundfont-gm", {"usr/share/x": b"x"})
    build_rendered(place, FeatureWriter(place.out), ["rendered"], 2, quiet)
    build_rendered(place, FeatureWriter(place.out), ["rendered"], 3, quiet)
    assert len(calls) == 3
    assert all(size > 300 for size in calls)
    store = FeatureStore(place.out)
    assert [t.id[:13] for t in store] == ["rendered/0000", "rendered/0001", "rendered/0002"]
    assert store.tracks[0].cut == pytest.approx(0.5, abs=0.1)
    assert all(t.licence == "CC0-1.0" for t in store)
    audio = store.audio(store.tracks[0]).numpy()
    side = np.mean((audio[0] - audio[1]) ** 2) / np.mean((audio[0] + audio[1]) ** 2)
    assert -18.5 < 10 * np.log10(side) < -4.5
    describe(place, tmp_path / "w", RENDERED, 3, quiet, tags=False)
    captions = CaptionStore(store, tmp_path / "w")
    for i, track in enumerate(store):
        piece = renderings.compose(i)
        a = captions.window(track.id, 12.0, 6.0)
        assert a.exact
        assert a.style == piece.style
        assert a.bpm == pytest.approx(piece.bpm, abs=0.06)
        assert a.instruments
        assert a.key in (piece.key, "")
    with pytest.raises(ValueError, match="pieces must cover"):
        describe(place, tmp_path / "v", RENDERED, 2, quiet, tags=False)


def command(*arguments):
    """(exit code, output or error) of `prestissimo data ...`."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(result.exception, Exception):
        text, code = one_line(result.exception)
        return code, text
    return result.exit_code, result.output


def test_command_line(place, tmp_path, monkeypatch):
    tracks, _ = survey_all(place, ["alpha-data"])
    monkeypatch.setattr(dataset, "read_manifest", lambda: tracks)
    here = ["--out", place.out, "--deb-dir", place.debs, "--no-download"]
    code, text = command("build", *here, "-p", "alpha-data")
    assert (code, "alpha-data" in text) == (0, True)
    code, text = command("report", "--out", place.out)
    assert (code, "CC-BY-SA-3.0" in text) == (0, True)
    code, text = command("credits", "--out", place.out)
    assert (code, "**Ann** (alpha-data, [CC-BY-SA-3.0](https://" in text, "Free1." in text) == (0, True, True)
    assert command("credits", "--out", place.out, "--split", "all")[0] == 2
    code, text = command("survey", *here, "-p", "beta-data", "--manifest", tmp_path / "m.tsv")
    assert (code, "beta-data/One Song" in text, (tmp_path / "m.tsv").exists()) == (0, True, True)
    code, text = command("build", *here, "-p", "nothing-data")
    assert (code, "--packages must be among alpha-data, beta-data, rendered" in text) == (2, True)
    code, text = command("build", *here, "-p", "rendered", "--pieces", "-1")
    assert (code, "--pieces" in text) == (2, True)
    code, text = command("report", "--out", tmp_path / "none")
    assert (code, "prestissimo data build" in text) == (2, True)
    shutil.rmtree(place.debs)
    code, text = command("survey", *here, "-p", "beta-data")
    assert (code, "apt-get download beta-data" in text) == (2, True)
