# SPDX-License-Identifier: Apache-2.0
"""What one piece of music is made from, checked before anything slow is loaded or run."""

from __future__ import annotations

import math
import numbers
import secrets
from dataclasses import dataclass, replace
from typing import Any

from prestissimo.tempo import FASTEST, SLOWEST

__all__ = ["MAX_PROMPT_CHARACTERS", "MAX_STEPS", "Request", "item_seeds", "per_item", "seeds_for"]

MAX_PROMPT_CHARACTERS = 2000
MAX_STEPS = 1000
SEED_LIMIT = 2**63


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be text, got {type(value).__name__}")
    if len(value) > MAX_PROMPT_CHARACTERS:
        raise ValueError(f"{name} must be at most {MAX_PROMPT_CHARACTERS} characters, got {len(value)}")
    if any(0xD800 <= ord(c) <= 0xDFFF for c in value):
        raise ValueError(f"{name} is not valid Unicode text")
    return value


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    return float(value)


def _integer(value: Any, name: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    if not low <= int(value) <= high:
        raise ValueError(f"{name} must be {low} to {high}, got {value}")
    return int(value)


@dataclass(frozen=True)
class Request:
    """One item, but for the arrays it may start from. Where a field is None, the model's default holds.

    seconds: length; steps: sampling steps; guidance: classifier-free guidance scale w, D = D_neg + w (D_pos -
    D_neg), 1 for none; seed: key of the noise, 0 <= seed < 2^63; init_strength: 0 < s <= 1, the share of the
    schedule that the initial audio is put through, 1 starting from noise that drowns it; bpm: tempo in beats per
    minute, 30 to 300, the first beat at the start; 0: no steady beat is asked for; None: what the prompt says, else
    one that suits its words, drawn by the seed.

    The constructor raises TypeError or ValueError naming the field.
    """

    prompt: str
    seed: int
    seconds: float = 12.0
    steps: int | None = None
    guidance: float | None = None
    negative_prompt: str | None = None
    sampler: str | None = None
    init_strength: float = 0.7
    bpm: float | None = None

    def __post_init__(self) -> None:
        if not _text(self.prompt, "prompt").strip():
            raise ValueError("prompt must not be empty")
        if self.negative_prompt is not None:
            _text(self.negative_prompt, "negative_prompt")
        object.__setattr__(self, "seed", _integer(self.seed, "seed", 0, SEED_LIMIT - 1))
        object.__setattr__(self, "seconds", _number(self.seconds, "seconds"))
        if not self.seconds > 0:
            raise ValueError(f"seconds must be above 0, got {self.seconds:g}")
        if self.steps is not None:
            object.__setattr__(self, "steps", _integer(self.steps, "num_inference_steps", 1, MAX_STEPS))
        if self.guidance is not None:
            object.__setattr__(self, "guidance", _number(self.guidance, "guidance_scale"))
            if not 0 <= self.guidance <= 100:
                raise ValueError(f"guidance_scale must be 0 to 100, got {self.guidance:g}")
        strength = _number(self.init_strength, "init_strength")
        if not 0 < strength <= 1:
            raise ValueError(f"init_strength must be above 0 and at most 1, got {strength:g}")
        if self.bpm is not None:
            object.__setattr__(self, "bpm", _number(self.bpm, "bpm"))
            if self.bpm != 0 and not SLOWEST <= self.bpm <= FASTEST:
                raise ValueError(f"bpm must be 0 or {SLOWEST:g} to {FASTEST:g}, got {self.bpm:g}")

    def resolved(
        self, *, steps: int, guidance: float, sampler: str, samplers: tuple[str, ...], max_seconds: float
    ) -> Request:
        """The same with a model's defaults filled in; raises ValueError for what that model cannot do."""
        if self.seconds > max_seconds:
            raise ValueError(f"seconds must be at most {max_seconds:g}, got {self.seconds:g}")
        chosen = sampler if self.sampler is None else self.sampler
        if chosen not in samplers:
            raise ValueError(f"sampler must be one of {', '.join(samplers)}, got {chosen!r}")
        return replace(
            self,
            steps=steps if self.steps is None else self.steps,
            guidance=guidance if self.guidance is None else self.guidance,
            sampler=chosen,
        )


def item_seeds(seed: int, count: int) -> list[int]:
    """Seeds of ``count`` items that were given one seed: seed, seed + 1, ..., so that each can be made alone.

    >>> item_seeds(7, 3)
    [7, 8, 9]
    """
    first = _integer(seed, "seed", 0, SEED_LIMIT - 1)
    return [(first + i) % SEED_LIMIT for i in range(count)]


def per_item(name: str, value: Any, count: int) -> list[Any]:
    """A list of `count`: the value repeated, or a list or tuple of just that length."""
    if isinstance(value, list | tuple):
        if len(value) != count:
            raise ValueError(f"{name} must be one, or one per prompt ({count}), got {len(value)}")
        return list(value)
    return [value] * count


def seeds_for(seed: Any, generator: Any, count: int) -> list[int]:
    """One seed per item, from a seed that counts up, a list, torch generators, or the system's randomness.

    A torch.Generator is drawn from, so that its next use makes other music, as in diffusers.
    """
    if seed is not None and generator is not None:
        raise ValueError("seed and generator must not both be given")
    if generator is not None:
        import torch

        generators = list(generator) if isinstance(generator, list | tuple) else [generator] * count
        if len(generators) != count or not all(isinstance(g, torch.Generator) for g in generators):
            raise ValueError(f"generator must be a torch.Generator, or a list of {count}")
        return [int(torch.randint(0, 2**63 - 1, (), generator=g, device=g.device)) for g in generators]
    if isinstance(seed, list | tuple):
        if len(seed) != count:
            raise ValueError(f"seed must be an integer, or a list of {count}, got {len(seed)}")
        return list(seed)
    return item_seeds(secrets.randbits(32) if seed is None else seed, count)
