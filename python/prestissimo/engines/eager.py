# SPDX-License-Identifier: Apache-2.0
"""PyTorch, operation by operation: runs wherever torch does, and is the yardstick of the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor

from prestissimo.nn.dit import DiT, TextContext
from prestissimo.sampling import PARAMETERISATIONS, Denoiser

__all__ = ["TorchEngine"]


class TorchEngine:
    """The network itself, and the scalings around it."""

    name = "torch"

    def unavailable(self) -> str | None:
        return None

    def prepare(
        self,
        network: DiT,
        context: TextContext,
        conditions: Mapping[str, Tensor],
        sigma_data: float,
        parameterisation: str,
    ) -> Denoiser:
        def predict(x: Tensor, sigma: Tensor) -> Tensor:
            return cast(Tensor, network(x, {"sigma": sigma, **conditions}, context))

        return PARAMETERISATIONS[parameterisation](predict, sigma_data)
