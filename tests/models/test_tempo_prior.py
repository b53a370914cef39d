# SPDX-License-Identifier: Apache-2.0
"""tempo.json: what is written is read, and what is wrong with it is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prestissimo.models.tempo import read_tempo_prior, write_tempo_prior
from prestissimo.tempo import TempoPrior

PRIOR = TempoPrior(
    5.0, 110.0, 0.2, 60.0, 180.0, {"techno": (2.5, 1.1), "slow": (0.5, 0.8), 'a"b': (1.0, 1.0)}
)


def test_what_is_written_is_read_one_word_a_line(tmp_path: Path) -> None:
    assert read_tempo_prior(tmp_path) is None
    path = write_tempo_prior(tmp_path, PRIOR)
    assert read_tempo_prior(tmp_path) == PRIOR
    assert '    "slow": [0.5, 0.8],' in path.read_text().splitlines()
    write_tempo_prior(tmp_path, TempoPrior(5.0, 110.0, 0.2, 60.0, 180.0, {}))
    assert read_tempo_prior(tmp_path).words == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"odds": "many"}, "odds must be of type float"),
        ({"odds": -1}, "odds must be positive"),
        ({"pace": 1}, "must not have 'pace'"),
        ({"words": {"slow": [1.0]}}, r"words\.slow must have 2 entries"),
        ({"words": {"slow": [0, 1]}}, r"words\.slow must be two factors"),
        ({"words": []}, "words must be an object"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = write_tempo_prior(tmp_path, PRIOR)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=rf"tempo\.json.*{message}"):
        read_tempo_prior(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000, b" " * (1 << 20) + b"{}"])
def test_what_is_no_table_of_tempi(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tempo.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"tempo\.json: (not JSON|a table of tempi has at most)"):
        read_tempo_prior(tmp_path)
