# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from prestissimo.sampling import denoise, draw_sigma, edm_loss, scalings

SD = 0.5
SIGMAS = torch.logspace(-3, 2, 11, dtype=torch.float64)


def wavy(x: Tensor, sigma: Tensor) -> Tensor:
    return torch.sin(3 * x) + sigma[:, None, None]


def test_scalings_at_both_ends() -> None:
    c_skip, c_out, c_in = scalings(torch.tensor([0.0, 1e9], dtype=torch.float64), SD)
    torch.testing.assert_close(c_skip, torch.tensor([1.0, 0.0], dtype=torch.float64), atol=1e-15, rtol=0)
    torch.testing.assert_close(c_out, torch.tensor([0.0, SD], dtype=torch.float64))
    assert c_in[0] == 1 / SD


def test_input_and_target_have_unit_variance() -> None:
    c_skip, c_out, c_in = scalings(SIGMAS, SD)
    one = torch.ones_like(SIGMAS)
    torch.testing.assert_close(c_in**2 * (SIGMAS**2 + SD**2), one)
    # the target (x0 − c_skip(x0 + σn))/c_out for x0 of standard deviation σ_d
    torch.testing.assert_close((((1 - c_skip) * SD) ** 2 + (c_skip * SIGMAS) ** 2) / c_out**2, one)
    # table 1: λ = (σ² + σ_d²)/(σσ_d)² is 1/c_out²
    torch.testing.assert_close((SIGMAS**2 + SD**2) / (SIGMAS * SD) ** 2 * c_out**2, one)


def test_without_noise_the_denoiser_is_the_identity() -> None:
    x = torch.randn(3, 4, 5)
    assert torch.equal(denoise(wavy, x, torch.zeros(3), SD), x)


def test_loss_is_the_weighted_error_of_the_denoiser() -> None:
    g = torch.Generator().manual_seed(0)
    x0 = torch.randn(11, 4, 6, generator=g, dtype=torch.float64) * SD
    noise = torch.randn(x0.shape, generator=g, dtype=torch.float64)
    x = x0 + SIGMAS[:, None, None] * noise
    weight = (SIGMAS**2 + SD**2) / (SIGMAS * SD) ** 2
    want = weight * (denoise(wavy, x, SIGMAS, SD) - x0).square().mean(dim=(1, 2))
    torch.testing.assert_close(edm_loss(wavy, x0, SIGMAS, noise, SD), want, rtol=1e-8, atol=0)
    in_float32 = edm_loss(wavy, x0.float(), SIGMAS.float(), noise.float(), SD)
    torch.testing.assert_close(in_float32.double(), want, rtol=1e-4, atol=0)


def test_loss_of_a_silent_network_is_one_at_every_sigma() -> None:
    g = torch.Generator().manual_seed(0)
    x0 = torch.randn(11, 64, 256, generator=g, dtype=torch.float64) * SD
    loss = edm_loss(lambda x, sigma: torch.zeros_like(x), x0, SIGMAS, torch.randn(x0.shape, generator=g), SD)
    torch.testing.assert_close(loss, torch.ones_like(loss), atol=0.05, rtol=0)


def test_loss_vanishes_for_the_true_network() -> None:
    g = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 11, 3, 4, generator=g, dtype=torch.float64)

    def network(x: Tensor, sigma: Tensor) -> Tensor:
        c_skip, c_out, c_in = scalings(sigma[:, None, None], SD)
        return (x0 - c_skip * x / c_in) / c_out

    assert edm_loss(network, x0, SIGMAS, noise, SD).max() < 1e-12


@pytest.mark.parametrize("stratified", [False, True])
def test_sigma_is_lognormal(stratified: bool) -> None:
    g = torch.Generator().manual_seed(0)
    log = draw_sigma(20000, -1.2, 1.2, stratified=stratified, generator=g).log()
    assert math.isclose(log.mean(), -1.2, abs_tol=0.03)
    assert math.isclose(log.std(), 1.2, abs_tol=0.03)
    assert math.isclose((log < -1.2 + 1.2 * 0.6745).float().mean(), 0.75, abs_tol=0.01)
    again = draw_sigma(
        20000, -1.2, 1.2, stratified=stratified, generator=torch.Generator().manual_seed(0)
    ).log()
    assert torch.equal(log, again)


def test_stratified_sigmas_fill_every_slice() -> None:
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        u = torch.special.ndtr(draw_sigma(8, 0.0, 1.0, stratified=True, generator=g).double().log())
        assert (u * 8).floor().sort().values.tolist() == list(range(8))


def test_wrong_shapes_name_themselves() -> None:
    x = torch.zeros(2, 3, 4)
    with pytest.raises(ValueError, match=r"sigma must be \[2\], got \[3\]"):
        denoise(wavy, x, torch.ones(3), SD)
    with pytest.raises(ValueError, match=r"noise must be \[2, 3, 4\], got \[2, 3, 5\]"):
        edm_loss(wavy, x, torch.ones(2), torch.zeros(2, 3, 5), SD)
