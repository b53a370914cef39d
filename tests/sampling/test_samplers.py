# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from prestissimo.sampling import SAMPLERS, cfg_combine, classifier_free, euler, karras

FIRST_ORDER = ("euler", "ddim", "ctm")
DETERMINISTIC = [name for name in SAMPLERS if name != "pingpong"]

MEAN, SD = 0.3, 0.5


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """The best denoiser of x0 ~ N(MEAN, SD²): (SD² x + σ² MEAN)/(SD² + σ²)."""
    s2 = sigma.reshape(-1, *[1] * (x.ndim - 1)) ** 2
    return (SD**2 * x + s2 * MEAN) / (SD**2 + s2)


def exact(noise: Tensor, sigmas: Tensor) -> Tensor:
    """The ODE's solution for `gaussian`: x(σ) − MEAN is proportional to √(SD² + σ²)."""
    return MEAN + (sigmas[0] * noise - MEAN) * ((SD**2 + sigmas[-1] ** 2) / (SD**2 + sigmas[0] ** 2)).sqrt()


@pytest.mark.parametrize(
    ("name", "order"),
    [("euler", 1), ("heun", 2), ("dpm2", 2), ("dpmpp_2s", 2), ("dpmpp_2m", 2), ("ddim", 1), ("ctm", 1)],
)
def test_order_of_convergence(name: str, order: int) -> None:
    noise = torch.linspace(-2, 2, 7, dtype=torch.float64).reshape(1, 7, 1)
    errors = []
    for steps in (64, 128, 256, 512):
        # a last step to 0 is equally long for any number of steps: the order is that of the others
        sigmas = karras(steps + 1, 0.05, 20.0)[:-1]
        errors.append(float((SAMPLERS[name](gaussian, noise, sigmas) - exact(noise, sigmas)).abs().max()))
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert orders == pytest.approx([order] * 3, abs=0.1)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_whole_schedule_reaches_the_data(name: str) -> None:
    noise = torch.randn(1, 5, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sigmas = karras(200, 0.002, 80.0)
    x = SAMPLERS[name](gaussian, noise, sigmas)
    torch.testing.assert_close(x, exact(noise, sigmas), atol=0.05 if name in FIRST_ORDER else 1e-3, rtol=0)


def test_one_euler_step_to_zero_is_the_denoiser() -> None:
    noise = torch.randn(2, 3, 4, dtype=torch.float64)
    want = gaussian(80 * noise, torch.full((2,), 80.0, dtype=torch.float64))
    for sampler in SAMPLERS.values():
        torch.testing.assert_close(sampler(gaussian, noise, karras(1)), want)


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("euler", 5),
        ("heun", 9),
        ("dpm2", 9),
        ("dpmpp_2s", 9),
        ("dpmpp_2m", 5),
        ("ddim", 5),
        ("pingpong", 5),
        ("ctm", 5),
    ],
)
def test_calls_of_the_denoiser(name: str, calls: int) -> None:
    seen = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        assert sigma.shape == (2,)
        seen.append(float(sigma[0]))
        return gaussian(x, sigma)

    SAMPLERS[name](denoise, torch.randn(2, 3, 4), karras(5))
    assert len(seen) == calls
    assert min(seen) > 0


@pytest.mark.parametrize("name", SAMPLERS)
def test_gradients_to_noise_start_and_denoiser(name: str) -> None:
    noise = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
    init = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def sample(noise: Tensor, init: Tensor, weight: Tensor) -> Tensor:
        return SAMPLERS[name](
            lambda x, sigma: weight * torch.tanh(gaussian(x, sigma)), noise, karras(3, 0.1, 5.0), init=init
        )

    assert torch.autograd.gradcheck(sample, (noise, init, weight))


@pytest.mark.parametrize("name", SAMPLERS)
def test_inputs_stay_as_they_are(name: str) -> None:
    noise, sigmas = torch.randn(1, 2, 3), karras(4)
    copies = noise.clone(), sigmas.clone()
    first = SAMPLERS[name](gaussian, noise, sigmas)
    assert torch.equal(noise, copies[0])
    assert torch.equal(sigmas, copies[1])
    assert torch.equal(first, SAMPLERS[name](gaussian, noise, sigmas))
    assert first.dtype == torch.float32


def test_the_start_is_init_plus_noise() -> None:
    init, noise = torch.randn(2, 1, 2, 3)
    sigmas = karras(8)[5:]
    seen: list[Tensor] = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(x)
        return gaussian(x, sigma)

    euler(denoise, noise[None], sigmas, init=init[None])
    torch.testing.assert_close(seen[0], (init + sigmas[0] * noise)[None].float())


@pytest.mark.parametrize("name", SAMPLERS)
def test_callback_sees_and_may_change_each_step(name: str) -> None:
    noise, steps = torch.randn(1, 2, 3), []
    plain = SAMPLERS[name](gaussian, noise, karras(4), lambda i, sigma, x, d: steps.append((i, float(sigma))))
    assert [i for i, _ in steps] == [0, 1, 2, 3]
    assert steps[-1][1] == 0
    # bits: the estimate is another output of the same pass
    assert torch.equal(plain, SAMPLERS[name](gaussian, noise, karras(4)))
    changed = SAMPLERS[name](gaussian, noise, karras(4), lambda i, sigma, x, d: x + 1 if i == 3 else None)
    assert torch.equal(changed, plain + 1)
    denoised = SAMPLERS[name](gaussian, noise, karras(4), lambda i, sigma, x, d: d if i == 3 else None)
    torch.testing.assert_close(denoised, plain)


@pytest.mark.parametrize(
    "sigmas", [[1.0], [0.0, 1.0], [1.0, 1.0, 0.0], [1.0, -1.0], [math.nan, 0.0], [math.inf, 0.0]]
)
@pytest.mark.parametrize("sampler", SAMPLERS.values())
def test_wrong_sigmas(sampler, sigmas: list) -> None:
    with pytest.raises(ValueError, match="sigmas must be"):
        sampler(gaussian, torch.zeros(1, 2, 3), torch.tensor(sigmas))


def test_wrong_init() -> None:
    with pytest.raises(ValueError, match=r"init must be \[1, 2, 3\], got \[1, 2, 4\]"):
        euler(gaussian, torch.zeros(1, 2, 3), karras(2), init=torch.zeros(1, 2, 4))


def test_schedule() -> None:
    sigmas = karras(18, 0.002, 80.0, 7.0)
    assert sigmas.shape == (19,)
    assert sigmas.dtype == torch.float64
    assert (sigmas[0], sigmas[-2], sigmas[-1]) == (80.0, 0.002, 0.0)
    assert (sigmas.diff() < 0).all()
    steps = sigmas[:-1] ** (1 / 7)
    torch.testing.assert_close(steps.diff(), steps.diff()[:1].expand(17))
    assert karras(1).tolist() == [80.0, 0.0]
    assert karras(2).tolist() == [80.0, 0.002, 0.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0,), "steps"), ((2.5,), "steps"), ((True,), "steps"), ((4, 0.0), "sigma_min"),
     ((4, 2.0, 1.0), "sigma_min"), ((4, 0.1, math.inf), "sigma_max"),
     ((4, 0.1, math.nan), "sigma_max"), ((4, 0.1, 1.0, 0.0), "rho")],
)  # fmt: skip
def test_wrong_schedules(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        karras(*arguments)


def test_guidance_mixes_and_rescales() -> None:
    c, u = torch.randn(2, 3, 8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(cfg_combine(c, u, 3.0), u + 3 * (c - u))
    assert torch.equal(cfg_combine(c, u, 1.0), c)
    torch.testing.assert_close(cfg_combine(c, u, 0.0), u)
    torch.testing.assert_close(cfg_combine(c, u, 3.0, rescale=1.0).std(dim=1), c.std(dim=1))
    half = (cfg_combine(c, u, 3.0) + cfg_combine(c, u, 3.0, rescale=1.0)) / 2
    torch.testing.assert_close(cfg_combine(c, u, 3.0, rescale=0.5), half)
    c.requires_grad_()
    u.requires_grad_()
    assert torch.autograd.gradcheck(lambda c, u: cfg_combine(c, u, 3.0, 0.7), (c, u))


def test_guided_denoiser_calls_once_and_only_in_its_interval() -> None:
    calls = []

    def conditional(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(1)
        return 2 * x

    def both(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(2)
        assert x.shape[0] == sigma.shape[0] == 4
        return torch.cat([2 * x[:2], x[2:]])

    x = torch.randn(2, 3, 4)
    guided = classifier_free(conditional, both, 3.0, interval=(0.5, 2.0))
    torch.testing.assert_close(guided(x, torch.ones(2)), 4 * x)
    torch.testing.assert_close(guided(x, torch.full((2,), 2.0)), 4 * x)
    torch.testing.assert_close(guided(x, torch.full((2,), 0.5)), 2 * x)
    assert calls == [2, 2, 1]
    assert classifier_free(conditional, both, 1.0) is conditional
    calls.clear()
    for level, called in ((1.0, 2), (0.5, 1)):
        euler(guided, x, torch.tensor([level, 0.1]))
        assert calls.pop() == called


@pytest.mark.parametrize("change", [{"rescale": 1.5}, {"interval": (2.0, 1.0)}, {"interval": (-1.0, 1.0)}])
def test_wrong_guidance(change: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(change))} must be"):
        classifier_free(gaussian, gaussian, 3.0, **change)


def test_guidance_of_unequal_shapes() -> None:
    with pytest.raises(ValueError, match=r"unconditional must be \[1, 2, 3\], got \[1, 2, 4\]"):
        cfg_combine(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4), 2.0)
