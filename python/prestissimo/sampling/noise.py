# SPDX-License-Identifier: Apache-2.0
"""Noise for latents: the same for any batch, device and number of threads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prestissimo import ops

__all__ = ["latent_noise"]


def latent_noise(
    seeds: Sequence[int],
    channels: int,
    length: int,
    *,
    items: Sequence[int] | None = None,
    stream: int = 0,
    device: torch.device | str | None = None,
) -> Tensor:
    """N(0, 1) noise (B, channels, length), float32: row b depends on seeds[b] and items[b] alone.

    Drawn frame by frame: a longer latent of the same seed begins with the same frames, so that a change of
    duration keeps the beginning of the noise. items: which of several clips of one seed (0 where absent);
    stream: another noise under the same seeds, for instance one per step of a stochastic sampler.

    >>> short, long = latent_noise([7], 4, 10), latent_noise([7], 4, 16)
    >>> torch.equal(short, long[..., :10])
    True
    """
    if channels < 1 or length < 1:
        raise ValueError(f"channels and length must be positive, got {channels} and {length}")
    frames: Tensor = ops.philox_normal((length, channels), seeds, items, stream, device)
    return frames.transpose(1, 2).contiguous()
