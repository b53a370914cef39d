# SPDX-License-Identifier: Apache-2.0
"""Every sampler against its published formula, written out in float64 as the papers and k-diffusion state it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from prestissimo import ops
from prestissimo.sampling import (
    SAMPLERS,
    Preconditioned,
    classifier_free,
    ctm,
    ddim,
    euler,
    karras,
    latent_noise,
    pingpong,
)

SEEDS = [5, 11]
Denoise = Callable[[Tensor, float], Tensor]


def network(x: Tensor, sigma: Tensor) -> Tensor:
    """Neither linear nor the same for every sample."""
    s = sigma.reshape(-1, 1, 1)
    return torch.sin(2 * x + torch.arange(x.shape[1], dtype=x.dtype)[:, None]) / (1 + s) + 0.1 * s.sqrt()


def null_network(x: Tensor, sigma: Tensor) -> Tensor:
    return torch.cos(x) / (1 + sigma.reshape(-1, 1, 1))


def fresh(step: int, like: Tensor) -> Tensor:
    return latent_noise(SEEDS, *like.shape[1:], stream=step + 1).to(like.dtype)


def slope(D: Denoise, x: Tensor, s: float) -> Tensor:
    return (x - D(x, s)) / s


def published_euler(D: Denoise, x: Tensor, s: float, t: float, step: int) -> Tensor:
    return x + (t - s) * slope(D, x, s)


def published_heun(D: Denoise, x: Tensor, s: float, t: float, step: int) -> Tensor:
    d = slope(D, x, s)
    ahead = x + (t - s) * d
    return ahead if t == 0 else x + (t - s) * (d + slope(D, ahead, t)) / 2


def published_dpm2(D: Denoise, x: Tensor, s: float, t: float, step: int) -> Tensor:
    d = slope(D, x, s)
    if t == 0:
        return x + (t - s) * d
    middle = math.exp((math.log(s) + math.log(t)) / 2)
    return x + (t - s) * slope(D, x + (middle - s) * d, middle)


def published_dpmpp_2s(D: Denoise, x: Tensor, s: float, t: float, step: int) -> Tensor:
    if t == 0:
        return D(x, s)
    h = math.log(s / t)
    middle = math.exp(-(-math.log(s) + h / 2))
    u = (middle / s) * x - math.expm1(-h / 2) * D(x, s)
    return (t / s) * x - math.expm1(-h) * D(u, middle)


class PublishedDpmpp2m:
    """Keeps the last estimate and step."""

    def __init__(self) -> None:
        self.old: tuple[Tensor, float] | None = None

    def __call__(self, D: Denoise, x: Tensor, s: float, t: float, step: int) -> Tensor:
        denoised = D(x, s)
        if t == 0:
            return denoised
        h, blended = math.log(s / t), denoised
        if self.old is not None:
            r = self.old[1] / h
            blended = (1 + 1 / (2 * r)) * denoised - 1 / (2 * r) * self.old[0]
        self.old = denoised, h
        return (t / s) * x - math.expm1(-h) * blended


def published_ddim(eta: float) -> Callable[..., Tensor]:
    """On x scaled by √ᾱ, ᾱ = 1/(1 + σ²), in the symbols of the paper."""

    def step(D: Denoise, x: Tensor, s: float, t: float, i: int) -> Tensor:
        a, b = 1 / (1 + s * s), 1 / (1 + t * t)
        noise = (math.sqrt(a) * x - math.sqrt(a) * D(x, s)) / math.sqrt(1 - a)
        spread = eta * math.sqrt((1 - b) / (1 - a)) * math.sqrt(1 - a / b)
        y = math.sqrt(b) * D(x, s) + math.sqrt(1 - b - spread**2) * noise + spread * fresh(i, x)
        return y / math.sqrt(b)

    return step


def published_pingpong(D: Denoise, x: Tensor, s: float, t: float, step: int) -> Tensor:
    return D(x, s) + t * fresh(step, x)


def published_ctm(gamma: float) -> Callable[..., Tensor]:
    def step(D: Denoise, x: Tensor, s: float, t: float, i: int) -> Tensor:
        to = math.sqrt(1 - gamma**2) * t
        return (to / s) * x + (1 - to / s) * D(x, s) + gamma * t * fresh(i, x)

    return step


PUBLISHED = [
    ("euler", lambda: published_euler, {}),
    ("heun", lambda: published_heun, {}),
    ("dpm2", lambda: published_dpm2, {}),
    ("dpmpp_2s", lambda: published_dpmpp_2s, {}),
    ("dpmpp_2m", PublishedDpmpp2m, {}),
    ("ddim", lambda: published_ddim(0.0), {}),
    ("ddim", lambda: published_ddim(0.7), {"eta": 0.7}),
    ("ddim", lambda: published_ddim(1.0), {"eta": 1.0}),
    ("pingpong", lambda: published_pingpong, {}),
    ("ctm", lambda: published_ctm(0.0), {}),
    ("ctm", lambda: published_ctm(0.4), {"gamma": 0.4}),
    ("ctm", lambda: published_ctm(1.0), {"gamma": 1.0}),
]
methods = pytest.mark.parametrize(
    ("name", "published", "options"),
    [pytest.param(*p, id="-".join([p[0], *map(str, p[2].values())])) for p in PUBLISHED],
)


def seeded(name: str, options: dict[str, float]) -> dict[str, object]:
    return {**options, "seeds": SEEDS} if name in ("ddim", "pingpong", "ctm") else dict(options)


@methods
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_sampler_is_its_published_formula(
    name: str, published: Callable[[], Callable[..., Tensor]], options: dict, guided: bool, dtype: torch.dtype
) -> None:
    """Preconditioning, guidance and rescale written out too; float32 runs through the kernels."""
    g = torch.Generator().manual_seed(3)
    noise = torch.randn(2, 6, 37, dtype=torch.float64, generator=g)
    sigmas, sd, scale, rescale = karras(7, 0.05, 10.0), 0.5, 3.0, 0.6

    def preconditioned(F: Callable[..., Tensor], x: Tensor, s: float) -> Tensor:
        v = s * s + sd * sd
        return sd * sd / v * x + s * sd / math.sqrt(v) * F(
            x / math.sqrt(v), torch.full((len(x),), s, dtype=x.dtype)
        )

    def D(x: Tensor, s: float) -> Tensor:
        c = preconditioned(network, x, s)
        if not guided:
            return c
        u = preconditioned(null_network, x, s)
        out = u + scale * (c - u)
        return rescale * out * c.std(1, keepdim=True) / out.std(1, keepdim=True) + (1 - rescale) * out

    x, step = sigmas[0] * noise, published()
    for i, (s, t) in enumerate(itertools.pairwise(sigmas.tolist())):
        x = step(D, x, s, t, i)

    def both(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.cat([network(x[:2], sigma[:2]), null_network(x[2:], sigma[2:])])

    denoise = Preconditioned(network, sd)
    if guided:
        denoise = classifier_free(denoise, Preconditioned(both, sd), scale, rescale=rescale)
    with ops.strict_kernels(ops.compiled()):
        result = SAMPLERS[name](denoise, noise.to(dtype), sigmas, **seeded(name, options))
    tolerance = (
        1e-11 if dtype == torch.float64 else 2e-4
    )  # guidance and six steps, each stretching what went before
    torch.testing.assert_close(result, x.to(dtype), atol=tolerance * float(x.abs().max()), rtol=0)


@methods
def test_parts_combined_by_the_step_or_before_it_are_the_same(
    name: str, published: object, options: dict
) -> None:
    """A denoiser that says its parts, and the same as a function that gives D."""
    noise = torch.randn(2, 5, 19, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    conditional, null = Preconditioned(network, 0.5), Preconditioned(null_network, 0.5)

    def both(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.cat([conditional(x[:2], sigma[:2]), null(x[2:], sigma[2:])])

    denoise = classifier_free(conditional, both, 2.5, rescale=0.3, interval=(0.2, 5.0))
    parts = SAMPLERS[name](denoise, noise, karras(6, 0.1, 8.0), **seeded(name, options))
    whole = SAMPLERS[name](lambda x, s: denoise(x, s), noise, karras(6, 0.1, 8.0), **seeded(name, options))
    torch.testing.assert_close(parts, whole, atol=1e-11, rtol=1e-11)


def test_without_randomness_ddim_and_ctm_are_euler() -> None:
    noise = torch.randn(2, 5, 19, generator=torch.Generator().manual_seed(1))
    denoise = Preconditioned(network, 0.5)
    want = euler(denoise, noise, karras(6))
    torch.testing.assert_close(ddim(denoise, noise, karras(6)), want, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ctm(denoise, noise, karras(6)), want, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        ctm(denoise, noise, karras(6), gamma=1.0, seeds=SEEDS),
        pingpong(denoise, noise, karras(6), seeds=SEEDS),
    )


def test_a_trajectory_model_reaches_every_level_exactly() -> None:
    """For Gaussian data the map from t to s is known; CTM with it needs no small steps."""
    mean, var = 0.3, 0.25

    def g(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        t, s = t.reshape(-1, 1, 1), s.reshape(-1, 1, 1)
        there = mean + (x - mean) * ((var + s**2) / (var + t**2)).sqrt()
        return (there - s / t * x) / (1 - s / t)

    noise = torch.randn(1, 3, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    end = mean + (80 * noise - mean) * math.sqrt(var / (var + 80**2))
    for steps in (1, 2, 5):
        x = ctm(g, noise, karras(steps), second_level=True)
        torch.testing.assert_close(x, end, atol=1e-10, rtol=0)
    levels = []
    ctm(lambda x, t, s: levels.append((float(t[0]), float(s[0]))) or g(x, t, s), noise, torch.tensor([4.0, 2.0, 1.0]),
        gamma=0.6, second_level=True, seeds=[1])  # fmt: skip
    assert levels == [(4.0, pytest.approx(1.6)), (2.0, pytest.approx(0.8))]


@pytest.mark.parametrize("options", [{"eta": 1.0}, {}])
def test_fresh_noise_keeps_the_distribution(options: dict) -> None:
    """The ancestral sampler on Gaussian data ends at its mean and deviation; ping-pong spreads as σ_{i+1} says."""
    mean, sd = 0.3, 0.5

    def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
        s2 = sigma.reshape(-1, 1, 1) ** 2
        return (sd**2 * x + s2 * mean) / (sd**2 + s2)

    noise = latent_noise([3], 8, 5000)
    if options:
        x = ddim(gaussian, noise, karras(240), seeds=[3], **options)
        assert float(x.mean()) == pytest.approx(mean, abs=0.02)
        assert float(x.std()) == pytest.approx(sd, abs=0.03)
    else:
        x = pingpong(gaussian, noise, torch.tensor([80.0, 2.0]), seeds=[3])
        assert float(x.std()) == pytest.approx(math.hypot(sd**2 / 80, 2.0), abs=0.03)
        assert abs(float((x * noise).mean())) < 0.05  # the first noise is gone


@pytest.mark.parametrize("name", ["ddim", "pingpong", "ctm"])
def test_fresh_noise_belongs_to_seeds(name: str) -> None:
    options = {"eta": 1.0} if name == "ddim" else {"gamma": 0.7} if name == "ctm" else {}
    noise, denoise = latent_noise([7, 8], 4, 21), Preconditioned(network, 0.5)
    batch = SAMPLERS[name](denoise, noise, karras(5), seeds=[7, 8], **options)
    alone = SAMPLERS[name](denoise, noise[1:], karras(5), seeds=[8], **options)
    assert torch.equal(batch[1:], alone)
    assert not torch.equal(batch, SAMPLERS[name](denoise, noise, karras(5), seeds=[7, 9], **options))
    rows = SAMPLERS[name](denoise, noise[:1].expand(2, -1, -1), karras(5), **options)
    assert not torch.equal(rows[0], rows[1])
    with pytest.raises(ValueError, match="seeds must be 2"):
        SAMPLERS[name](denoise, noise, karras(5), seeds=[7], **options)


def test_shares_have_limits() -> None:
    for sampler, option in ((ddim, {"eta": 1.5}), (ctm, {"gamma": -0.1})):
        with pytest.raises(ValueError, match=rf"{next(iter(option))} must be in \[0, 1\]"):
            sampler(Preconditioned(network, 0.5), torch.zeros(1, 2, 3), karras(2), **option)
