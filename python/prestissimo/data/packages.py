# SPDX-License-Identifier: Apache-2.0
"""Debian packages as data: download without installing, unpack, and take files out of archives inside."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

from prestissimo.data.sources import Source

__all__ = ["PackageError", "find_deb", "find_program", "package_version", "unpack"]

#: A music file above this size is not one of ours; the limit keeps a broken archive from filling the disk.
MAX_MEMBER_BYTES = 64 * 2**20


class PackageError(ValueError):
    """A package cannot be had, unpacked or read; the text says what to do."""


def find_program(program: str, why: str) -> str:
    """Path of a program. Raises PackageError that says what needs it and where it comes from."""
    found = shutil.which(program)
    if found is None:
        raise PackageError(
            f"{program} is needed to {why}; it comes with Debian and Ubuntu (package {_OWNER[program]})"
        )
    return found


_OWNER = {"apt-get": "apt", "dpkg": "dpkg", "fluidsynth": "fluidsynth"}


def package_version(deb: Path) -> str:
    """The upstream-and-Debian version in a package's file name, name_version_architecture.deb.

    >>> package_version(Path("zaz-data_1.0.1-1_all.deb"))
    '1.0.1-1'
    """
    parts = deb.name.split("_")
    if len(parts) != 3 or deb.suffix != ".deb":
        raise PackageError(f"{deb.name} is not named like a Debian package")
    return parts[1].replace("%3a", ":")


def find_deb(package: str, folder: Path, download: bool = True) -> Path:
    """The package's .deb in `folder`, fetched by `apt-get download` where it is missing.

    Raises PackageError where apt-get is absent, fails, or `download` is off and the file is missing.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]+", package):
        raise PackageError(f"{package!r} is not a Debian package name")
    found = sorted(folder.glob(f"{package}_*.deb"))
    if found:
        return found[-1]
    if not download:
        raise PackageError(f"no {package}_*.deb in {folder}; fetch it with: apt-get download {package}")
    program = find_program("apt-get", f"download {package}")
    partial = folder / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    done = subprocess.run([program, "download", package], cwd=partial, capture_output=True, text=True)
    files = list(partial.glob("*.deb"))
    if done.returncode or len(files) != 1:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise PackageError(f"apt-get download {package} failed (run apt-get update?): {last}")
    target = folder / files[0].name
    files[0].replace(target)
    shutil.rmtree(partial, ignore_errors=True)
    return target


def unpack(deb: Path, source: Source, folder: Path) -> Path:
    """Unpack `deb` below `folder` and return the folder that track paths start from.

    Of an archive inside the package only the music below `source.root`, its text and nothing else is taken.
    A finished package is marked by a file, so that a killed run starts that package again.
    """
    target = folder / source.package
    mark = folder / f".{source.package}.{package_version(deb)}"
    if not mark.exists():
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        done = subprocess.run(
            [find_program("dpkg", "unpack packages"), "-x", str(deb), str(target)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise PackageError(f"dpkg -x {deb.name} failed: {done.stderr.strip()}")
        if source.archive:
            _extract(target / source.archive, source.root, target / "archive")
            (target / source.archive).unlink()
        mark.touch()
    return target / "archive" if source.archive else target


def _extract(archive: Path, root: str, folder: Path) -> None:
    with contextlib.ExitStack() as stack:
        try:
            zipped = stack.enter_context(zipfile.ZipFile(archive))
        except (OSError, zipfile.BadZipFile) as error:
            raise PackageError(f"{archive.name} is not a readable zip archive: {error}") from None
        for info in zipped.infolist():
            name = info.filename
            if not name.startswith(root) or info.is_dir() or ".." in Path(name).parts:
                continue
            if Path(name).suffix.lower() not in (".ogg", ".opus", ".txt"):
                continue
            if info.file_size > MAX_MEMBER_BYTES:
                raise PackageError(
                    f"{archive.name}: {name} has {info.file_size} bytes, more than {MAX_MEMBER_BYTES}"
                )
            out = folder / name
            out.parent.mkdir(parents=True, exist_ok=True)
            with zipped.open(info) as reader, out.open("wb") as writer:
                # The header's size may lie: never copy more than the limit.
                left = MAX_MEMBER_BYTES
                while left > 0 and (piece := reader.read(min(1 << 20, left))):
                    writer.write(piece)
                    left -= len(piece)
                if reader.read(1):
                    raise PackageError(f"{archive.name}: {name} is longer than its header says")
