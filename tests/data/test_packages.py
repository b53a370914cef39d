# SPDX-License-Identifier: Apache-2.0
import pytest
from tests.data.debs import make_deb, make_zip, needs_dpkg

from prestissimo.data import packages
from prestissimo.data.packages import PackageError, find_deb, find_program, package_version, unpack
from prestissimo.data.sources import Rule, Source


def test_versions_from_names(tmp_path):
    assert package_version(tmp_path / "a-data_1%3a2.3-4_all.deb") == "1:2.3-4"
    with pytest.raises(PackageError, match="not named"):
        package_version(tmp_path / "a.deb")


def test_missing_package_without_download_says_how(tmp_path):
    with pytest.raises(PackageError, match="apt-get download zaz-data"):
        find_deb("zaz-data", tmp_path, download=False)
    with pytest.raises(PackageError, match="not a Debian package name"):
        find_deb("../etc", tmp_path)


def test_missing_programs_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for program in ("apt-get", "dpkg", "fluidsynth"):
        with pytest.raises(PackageError, match=f"{program} is needed to work"):
            find_program(program, "work")


def test_apt_failure_is_one_line(tmp_path, monkeypatch):
    tool = tmp_path / "bin/apt-get"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho first >&2\necho 'E: Unable to locate package' >&2\nexit 100\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    with pytest.raises(PackageError, match="Unable to locate package"):
        find_deb("zaz-data", tmp_path / "debs")


def test_download_lands_whole(tmp_path, monkeypatch):
    tool = tmp_path / "bin/apt-get"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho content > $2_1.0-1_all.deb\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    debs = tmp_path / "debs"
    deb = find_deb("zaz-data", debs)
    assert deb == debs / "zaz-data_1.0-1_all.deb"
    assert [p.name for p in debs.iterdir()] == [deb.name]
    assert find_deb("zaz-data", debs, download=False) == deb


@needs_dpkg
def test_unpack_takes_only_the_music_of_an_archive(tmp_path):
    inner = make_zip(
        tmp_path / "a.zip",
        {"music/a.ogg": b"abc", "music/LICENSE.txt": b"CC0", "maps/b.ogg": b"x", "music/evil.sh": b"x",
         "music/../../out.ogg": b"x"},
    )  # fmt: skip
    deb = make_deb(tmp_path, "game-data", {"usr/share/game/a.zip": inner})
    source = Source("game-data", "music/", (Rule("*", "MIT", "A", "e"),), archive="usr/share/game/a.zip")
    base = unpack(deb, source, tmp_path / "out")
    found = sorted(str(p.relative_to(base)) for p in base.rglob("*") if p.is_file())
    assert found == ["music/LICENSE.txt", "music/a.ogg"]
    assert not list(tmp_path.rglob("out.ogg"))
    mark = next((tmp_path / "out").glob(".game-data.*"))
    (base / "music/a.ogg").unlink()
    unpack(deb, source, tmp_path / "out")
    assert not (base / "music/a.ogg").exists(), "a finished package is not unpacked again"
    mark.unlink()
    unpack(deb, source, tmp_path / "out")
    assert (base / "music/a.ogg").exists(), "an unfinished one is"


@needs_dpkg
def test_bombs_and_broken_archives_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "MAX_MEMBER_BYTES", 1000)
    source = Source("game-data", "music/", (), archive="a.zip")
    deb = make_deb(
        tmp_path, "game-data", {"a.zip": make_zip(tmp_path / "b.zip", {"music/a.ogg": bytes(5000)})}
    )
    with pytest.raises(PackageError, match="5000 bytes"):
        unpack(deb, source, tmp_path / "out")
    deb = make_deb(tmp_path, "game-data", {"a.zip": b"no zip at all"})
    with pytest.raises(PackageError, match="not a readable zip"):
        unpack(deb, source, tmp_path / "out2")
    broken = tmp_path / "other-data_1-1_all.deb"
    broken.write_bytes(b"not a package")
    with pytest.raises(PackageError, match="dpkg -x"):
        unpack(broken, Source("other-data", "", ()), tmp_path / "out3")
