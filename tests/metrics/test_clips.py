# SPDX-License-Identifier: Apache-2.0
import logging
from dataclasses import dataclass
from pathlib import Path

import pytest
import soundfile
import torch

from prestissimo.metrics.clips import audio_files, evenly, folder_clips, stored_clips


@dataclass(frozen=True)
class FakeTrack:
    id: str
    samples: int
    level: float = 0.5


class FakeStore:
    tracks = (
        FakeTrack("one", 1_000),
        FakeTrack("short", 99),
        FakeTrack("silent", 300, 0.0),
        FakeTrack("two", 250),
    )

    def select(self, split: str | None = None, package: str | None = None) -> list[FakeTrack]:
        return list(self.tracks) if split == "heldout" else []

    def audio(self, track: FakeTrack, start: int = 0, count: int | None = None) -> torch.Tensor:
        assert count is not None
        assert start + count <= track.samples
        return torch.full((2, count), track.level * (1 + start / 10_000))


def test_stored_windows_do_not_overlap_nor_hold_silence() -> None:
    found = stored_clips(FakeStore(), samples=100)
    assert found.tracks == ["one"] * 10 + ["two"] * 2
    assert {tuple(c.shape) for c in found.clips} == {(2, 100)}
    assert len({float(c[0, 0]) for c in found.clips[:10]}) == 10
    assert len(stored_clips(FakeStore(), samples=100, count=5)) <= 5
    with pytest.raises(ValueError, match="split 'train'"):
        stored_clips(FakeStore(), "train")


def test_evenly_keeps_both_ends() -> None:
    assert evenly(range(100), 4) == [0, 33, 66, 99]
    assert evenly(range(3), 9) == evenly(range(3), None) == [0, 1, 2]
    with pytest.raises(ValueError, match="count"):
        evenly(range(3), 0)


def test_folder_of_mixed_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "sub").mkdir()
    t = torch.arange(22_050 * 3) / 22_050
    soundfile.write(tmp_path / "mono.wav", (0.3 * torch.sin(2 * torch.pi * 440 * t)).numpy(), 22_050)
    soundfile.write(tmp_path / "sub" / "b.flac", torch.rand(44_100, 2).numpy() - 0.5, 44_100)
    (tmp_path / "broken.ogg").write_bytes(b"OggS no audio")
    (tmp_path / "notes.txt").write_text("not audio")
    with caplog.at_level(logging.WARNING, logger="prestissimo"):
        found = folder_clips(tmp_path, seconds=1.0)
    assert found.tracks == ["mono.wav"] * 3 + ["sub/b.flac"]
    assert {tuple(c.shape) for c in found.clips} == {(2, 44_100)}
    assert "broken.ogg" in caplog.text
    assert [c.shape[1] for c in folder_clips(tmp_path).clips] == [132_300, 44_100]
    three = folder_clips(tmp_path, seconds=0.5, count=3)
    assert three.tracks == ["mono.wav", "mono.wav", "sub/b.flac"]
    whole = folder_clips(tmp_path).clips[1]
    torch.testing.assert_close(three.clips[2], whole[:, 22_050:])


def test_sets_are_read_when_asked(tmp_path: Path) -> None:
    found = stored_clips(FakeStore(), samples=100)
    half = found.map(lambda clip: clip / 2).take(4)
    assert half.tracks == [found.tracks[i] for i in (0, 4, 7, 11)]
    for i, j in enumerate((0, 4, 7, 11)):
        torch.testing.assert_close(half.clips[i], found.clips[j] / 2)
    assert len(found.clips[2:5]) == 3


def test_folders_without_audio(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no audio file"):
        audio_files(tmp_path)
    with pytest.raises(NotADirectoryError):
        folder_clips(tmp_path / "absent")
    soundfile.write(tmp_path / "a.wav", torch.rand(4_410, 2).numpy(), 44_100)
    with pytest.raises(ValueError, match="no readable audio of 5"):
        folder_clips(tmp_path, seconds=5)
    with pytest.raises(ValueError, match="seconds"):
        folder_clips(tmp_path, seconds=-1)
