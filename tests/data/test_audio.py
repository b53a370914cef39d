# SPDX-License-Identifier: Apache-2.0
import hashlib

import numpy as np
import pytest
import soundfile

from prestissimo.data.audio import SAMPLE_RATE, checksum, decode, normalise_gain, sounding


def tone(seconds, rate=SAMPLE_RATE, hz=440.0, level=0.2):
    t = np.arange(int(seconds * rate)) / rate
    return (level * np.sin(2 * np.pi * hz * t)).astype(np.float32)


def test_decode_resamples_and_doubles_mono(tmp_path):
    path = tmp_path / "mono.wav"
    soundfile.write(path, tone(1, 22050), 22050)
    audio = decode([path])
    assert audio.shape == (SAMPLE_RATE, 2)
    assert audio.dtype == np.float32
    np.testing.assert_array_equal(audio[:, 0], audio[:, 1])
    spectrum = np.abs(np.fft.rfft(audio[:, 0]))
    assert np.argmax(spectrum) == 440
    np.testing.assert_allclose(audio[4000:-4000, 0], tone(1)[4000:-4000], atol=2e-3)


def test_decode_adds_up_stems_of_unequal_length(tmp_path):
    a, b = tmp_path / "a.wav", tmp_path / "b.wav"
    soundfile.write(a, np.full((100, 2), 0.25, np.float32), SAMPLE_RATE, "FLOAT")
    soundfile.write(b, np.full((150, 2), 0.5, np.float32), SAMPLE_RATE, "FLOAT")
    for order in ([a, b], [b, a]):
        audio = decode(order)
        assert len(audio) == 150
        assert np.all(audio[:100] == 0.75)
        assert np.all(audio[100:] == 0.5)


def test_decode_refuses_what_is_no_music(tmp_path):
    broken = tmp_path / "a.ogg"
    broken.write_bytes(b"OggS but not really")
    with pytest.raises(ValueError, match=r"a\.ogg cannot be decoded"):
        decode([broken])
    many = tmp_path / "m.wav"
    soundfile.write(many, np.zeros((10, 3), np.float32), SAMPLE_RATE)
    with pytest.raises(ValueError, match="1 or 2 channels, got 3"):
        decode([many])
    soundfile.write(many, np.array([[np.nan, 0]], np.float32), SAMPLE_RATE, "FLOAT")
    with pytest.raises(ValueError, match="not finite"):
        decode([many])
    with pytest.raises(ValueError, match="at least one file"):
        decode([])


def test_checksum_runs_over_all_files(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"two")
    assert checksum([tmp_path / "a", tmp_path / "b"]) == hashlib.sha256(b"onetwo").hexdigest()


def test_silent_ends_go_and_the_length_is_whole_latent_frames():
    quiet = np.zeros(2 * SAMPLE_RATE, np.float32)
    audio = np.stack([np.concatenate([quiet, tone(3), quiet])] * 2, 1)
    kept = sounding(audio)
    assert abs(kept.start - 2 * SAMPLE_RATE) <= SAMPLE_RATE // 10
    assert (kept.stop - kept.start) % 4096 == 0
    assert 2.8 * SAMPLE_RATE < kept.stop - kept.start <= 3.2 * SAMPLE_RATE
    assert len(audio[sounding(np.zeros_like(audio))]) == 0


def test_one_gain_reaches_the_rms_of_the_loud_part_without_clipping():
    loud = np.stack([tone(4)] * 2, 1)
    quiet = np.stack([tone(4, level=0.002)] * 2, 1)
    for audio in (loud, np.concatenate([quiet, loud])):
        gain = 10 ** (normalise_gain(audio) / 20)
        assert np.sqrt(np.mean((audio[-len(loud) :] * gain) ** 2)) == pytest.approx(0.1, rel=0.02)
    spiky = quiet.copy()
    spiky[100] = 0.9
    assert abs(spiky).max() * 10 ** (normalise_gain(spiky) / 20) <= 1.0
    assert normalise_gain(np.zeros_like(loud)) == 0.0
