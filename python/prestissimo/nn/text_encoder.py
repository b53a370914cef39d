# SPDX-License-Identifier: Apache-2.0
"""The text encoder: BERT (Devlin et al., arXiv 1810.04805) at the size of MiniLM (arXiv 2002.10957)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from prestissimo.nn.layers import Kernels

__all__ = ["TextEncoder", "TextEncoderConfig", "TextTokens"]


@dataclass(frozen=True)
class TextEncoderConfig:
    """The sizes of the network; the defaults are all-MiniLM-L6-v2's. max_tokens: longer prompts are cut."""

    vocabulary: int = 30522
    width: int = 384
    depth: int = 6
    heads: int = 12
    ff_inner: int = 1536
    max_tokens: int = 64
    norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        for field in fields(self)[:-1]:
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{field.name} must be a positive integer, got {value!r}")
        if self.depth > 1024:
            raise ValueError(f"depth must be at most 1024, got {self.depth}")
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads, got {self.width} and {self.heads} heads")
        if not self.norm_eps > 0:
            raise ValueError(f"norm_eps must be positive, got {self.norm_eps!r}")


class TextTokens(NamedTuple):
    """What a `DiT` reads of prompts."""

    states: Tensor  # (B, S, width)
    mask: Tensor  # bool (B, S), True where there is a token
    pooled: Tensor  # (B, width): the mean of the states of the tokens, not normalised


class QuantizedRows(nn.Module):
    """A table (rows, width) in int8 with one scale per row; only the rows asked for become floats."""

    int8: Tensor
    scale: Tensor

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.register_buffer("int8", torch.zeros(rows, width, dtype=torch.int8))
        self.register_buffer("scale", torch.zeros(rows, 1))

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, S) → (B, S, width) in the dtype of the scales."""
        return self.int8[ids] * self.scale[ids]


class EncoderBlock(nn.Module):
    """x ← norm(x + self(x)); x ← norm(x + W₂ gelu(W₁ x)): BERT's order, the norms after the sums."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        width = config.width
        self.heads, self.eps = config.heads, config.norm_eps
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, config.ff_inner)
        self.contract = nn.Linear(config.ff_inner, width)
        self.feed_forward_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor | None, kernels: Kernels) -> Tensor:
        """x (B, S, C), mask bool (B, S)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        a, f = self.attention_norm, self.feed_forward_norm
        x = x + self.out(kernels.attention(q, k, v, mask=mask).flatten(2))
        x = kernels.adaln_modulate(x, weight=a.weight, bias=a.bias, eps=self.eps)
        x = x + self.contract(F.gelu(self.expand(x)))
        return kernels.adaln_modulate(x, weight=f.weight, bias=f.bias, eps=self.eps)


class TextEncoder(Kernels):
    """Texts to token states and their mean, by weights and a tokenizer that were made together."""

    def __init__(self, config: TextEncoderConfig, tokenizer: Tokenizer, kernels: str = "auto") -> None:
        super().__init__(kernels)
        vocabulary = tokenizer.get_vocab_size()
        if vocabulary > config.vocabulary:
            raise ValueError(f"tokenizer must have at most {config.vocabulary} tokens, got {vocabulary}")
        self.config = config
        self.tokenizer = tokenizer
        tokenizer.enable_truncation(config.max_tokens)
        tokenizer.no_padding()
        self.words = QuantizedRows(config.vocabulary, config.width)
        self.positions = nn.Parameter(torch.zeros(config.max_tokens, config.width))
        self.norm = nn.LayerNorm(config.width)
        self.blocks = nn.ModuleList([EncoderBlock(config) for _ in range(config.depth)])

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids and mask, each (B, S): S is the length of the longest text, at most max_tokens."""
        if isinstance(texts, str) or not texts:
            raise TypeError(f"texts must be a list of one or more strings, got {texts!r}")
        rows = [torch.tensor(e.ids) for e in self.tokenizer.encode_batch(list(texts))]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        return ids, torch.arange(ids.shape[1]) < lengths[:, None]

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids int64 (B, S), mask bool (B, S) → states (B, S, width)."""
        config = self.config
        if ids.ndim != 2 or not 1 <= ids.shape[1] <= config.max_tokens:
            raise ValueError(f"ids must be [B, S] with S in 1..{config.max_tokens}, got {list(ids.shape)}")
        if mask.shape != ids.shape or mask.dtype != torch.bool:
            raise ValueError(f"mask must be bool {list(ids.shape)}, got {mask.dtype} {list(mask.shape)}")
        x = self.words(ids) + self.positions[: ids.shape[1]]
        x = self.adaln_modulate(x, weight=self.norm.weight, bias=self.norm.bias, eps=config.norm_eps)
        for block in self.blocks:
            x = cast(EncoderBlock, block)(x, mask, self)
        return x

    @torch.no_grad()
    def encode(self, texts: Sequence[str], batch: int = 64) -> TextTokens:
        """States, mask and mean of texts, `batch` of them at a time, on the device of the weights.

        A text is cut after max_tokens tokens, the two that frame it included. Raises TypeError for anything
        but a list of strings.
        """
        ids, mask = (part.to(self.positions.device) for part in self.tokenize(texts))
        S, parts = ids.shape[1], []
        for some, real in zip(ids.split(batch), mask.split(batch), strict=True):
            longest = int(real.sum(dim=1).max())
            states = self(some[:, :longest], real[:, :longest])
            parts.append(F.pad(states, (0, 0, 0, S - longest)))
        states = torch.cat(parts)
        weight = mask[..., None].to(states.dtype)
        pooled = (states * weight).sum(dim=1) / weight.sum(dim=1)
        return TextTokens(states, mask, pooled)
