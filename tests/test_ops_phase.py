# SPDX-License-Identifier: Apache-2.0
"""What the ops on frames promise beyond the table: tiles equal the whole, and rounds do what rounds are for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prestissimo import ops
from prestissimo.ops.inverse_stft import frames_of
from prestissimo.ops.inverse_stft import reference as inverse_stft_reference
from prestissimo.ops.project_phase import reference as project_phase_reference

_core = pytest.importorskip("prestissimo._core")


def signal(samples: int) -> Tensor:
    """A chord that glides, with noise."""
    time = torch.arange(samples, dtype=torch.float64)
    tones = sum(torch.sin(f * time + 1e-6 * time**2) / k for k, f in enumerate((0.021, 0.083, 0.31, 0.9), 1))
    noise = torch.randn(samples, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (tones + 0.05 * noise)[None]


def spectrum(audio: Tensor, n_fft: int, hop: int) -> Tensor:
    return torch.fft.rfft(frames_of(audio, n_fft, hop) * torch.hann_window(n_fft, dtype=audio.dtype))


def frames(count: int, n_fft: int = 512, items: int = 2) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(3)
    shape = (items, count, n_fft // 2 + 1)
    return torch.randn(shape, generator=rng), (torch.rand(shape, generator=rng) - 0.5) * 6.28


@pytest.mark.parametrize("n_fft", [64, 2048])
@pytest.mark.parametrize("cut", [1, 3, 12, 25])
def test_tiles_equal_the_whole_to_the_bit(n_fft: int, cut: int) -> None:
    """Each tile sees its own neighbours alone: n_fft / hop - 1 frames a round, n_fft / hop / 2 for the signal."""
    log_magnitude, phase = frames(40, n_fft)
    hop = n_fft // 4
    projected = ops.project_phase(log_magnitude, phase, hop, rounds=2)
    audio = ops.inverse_stft(log_magnitude, projected, hop)
    low, high = max(cut - 6, 0), min(cut + 9 + 6, 40)
    tile = ops.project_phase(log_magnitude[:, low:high], phase[:, low:high], hop, rounds=2)
    assert torch.equal(tile[:, cut - low : cut - low + 9], projected[:, cut : cut + 9])
    low, high = max(cut - 2, 0), min(cut + 9 + 2, 40)
    tile = ops.inverse_stft(log_magnitude[:, low:high], projected[:, low:high], hop)
    assert torch.equal(tile[:, (cut - low) * hop :][:, : 9 * hop], audio[:, cut * hop : (cut + 9) * hop])


def test_a_state_that_is_handed_on_continues_to_the_bit() -> None:
    log_magnitude, _ = frames(300)
    whole, last = ops.peak_phase(log_magnitude, 128)
    state, pieces = None, []
    for part in log_magnitude.split([1, 100, 37, 162], 1):
        phase, state = ops.peak_phase(part, 128, state)
        pieces.append(phase)
    assert torch.equal(torch.cat(pieces, 1), whole)
    assert torch.equal(state, last)


def test_the_phase_recurrence_is_that_of_float64() -> None:
    """Phases of float32 magnitudes keep to those of the same numbers in float64 as far as the peaks' offsets allow."""
    log_magnitude = (spectrum(signal(128 * 400), 512, 128).abs() + 1e-6).log().float()
    phase, _ = ops.peak_phase(log_magnitude, 128)
    exact, _ = ops.peak_phase(log_magnitude.double(), 128)
    turns = (phase.double() - exact) / (2 * torch.pi)
    # an offset is off by 2^-23 at most of the 40 dB about a peak; 400 frames of a quarter turn a bin add that up
    assert (turns - turns.round()).abs().max() < 400 * 2e-6


@pytest.mark.parametrize("rounds", [1, 2, 7])
def test_rounds_bring_the_spectrum_nearer(rounds: int) -> None:
    """Spectral convergence as good as that of the reference: chaotic phases, one well-conditioned sum."""
    target = spectrum(signal(128 * 200), 512, 128).abs() + 1e-5
    log_magnitude = target.log().float()
    start, _ = ops.peak_phase(log_magnitude, 128)

    def distance(phase: Tensor) -> float:
        again = spectrum(inverse_stft_reference(log_magnitude.double(), phase.double(), None, 128), 512, 128)
        return float((again.abs() - target)[:, 8:-8].norm() / target[:, 8:-8].norm())

    ours = distance(ops.project_phase(log_magnitude, start, 128, rounds))
    exact = distance(project_phase_reference(log_magnitude.double(), start.double(), None, 128, rounds))
    assert ours < distance(start)
    assert abs(ours - exact) < 1e-5 * exact


def test_rounds_in_one_call_are_rounds_one_by_one() -> None:
    """Up to the rounding of the phases between; seen through the last STFT."""
    log_magnitude, phase = frames(60)
    once = ops.project_phase(log_magnitude, ops.project_phase(log_magnitude, phase, 128), 128)
    twice = ops.project_phase(log_magnitude, phase, 128, rounds=2)
    difference = torch.polar(torch.ones_like(once), once) - torch.polar(torch.ones_like(twice), twice)
    assert difference.abs().square().mean().sqrt() < 1e-4


@pytest.mark.usefixtures("isa")
def test_a_nan_reaches_the_angles_that_it_reaches_in_the_reference() -> None:
    """Those of the two real bins too, where the other part is 0."""
    log_magnitude, phase = frames(12, 256, 1)
    log_magnitude[0, 5, 100] = torch.nan
    projected = ops.project_phase(log_magnitude, phase, 64)
    expected = project_phase_reference(log_magnitude, phase, torch.hann_window(256), 64, 1)
    assert torch.equal(projected.isnan(), expected.isnan())


@pytest.mark.parametrize(("n_fft", "hop"), [(48, 12), (8192, 2048), (2048, 4), (30, 10)])
def test_sizes_without_a_kernel_run_through_the_reference(n_fft: int, hop: int) -> None:
    log_magnitude, phase = frames(4, n_fft, 1)
    with ops.strict_kernels():
        audio = ops.inverse_stft(log_magnitude, phase, hop)
        projected = ops.project_phase(log_magnitude, phase, hop)
        arrays = ops.inverse_stft(log_magnitude.numpy(), phase.numpy(), hop)
    assert torch.equal(audio, inverse_stft_reference(log_magnitude, phase, None, hop))
    assert torch.equal(projected, project_phase_reference(log_magnitude, phase, None, hop, 1))
    assert torch.equal(torch.from_numpy(arrays), audio)


def test_a_signal_comes_back_from_its_spectrum() -> None:
    audio = signal(512 * 20)
    x = spectrum(audio, 2048, 512)
    again = ops.inverse_stft(x.abs().log().float(), x.angle().float(), 512)
    assert (again - audio).abs().max() < 2e-6 * audio.abs().max()
