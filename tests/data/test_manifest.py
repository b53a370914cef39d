# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest

from prestissimo.data.manifest import HELDOUT_SHARE, MANIFEST, Track, read_manifest, split_of, write_manifest

TRACK = Track("p/a", "p", "1-1", "usr/a.ogg", "A", "Ann", "CC0-1.0", "0" * 64, 30.5, "train", "rock")


def test_round_trip(tmp_path):
    path = tmp_path / "m.tsv"
    tracks = [TRACK, replace(TRACK, id="p/b", path="x/song.ogg|x/guitar.ogg", title='Say "no"', genre="")]
    write_manifest(tracks, path)
    assert read_manifest(path) == tracks
    assert tracks[1].paths == ("x/song.ogg", "x/guitar.ogg")


def test_bad_manifests_say_where(tmp_path):
    path = tmp_path / "m.tsv"
    write_manifest([TRACK, TRACK], path)
    with pytest.raises(ValueError, match="repeats"):
        read_manifest(path)
    write_manifest([TRACK], path)
    path.write_text(path.read_text().replace("train", "test"))
    with pytest.raises(ValueError, match=r"line 2: split must be one of"):
        read_manifest(path)
    path.write_text("id\tname\n")
    with pytest.raises(ValueError, match="columns"):
        read_manifest(path)
    with pytest.raises(ValueError, match="tab"):
        write_manifest([replace(TRACK, title="a\tb")], path)
    with pytest.raises(ValueError, match="sha256"):
        replace(TRACK, sha256="abc")


def test_split_is_a_function_of_the_id_near_its_share():
    draws = [split_of(f"package/track{i}") for i in range(4000)]
    share = draws.count("heldout") / len(draws)
    assert abs(share - HELDOUT_SHARE) < 0.015
    assert draws == [split_of(f"package/track{i}") for i in range(4000)]
    assert split_of("x", evaluation=True) == "heldout_package"


def test_the_shipped_manifest_is_small_and_keeps_its_splits():
    assert MANIFEST.stat().st_size < 500_000
    for t in read_manifest():
        assert t.split == split_of(t.id, t.split == "heldout_package"), t.id
        assert t.seconds >= 20
