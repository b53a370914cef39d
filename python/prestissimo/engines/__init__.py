# SPDX-License-Identifier: Apache-2.0
"""Engines: different ways to run the same diffusion transformer.

An engine turns a network and one prompt's context into the denoiser that every sampler takes; guidance and
sampling stay outside. A new engine is one file with one class, named in `ENGINES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from prestissimo.engines.eager import TorchEngine
from prestissimo.nn.dit import DiT, TextContext
from prestissimo.sampling import Denoiser

__all__ = ["ENGINES", "Engine", "TorchEngine"]


class Engine(Protocol):
    """What the pipeline asks of an engine."""

    name: str

    def unavailable(self) -> str | None:
        """Why it cannot run here, and what would change that; None where it can."""
        ...

    def prepare(
        self,
        network: DiT,
        context: TextContext,
        conditions: Mapping[str, Tensor],
        sigma_data: float,
        parameterisation: str,
    ) -> Denoiser:
        """The denoiser D(x (B, C, T), sigma (B,)) of B prompts (`context`) and all conditions but sigma: what
        `DiT.forward` takes."""
        ...


ENGINES: dict[str, Engine] = {engine.name: engine for engine in (TorchEngine(),)}
