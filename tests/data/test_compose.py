# SPDX-License-Identifier: Apache-2.0
import shutil
import struct

import numpy as np
import pytest

from prestissimo.data.audio import SAMPLE_RATE
from prestissimo.data.compose import STYLES, compose
from prestissimo.data.compose.harmony import Harmony, melody, voice_lead
from prestissimo.data.compose.patterns import ACCOMPANIMENTS, BASS_LINES, GROOVES
from prestissimo.data.compose.styles import PROGRAMS
from prestissimo.data.packages import PackageError
from prestissimo.data.render import render, soundfont
from prestissimo.data.scores import Facts, midi_facts, wad_lumps

mido = pytest.importorskip("mido", reason='needs the extra "data"')


@pytest.mark.parametrize("style", list(STYLES))
def test_every_style_composes_music_in_its_key_and_range(style):
    spec = STYLES[style]
    for seed in (1, 2):
        piece = compose(seed, style, seconds=40)
        assert spec.tempo[0] - 0.1 <= piece.bpm <= spec.tempo[1] + 0.1
        assert 25 < piece.seconds < 90
        assert piece.parts
        allowed = set(Harmony(piece.tonic, piece.mode).scale) | {(piece.tonic + 11) % 12}
        pitched = [n.pitch % 12 for p in piece.parts if p.channel != 9 for n in p.notes]
        if pitched and style not in ("jazz trio",):
            assert np.mean([p in allowed for p in pitched]) > 0.85
        for part in piece.parts:
            assert part.program in PROGRAMS[part.instrument]
            assert all(12 <= n.velocity <= 127 and n.duration > 0 and n.start >= 0 for n in part.notes)
        assert len({p.channel for p in piece.parts}) == len(piece.parts)


def test_a_seed_is_a_piece():
    assert compose(11) == compose(11)
    assert compose(11) != compose(12)
    with pytest.raises(ValueError, match="piano solo"):
        compose(0, "polka")


def test_tables_name_what_exists():
    known = {
        "chords": set(ACCOMPANIMENTS),
        "bass": set(BASS_LINES),
        "drums": set(GROOVES) | {"swing"},
        "melody": set(),
    }
    for style in STYLES.values():
        for layer in style.layers:
            assert set(layer.patterns) <= known[layer.role], style.name
            assert set(layer.instruments) <= set(PROGRAMS), style.name


def test_dominant_of_a_minor_key_has_the_leading_tone():
    assert Harmony(9, "minor").bar(5).classes == (4, 8, 11)
    assert Harmony(0, "major").bar(2).classes == (2, 5, 9)
    assert Harmony(0, "major", sevenths=True).bar(5).classes == (7, 11, 2, 5)


def test_voices_move_little():
    harmony = Harmony(0, "major")
    voicing: list[int] = []
    for degree in (1, 4, 5, 1, 6, 2, 5, 1):
        following = voice_lead(voicing, harmony.bar(degree), 50, 70)
        assert set(p % 12 for p in following) == set(harmony.bar(degree).classes)
        if voicing:
            assert np.abs(np.array(following) - voicing).mean() <= 4
        voicing = following


def test_melody_repeats_its_motif_and_rests_on_the_chord():
    harmony = Harmony(0, "major")
    bars = [harmony.bar(d) for d in (1, 4, 5, 1)]
    notes = melody(np.random.default_rng(4), harmony, bars, 4, 60, 80, 0.5)
    assert notes[-1][0] == 12
    assert notes[-1][2] % 12 in bars[-1].classes
    assert [(s, d) for s, d, _ in notes if s < 4] == [(s - 8, d) for s, d, _ in notes if 8 <= s < 12]
    assert all(60 <= p <= 80 for *_, p in notes)


def test_midi_says_what_the_piece_says(tmp_path):
    piece = compose(5, "flute duo")
    piece.write_midi(tmp_path / "a.mid")
    facts = midi_facts(tmp_path / "a.mid")
    assert facts.bpm == pytest.approx(piece.bpm, rel=0.05)
    assert facts.seconds == pytest.approx(piece.seconds, abs=4)
    middle = piece.seconds / 2
    assert set(facts.instruments(middle, middle + 6)) == set(piece.instruments(middle, middle + 6))
    assert len(facts.notes) == pytest.approx(sum(len(p.notes) for p in piece.parts), rel=0.05)


def test_broken_midi_is_a_value_error(tmp_path):
    path = tmp_path / "a.mid"
    for data in (b"", b"MThd", b"MThd\0\0\0\6\0\1\0\1\1\xe0MTrk\0\0\0\x10\xff\x51", b"RIFF" * 20):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"a\.mid is not a readable"):
            midi_facts(path)


def wad(lumps):
    body, directory = b"", b""
    for name, data in lumps:
        directory += struct.pack("<ii8s", 12 + len(body), len(data), name.encode())
        body += data
    return struct.pack("<4sii", b"IWAD", len(lumps), 12 + len(body)) + body + directory


def test_wad_lumps():
    good = wad([("D_E1M1", b"MThd..."), ("MAP01", b""), ("PLAYPAL", b"xyz")])
    assert list(wad_lumps(good)) == [("D_E1M1", b"MThd..."), ("MAP01", b""), ("PLAYPAL", b"xyz")]
    for bad in (b"", b"ZWAD" + good[4:], good[:-1], good[:4] + struct.pack("<i", -3) + good[8:]):
        with pytest.raises(ValueError, match="WAD"):
            list(wad_lumps(bad))
    outside = bytearray(good)
    outside[-16:-12] = struct.pack("<i", 10**6)
    with pytest.raises(ValueError, match="lump 2"):
        list(wad_lumps(bytes(outside)))


def test_instruments_of_a_span():
    facts = Facts(
        ((0, 10, "organ"), (1, 1.2, "drums"), (2, 2.2, "drums"), (3, 3.2, "drums"), (4, 4.1, "flute")),
        100,
        10,
    )
    assert facts.instruments(0, 6) == ("organ", "drums")
    assert facts.instruments(5, 9) == ("organ",)


def fake_fluidsynth(tmp_path, monkeypatch, script):
    tool = tmp_path / "bin/fluidsynth"
    tool.parent.mkdir(exist_ok=True)
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")


def test_a_synthesiser_that_never_ends_is_stopped(tmp_path, monkeypatch):
    fake_fluidsynth(tmp_path, monkeypatch, "exec sleep 60")
    with pytest.raises(PackageError, match="more than 1 s"):
        render(tmp_path / "a.mid", tmp_path / "f.sf2", 5, timeout=0.5 + 0.5)
    fake_fluidsynth(tmp_path, monkeypatch, "echo broken >&2; exit 3")
    with pytest.raises(PackageError, match="broken"):
        render(tmp_path / "a.mid", tmp_path / "f.sf2", 5)


def test_a_missing_synthesiser_or_font_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PackageError, match="fluidsynth is needed"):
        render(tmp_path / "a.mid", tmp_path / "f.sf2", 5)
    with pytest.raises(PackageError, match=r"holds no .*FluidR3"):
        soundfont(tmp_path)
    path = tmp_path / "usr/share/sounds/sf2/FluidR3_GM.sf2"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"RIFF")
    with pytest.raises(PackageError, match="is not the sound font"):
        soundfont(tmp_path)


def _a_font():
    from pathlib import Path

    return next((p for p in Path("/usr/share/sounds/sf2").glob("*.sf*")), None)


@pytest.mark.skipif(
    shutil.which("fluidsynth") is None or _a_font() is None, reason="no fluidsynth or sound font"
)
def test_fluidsynth_renders_the_length_asked_for(tmp_path):
    compose(5, "piano solo").write_midi(tmp_path / "a.mid")
    audio = render(tmp_path / "a.mid", _a_font(), 4.0)
    assert audio.shape == (4 * SAMPLE_RATE, 2)
    assert 1e-3 < np.abs(audio).max() < 4
