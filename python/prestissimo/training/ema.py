# SPDX-License-Identifier: Apache-2.0
"""The exponential moving average of weights that generation uses."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Ema:
    """w̄ ← d·w̄ + (1 − d)·w after every step, with d = min(decay, (n + 1) / (n + 10)) at step n.

    The ramp makes the average follow closely while the weights still move fast.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights of `model` after optimizer step `step` (from 0)."""
        weight = 1.0 - min(self.decay, (step + 1) / (step + 10))
        averaged: list[torch.Tensor] = [p.detach() for p in self.model.parameters() if p.is_floating_point()]
        current = [p.detach() for p in model.parameters() if p.is_floating_point()]
        torch._foreach_lerp_(averaged, current, weight)
