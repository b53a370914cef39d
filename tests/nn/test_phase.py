# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import torch

from prestissimo.nn.phase import initial_phase, peak_phase, phasor_of, project_phase, scale_phasor, synthesise
from prestissimo.nn.stft import istft, stft


def peak_phase_by_loops(log_magnitude: np.ndarray, hop: int, state: np.ndarray) -> np.ndarray:
    """The definition, bin by bin: walk up to each peak and down to the next valley."""
    frames, bins = log_magnitude.shape
    phase, previous = np.zeros((frames, bins)), state.astype(np.float64)
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
    return float((phasor_of(a.double()) - phasor_of(b.double())).abs().max())


def test_peak_phase_is_its_definition() -> None:
    generator = torch.Generator().manual_seed(1)
    log_magnitude = torch.randn(2, 40, 33, generator=generator, dtype=torch.float64)
    log_magnitude[0, 5] = -3.0  # a silent frame: one plateau
    log_magnitude[1, 7, 10:14] = 4.0  # a peak with a flat top
    log_magnitude[1, 8, 20:24] = -4.0  # a valley with a flat floor
    state = initial_phase(2, 33).double()
    phase = peak_phase(log_magnitude, 16, state)
    for item in range(2):
        expected = torch.from_numpy(peak_phase_by_loops(log_magnitude[item].numpy(), 16, state[item].numpy()))
        assert distance(phase[item : item + 1], expected[None]) < 1e-6


def test_peak_phase_follows_steady_tones() -> None:
    """Away from the start, inverting a chord from magnitudes alone gives back its very magnitudes."""
    spectrum = stft(chord(200, (0.11, 0.2)), 512, 128)
    magnitude = spectrum.abs()
    phasor = phasor_of(peak_phase((magnitude + 1e-6).log(), 128))
    again = stft(synthesise(magnitude, phasor, 128), 512, 128).abs()
    inner = slice(8, -8)
    error = (again - magnitude)[:, inner].norm() / magnitude[:, inner].norm()
    assert error < 0.05, f"spectral convergence {error:.3f}"
    noise = phasor_of(
        (torch.rand(magnitude.shape, generator=torch.Generator().manual_seed(0)) * 6.28).double()
    )
    random = stft(synthesise(magnitude, noise, 128), 512, 128).abs()
    assert (random - magnitude)[:, inner].norm() > 10 * (again - magnitude)[:, inner].norm()


def test_state_handed_on_continues_the_signal() -> None:
    log_magnitude = (stft(chord(90, (0.05, 0.3)), 512, 128).abs() + 1e-6).log()
    whole = peak_phase(log_magnitude, 128)
    first = peak_phase(log_magnitude[:, :37], 128)
    second = peak_phase(log_magnitude[:, 37:], 128, first[:, -1])
    assert distance(torch.cat([first, second], 1), whole) < 1e-6


def test_batch_items_are_independent_and_runs_repeat() -> None:
    log_magnitude = torch.randn(3, 300, 257, generator=torch.Generator().manual_seed(2))
    together = peak_phase(log_magnitude, 128)
    assert torch.equal(together, peak_phase(log_magnitude, 128))
    for item in range(3):
        assert torch.equal(together[item : item + 1], peak_phase(log_magnitude[item : item + 1], 128))
    assert together.abs().max() <= math.pi + 1e-6


def test_long_signals_keep_their_precision() -> None:
    """20,000 frames of one steady peak: the phase of float32 input stays within 1e-3 of the exact line."""
    frames, bins, hop = 20_000, 33, 16
    row = torch.linspace(-1, 1, bins).square().neg()
    phase = peak_phase(row.expand(1, frames, bins).contiguous(), hop)
    offset = 0.5 * (row[15] - row[17]) / (row[15] - 2 * row[16] + row[17])
    step = 2 * math.pi * hop / 64 * (16 + float(offset))
    exact = float(initial_phase(1, bins)[0, 16]) + step * frames
    assert abs(math.remainder(float(phase[0, -1, 16]) - exact, 2 * math.pi)) < 1e-3


def test_projection_is_griffin_and_lims_round() -> None:
    spectrum = stft(chord(700, (0.07, 0.21)), 512, 128)
    magnitude = spectrum.abs() + 1e-3
    phasor = phasor_of(
        torch.rand(magnitude.shape, generator=torch.Generator().manual_seed(3)).double() * 6.28
    )
    plain = stft(istft(magnitude * phasor, 512, 128), 512, 128)
    projected = project_phase(phasor, magnitude, 128)  # 700 frames: several blocks
    torch.testing.assert_close(projected, plain / plain.abs(), rtol=0, atol=1e-8)
    torch.testing.assert_close(synthesise(magnitude, phasor, 128), istft(magnitude * phasor, 512, 128))
    errors = []
    for _ in range(4):
        again = stft(synthesise(magnitude, phasor, 128), 512, 128)
        errors.append(float((again.abs() - magnitude).norm()))
        phasor = project_phase(phasor, magnitude, 128)
    assert errors == sorted(errors, reverse=True)


def test_silence_stays_finite() -> None:
    magnitude = torch.zeros(1, 20, 257)
    phasor = phasor_of(peak_phase(torch.full_like(magnitude, -7.0), 128))
    assert project_phase(phasor, magnitude, 128).abs().max() <= 1
    assert synthesise(magnitude, phasor, 128).abs().max() == 0


def test_gradient_reaches_the_magnitudes() -> None:
    phasor = phasor_of(initial_phase(1, 17).double().expand(1, 17).unsqueeze(1).expand(1, 6, 17))
    magnitude = torch.rand(1, 6, 17, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m: synthesise(m, phasor, 8), magnitude)
    assert scale_phasor(phasor, magnitude).requires_grad


def test_initial_phases_are_spread() -> None:
    phase = initial_phase(2, 1025)
    assert phase.abs().max() <= math.pi
    assert phasor_of(phase[None]).mean().abs() < 0.05
    assert distance(phase[:1, None], phase[1:, None]) > 1.9
    histogram = torch.histc(phase, 8, -math.pi, math.pi)
    assert (histogram - 2050 / 8).abs().max() < 60


def test_wrong_input_names_the_argument() -> None:
    with pytest.raises(ValueError, match=r"log_magnitude must be \(B, T, F\)"):
        peak_phase(torch.zeros(4, 5), 2)
    with pytest.raises(ValueError, match=r"state must be \(1, 5\), got \(1, 4\)"):
        peak_phase(torch.zeros(1, 4, 5), 2, torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"magnitude must be \(1, 4, 5\)"):
        project_phase(torch.zeros(1, 4, 5, dtype=torch.complex64), torch.zeros(1, 4, 4), 2)
    with pytest.raises(ValueError, match="phasor must be"):
        project_phase(torch.zeros(4, 5, dtype=torch.complex64), torch.zeros(4, 5), 2)
