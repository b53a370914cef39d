# SPDX-License-Identifier: Apache-2.0
"""Phases end to end, by the ops and by their references; the ops' own tests are tests/test_ops*.py."""

import math

import numpy as np
import pytest
import torch

from prestissimo.nn.phase import initial_state, inverse_stft, peak_phase, project_phase
from prestissimo.nn.stft import istft, stft

by_reference = pytest.mark.parametrize("reference", [False, True], ids=["auto", "reference"])


def peak_phase_by_loops(log_magnitude: np.ndarray, hop: int, state: np.ndarray) -> np.ndarray:
    """The definition, bin by bin: walk up to each peak and down to the next valley."""
    frames, bins = log_magnitude.shape
    phase, previous = np.zeros((frames, bins)), state * (2 * math.pi / 2**32)
    for t in range(frames):
        v, left = log_magnitude[t], 0
        while left < bins:
            peak = left
            while peak + 1 < bins and v[peak + 1] > v[peak]:
                peak += 1
            right = peak + 1
            while right < bins and not (right + 1 < bins and v[right + 1] > v[right]):
                right += 1
            offset = 0.0
            if 0 < peak < bins - 1:
                a, b, c = v[peak - 1 : peak + 2]
                offset = 0.5 * (a - c) / (a - 2 * b + c)
            advance = 2 * math.pi * hop / (2 * (bins - 1)) * (peak + offset)
            for j in range(left, right):
                phase[t, j] = previous[peak] + advance + math.pi * (j - peak)
            left = right
        previous = phase[t]
    return phase


def chord(frames: int, frequencies: tuple[float, ...], n_fft: int = 512, hop: int = 128) -> torch.Tensor:
    time = torch.arange(frames * hop, dtype=torch.float64)
    return torch.stack([sum(torch.sin(f * k * time) for k in (1, 2.7, 6.1)) for f in frequencies])


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest distance of two phases on the unit circle."""
    one = torch.ones(1, dtype=torch.float64)
    return float((torch.polar(one, a.double()) - torch.polar(one, b.double())).abs().max())


def noise(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return (
        torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.5
    ) * 6.28


@by_reference
def test_peak_phase_is_its_definition(reference: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    log_magnitude = torch.randn(2, 40, 33, generator=generator, dtype=torch.float64)
    log_magnitude[0, 5] = -3.0  # a silent frame: one plateau
    log_magnitude[1, 7, 10:14] = 4.0  # a peak with a flat top
    log_magnitude[1, 8, 20:24] = -4.0  # a valley with a flat floor
    state = initial_state(2, 33)
    phase, _ = peak_phase(log_magnitude, 16, state, reference)
    for item in range(2):
        expected = torch.from_numpy(peak_phase_by_loops(log_magnitude[item].numpy(), 16, state[item].numpy()))
        assert distance(phase[item], expected) < 1e-6


@by_reference
def test_peak_phase_follows_steady_tones(reference: bool) -> None:
    """Away from the start, inverting a chord from magnitudes alone gives back its very magnitudes."""
    magnitude = stft(chord(200, (0.11, 0.2)), 512, 128).abs() + 1e-6
    log_magnitude = magnitude.log().float()
    phase, _ = peak_phase(log_magnitude, 128, initial_state(1, 257).repeat(2, 1), reference)
    inner = slice(8, -8)

    def error(phase: torch.Tensor) -> torch.Tensor:
        again = stft(inverse_stft(log_magnitude, phase, 128, reference), 512, 128).abs()
        return (again - magnitude)[:, inner].norm() / magnitude[:, inner].norm()

    assert error(phase) < 0.05, f"spectral convergence {error(phase):.3f}"
    assert error(noise(magnitude.shape, 0).float()) > 10 * error(phase)


def test_batch_items_are_independent_and_runs_repeat() -> None:
    log_magnitude = torch.randn(3, 300, 257, generator=torch.Generator().manual_seed(2))
    state = initial_state(3, 257)
    together, last = peak_phase(log_magnitude, 128, state)
    assert torch.equal(together, peak_phase(log_magnitude, 128, state)[0])
    for item in range(3):
        one = slice(item, item + 1)
        alone = peak_phase(log_magnitude[one], 128, state[one])
        assert torch.equal(together[one], alone[0])
        assert torch.equal(last[one], alone[1])
    assert together.abs().max() <= math.pi + 1e-6


def test_references_in_blocks_are_the_ops() -> None:
    log_magnitude = torch.randn(2, 700, 257, generator=torch.Generator().manual_seed(4))  # several blocks
    state = initial_state(2, 257)
    for ours, theirs in zip(
        peak_phase(log_magnitude, 128, state),
        peak_phase(log_magnitude, 128, state, reference=True),
        strict=True,
    ):
        assert torch.equal(ours, theirs)
    phase = noise(log_magnitude.shape, 5)
    wide = log_magnitude.double()
    projected = project_phase(wide, phase, 128, 1, reference=True)
    assert (
        distance(projected, project_phase(wide, phase, 128, 1)) < 1e-8
    )  # float64: the reference on the whole
    audio = inverse_stft(wide, phase, 128, reference=True)
    torch.testing.assert_close(audio, inverse_stft(wide, phase, 128))
    audio32 = inverse_stft(log_magnitude, phase.float(), 128)
    assert (audio32 - audio).abs().max() < 1e-6 * audio.abs().max()


@by_reference
def test_long_signals_keep_their_precision(reference: bool) -> None:
    """20,000 frames of one steady peak: the phase of float32 input stays within 1e-3 of the exact line."""
    frames, bins, hop = 20_000, 33, 16
    row = torch.linspace(-1, 1, bins).square().neg()
    state = initial_state(1, bins)
    phase, _ = peak_phase(row.expand(1, frames, bins).contiguous(), hop, state, reference)
    offset = 0.5 * (row[15] - row[17]) / (row[15] - 2 * row[16] + row[17])
    step = 2 * math.pi * hop / 64 * (16 + float(offset))
    exact = float(state[0, 16]) * 2 * math.pi / 2**32 + step * frames
    assert abs(math.remainder(float(phase[0, -1, 16]) - exact, 2 * math.pi)) < 1e-3


@by_reference
def test_projection_is_griffin_and_lims_round(reference: bool) -> None:
    magnitude = stft(chord(700, (0.07, 0.21)), 512, 128).abs() + 1e-3
    phase = noise(magnitude.shape, 3)
    plain = stft(istft(torch.polar(magnitude, phase), 512, 128), 512, 128)
    projected = project_phase(magnitude.log(), phase, 128, 1, reference)
    assert distance(projected, plain.angle()) < 1e-8
    torch.testing.assert_close(
        inverse_stft(magnitude.log(), phase, 128, reference), istft(torch.polar(magnitude, phase), 512, 128)
    )
    log_magnitude, phase = magnitude.log().float(), phase.float()
    errors = []
    for _ in range(4):
        again = stft(inverse_stft(log_magnitude, phase, 128, reference), 512, 128)
        errors.append(float((again.abs() - magnitude).norm()))
        phase = project_phase(log_magnitude, phase, 128, 1, reference)
    assert errors == sorted(errors, reverse=True)
    assert project_phase(log_magnitude, phase, 128, 0, reference) is phase


@by_reference
def test_silence_stays_finite(reference: bool) -> None:
    silent = torch.full((1, 20, 257), -torch.inf)
    phase, _ = peak_phase(silent, 128, initial_state(1, 257), reference)
    assert project_phase(silent, phase, 128, 2, reference).abs().max() <= math.pi + 1e-6
    assert inverse_stft(silent, phase, 128, reference).abs().max() == 0


def test_gradient_reaches_the_magnitudes() -> None:
    phase = noise((1, 6, 17), 6)
    log_magnitude = torch.rand(1, 6, 17, dtype=torch.float64, requires_grad=True)
    for reference in (False, True):
        assert torch.autograd.gradcheck(lambda m, r=reference: inverse_stft(m, phase, 8, r), log_magnitude)


def test_initial_phases_are_spread() -> None:
    phase = initial_state(2, 1025).double() * (2 * math.pi / 2**32)
    assert torch.polar(torch.ones_like(phase), phase).mean().abs() < 0.05
    assert distance(phase[:1], phase[1:]) > 1.9
    histogram = torch.histc(phase, 8, -math.pi, math.pi)
    assert (histogram - 2050 / 8).abs().max() < 60
