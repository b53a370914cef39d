# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from prestissimo.metrics import copies
from prestissimo.metrics.copies import Library
from prestissimo.metrics.sound import loudness_drift, real_or_generated, repetition, standing

RNG = np.random.default_rng(0)
RATE = 44_100


def test_standing() -> None:
    real = np.arange(100.0)
    found = standing([24.5, 25.5, 24.6], real)
    assert found.real_median == 49.5
    assert found.quartile == pytest.approx(24.75)
    assert found.percentile == 0.25
    with pytest.raises(ValueError, match="made and real"):
        standing([], real)


def test_drift_is_decibels() -> None:
    noise = torch.randn(2, 3 * RATE, generator=torch.Generator().manual_seed(0))
    gain = torch.cat([torch.ones(RATE), torch.ones(RATE), 0.5 * torch.ones(RATE)])
    assert loudness_drift(noise * gain) == pytest.approx(-6.02, abs=0.1)
    assert loudness_drift(torch.zeros(2, RATE)) == 0
    with pytest.raises(ValueError, match=r"0\.3 s"):
        loudness_drift(torch.zeros(2, 1_000))


def test_repetition_orders_loop_and_variation() -> None:
    t = torch.arange(RATE // 4) / RATE
    rng = torch.Generator().manual_seed(1)

    def melody(pitches: list[int]) -> torch.Tensor:
        notes = [torch.sin(2 * torch.pi * 220 * 2 ** (p / 12) * t) * torch.exp(-6 * t) for p in pitches]
        return torch.cat(notes).repeat(2, 1)

    loop = melody([0, 7, 4, 12, 9, 2] * 6)
    varied = melody(torch.randint(0, 36, (36,), generator=rng).tolist())
    assert repetition(loop) > 0.85
    assert repetition(varied) < repetition(loop) - 0.2
    with pytest.raises(ValueError, match="clip must last"):
        repetition(torch.zeros(2, RATE))


def test_classifier_is_at_chance_on_one_distribution() -> None:
    found = real_or_generated(RNG.normal(size=(200, 20)), RNG.normal(size=(300, 20)))
    assert found.low < 0.5 < found.high
    assert found.high - found.low < 0.2


def test_classifier_tells_two_distributions() -> None:
    shifted = RNG.normal(size=(200, 20)) + 0.8
    assert real_or_generated(RNG.normal(size=(200, 20)), shifted).value > 0.95


def test_groups_are_not_split() -> None:
    # each track is one point repeated: with split tracks a classifier could learn them by heart
    real = np.repeat(RNG.normal(size=(20, 60)), 10, axis=0)
    made = np.repeat(RNG.normal(size=(20, 60)), 10, axis=0)
    groups = np.repeat(np.arange(20), 10).tolist()
    assert real_or_generated(real, made, ridge=0.01).value > 0.95
    assert real_or_generated(real, made, real_groups=groups, made_groups=groups, ridge=0.01).value < 0.7
    with pytest.raises(ValueError, match="real_groups must hold at least 5"):
        real_or_generated(real, made, real_groups=[0] * 200)


def tracks(width: int = 6) -> list[np.ndarray]:
    return [RNG.normal(2.0, 1.0, size=(width, n)).astype(np.float32) for n in (50, 400, 90)]


def test_an_excerpt_is_found_where_it_is() -> None:
    sequences = tracks()
    library = Library(sequences)
    found = library.nearest(sequences[1][:, 123:163])
    assert (found.track, found.frame) == (1, 123)
    assert found.score == pytest.approx(1, abs=1e-4)
    noisy = sequences[2][:, 20:60] + 0.5 * RNG.normal(size=(6, 40))
    found = library.nearest(noisy)
    assert (found.track, found.frame) == (2, 20)
    assert 0.8 < found.score < 0.95
    assert library.nearest(sequences[1][:, 123:163], without=1).score < 0.6


def test_agrees_with_loops_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "_BLOCK", 37)
    sequences = tracks(3)
    query = RNG.normal(2.0, 1.0, size=(3, 21)).astype(np.float32)
    found = Library(sequences).nearest(query)
    mean = np.concatenate(sequences, axis=1).mean(axis=1, keepdims=True)
    q = (query - mean).ravel()
    best = max(
        (float(q @ w / (np.linalg.norm(q) * np.linalg.norm(w))), track, at)
        for track, s in enumerate(sequences)
        for at in range(s.shape[1] - 20)
        for w in [(s[:, at : at + 21] - mean).ravel()]
    )
    assert (found.track, found.frame) == best[1:]
    assert found.score == pytest.approx(best[0], abs=1e-4)


def test_windows_do_not_cross_tracks() -> None:
    sequences = tracks()
    across = np.concatenate([sequences[0][:, -15:], sequences[1][:, :15]], axis=1)
    assert Library(sequences).nearest(across).score < 0.9


def test_bad_arguments() -> None:
    library = Library(tracks())
    with pytest.raises(ValueError, match=r"query must be \(6, F\)"):
        library.nearest(np.zeros((5, 10)))
    with pytest.raises(ValueError, match="longer than every track"):
        library.nearest(np.zeros((6, 401)))
    with pytest.raises(ValueError, match="sequences"):
        Library([])
