# SPDX-License-Identifier: Apache-2.0
import json
import math

import pytest
import torch

from prestissimo.metrics.codec import codec_report

pytestmark = pytest.mark.usefixtures("judges")


def test_identity_costs_nothing(clips: list[torch.Tensor]) -> None:
    report = codec_report(lambda x: x, clips[:4], networks=["MTT_vgg"])
    assert report.clips == 4
    assert report.frechet["MTT_vgg"].value == pytest.approx(0, abs=1e-6)
    assert report.log_mel_l1 == 0
    assert report.band_db == report.band_abs_db == (0, 0, 0)
    assert report.side_mid_abs_db == 0
    json.dumps(report.to_dict())
    assert "MTT_vgg" in report.row()


def test_each_damage_shows_in_its_own_measure(clips: list[torch.Tensor]) -> None:
    def halve(x: torch.Tensor) -> torch.Tensor:
        return x / 2

    def widen(x: torch.Tensor) -> torch.Tensor:
        mid, side = x.mean(dim=1), (x[:, 0] - x[:, 1]) / 2
        return torch.stack([mid + 2 * side, mid - 2 * side], dim=1)

    quiet = codec_report(halve, clips[:4], networks=["MTT_vgg"])
    assert quiet.band_db == pytest.approx((-6.02,) * 3, abs=0.05)
    assert quiet.side_mid_db == pytest.approx(0, abs=1e-3)
    wide = codec_report(widen, clips[:4], networks=["MTT_vgg"])
    assert wide.side_mid_db == pytest.approx(20 * math.log10(2), abs=0.01)
    assert wide.frechet["MTT_vgg"].value == pytest.approx(0, abs=1e-3)  # the judges hear mono


def test_more_noise_lies_further(clips: list[torch.Tensor]) -> None:
    noise = torch.randn(4, 2, clips[0].shape[1], generator=torch.Generator().manual_seed(0))

    def noisy(level: float) -> float:
        start = iter(range(0, 4, 4))
        report = codec_report(
            lambda x: x + level * noise[(s := next(start)) : s + 4], clips[:4], networks=["MTT_vgg"], draws=20
        )
        distance = report.frechet["MTT_vgg"]
        assert distance.low <= distance.value <= distance.high
        return distance.value

    assert noisy(0.003) < noisy(0.03) < noisy(0.3)


def test_longer_results_are_cut_and_wrong_ones_refused(clips: list[torch.Tensor]) -> None:
    report = codec_report(lambda x: torch.nn.functional.pad(x, (0, 999)), clips[:2], networks=["MTT_vgg"])
    assert report.log_mel_l1 == 0
    with pytest.raises(ValueError, match="reconstruct must return"):
        codec_report(lambda x: x[:, :1], clips, networks=["MTT_vgg"])
    with pytest.raises(ValueError, match="one length"):
        codec_report(lambda x: x, [clips[0], clips[1][:, :-1]], networks=["MTT_vgg"])
    with pytest.raises(ValueError, match="two clips"):
        codec_report(lambda x: x, clips[:1])
    with pytest.raises(ValueError, match="tracks"):
        codec_report(lambda x: x, clips, tracks=["one"])
