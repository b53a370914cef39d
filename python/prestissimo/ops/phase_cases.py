# SPDX-License-Identifier: Apache-2.0
"""Cases of the ops between mel bands, log-magnitudes and a signal; part of the table in cases.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .inverse_stft import inverse_stft
from .inverse_stft import reference as inverse_stft_reference
from .op_case import Arguments, OpCase, Shape, cut, noise, other_dtype
from .peak_phase import peak_phase
from .peak_phase import reference as peak_phase_reference
from .project_phase import project, project_phase
from .project_phase import reference as project_phase_reference
from .spectrum_from_bands import Interpolation, interpolation, spectrum_from_bands
from .spectrum_from_bands import reference as spectrum_from_bands_reference

# (channels, frames, bins) of 32 s of stereo
_MINI_SPECTRUM: Shape = (2, 2760, 1025)


def _peak_phase_make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
    """Rounded to eighths, so that plateaus and flat peaks occur; frames of silence, steady and gliding rows."""
    B, T, F = shape
    log_magnitude = (noise(shape, torch.float64, rng, -2.0, 2.0) * 8).round() / 8
    log_magnitude[:, 1::5] += torch.linspace(2, -3, F, dtype=torch.float64)
    log_magnitude[:, 3::7] = -torch.inf
    log_magnitude[:, 4::6] = noise((B, len(range(T)[4::6]), F), torch.float64, rng)
    state = torch.randint(-(2**31), 2**31 - 1, (B, F), generator=rng, dtype=torch.int64).to(torch.int32)
    return {"log_magnitude": log_magnitude.to(dtype), "state": state, "hop": max(1, (F - 1) // 2)}


_PEAK_PHASE_SMALL: tuple[Shape, ...] = (
    (2, 9, 33), (1, 1, 2), (1, 4, 3), (3, 2, 8), (1, 8, 9), (2, 3, 16), (1, 5, 17), (1, 2, 63), (2, 9, 64),
    (1, 30, 65), (3, 8, 129), (1, 7, 331), (0, 3, 9), (2, 0, 9), (2, 40, 1025),
)  # fmt: skip
_PEAK_PHASE = OpCase(
    name="peak_phase",
    op=peak_phase,
    reference=peak_phase_reference,
    make=_peak_phase_make,
    small=_PEAK_PHASE_SMALL,
    dtypes=(torch.float32,),
    exact=True,
    bad=(
        (lambda a: {**a, "log_magnitude": a["log_magnitude"][0]}, ValueError, "log_magnitude"),
        (lambda a: {**a, "log_magnitude": a["log_magnitude"][..., :1]}, ValueError, "log_magnitude"),
        (cut("state"), ValueError, "state"),
        (lambda a: {**a, "state": a["state"].long()}, TypeError, "state"),
        (lambda a: {**a, "hop": 0}, ValueError, "hop"),
        (lambda a: {**a, "hop": 4096}, ValueError, "hop"),
    ),
    real={"mini-32s": _MINI_SPECTRUM},
    bytes_moved=lambda s, item: 2 * item * s[0] * s[1] * s[2],
    # comparisons and masks of one byte, region numbers, advances and sources of four, a sum and the radians
    eager_bytes=lambda s, item: 60 * s[0] * s[1] * s[2],
    flops=lambda s: 4 * s[0] * s[1] * s[2],
)


def _n_fft(bins: int) -> int:
    return max(8, 1 << (2 * (bins - 1) - 1).bit_length())


def _frames_make(
    overlap: int, hann: bool = False
) -> Callable[[Shape, torch.dtype, torch.Generator], Arguments]:
    """Log-magnitudes that fall with frequency, with outliers, and phases; n_fft is the next power of two."""

    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
        n_fft = _n_fft(shape[2])
        shape = (*shape[:2], n_fft // 2 + 1)
        tilt = torch.linspace(1, -2, shape[2], dtype=torch.float64)
        log_magnitude = noise(shape, torch.float64, rng) + tilt
        phase = (torch.rand(shape, generator=rng, dtype=torch.float64) * 2 - 1) * torch.pi
        window = (
            torch.hann_window(n_fft, dtype=torch.float64) + 0.02
        )  # no zero: every sample of a frame counts
        return {
            "log_magnitude": log_magnitude.to(dtype),
            "phase": phase.to(dtype),
            "window": None if hann else window.to(dtype),
            "hop": n_fft // overlap,
        }

    return make


def _all_or_nan(arguments: Arguments, signal: Tensor) -> Tensor:
    """An infinite bin makes every sample of its frame infinite or NaN, which of the two being up to the FFT."""
    return torch.where(signal.isfinite(), signal, torch.nan)


_FRAMES_SMALL: tuple[Shape, ...] = (
    (2, 6, 5), (1, 1, 5), (1, 2, 9), (3, 3, 17), (1, 9, 33), (2, 5, 65), (1, 7, 129), (2, 9, 257), (1, 8, 513),
    (2, 11, 1025), (1, 3, 1025), (1, 5, 2049), (0, 3, 9), (2, 0, 9), (1, 70, 257),
)  # fmt: skip
_FRAMES_BAD: tuple[tuple[Callable[[Arguments], Arguments], type[Exception], str], ...] = (
    (lambda a: {**a, "log_magnitude": a["log_magnitude"][0]}, ValueError, "log_magnitude"),
    (lambda a: {**a, "log_magnitude": a["log_magnitude"][..., :1]}, ValueError, "log_magnitude"),
    (cut("phase"), ValueError, "phase"),
    (cut("window"), ValueError, "window"),
    (other_dtype("phase"), TypeError, "phase"),
    (other_dtype("window"), TypeError, "window"),
    (lambda a: {**a, "hop": 0}, ValueError, "hop"),
    (lambda a: {**a, "hop": a["hop"] + 1}, ValueError, "hop"),
)


def _bad(hann: bool) -> tuple[tuple[Callable[[Arguments], Arguments], type[Exception], str], ...]:
    return tuple(bad for bad in _FRAMES_BAD if not (hann and bad[2] == "window"))


def _fft_flops(shape: Shape) -> float:
    n_fft = 2 * (shape[2] - 1)
    return shape[0] * shape[1] * 2.5 * n_fft * math.log2(n_fft)


def _inverse_stft_case(variant: str, overlap: int, hann: bool, real: dict[str, Shape]) -> OpCase:
    return OpCase(
        name="inverse_stft",
        op=inverse_stft,
        reference=inverse_stft_reference,
        make=_frames_make(overlap, hann),
        small=_FRAMES_SMALL if overlap == 4 else _FRAMES_SMALL[4:11],
        variant=variant,
        dtypes=(torch.float32,),
        gradients=("log_magnitude", "phase"),
        gradient_small=((2, 6, 9), (1, 1, 33), (1, 9, 257), (2, 6, 1025)),
        conditioned=_all_or_nan,
        bad=_bad(hann),
        real=real,
        bytes_moved=lambda s, item: item * s[0] * s[1] * (2 * s[2] + s[2] * 2 // overlap),
        # exp, polar, irfft, window and overlap-add each read and write, complex numbers twice as wide
        eager_bytes=lambda s, item: item * s[0] * s[1] * s[2] * 24,
        flops=lambda s: int(_fft_flops(s) + 40 * s[0] * s[1] * s[2]),
    )


def _in_float64(arguments: Arguments) -> Arguments:
    return {k: v.double() if torch.is_tensor(v) else v for k, v in arguments.items() if k != "rounds"}


def _seen_through_stft(arguments: Arguments, phase: Tensor) -> Tensor:
    """|STFT| exp(i phase): an angle counts as much as the bin that it is taken of."""
    weight = project(**_in_float64(arguments)).abs()
    return torch.view_as_real(torch.polar(weight.to(phase.dtype), phase))


def _spectral_convergence(arguments: Arguments, phase: Tensor) -> Tensor:
    """||STFT| - A| / |A| of each item: where a bin was small after one round, later rounds are chaotic."""
    a = _in_float64(arguments)
    a["phase"] = phase.double()
    magnitude = a["log_magnitude"].exp()
    return ((project(**a).abs() - magnitude).flatten(1).norm(dim=1) / magnitude.flatten(1).norm(dim=1)).to(
        phase.dtype
    )


def _project_phase_case(variant: str, rounds: int, hann: bool) -> OpCase:
    make = _frames_make(4, hann)
    return OpCase(
        name="project_phase",
        op=project_phase,
        reference=project_phase_reference,
        make=lambda shape, dtype, rng: {**make(shape, dtype, rng), "rounds": rounds},
        small=_FRAMES_SMALL,
        variant=variant,
        dtypes=(torch.float32,),
        conditioned=_seen_through_stft if rounds == 1 else _spectral_convergence,
        bad=(*_bad(hann), (lambda a: {**a, "rounds": 0}, ValueError, "rounds")),
        real={"mini-32s": _MINI_SPECTRUM},
        bytes_moved=lambda s, item: 3 * item * s[0] * s[1] * s[2],
        # a round: as inverse_stft, then frames and window, rfft and angle
        eager_bytes=lambda s, item: rounds * item * s[0] * s[1] * s[2] * 36,
        flops=lambda s: int(rounds * (2 * _fft_flops(s) + 60 * s[0] * s[1] * s[2])),
    )


def _spectrum_make(noisy: bool) -> Callable[[Shape, torch.dtype, torch.Generator], Arguments]:
    """A shape is (samples, frames, bins), two channels each; every fifth bin or so begins a new band. Without noise
    the channels lie between frames and values, as a network's output has them."""

    def values(B: int, T: int, count: int, dtype: torch.dtype, rng: torch.Generator, mean: float) -> Tensor:
        if noisy:
            return noise((B, 2, T, count), dtype, rng, mean)
        return noise((B, T, 2, count), dtype, rng, mean).transpose(1, 2)

    def make(shape: Shape, dtype: torch.dtype, rng: torch.Generator) -> Arguments:
        B, T, F = shape
        points = torch.linspace(0, 1, F, dtype=torch.float64).numpy()
        places = {}
        for name, count in (("", F // 5 + 2), ("spread_", F // 17 + 2)):
            # denser at the low end, as mel bands are, and not from end to end
            source = torch.linspace(0.05, 0.97, count, dtype=torch.float64).square().numpy()
            lower, share = interpolation(source, points)
            places[f"{name}lower"] = torch.from_numpy(lower)
            places[f"{name}share"] = torch.from_numpy(share).to(dtype)
        return {
            "bands": values(B, T, F // 5 + 2, dtype, rng, -2.0),
            "residual": values(B, T, F, dtype, rng, 0.3),
            "offset": noise((2, F), dtype, rng, 0.5),
            "lower": places["lower"],
            "share": places["share"],
            "spread": values(B, T, F // 17 + 2, dtype, rng, -0.5) if noisy else None,
            "noise": noise((2, 7, F), dtype, rng, 0.0, 0.5) if noisy else None,
            "spread_lower": places["spread_lower"] if noisy else None,
            "spread_share": places["spread_share"] if noisy else None,
            "first": 3,
        }

    return make


def _spectrum_from_bands(
    lower: Any, share: Any, spread_lower: Any = None, spread_share: Any = None, **arguments: Any
) -> Any:
    at = Interpolation(lower, share)
    spread_at = None if spread_lower is None else Interpolation(spread_lower, spread_share)
    return spectrum_from_bands(at=at, spread_at=spread_at, **arguments)


def _spectrum_case(variant: str, noisy: bool, real: dict[str, Shape]) -> OpCase:
    bad: list[tuple[Callable[[Arguments], Arguments], type[Exception], str]] = [
        (lambda a: {**a, "bands": a["bands"][0]}, ValueError, "bands"),
        (lambda a: {**a, "bands": a["bands"][..., :1]}, ValueError, "bands"),
        (lambda a: {**a, "residual": a["residual"][:, :1]}, ValueError, "residual"),
        (cut("offset"), ValueError, "offset"),
        (cut("lower"), ValueError, "lower"),
        (cut("share"), ValueError, "share"),
        (other_dtype("residual"), TypeError, "residual"),
        (lambda a: {**a, "lower": a["lower"].long()}, TypeError, "lower"),
        (lambda a: {**a, "first": -1}, ValueError, "first"),
    ]
    if noisy:
        bad += [
            (lambda a: {**a, "noise": None}, ValueError, "spread"),
            (lambda a: {**a, "noise": a["noise"][:, :0]}, ValueError, "noise"),
            (cut("noise"), ValueError, "noise"),
            (lambda a: {**a, "spread": a["spread"][:, :1]}, ValueError, "spread"),
            (other_dtype("spread"), TypeError, "spread"),
        ]
    return OpCase(
        name="spectrum_from_bands",
        op=_spectrum_from_bands,
        reference=spectrum_from_bands_reference,
        make=_spectrum_make(noisy),
        small=(
            (2, 3, 5), (1, 1, 1), (1, 2, 15), (1, 9, 16), (2, 1, 17), (1, 3, 33), (1, 20, 129), (1, 3, 331),
            (1, 9, 1025), (0, 3, 9), (2, 0, 9),
        ),
        variant=variant,
        dtypes=(torch.float32,),
        gradients=("bands", "residual", *(("spread",) * noisy)),
        gradient_small=((2, 3, 5), (1, 9, 16), (1, 3, 129), (1, 4, 1025)),
        not_finite=None if noisy else ("offset",),
        bad=tuple(bad),
        real=real,
        bytes_moved=lambda s, item: 2 * s[0] * s[1] * (2 * s[2] + s[2] // 8) * item,
        # two bands each gathered, subtracted, scaled, added; residual, offset; the same for the spread, exp, noise, sum
        eager_bytes=lambda s, item: 2 * s[0] * s[1] * s[2] * (40 if noisy else 17) * item,
        flops=lambda s: 2 * s[0] * s[1] * s[2] * (24 if noisy else 5),
    )  # fmt: skip


PHASE_CASES: tuple[OpCase, ...] = (
    _PEAK_PHASE,
    _inverse_stft_case("", 4, False, {"mini-32s": _MINI_SPECTRUM, "vocos-30s": (1, 2584, 513)}),
    _inverse_stft_case("overlap-2", 2, False, {}),
    _inverse_stft_case("overlap-8-hann", 8, True, {}),
    _project_phase_case("", 1, False),
    _project_phase_case("two-rounds-hann", 2, True),
    _spectrum_case("", False, {}),
    _spectrum_case("noise", True, {"mini-32s": (1, 2760, 1025)}),
)
