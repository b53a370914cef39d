# SPDX-License-Identifier: Apache-2.0
"""Files appear whole or not at all, and nothing that was there before is lost."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from prestissimo import atomic


def test_existing_files_are_kept_unless_told(tmp_path):
    path = tmp_path / "a.wav"
    atomic.write_bytes(path, b"first")
    with pytest.raises(FileExistsError, match=r"a\.wav"):
        atomic.write_bytes(path, b"second")
    assert path.read_bytes() == b"first"
    atomic.write_bytes(path, b"third", overwrite=True)
    assert path.read_bytes() == b"third"
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


def test_a_file_made_meanwhile_is_kept(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    fsync = os.fsync

    def another_process_is_faster(handle):
        path.write_bytes(b"theirs")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", another_process_is_faster)
    with pytest.raises(FileExistsError):
        atomic.write_bytes(path, b"ours")
    assert path.read_bytes() == b"theirs"
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, failure):
    path = tmp_path / "a.wav"
    path.write_bytes(b"old")

    def fail(handle):
        raise failure

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(type(failure)) as caught:
        atomic.write_bytes(path, b"new" * 1000, overwrite=True)
    if isinstance(failure, OSError):
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


def test_file_systems_without_hard_links_work(tmp_path, monkeypatch):
    def no_links(source, target):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    assert atomic.write_bytes(tmp_path / "a.wav", b"abc").read_bytes() == b"abc"


def test_links_modes_and_devices(tmp_path):
    target, link = tmp_path / "target.wav", tmp_path / "link.wav"
    target.write_bytes(b"old")
    link.symlink_to(target)
    atomic.write_bytes(link, b"new", overwrite=True)
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    umask = os.umask(0o022)
    os.umask(umask)
    made = atomic.write_bytes(tmp_path / "b.wav", b"abc")
    assert stat.S_IMODE(made.stat().st_mode) == 0o666 & ~umask
    atomic.write_bytes("/dev/null", b"abc")


def test_destinations_are_checked_before_the_work(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        atomic.check_destination(tmp_path / "absent" / "a.wav")
    with pytest.raises(IsADirectoryError):
        atomic.check_destination(tmp_path, overwrite=True)
    atomic.check_destination(tmp_path / "a.wav")
    assert list(tmp_path.iterdir()) == []


def test_blocks_that_write_by_themselves(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"old")

    def fail_halfway():
        with atomic.atomic_path(path) as part:
            part.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert path.read_bytes() == b"old"
    with atomic.atomic_path(path) as part:
        part.write_bytes(b"whole")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"whole"
    assert [p.name for p in tmp_path.iterdir()] == ["weights.bin"]
