# SPDX-License-Identifier: Apache-2.0
"""Networks made of ops: the diffusion transformer, its text encoder, the codec and Oobleck's decoder."""

from prestissimo.nn.codec import MelCodec, MelCodecConfig
from prestissimo.nn.dit import DiT, DiTConfig, TextContext
from prestissimo.nn.oobleck import OobleckConfig, OobleckDecoder
from prestissimo.nn.packing import PackedLinear, pack_linears, parameter_count, plain_linears
from prestissimo.nn.text_encoder import TextEncoder, TextEncoderConfig, TextTokens

__all__ = [
    "DiT",
    "DiTConfig",
    "MelCodec",
    "MelCodecConfig",
    "OobleckConfig",
    "OobleckDecoder",
    "PackedLinear",
    "TextContext",
    "TextEncoder",
    "TextEncoderConfig",
    "TextTokens",
    "pack_linears",
    "parameter_count",
    "plain_linears",
]
