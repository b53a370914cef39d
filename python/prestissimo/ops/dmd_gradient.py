# SPDX-License-Identifier: Apache-2.0
"""The gradient of distribution matching distillation, from two denoised estimates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .registration import Op, _core, empty_like, expect_latent, expect_like, launch, new_empty

if TYPE_CHECKING:
    from torch import Tensor

SUM_BLOCK = 4096  # kSumBlock of csrc/ops/sample_sums.h


def sum_blocks(x: Any) -> int:
    """Blocks in which the sums over the samples of x are taken, for all samples together."""
    size = 1
    for n in x.shape[1:]:
        size *= n
    return int(x.shape[0] * -(-size // SUM_BLOCK))


def dmd_gradient(x: Any, fake: Any, real: Any, eps: float = 0.0) -> Any:
    """g = nan_to_num((D_fake − D_real)/(mean|x − D_real| + eps)), the mean over each sample.

    Args:
        x: the generator's output [B, ...], float32, bfloat16 or float16 (float64 runs through the reference).
        fake, real: denoised estimates of x with noise, by the model of the generator's outputs and by the
            teacher; like x.
        eps: keeps the denominator from zero; 0 as in DMD2, whose division by zero nan_to_num settles.

    Returns:
        g, shape, dtype and kind of x: NaN is 0, infinities the largest numbers of the dtype. No gradient: the loss
        ½·mean((x − (x − g).detach())²) has g/numel as its own.

    Raises:
        ValueError: a shape or eps that does not fit, naming the argument.
        TypeError: dtypes that differ from x's, or that no kernel takes.

    Source: Yin et al., DMD2 (arXiv 2405.14867), equation 3 as its code has it; Presto (arXiv 2410.05167).

    >>> import numpy as np
    >>> dmd_gradient(np.float32([[1.0, 3.0]]), np.float32([[2.0, 2.0]]), np.float32([[1.0, 1.0]]))
    array([[1., 1.]], dtype=float32)
    """
    return _op(x, fake, real, eps)


def reference(x: Tensor, fake: Tensor, real: Tensor, eps: float = 0.0) -> Tensor:
    """The formula in plain PyTorch: oracle, baseline and documentation of `dmd_gradient`."""
    import torch

    mean = (x - real).abs().flatten(1).mean(dim=1, dtype=torch.promote_types(x.dtype, torch.float32))
    mean = mean.reshape(-1, *[1] * (x.dim() - 1))
    return ((fake - real) / (mean + eps)).to(x.dtype).nan_to_num()


def _check(x: Any, fake: Any, real: Any, eps: float) -> None:
    expect_latent("dmd_gradient", "x", x)
    expect_like("dmd_gradient", "fake", fake, x)
    expect_like("dmd_gradient", "real", real, x)
    if not eps >= 0:
        raise ValueError(f"dmd_gradient: eps must be at least 0, got {eps}")


def _kernel(x: Any, fake: Any, real: Any, eps: float) -> Any:
    y = empty_like(x)
    launch(_core.dmd_gradient, x, fake, real, eps, new_empty(x, (sum_blocks(x),), "float32"), y)
    return y


_op = Op(
    "dmd_gradient(Tensor x, Tensor fake, Tensor real, float eps) -> Tensor",
    kernel=_kernel,
    reference=reference,
    fake=lambda x, *_: x.new_empty(x.shape),
    check=_check,
)
