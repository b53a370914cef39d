# SPDX-License-Identifier: Apache-2.0
"""Counter-based Gumbel noise: the same bits for any batch split, order, thread count, ISA and device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .philox_normal import arguments, counter_words, fma, log, log_one_plus, noise_op

if TYPE_CHECKING:
    from torch import Tensor


def philox_gumbel(
    shape: Sequence[int],
    seeds: Sequence[int] | Any,
    items: Sequence[int] | Any = None,
    stream: int = 0,
    device: Any = None,
) -> Any:
    """g[b] = -ln(-ln(1 - v)), v = (word + 1/2) / 2^32 the words of Philox4x32-10 under key seeds[b].

    Counters are those of `philox_normal`, so noise of both kinds under one seed, item and stream is not independent:
    give them different streams. Adding g to logits and taking the largest samples from their softmax; the k largest,
    a k-subset without replacement.

    Args:
        shape: of one item, for instance (tokens,).
        seeds: B integers, taken modulo 2^64 (or an int64 array [B]).
        items: B item numbers under their seed, 0 where absent: noise of a batch equals that of its items one by one.
        stream: in [0, 2^32): independent noise under the same seed, for instance one per training step.
        device: a torch device. Without torch the result is a NumPy array.

    Returns:
        float32 [B, *shape], within [-3.14, 22.88].

    Raises:
        ValueError: a shape, seeds, items or stream that does not fit, naming the argument.

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; Gumbel's distribution by inversion.

    >>> one, two = philox_gumbel((2, 3), [7, 8])
    >>> bool((two == philox_gumbel((2, 3), [8])[0]).all())
    True
    """
    z = gumbel(*arguments("philox_gumbel", shape, seeds, items, stream, device))
    return z.reshape(z.shape[0], *shape)


def reference(seeds: Tensor, items: Tensor, stream: int, size: int, first: int = 0) -> Tensor:
    """`gumbel` of csrc/philox.h in plain PyTorch, bit for bit; first: as in philox_normal's."""
    import torch

    g = torch.stack([_gumbel(w) for w in counter_words(seeds, items, stream, size, first)], dim=-1)
    return g.flatten(1)[:, :size].contiguous()


def _gumbel(word: Tensor) -> Tensor:
    import torch

    small = word < 0x40000000
    v = fma(torch.where(small, word, 0xFFFFFFFF - word).float(), 2.0**-32, 2.0**-33)
    return -log(-torch.where(small, log_one_plus(-v), log(v)))


gumbel = noise_op("philox_gumbel", reference)
