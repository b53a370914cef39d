# SPDX-License-Identifier: Apache-2.0
"""Fresh noise on a latent, drawn where it is added: the same bits for any batch, thread count, ISA and device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .philox_normal import fma, words
from .philox_normal import reference as philox_normal_reference
from .registration import Op, _core, empty_like, expect_per_sample, expect_shape, launch, per_sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def renoise(x: Any, sigma: Any, seeds: Sequence[int] | Any, items: Any = None, stream: int = 0) -> Any:
    """y = x + σ·z, z the noise of `sampling.latent_noise` under these seeds, items and stream.

    Number t·C + c of Philox under key seeds[b] lies at channel c of frame t: frame by frame, so that a longer
    latent begins with the same noise.

    Args:
        x: [B, C, T], float32, bfloat16 or float16 (float64 runs through the reference).
        sigma: float32 [B], or one number for all samples.
        seeds: B integers, taken modulo 2^64 (or an int64 array [B]).
        items: B item numbers under their seed, 0 where absent.
        stream: in [0, 2^32): other noise under the same seed, for instance one per sampler step.

    Returns:
        Shape, dtype and kind (torch, NumPy, …) of x. Differentiable in x.

    Raises:
        ValueError: a shape, seeds, items or stream that does not fit, naming the argument.
        TypeError: a dtype that no kernel takes.

    Source: Presto (arXiv 2410.05167) and consistency models re-noise so; Philox of Salmon et al., SC 2011.

    >>> import numpy as np
    >>> x = np.ones((2, 4, 3), np.float32)
    >>> one = renoise(x, 0.5, seeds=[7, 8])
    >>> bool((one[1:] == renoise(x[1:], 0.5, seeds=[8])).all())
    True
    """
    seeds = words("renoise", "seeds", seeds, like=x)
    items = words("renoise", "items", [0] * len(seeds) if items is None else items, like=x)
    return _op(x, per_sample(x, sigma), seeds, items, stream)


def frame_noise(shape: Sequence[int], seeds: Tensor, items: Tensor, stream: int) -> Tensor:
    """z [B, C, T] in plain PyTorch, float32."""
    B, C, T = shape
    return philox_normal_reference(seeds, items, stream, C * T).reshape(B, T, C).transpose(1, 2)


def reference(x: Tensor, sigma: Tensor, seeds: Tensor, items: Tensor, stream: int = 0) -> Tensor:
    """The formula in plain PyTorch, bit for bit: oracle, baseline and documentation of `renoise`."""
    import torch

    z, sigma = frame_noise(x.shape, seeds, items, stream), sigma.reshape(-1, 1, 1)
    if x.dtype == torch.float64:
        return x + sigma * z
    return fma(sigma.expand_as(z), z, x.float()).to(x.dtype)


def _check(x: Any, sigma: Any, seeds: Any, items: Any, stream: int) -> None:
    if len(x.shape) != 3:
        raise ValueError(f"renoise: x must have 3 dimensions, got shape {list(x.shape)}")
    expect_per_sample("renoise", "sigma", sigma, x)
    check_noise("renoise", x, seeds, items, stream)


def check_noise(op: str, x: Any, seeds: Any, items: Any, stream: int) -> None:
    """ValueError or TypeError naming the argument unless the noise fits the samples of x."""
    for name, a, other in (("items", items, seeds), ("seeds", seeds, items)):
        if a is None and other is not None:
            raise ValueError(f"{op}: {name} must come with the other")
    for name, a in (("seeds", seeds), ("items", items)):
        expect_shape(op, name, a, (x.shape[0],))
        if a is not None and not str(a.dtype).endswith("int64"):
            raise TypeError(f"{op}: {name} must be int64, got {a.dtype}")
    if not 0 <= stream < 2**32:
        raise ValueError(f"{op}: stream must be in [0, 2^32), got {stream}")


def _kernel(x: Any, sigma: Any, seeds: Any, items: Any, stream: int) -> Any:
    y = empty_like(x)
    launch(_core.renoise, x, sigma, seeds, items, stream, y)
    return y


_op = Op(
    "renoise(Tensor x, Tensor sigma, Tensor seeds, Tensor items, int stream) -> Tensor",
    kernel=_kernel,
    reference=reference,
    fake=lambda x, *_: x.new_empty(x.shape),
    check=_check,
)

_op.gradient(lambda ctx, dy: (dy, None, None, None, None), lambda ctx, inputs, output: None)
