# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from prestissimo import ops
from prestissimo.sampling import latent_noise


def test_a_batch_equals_its_items_bit_for_bit() -> None:
    batch = latent_noise([7, 8, 7], 5, 33, items=[0, 0, 3])
    assert batch.shape == (3, 5, 33)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous()
    for i, (seed, item) in enumerate([(7, 0), (8, 0), (7, 3)]):
        assert torch.equal(batch[i : i + 1], latent_noise([seed], 5, 33, items=[item]))


def test_seeds_items_and_streams_differ() -> None:
    one = latent_noise([7], 8, 500)
    for other in (
        latent_noise([8], 8, 500),
        latent_noise([7], 8, 500, items=[1]),
        latent_noise([7], 8, 500, stream=1),
    ):
        assert (one * other).mean().abs() < 0.06


def test_it_is_white_and_normal() -> None:
    z = latent_noise([2**63 + 5], 128, 345)[0]
    assert abs(z.mean()) < 0.02
    assert abs(z.std() - 1) < 0.02
    assert abs((z.abs() < 0.6745).float().mean() - 0.5) < 0.01
    assert abs((z[:, 1:] * z[:, :-1]).mean()) < 0.02
    assert abs((z[1:] * z[:-1]).mean()) < 0.02


@pytest.mark.parametrize("length", [1, 3, 129])
def test_a_longer_clip_begins_the_same(length: int) -> None:
    assert torch.equal(latent_noise([3], 6, length), latent_noise([3], 6, 200)[..., :length])


@pytest.mark.parametrize(("channels", "length"), [(0, 3), (3, 0), (3, -1)])
def test_wrong_sizes(channels: int, length: int) -> None:
    with pytest.raises(ValueError, match="channels and length must be positive"):
        latent_noise([1], channels, length)


def test_fresh_noise_in_a_sampler_is_latent_noise() -> None:
    for channels in (4, 6, 1):
        noise = latent_noise([3, 9], channels, 70, items=[0, 2], stream=8)
        x = torch.zeros(2, channels, 70)
        assert torch.equal(ops.renoise(x, 1.0, [3, 9], [0, 2], stream=8), noise)
        torch.testing.assert_close(ops.renoise(x + 1, 0.5, [3, 9], [0, 2], stream=8), 1 + 0.5 * noise)
