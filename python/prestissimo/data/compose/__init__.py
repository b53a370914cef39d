# SPDX-License-Identifier: Apache-2.0
"""A small composer: pieces in many styles from a seed, with every fact that a caption can name."""

from prestissimo.data.compose.piece import Piece, compose
from prestissimo.data.compose.styles import STYLES

__all__ = ["STYLES", "Piece", "compose"]
