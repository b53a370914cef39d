# SPDX-License-Identifier: Apache-2.0
"""Measures of generated and reconstructed music: judges, distances, spectra, text adherence.

>>> from prestissimo.metrics import embed, frechet_distance                      # doctest: +SKIP
>>> real = embed(real_clips, ["MSD_musicnn"])["MSD_musicnn"].mean_embeddings()   # doctest: +SKIP
>>> made = embed(made_clips, ["MSD_musicnn"])["MSD_musicnn"].mean_embeddings()   # doctest: +SKIP
>>> frechet_distance(made, real)                                                 # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prestissimo.metrics.codec import CodecReport, codec_report
    from prestissimo.metrics.embeddings import Judgement, embed
    from prestissimo.metrics.frechet import frechet_distance, frechet_interval
    from prestissimo.metrics.intervals import Interval, bootstrap, bootstrap_mean
    from prestissimo.metrics.musicnn import MusiCNN
    from prestissimo.metrics.spectrum import band_energies, log_mel_l1, side_mid_ratio, spectral_profile

_HOME = {
    "CodecReport": "codec",
    "Interval": "intervals",
    "Judgement": "embeddings",
    "MusiCNN": "musicnn",
    "band_energies": "spectrum",
    "bootstrap": "intervals",
    "bootstrap_mean": "intervals",
    "codec_report": "codec",
    "embed": "embeddings",
    "frechet_distance": "frechet",
    "frechet_interval": "frechet",
    "log_mel_l1": "spectrum",
    "side_mid_ratio": "spectrum",
    "spectral_profile": "spectrum",
}

__all__ = [
    "CodecReport",
    "Interval",
    "Judgement",
    "MusiCNN",
    "band_energies",
    "bootstrap",
    "bootstrap_mean",
    "codec_report",
    "embed",
    "frechet_distance",
    "frechet_interval",
    "log_mel_l1",
    "side_mid_ratio",
    "spectral_profile",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"prestissimo.metrics.{_HOME[name]}"), name)
    raise AttributeError(f"module 'prestissimo.metrics' has no attribute {name!r}")
