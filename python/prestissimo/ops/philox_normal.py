# SPDX-License-Identifier: Apache-2.0
"""Counter-based normal noise: the same bits for any batch split, order, thread count, ISA and device."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .registration import Op, _core, expect_shape, launch, new_empty, torch

if TYPE_CHECKING:
    from torch import Tensor

_WORD = 0xFFFFFFFF
FORMAT = 1  # of csrc/philox.h; a seed names the same music as long as this stays


def philox_normal(
    shape: Sequence[int],
    seeds: Sequence[int] | Any,
    items: Sequence[int] | Any = None,
    stream: int = 0,
    device: Any = None,
) -> Any:
    """z[b] = N(0, 1) numbers of Philox4x32-10 with key seeds[b], counter (element / 4, items[b], stream).

    Args:
        shape: of one item, for instance (C, T).
        seeds: B integers, taken modulo 2^64 (or an int64 array [B]).
        items: B item numbers under their seed, 0 where absent: noise of a batch equals that of its items one by one.
        stream: in [0, 2^32): independent noise under the same seed, for instance one per sampler step.
        device: a torch device. Without torch the result is a NumPy array.

    Returns:
        float32 [B, *shape].

    Raises:
        ValueError: a shape, seeds, items or stream that does not fit, naming the argument.

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; Box-Muller.

    >>> one, two = philox_normal((2, 3), [7, 8])
    >>> bool((two == philox_normal((2, 3), [8])[0]).all())
    True
    """
    z = _op(*arguments("philox_normal", shape, seeds, items, stream, device))
    return z.reshape(z.shape[0], *shape)


def arguments(
    op: str, shape: Sequence[int], seeds: Any, items: Any, stream: int, device: Any
) -> tuple[Any, Any, int, int]:
    """The schema's arguments: seeds and items as words, stream, size."""
    size = math.prod(shape)
    if size < 0 or any(d < 0 for d in shape):
        raise ValueError(f"{op}: shape must have no negative size, got {tuple(shape)}")
    seeds_ = words(op, "seeds", seeds, device)
    return seeds_, words(op, "items", [0] * len(seeds_) if items is None else items, device), stream, size


def words(op: str, name: str, values: Any, device: Any = None, like: Any = None) -> Any:
    """64-bit words as int64, the type that every framework has; of the kind and device of `like` where there is one."""
    if hasattr(values, "dtype"):
        return values
    try:
        signed = [(int(v) + 2**63) % 2**64 - 2**63 for v in values]
    except TypeError:
        raise ValueError(f"{op}: {name} must be a sequence of integers, got {values!r}") from None
    if torch is not None and (like is None or isinstance(like, torch.Tensor)):
        return torch.tensor(signed, dtype=torch.int64, device=device if like is None else like.device)
    if hasattr(like, "__array_namespace__"):
        space = like.__array_namespace__()
        return space.asarray(signed, dtype=space.int64)
    import numpy as np

    return np.array(signed, dtype=np.int64)


def reference(seeds: Tensor, items: Tensor, stream: int, size: int, first: int = 0) -> Tensor:
    """The format of csrc/philox.h in plain PyTorch, bit for bit: int64 holds the words, float32 the rest.

    first: counter of the first number, four numbers to a counter.
    """
    import torch

    w = counter_words(seeds, items, stream, size, first)
    z = torch.stack((*_box_muller(w[0], w[1]), *_box_muller(w[2], w[3])), dim=-1)
    return z.flatten(1)[:, :size].contiguous()


def counter_words(seeds: Tensor, items: Tensor, stream: int, size: int, first: int = 0) -> tuple[Tensor, ...]:
    """The four words, [B, ceil(size / 4)] each, of the counters of `size` numbers from counter `first` on."""
    import torch

    n = torch.arange(first, first - -size // 4, device=seeds.device)[None]
    counter = (n & _WORD, n >> 32 & _WORD, items[:, None] & _WORD, torch.tensor(stream, device=seeds.device))
    return philox4x32_10(
        torch.broadcast_tensors(*counter), (seeds[:, None] & _WORD, seeds[:, None] >> 32 & _WORD)
    )


def philox4x32_10(counter: Sequence[Tensor], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        (h0, l0), (h1, l1) = _multiply(0xD2511F53, c0), _multiply(0xCD9E8D57, c2)
        c0, c1, c2, c3 = h1 ^ c1 ^ k0, l1, h0 ^ c3 ^ k1, l0
        k0, k1 = k0 + 0x9E3779B9 & _WORD, k1 + 0xBB67AE85 & _WORD
    return c0, c1, c2, c3


def _multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low words of a 32-bit product, in halves so that int64 does not overflow."""
    low = (a & 0xFFFF) * b
    high = (a >> 16) * b + (low >> 16)
    return high >> 16, (high & 0xFFFF) << 16 | low & 0xFFFF


def fma(a: Tensor, b: Tensor | float, c: Tensor | float) -> Tensor:
    """float32 a·b + c rounded once: the product is exact in float64; the sum is rounded to odd, then to float32."""
    import torch

    as64 = lambda v: v.double() if torch.is_tensor(v) else torch.tensor(v, dtype=torch.float32).double()  # noqa: E731
    p, c_ = as64(a) * as64(b), as64(c)
    s = p + c_
    t = s - p
    error = (p - (s - t)) + (c_ - t)
    even = s.view(torch.int64) & 1 == 0
    toward = torch.where(error > 0, torch.inf, -torch.inf).to(torch.float64)
    return torch.where((error != 0) & even & s.isfinite(), torch.nextafter(s, toward), s).float()


def _horner(x: Tensor, *coefficients: float) -> Tensor:
    import torch

    p = torch.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        p = fma(p, x, c)
    return p


def log_one_plus(f: Tensor) -> Tensor:
    p = _horner(f, 0.087002255, -0.14267458, 0.149148211, -0.16577588, 0.199630603, -0.250013381, 0.333339095)
    f2 = f * f
    return f + fma(p * f, f2, f2 * -0.5)


def log(u: Tensor) -> Tensor:
    import torch

    shifted = u.view(torch.int32) - 0x3F3504F3
    e = (shifted >> 23).float()
    f = ((shifted & 0x007FFFFF) + 0x3F3504F3).view(torch.float32) - 1
    return fma(e, 0.693147182, log_one_plus(f))


def _box_muller(radius: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    import torch

    u = fma(radius.float(), 2.0**-32, 2.0**-33)
    # through float64, because torch's own float32 sqrt may be MKL's, which is not correctly rounded
    r = (-2.0 * log(u)).double().sqrt().float()
    quadrant = (angle + 0x20000000 & 0xFFFFFFFF) >> 30
    quarter = angle << 2 & 0xFFFFFFFF
    t = torch.where(quarter >= 2**31, quarter - 2**32, quarter).float() * 2.0**-32
    t2 = t * t
    s = _horner(t2, -0.00460219616, 0.0796802342, -0.64596349, 1.57079637) * t
    c = _horner(t2, 0.000903634122, -0.0208600722, 0.253669202, -1.23370051, 1.0)
    swap = quadrant & 1 == 1
    cos, sin = torch.where(swap, s, c), torch.where(swap, c, s)
    return (
        r * torch.where((quadrant + 1) & 2 == 2, -cos, cos),
        r * torch.where(quadrant & 2 == 2, -sin, sin),
    )


def check(op: str, seeds: Any, items: Any, stream: int, size: int) -> None:
    if len(seeds.shape) != 1:
        raise ValueError(f"{op}: seeds must have 1 dimension, got shape {list(seeds.shape)}")
    expect_shape(op, "items", items, tuple(seeds.shape))
    for name, words in (("seeds", seeds), ("items", items)):
        if not str(words.dtype).endswith("int64"):
            raise TypeError(f"{op}: {name} must be int64, got {words.dtype}")
    if not 0 <= stream < 2**32:
        raise ValueError(f"{op}: stream must be in [0, 2^32), got {stream}")


def noise_op(name: str, reference: Callable[..., Tensor]) -> Op:
    """An op of Philox counters: float32 [B, size]."""

    def kernel(seeds: Any, items: Any, stream: int, size: int) -> Any:
        out = new_empty(seeds, (seeds.shape[0], size), "float32")
        launch(getattr(_core, name), seeds, items, stream, out)
        return out

    return Op(
        f"{name}(Tensor seeds, Tensor items, int stream, SymInt size) -> Tensor",
        kernel=kernel,
        reference=reference,
        fake=lambda seeds, items, stream, size: seeds.new_empty((seeds.shape[0], size), dtype=torch.float32),
        check=functools.partial(check, name),
        dtypes=("int64",),
    )


_op = noise_op("philox_normal", reference)
