# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
import torch

from prestissimo.metrics import embeddings
from prestissimo.metrics.embeddings import embed, mono_16k
from prestissimo.metrics.musicnn import MusiCNN

pytestmark = pytest.mark.usefixtures("judges")


def test_judgement_is_the_network_on_resampled_mono(clips: list[torch.Tensor]) -> None:
    judged = embed(clips[:2], ["MTT_vgg"], patches=3)["MTT_vgg"]
    net = MusiCNN("MTT_vgg")
    for clip, found in zip(clips[:2], judged.embeddings, strict=True):
        expected = net(mono_16k(clip)[None], patches=3).embeddings[0].numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert judged.mean_embeddings().shape == (2, 256)
    assert judged.patch_embeddings().shape == (6, 256)
    assert judged.tag("piano").shape == (2,)
    with pytest.raises(ValueError, match="tag must be"):
        judged.tag("bagpipe quartet")


def test_cache_gives_the_same_and_is_used(
    clips: list[torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = embed(clips[:2], ["MTT_vgg"], cache=tmp_path)["MTT_vgg"]
    files = list(tmp_path.rglob("*.npz"))
    assert len(files) == 2
    files[0].write_bytes(files[0].read_bytes()[:100])  # as a full disk would leave it: embedded again
    again = embed(clips[:2], ["MTT_vgg"], cache=tmp_path)["MTT_vgg"]
    np.testing.assert_array_equal(first.patch_embeddings(), again.patch_embeddings())

    def forbidden(*_: object) -> torch.Tensor:
        raise AssertionError("a cached clip was judged again")

    monkeypatch.setattr(embeddings, "mono_16k", forbidden)
    embed(clips[:2], ["MTT_vgg"], cache=tmp_path)
    with pytest.raises(AssertionError):
        embed([clips[0] * 0.5], ["MTT_vgg"], cache=tmp_path)


def test_resampling_keeps_a_tone_and_its_level() -> None:
    t = torch.arange(44_100 * 4) / 44_100
    y = mono_16k(torch.stack([0.5 * torch.sin(2 * torch.pi * 1_000 * t)] * 2))
    assert y.shape == (64_000,)
    middle = y[16_000:32_000]
    assert torch.fft.rfft(middle).abs().argmax() == 1_000
    assert middle.abs().max().item() == pytest.approx(0.5, abs=0.01)


def test_short_clips_are_repeated_to_a_patch() -> None:
    y = mono_16k(torch.rand(2, 44_100))
    assert y.shape == (47_616,)
    torch.testing.assert_close(y[:1_000], y[16_000:17_000])


def test_bad_clips_are_named() -> None:
    with pytest.raises(ValueError, match=r"clip 1 must be \(2, N\)"):
        embed([torch.zeros(2, 44_100), torch.zeros(44_100)], ["MTT_vgg"])
    with pytest.raises(ValueError, match="clip 0 holds NaN"):
        embed([torch.full((2, 44_100), float("nan"))], ["MTT_vgg"])
    with pytest.raises(ValueError, match="at least one clip"):
        embed([], ["MTT_vgg"])
