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
    from prestissimo.metrics.attributes import Attributes, measure_attributes, tempo_matches
    from prestissimo.metrics.clips import ClipSet, folder_clips, stored_clips
    from prestissimo.metrics.codec import CodecReport, codec_report
    from prestissimo.metrics.embeddings import Judgement, embed
    from prestissimo.metrics.frechet import frechet_distance, frechet_interval
    from prestissimo.metrics.intervals import Interval, bootstrap, bootstrap_mean
    from prestissimo.metrics.musicnn import MusiCNN
    from prestissimo.metrics.quick import QuickReport, quick_report, reference_embeddings
    from prestissimo.metrics.spectrum import band_energies, log_mel_l1, side_mid_ratio, spectral_profile
    from prestissimo.metrics.tags import TagFollowing, tag_following

_HOME = {
    "Attributes": "attributes",
    "ClipSet": "clips",
    "CodecReport": "codec",
    "Interval": "intervals",
    "Judgement": "embeddings",
    "MusiCNN": "musicnn",
    "QuickReport": "quick",
    "TagFollowing": "tags",
    "band_energies": "spectrum",
    "bootstrap": "intervals",
    "bootstrap_mean": "intervals",
    "codec_report": "codec",
    "embed": "embeddings",
    "folder_clips": "clips",
    "frechet_distance": "frechet",
    "frechet_interval": "frechet",
    "log_mel_l1": "spectrum",
    "measure_attributes": "attributes",
    "quick_report": "quick",
    "reference_embeddings": "quick",
    "side_mid_ratio": "spectrum",
    "spectral_profile": "spectrum",
    "stored_clips": "clips",
    "tag_following": "tags",
    "tempo_matches": "attributes",
}

__all__ = [
    "Attributes",
    "ClipSet",
    "CodecReport",
    "Interval",
    "Judgement",
    "MusiCNN",
    "QuickReport",
    "TagFollowing",
    "band_energies",
    "bootstrap",
    "bootstrap_mean",
    "codec_report",
    "embed",
    "folder_clips",
    "frechet_distance",
    "frechet_interval",
    "log_mel_l1",
    "measure_attributes",
    "quick_report",
    "reference_embeddings",
    "side_mid_ratio",
    "spectral_profile",
    "stored_clips",
    "tag_following",
    "tempo_matches",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"prestissimo.metrics.{_HOME[name]}"), name)
    raise AttributeError(f"module 'prestissimo.metrics' has no attribute {name!r}")
