# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest
import torch

from prestissimo.data import FeatureStore, FeatureWriter
from prestissimo.data.store import mel_rows
from prestissimo.nn.stft import MelConfig, log_mel

ENTRY = {"package": "p", "split": "train", "title": "T", "author": "A", "licence": "MIT", "genre": ""}


def noise(frames, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, (frames * 4096, 2)).astype(np.float32)


def test_what_is_written_is_read_back(tmp_path):
    writer = FeatureWriter(tmp_path)
    first, second = noise(3), noise(5, seed=1)
    writer.add(first, 0.0, id="p/a", **ENTRY)
    writer.add(second, -6.0, 0.5, id="p/b", **{**ENTRY, "split": "heldout"})
    writer.publish()
    store = FeatureStore(tmp_path)
    assert [t.id for t in store] == ["p/a", "p/b"]
    assert [t.id for t in store.select("heldout")] == ["p/b"]
    assert store["p/b"].cut == 0.5
    assert store.hours() == pytest.approx(8 * 4096 / 44100 / 3600)
    audio = store.audio("p/b", 100, 2000)
    assert audio.shape == (2, 2000)
    np.testing.assert_allclose(audio.T, second[100:2100] * 10 ** (-6 / 20), atol=2e-5)
    mel = store.log_mel("p/b", 4, 20)
    whole = log_mel(store.audio("p/b")[None])[0]
    assert mel.shape == (2, 96, 20)
    torch.testing.assert_close(mel, whole[:, :, 4:24], atol=3e-3, rtol=1e-3)


def test_pieces_of_the_mel_join_to_the_whole():
    pcm = np.clip(noise(600) * 32768, -32768, 32767).astype(np.int16)
    rows = np.concatenate(list(mel_rows(pcm, MelConfig())))
    audio = torch.from_numpy(pcm.astype(np.float32).T / 32768)[None]
    whole = log_mel(audio)[0].permute(2, 0, 1).flatten(1).half().numpy()
    assert rows.shape == (4800, 192)
    np.testing.assert_allclose(rows, whole, atol=5e-3)


def test_a_killed_run_loses_only_the_track_it_was_at(tmp_path):
    writer = FeatureWriter(tmp_path)
    writer.add(noise(2), 0.0, id="p/a", **ENTRY)
    with (tmp_path / "audio.i16").open("ab") as f:
        f.write(b"half a track")
    with (tmp_path / "logmel.f16").open("ab") as f:
        f.write(b"some mel")
    with (tmp_path / "journal.jsonl").open("a") as f:
        f.write('{"id": "p/b", "pack')
    again = FeatureWriter(tmp_path)
    assert "p/a" in again
    assert "p/b" not in again
    again.add(noise(2, 7), 0.0, id="p/b", **ENTRY)
    again.publish()
    store = FeatureStore(tmp_path)
    assert (tmp_path / "audio.i16").stat().st_size == 4 * 4096 * 4
    np.testing.assert_allclose(store.audio("p/b").T, noise(2, 7), atol=2e-5)


def test_lost_data_is_noticed(tmp_path):
    writer = FeatureWriter(tmp_path)
    writer.add(noise(2), 0.0, id="p/a", **ENTRY)
    writer.publish()
    (tmp_path / "audio.i16").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"audio\.i16 has 5 bytes"):
        FeatureWriter(tmp_path)
    with pytest.raises(ValueError, match=r"audio\.i16 must have"):
        FeatureStore(tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**index, "format": 9}))
    with pytest.raises(ValueError, match="format 1, got 9"):
        FeatureStore(tmp_path)
    with pytest.raises(FileNotFoundError, match="prestissimo data build"):
        FeatureStore(tmp_path / "nowhere")


@pytest.mark.parametrize("shape", [(100, 2), (4096, 1), (0, 2), (8192,)])
def test_wrong_audio_is_refused(tmp_path, shape):
    with pytest.raises(ValueError, match="audio must be"):
        FeatureWriter(tmp_path).add(np.zeros(shape, np.float32), 0.0, id="x", **ENTRY)


@pytest.mark.parametrize(("start", "count"), [(-1, 10), (0, 0), (8190, 10)])
def test_ranges_stay_inside_the_track(tmp_path, start, count):
    writer = FeatureWriter(tmp_path)
    writer.add(noise(2), 0.0, id="p/a", **ENTRY)
    writer.publish()
    with pytest.raises(ValueError, match=r"0 \.\.\. 8192 samples"):
        FeatureStore(tmp_path).audio("p/a", start, count)
    with pytest.raises(KeyError):
        FeatureStore(tmp_path).audio("p/none")
