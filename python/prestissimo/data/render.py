# SPDX-License-Identifier: Apache-2.0
"""Render MIDI with FluidSynth: our own pieces, Freedoom's music and Piano Booster's lessons.

FluidSynth is run with limits on time and on the size of its output: version 2.3.1 never ended on one file.
"""

from __future__ import annotations

import resource
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from prestissimo.data.audio import SAMPLE_RATE, checksum
from prestissimo.data.packages import PackageError, find_program

__all__ = ["SOUNDFONT_PACKAGE", "render", "soundfont"]

SOUNDFONT_PACKAGE = "fluid-soundfont-gm"
_SOUNDFONT = "usr/share/sounds/sf2/FluidR3_GM.sf2"
_SHA256 = "74594e8f4250680adf590507a306655a299935343583256f3b722c48a1bc1cb0"

#: 12 minutes of stereo floats; FluidSynth touches more than it keeps: a limit near the true size kills it.
_MAX_BYTES = 256 * 2**20

_MAX_CPU_SECONDS = 90


def soundfont(package_folder: Path) -> Path:
    """Frank Wen's FluidR3 (MIT) in its unpacked package. Raises PackageError where it is not there."""
    path = package_folder / _SOUNDFONT
    if not path.is_file():
        raise PackageError(f"{SOUNDFONT_PACKAGE} holds no {_SOUNDFONT}")
    if checksum([path]) != _SHA256:
        raise PackageError(f"{path.name} is not the sound font that renderings are made with")
    return path


def render(midi: Path, font: Path, seconds: float, timeout: float = 900.0) -> np.ndarray:
    """At most `seconds` of a MIDI file as float32 (N, 2) at 44.1 kHz.

    Raises PackageError where fluidsynth is absent, fails, or overruns its limits of time and size.
    """
    program = find_program("fluidsynth", "render MIDI")
    with tempfile.TemporaryDirectory(prefix="prestissimo-") as folder:
        out = Path(folder) / "out.wav"
        command = [program, "-n", "-i", "-q", "-g", "0.8", "-r", str(SAMPLE_RATE), "-T", "wav", "-O", "float"]
        command += ["-F", str(out), str(font), str(midi)]

        def limits() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_BYTES, _MAX_BYTES))
            resource.setrlimit(resource.RLIMIT_CPU, (_MAX_CPU_SECONDS, _MAX_CPU_SECONDS))

        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout, preexec_fn=limits, check=False
            )
        except subprocess.TimeoutExpired:
            raise PackageError(f"fluidsynth took more than {timeout:.0f} s on {midi.name}") from None
        size = out.stat().st_size if out.exists() else 0
        if size < 1000 or (done.returncode and size < _MAX_BYTES):
            raise PackageError(f"fluidsynth failed on {midi.name}: {done.stderr.strip()[-200:]}")
        with out.open("rb") as file:
            head = file.read(4096)
        start = head.find(b"data")
        if start < 0:
            raise PackageError(f"fluidsynth wrote no WAV data for {midi.name}")
        # A file cut at the size limit has a header without lengths: take what follows it.
        raw = np.fromfile(out, "<f4", offset=start + 8)
    count = min(len(raw) // 2, round(seconds * SAMPLE_RATE))
    audio = raw[: 2 * count].reshape(count, 2)
    if not count or not np.isfinite(audio).all():
        raise PackageError(f"fluidsynth wrote no usable audio for {midi.name}")
    return audio
