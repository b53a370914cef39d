# SPDX-License-Identifier: Apache-2.0
"""One run on several processes, by accelerate: `accelerate launch --num_processes 4 -m prestissimo train dit ...`.

Every process computes the gradient of a batch of its own; all step with the mean, so their weights stay the same.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Processes"]


class Processes:
    """The processes of this run: one, unless a launcher says otherwise (WORLD_SIZE).

    Raises ImportError naming the extra where several are asked for and accelerate is absent.
    """

    def __init__(self) -> None:
        self._accelerator: Any = None
        self.count, self.rank = 1, 0
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            try:
                from accelerate import Accelerator
            except ImportError as error:
                raise ImportError(
                    'several processes need accelerate: pip install "prestissimo[train]"'
                ) from error
            self._accelerator = Accelerator(cpu=True)
            self.count = self._accelerator.num_processes
            self.rank = self._accelerator.process_index

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def batch(self, step: int) -> int:
        """Number of this process's batch at optimizer step `step`: step * count + rank."""
        return step * self.count + self.rank

    @torch.no_grad()
    def average(self, parameters: Sequence[Tensor]) -> None:
        """Replace every gradient by its mean over the processes, in one message."""
        if self._accelerator is None:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = self._accelerator.reduce(torch.cat([g.flatten() for g in gradients]), reduction="mean")
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def mean(self, value: float) -> float:
        """The mean of a number over the processes."""
        if self._accelerator is None:
            return value
        return float(self._accelerator.reduce(torch.tensor(value, dtype=torch.float64), reduction="mean"))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return self.mean(float(flag)) > 0

    def wait(self) -> None:
        """Until all are here."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()
