# SPDX-License-Identifier: Apache-2.0
"""Audio files: what is written comes back, with its metadata, at the loudness asked; bad files say why."""

from __future__ import annotations

import io
import signal

import numpy as np
import pytest

from prestissimo import audio

RATE = 44100


def tone(seconds: float = 1.0, amplitude: float = 0.5, rate: int = RATE) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    return np.stack(
        [amplitude * np.sin(2 * np.pi * 440 * t), amplitude * np.sin(2 * np.pi * 660 * t)]
    ).astype(np.float32)


@pytest.mark.parametrize(
    ("suffix", "depth", "error"),
    [
        (".wav", "16", 2**-15),
        (".wav", "24", 2**-22),
        (".wav", "float", 0.0),
        (".flac", "16", 2**-15),
        (".flac", "24", 2**-22),
        (".mp3", None, None),
        (".opus", None, None),
        (".ogg", None, None),
    ],
)
def test_what_is_written_comes_back(tmp_path, suffix, depth, error):
    sound = tone()
    title, comment = "Solo piano, très calme", {"prompt": "calm – 静か", "seed": 7}
    path = audio.write(tmp_path / f"a{suffix}", sound, RATE, bit_depth=depth, title=title, comment=comment)
    back = audio.read(path, RATE, convert=suffix == ".opus")
    if error is None:
        n = min(back.shape[1], sound.shape[1])
        assert abs(back.shape[1] - sound.shape[1]) <= 2
        assert np.corrcoef(back[:, 2000 : n - 2000].ravel(), sound[:, 2000 : n - 2000].ravel())[0, 1] > 0.99
    else:
        assert back.shape == sound.shape
        assert np.abs(back - sound).max() <= error
    tags = audio.read_tags(path)
    assert tags["title"] == (title if suffix != ".mp3" else "Solo piano, tres calme")
    assert tags["comment"] == comment
    assert suffix == ".mp3" or tags["software"].startswith("prestissimo ")


def test_bytes_of_integer_formats_depend_on_nothing_but_the_audio():
    for name in ("wav", "flac"):
        assert audio.encode(tone(), RATE, name) == audio.encode(tone(), RATE, name)


def test_minutes_of_vorbis_are_written():
    data = audio.encode(tone(240.0), RATE, "ogg")
    assert len(data) > 100_000


@pytest.mark.parametrize(("peak", "gain"), [(0.5, 0.0), (0.98, 0.0), (1.5, -3.62)])
def test_peaks_are_only_ever_turned_down(peak, gain):
    sound = tone(amplitude=peak)
    limited, applied = audio.limit_peak(sound, -0.1)
    assert applied == pytest.approx(gain, abs=0.02)
    assert np.abs(limited).max() <= 10 ** (-0.1 / 20) + 1e-6
    if gain == 0.0:
        np.testing.assert_array_equal(limited, sound)


def test_loudness_is_reached_or_stops_below_the_peak():
    sound = tone(2.0, 0.1)
    _, reached = audio.match_loudness(sound, RATE, -23.0)
    assert reached == pytest.approx(-23.0, abs=0.05)
    loud, reached = audio.match_loudness(sound, RATE, 0.0)
    assert reached < -0.3
    assert np.abs(loud).max() <= 10 ** (-0.1 / 20) + 1e-6


def test_loudness_refuses_what_has_none():
    with pytest.raises(ValueError, match=r"0\.4 s or more"):
        audio.match_loudness(tone(0.2), RATE, -14.0)
    with pytest.raises(ValueError, match="silent"):
        audio.match_loudness(np.zeros((2, RATE), np.float32), RATE, -14.0)
    with pytest.raises(ValueError, match="lufs must be between"):
        audio.match_loudness(tone(), RATE, 3.0)


def test_mono_is_read_on_both_sides(tmp_path):
    path = audio.write(tmp_path / "mono.wav", tone()[:1], RATE, bit_depth="float")
    back = audio.read(path)
    assert back.shape == (2, RATE)
    np.testing.assert_array_equal(back[0], back[1])


def test_another_rate_is_refused_or_converted(tmp_path):
    path = audio.write(tmp_path / "slow.wav", tone(1.0, rate=22050), 22050)
    with pytest.raises(ValueError, match="sampled at 22050 Hz, 44100 Hz is needed"):
        audio.read(path, RATE)
    back = audio.read(path, RATE, convert=True)
    assert back.shape == (2, RATE)
    assert np.corrcoef(back[0, 1000:-1000], tone()[0, 1000:-1000])[0, 1] > 0.999


def test_unreadable_files_say_why(tmp_path):
    import soundfile

    (tmp_path / "text.wav").write_text("not audio")
    with pytest.raises(ValueError, match=r"text\.wav: not a readable audio file"):
        audio.read(tmp_path / "text.wav")
    (tmp_path / "empty.wav").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty\.wav: not a readable audio file"):
        audio.read(tmp_path / "empty.wav")
    soundfile.write(tmp_path / "none.wav", np.zeros((0, 2)), RATE)
    with pytest.raises(ValueError, match="holds no audio"):
        audio.read(tmp_path / "none.wav")
    soundfile.write(tmp_path / "six.wav", np.zeros((10, 6)), RATE)
    with pytest.raises(ValueError, match="6 channels"):
        audio.read(tmp_path / "six.wav")
    soundfile.write(tmp_path / "nan.wav", np.full((10, 2), np.nan), RATE, subtype="FLOAT")
    with pytest.raises(ValueError, match="NaN"):
        audio.read(tmp_path / "nan.wav")
    with pytest.raises(FileNotFoundError):
        audio.read(tmp_path / "absent.wav")
    with pytest.raises(IsADirectoryError):
        audio.read(tmp_path)


def test_a_cut_file_is_refused_or_short_but_never_garbage(tmp_path):
    whole = audio.encode(tone(), RATE, "flac")
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    try:
        back = audio.read(tmp_path / "cut.flac")
    except ValueError as error:
        assert "cut.flac" in str(error)  # noqa: PT017
    else:
        assert np.abs(back - tone()[:, : back.shape[1]]).max() <= 2**-15


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"audio must be \(1 or 2 channels, samples\), got \[3, 10\]"):
        audio.encode(np.zeros((3, 10)), RATE)
    with pytest.raises(ValueError, match="audio holds NaN"):
        audio.encode(np.full((2, 10), np.nan), RATE)
    with pytest.raises(ValueError, match="bit_depth '16' does not go with mp3"):
        audio.encode(tone(), RATE, "mp3", bit_depth="16")
    with pytest.raises(ValueError, match=r"song\.xyz"):
        audio.format_for("song.xyz")
    with pytest.raises(ValueError, match="format must be one of"):
        audio.format_for("song.wav", "aac")


@pytest.mark.parametrize("kind", ["wav", "flac", "opus"])
def test_an_interrupt_within_libsndfile_is_not_lost(kind, monkeypatch, capfd):
    """libsndfile calls Python back to write: an exception there is printed and dropped."""

    class Interrupted(io.BytesIO):
        def write(self, data, /):
            if not self.getbuffer().nbytes:
                signal.raise_signal(signal.SIGINT)
            return super().write(data)

    monkeypatch.setattr(audio.io, "BytesIO", Interrupted)
    # a job in the background of a shell begins with Ctrl-C ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            audio.encode(np.zeros((2, 4800), np.float32), 48000, kind)
    finally:
        signal.signal(signal.SIGINT, before)
    assert capfd.readouterr().err == ""
