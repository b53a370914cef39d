# SPDX-License-Identifier: Apache-2.0
"""Training data: sources and their licences, the manifest, features on disk, captions of windows."""

from prestissimo.data.manifest import Track, read_manifest
from prestissimo.data.store import FeatureStore, FeatureWriter, StoredTrack

__all__ = ["FeatureStore", "FeatureWriter", "StoredTrack", "Track", "read_manifest"]
