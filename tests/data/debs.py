# SPDX-License-Identifier: Apache-2.0
"""Debian packages and archives made on the spot."""

import shutil
import subprocess
import zipfile

import pytest

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")


def make_deb(folder, name, files, version="1.0-1"):
    root = folder / "root"
    shutil.rmtree(root, ignore_errors=True)
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: M <m@example.org>\nDescription: d\n"
    )
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    deb = folder / f"{name}_{version}_all.deb"
    subprocess.run(["dpkg-deb", "-Znone", "-b", str(root), str(deb)], check=True, capture_output=True)
    return deb


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name, data in members.items():
            z.writestr(name, data)
    return path.read_bytes()
