# SPDX-License-Identifier: Apache-2.0
"""Networks made of ops: the diffusion transformer, its text encoder and the codec."""

from prestissimo.nn.dit import DiT, DiTConfig, TextContext

__all__ = ["DiT", "DiTConfig", "TextContext"]
