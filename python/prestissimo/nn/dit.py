# SPDX-License-Identifier: Apache-2.0
"""The diffusion transformer (Peebles & Xie, arXiv 2212.09748) with text and named scalar conditions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prestissimo.nn.attention import CrossAttention, SelfAttention
from prestissimo.nn.layers import (
    CONDITIONS,
    TIMED,
    BeatEmbedding,
    Kernels,
    ScalarEmbedding,
    SwiGLU,
    WideLinear,
)
from prestissimo.nn.rope import rope_tables

__all__ = ["DiT", "DiTConfig", "TextContext"]


@dataclass(frozen=True)
class DiTConfig:
    """Everything a `DiT` depends on.

    latent_channels: C of the latent (B, C, T); latents_per_token: neighbouring latents that share one token;
    ff_inner: inner width of SwiGLU; text_dim: width of the text states; conditions: names out of
    `layers.CONDITIONS` and `layers.TIMED`; features: sines and cosines per scalar condition; norm: "layer" or
    "rms"; rope_dim: rotated dims of each head (None: all).
    """

    latent_channels: int
    width: int = 320
    depth: int = 8
    heads: int = 5
    ff_inner: int = 768
    text_dim: int = 384
    latents_per_token: int = 1
    conditions: tuple[str, ...] = ("sigma", "seconds")
    features: int = 128
    norm: str = "layer"
    norm_eps: float = 1e-6
    rope_base: float = 10000.0
    rope_dim: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "conditions", tuple(self.conditions))
        sizes = "latent_channels width depth heads ff_inner text_dim latents_per_token features"
        for name in sizes.split():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if self.depth > 1024:
            raise ValueError(f"depth must be at most 1024, got {self.depth}")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"width must be heads × an even number, got {self.width} and {self.heads} heads")
        if self.features % 2:
            raise ValueError(f"features must be even, got {self.features}")
        if self.norm not in ("layer", "rms"):
            raise ValueError(f'norm must be "layer" or "rms", got {self.norm!r}')
        if not self.norm_eps > 0:
            raise ValueError(f"norm_eps must be positive, got {self.norm_eps!r}")
        if not (math.isfinite(self.rope_base) and self.rope_base > 1):
            raise ValueError(f"rope_base must be a finite number above 1, got {self.rope_base!r}")
        if self.rope_dim is not None and not (0 < self.rope_dim <= self.head_dim and self.rope_dim % 2 == 0):
            raise ValueError(f"rope_dim must be even and in 2..{self.head_dim}, got {self.rope_dim!r}")
        known = {*CONDITIONS, *TIMED}
        if not known.issuperset(self.conditions) or len(set(self.conditions)) != len(self.conditions):
            raise ValueError(f"conditions must be of {sorted(known)}, each once, got {self.conditions}")

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


class TextContext(NamedTuple):
    """What the blocks read of a prompt: computed once by `DiT.encode_text`, used at every step."""

    keys: tuple[Tensor, ...]  # depth × (B, S, H, D)
    values: tuple[Tensor, ...]  # depth × (B, S, H, D)
    mask: Tensor  # bool (B, S), True where there is a token
    pooled: Tensor  # (B, text_dim), float32

    @property
    def batch(self) -> int:
        return self.mask.shape[0]

    @staticmethod
    def cat(contexts: Sequence[TextContext]) -> TextContext:
        """Stack along the batch; shorter prompts are padded."""
        S = max(context.mask.shape[1] for context in contexts)

        def stack(tensors: Sequence[Tensor]) -> Tensor:
            return torch.cat([F.pad(t, (0, 0, 0, 0, 0, S - t.shape[1])) for t in tensors])

        return TextContext(
            tuple(stack(block) for block in zip(*(context.keys for context in contexts), strict=True)),
            tuple(stack(block) for block in zip(*(context.values for context in contexts), strict=True)),
            torch.cat([F.pad(context.mask, (0, S - context.mask.shape[1])) for context in contexts]),
            torch.cat([context.pooled for context in contexts]),
        )

    def expand(self, batch: int) -> TextContext:
        """One prompt for a whole batch, without a copy."""

        def widen(tensor: Tensor) -> Tensor:
            return tensor.expand(batch, *tensor.shape[1:])

        return TextContext(
            tuple(map(widen, self.keys)), tuple(map(widen, self.values)), widen(self.mask), widen(self.pooled)
        )


class DiTBlock(nn.Module):
    """x += g₁·self(adaln(x; s₁, c₁)); x += cross(norm(x), text); x += g₂·ff(adaln(x; s₂, c₂)).

    (s₁, c₁, g₁, s₂, c₂, g₂) = modulation shared by all blocks + this block's own `offset` (PixArt-α, arXiv
    2310.00426, section 2.3). The residual stream x stays in float32 whatever the dtype of the weights.

    By the ops one after another and not by `ops.dit_block`, which is 0.98 to 1.03 times as fast as they are (Stable
    Audio Open's blocks, AMD Zen 4) and would take the stream in the dtype of the weights, and a pass more for the norm
    that each block here makes with its last sum.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.norm, self.eps = config.norm, config.norm_eps
        self.offset = nn.Parameter(torch.zeros(6, config.width))
        self.self_attention = SelfAttention(config.width, config.heads)
        self.cross_norm = nn.Parameter(torch.ones(config.width))
        self.cross_attention = CrossAttention(config.width, config.heads)
        self.feed_forward = SwiGLU(config.width, config.ff_inner)
        nn.init.zeros_(self.cross_attention.out.weight)

    def modulation(self, shared: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """(s₁, c₁, g₁, s₂, c₂, g₂), each (B, C), from the vectors that all blocks share, (B, 6, C)."""
        return (shared + self.offset).to(dtype).unbind(1)

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        modulation: tuple[Tensor, ...],
        rope: tuple[Tensor, Tensor],
        text: tuple[Tensor, Tensor, Tensor],
        exit: tuple[Tensor, Tensor],
        kernels: Kernels,
    ) -> tuple[Tensor, Tensor]:
        """x (B, T, C), y = adaln(x; s₁, c₁), rope: cos, sin (T, r/2), text: k, v (B, S, H, D), mask.

        Returns (x, adaln(x; exit)), exit being shift and scale of what reads this block's x: each sum and the norm
        behind it are one op.
        """
        _, _, g1, s2, c2, g2 = modulation
        options = {"eps": self.eps, "norm": self.norm}
        branch = self.self_attention(y, *rope, kernels)
        weight = self.cross_norm.to(x.dtype)
        x, y = kernels.gated_residual_adaln(x, branch, g1, weight=weight, **options)
        branch = self.cross_attention(y, *text, kernels)
        x, y = kernels.gated_residual_adaln(x, branch, None, s2, c2, **options)
        branch = self.feed_forward(y, kernels)
        return kernels.gated_residual_adaln(x, branch, g2, *exit, **options)


class DiT(Kernels):
    """Predicts F(x, conditions, text) for a latent x (B, C, T); zero for fresh weights."""

    def __init__(self, config: DiTConfig, kernels: str = "auto") -> None:
        super().__init__(kernels)
        self.config = config
        width, token = config.width, config.latent_channels * config.latents_per_token
        self.embed = nn.Linear(token, width)
        self.conditions = nn.ModuleDict(
            {
                name: BeatEmbedding(width) if name in TIMED else ScalarEmbedding(name, width, config.features)
                for name in config.conditions
            }
        )
        self.null_text = nn.Parameter(torch.zeros(config.text_dim))
        self.text = nn.Linear(config.text_dim, width)
        self.pooled_text = WideLinear(config.text_dim, width)
        self.condition_hidden = WideLinear(width, width)
        self.modulation = WideLinear(width, 6 * width)
        self.blocks = nn.ModuleList([DiTBlock(config) for _ in range(config.depth)])
        self.out_offset = nn.Parameter(torch.zeros(2, width))
        self.out = nn.Linear(width, token)
        self._initialise()

    def _initialise(self) -> None:
        """Xavier for the matrices; what ends a branch (modulation, text branch, output) starts at zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.null_text, std=0.02)
        for embedding in self.conditions.values():
            nn.init.zeros_(cast("ScalarEmbedding | BeatEmbedding", embedding).linear.weight)
        for block in self.blocks:
            nn.init.zeros_(cast(DiTBlock, block).cross_attention.out.weight)
        for layer in (self.modulation, self.out):
            nn.init.zeros_(layer.weight)

    def with_conditions(self, *names: str) -> DiT:
        """A copy that knows further conditions; equal outputs until it is trained on them."""
        config = replace(self.config, conditions=(*self.config.conditions, *names))
        wider = DiT(config, self.kernels).to(self.null_text)
        wider.load_state_dict({**wider.state_dict(), **self.state_dict()})
        return wider.train(self.training)

    def encode_text(self, text: Tensor, mask: Tensor | None = None) -> TextContext:
        """Everything of a prompt that no step changes: text states (B, S, text_dim), mask bool (B, S).

        A row whose mask is False throughout is a dropped caption: it becomes the learned null text.
        """
        E = self.config.text_dim
        if text.ndim != 3 or text.shape[1] < 1 or text.shape[2] != E:
            raise ValueError(f"text must be [B, S, {E}] with S >= 1, got {list(text.shape)}")
        if mask is None:
            mask = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
        if mask.shape != text.shape[:2] or mask.dtype != torch.bool:
            got = f"{mask.dtype} {list(mask.shape)}"
            raise ValueError(f"text_mask must be bool {list(text.shape[:2])}, got {got}")
        first = torch.arange(text.shape[1], device=text.device) == 0
        null = first & ~mask.any(dim=1, keepdim=True)  # (B, S): where the null text's one token goes
        # where() and not a product: what stands behind the padding may be anything, NaN included
        text = torch.where(null[..., None], self.null_text.to(text.dtype), text.where(mask[..., None], 0))
        mask = mask | null
        wide = torch.promote_types(text.dtype, torch.float32)
        pooled = text.to(wide).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        context = self.text(text.to(self.null_text.dtype))
        projected = [cast(DiTBlock, block).cross_attention.project(context, self) for block in self.blocks]
        return TextContext(tuple(k for k, _ in projected), tuple(v for _, v in projected), mask, pooled)

    def null_context(self, batch: int = 1) -> TextContext:
        """The context of dropped captions, for guidance."""
        text = self.null_text.new_zeros(1, 1, self.config.text_dim)
        context = self.encode_text(text, torch.zeros(1, 1, dtype=torch.bool, device=text.device))
        return context if batch == 1 else context.expand(batch)

    def condition_vector(self, conditions: Mapping[str, Tensor], pooled: Tensor) -> Tensor:
        """The six vectors that all blocks share: (B, 6, width), at least float32 also under autocast."""
        if set(conditions) != set(self.config.conditions):
            raise ValueError(f"conditions must be {sorted(self.config.conditions)}, got {sorted(conditions)}")
        with torch.autocast(pooled.device.type, enabled=False):
            c = self.pooled_text(pooled)
            for name, embedding in self.conditions.items():
                if name in TIMED:
                    continue
                value = conditions[name]
                if value.ndim > 1 or (value.ndim == 1 and value.shape[0] not in (1, pooled.shape[0])):
                    raise ValueError(f"{name} must be [{pooled.shape[0]}], got {list(value.shape)}")
                c = c + embedding(value.reshape(-1))
            c = F.silu(self.condition_hidden(c))
            return self.modulation(c).unflatten(-1, (6, -1))

    def _timed(self, beats: Tensor, B: int, T: int) -> Tensor:
        """What the beat of a token's first latent adds to it: (B or 1, tokens, width)."""
        if beats.ndim != 2 or beats.shape[0] not in (1, B) or beats.shape[1] != T:
            raise ValueError(f"beats must be [{B}, {T}], got {list(beats.shape)}")
        with torch.autocast(beats.device.type, enabled=False):
            return cast(Tensor, self.conditions["beats"](beats[:, :: self.config.latents_per_token]))

    def forward(
        self,
        x: Tensor,
        conditions: Mapping[str, Tensor],
        text: Tensor | TextContext | None = None,
        text_mask: Tensor | None = None,
        return_hidden: Sequence[int] = (),
    ) -> Tensor | tuple[Tensor, dict[int, Tensor]]:
        """Latent x (B, C, T) → (B, C, T) in the dtype of x.

        conditions: one tensor (B,) (or scalar) per name of the configuration, in its own unit (σ, seconds, beats
        per minute, blocks); beats: (B, T), the beat that each latent begins on, NaN where that is left open.
        text: states (B, S, text_dim) with text_mask bool (B, S), or a `TextContext`, or None for the null text.
        return_hidden: indices of blocks whose output (B, tokens, width) comes beside the result.
        Raises ValueError for wrong shapes and names.
        """
        config = self.config
        if x.ndim != 3 or x.shape[1] != config.latent_channels or x.shape[2] < 1:
            raise ValueError(f"x must be [B, {config.latent_channels}, T] with T >= 1, got {list(x.shape)}")
        wrong = [i for i in return_hidden if not -config.depth <= i < config.depth]
        if wrong:
            raise ValueError(f"return_hidden must index {config.depth} blocks, got {wrong}")
        B, _, T = x.shape
        if text is None:
            text = self.null_context(B)
        context = text if isinstance(text, TextContext) else self.encode_text(text, text_mask)
        if context.batch != B:
            raise ValueError(f"text must have the batch of x, {B}, got {context.batch}")
        modulation = self.condition_vector(conditions, context.pooled)

        p = config.latents_per_token
        tokens = F.pad(x, (0, -T % p)).unflatten(-1, (-1, p)).permute(0, 2, 1, 3).flatten(2)
        h = self.embed(tokens.to(self.null_text.dtype))
        h = h.to(torch.promote_types(h.dtype, torch.float32))
        if "beats" in config.conditions:
            h = h + self._timed(conditions["beats"], B, T).to(h.dtype)
        rope = rope_tables(h.shape[1], config.rope_dim or config.head_dim, config.rope_base, h.device)
        wanted = {i % config.depth for i in return_hidden}
        hidden: dict[int, Tensor] = {}
        blocks = [cast(DiTBlock, block) for block in self.blocks]
        vectors = [block.modulation(modulation, h.dtype) for block in blocks]
        exit = (modulation[:, :2] + self.out_offset).to(h.dtype).unbind(1)
        y = self.adaln_modulate(h, *vectors[0][:2], eps=config.norm_eps, norm=config.norm)
        y = y.to(self.null_text.dtype)
        for i, block in enumerate(blocks):
            text_i = (context.keys[i], context.values[i], context.mask)
            following = vectors[i + 1][:2] if i + 1 < len(blocks) else exit
            h, y = block(h, y, vectors[i], rope, text_i, following, self)
            if i in wanted:
                hidden[i] = h
        y = self.out(y.to(self.null_text.dtype))
        y = y.unflatten(-1, (-1, p)).permute(0, 2, 1, 3).flatten(2)[..., :T].to(x.dtype)
        return (y, {i: hidden[i % config.depth] for i in return_hidden}) if return_hidden else y

    def flops(self, T: int, S: int) -> int:
        """Floating-point operations of one call for one item with a ready `TextContext` of S tokens.

        Two per multiply-add of every matrix product and of both products of each attention; norms, softmax,
        gates and activations, below 2 % here, are not counted, nor is `encode_text`.
        """
        c = self.config
        tokens, token = -(-T // c.latents_per_token), c.latent_channels * c.latents_per_token
        per_token = c.depth * (6 * c.width**2 + 3 * c.width * c.ff_inner) + 2 * token * c.width
        attention = c.depth * 2 * tokens * (tokens + S) * c.width
        scalars = sum(name not in TIMED for name in c.conditions)
        per_item = (scalars * c.features + c.text_dim + 7 * c.width) * c.width
        return 2 * (tokens * per_token + attention + per_item)

    def text_flops(self, S: int) -> int:
        """Floating-point operations of `encode_text` for one prompt of S tokens, counted as in `flops`."""
        return 2 * S * self.config.width * (self.config.text_dim + 2 * self.config.depth * self.config.width)
