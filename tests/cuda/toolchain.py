# SPDX-License-Identifier: Apache-2.0
"""nvcc, ptxas and g++ for the CUDA lanes: what is built from what, kept in a cache keyed by a hash of its
sources.

PTX is compiled once for each target and is the artefact that is verified: cubins are built by ptxas from
that very PTX.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("PRESTISSIMO_CUDA_CACHE", ROOT / "build" / "cuda-lanes"))

TARGETS = (80, 90, 100, 120)
NVCC_FLAGS = ("-std=c++17", "-O3")  # those of CMakeLists.txt: the verified PTX is the shipped one
PTXAS_FLAGS = ("--warn-on-spills", "--warn-on-local-memory-usage", "--warning-as-error")
JOBS = 2


class BuildError(Exception):
    """A compiler said no; the text is what it said."""


def find(tool: str) -> str | None:
    """nvcc and ptxas may lie under CUDA_HOME only."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return shutil.which(tool) or shutil.which(tool, path=f"{home}/bin")


def cuda_include() -> str | None:
    """The headers beside nvcc: the host lane takes NVIDIA's 16-bit types from them."""
    nvcc = find("nvcc")
    homes = [os.environ.get("CUDA_HOME", "/usr/local/cuda")]
    if nvcc:
        homes.append(str(Path(nvcc).resolve().parents[1]))
    for home in homes:
        if (Path(home) / "include" / "cuda_bf16.h").exists():
            return str(Path(home) / "include")
    return None


def missing_for(lane: str) -> str | None:
    """Why a lane cannot run here, or None."""
    if lane == "ptx" and not (find("nvcc") and find("ptxas")):
        return "nvcc or ptxas is not installed: the PTX interpreter lane has no PTX to run"
    if not find("g++"):
        return "g++ is not installed: the host lane and the launch plans cannot be compiled"
    if not cuda_include():
        return "CUDA's headers (cuda_bf16.h) are not installed: the host lane has no 16-bit types"
    return None


def _run(command: Sequence[str | Path]) -> str:
    """Output and errors together."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def _included(source: Path, seen: dict[Path, bytes]) -> None:
    """`source` and every header of ours that it includes, in `seen`."""
    if source in seen or not source.exists():
        return
    text = source.read_bytes()
    seen[source] = text
    for name in re.findall(rb'^\s*#include "([^"]+)"', text, re.M):
        for base in (source.parent, CSRC, HERE):
            _included((base / name.decode()).resolve(), seen)


_versions: dict[str, str] = {}


def version(tool: str) -> str:
    if tool not in _versions:
        _versions[tool] = subprocess.run(
            [tool, "--version"], capture_output=True, text=True, check=True
        ).stdout
    return _versions[tool]


def _key(sources: Iterable[Path], *words: str) -> str:
    seen: dict[Path, bytes] = {}
    for s in sources:
        _included(s.resolve(), seen)
    h = hashlib.sha256("\0".join(words).encode())
    for path in sorted(seen):
        h.update(path.name.encode() + b"\0" + seen[path] + b"\0")
    return h.hexdigest()[:24]


def source_hash(sources: Iterable[Path]) -> str:
    """Of these files and every header of ours that they include."""
    return _key(sources)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time makes `path`: the others wait and find it made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _cached(path: Path, make: list[str | Path]) -> Path:
    """Run `make` with OUT replaced by a fresh path, then rename: a half-written file is never taken for a
    whole one.
    """
    if path.exists():
        return path
    with _alone(path):
        if path.exists():
            return path
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            out = Path(folder) / path.name
            _run([out if word == "OUT" else word for word in make])
            out.rename(path)
    return path


# ---- PTX and cubins ----------------------------------------------------------------------------------------


def ptx(source: Path, target: int, csrc: Path = CSRC) -> str:
    """The PTX of one .cu or .cuh for compute_<target>."""
    nvcc = find("nvcc")
    assert nvcc
    words = [*NVCC_FLAGS, f"-arch=compute_{target}"]
    path = CACHE / "ptx" / f"{source.stem}-{target}-{_key([source], version(nvcc), *words)}.ptx"
    make: list[str | Path] = [nvcc, *words, "-I", csrc, "-x", "cu", "-ptx", source, "-o", "OUT"]
    return _cached(path, make).read_text()


def ptx_hash(text: str) -> str:
    """Of what the PTX does: comments and blank lines aside."""
    lines = (line.split("//")[0].strip() for line in text.split("\n"))
    return hashlib.sha256("\n".join(line for line in lines if line).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Cubin:
    path: Path
    log: str  # ptxas -v: registers, shared memory, spills of each kernel


def cubin(text: str, name: str, target: int) -> Cubin:
    """SASS for sm_<target> from this very PTX; spills and local memory are errors."""
    ptxas = find("ptxas")
    assert ptxas
    key = hashlib.sha256((text + version(ptxas) + " ".join(PTXAS_FLAGS)).encode()).hexdigest()[:24]
    folder = CACHE / "cubin" / f"{name}-{target}-{key}"
    if not (folder / "log").exists():
        with _alone(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "in.ptx").write_text(text)
            out, source = folder / "out.cubin", folder / "in.ptx"
            log = _run([ptxas, "-v", *PTXAS_FLAGS, f"-arch=sm_{target}", source, "-o", out])
            (folder / "log").write_text(log)
    return Cubin(folder / "out.cubin", (folder / "log").read_text())


# ---- the host lane -----------------------------------------------------------------------------------------

_EMULATOR = ("fiber", "block", "memory", "worker")
_MODES: dict[str, tuple[list[str], list[str]]] = {  # flags of everything, flags of the kernels alone
    "plain": (["-O2"], []),
    "asan": (["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"], []),
    # the compiler's hooks without its runtime: they land in races.cpp
    "race": (["-O1", "-DEMULATOR_RACES"], ["-fsanitize=thread", "-fno-threadsafe-statics"]),
}
_WARNINGS = (
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-attributes",
    "-Wno-unknown-pragmas",
    "-Wno-parentheses",
    "-Wno-tsan",
)


def worker(mode: str, kernels: Sequence[Path], csrc: Path = CSRC, optimise: bool = True) -> Path:
    """The host-lane executable for kernel files (.cuh), each with its <NAME>_KERNELS and <NAME>_PLANS."""
    gxx, include = find("g++") or "g++", cuda_include() or ""
    common, of_kernels = _MODES[mode]
    base: list[str | Path] = [gxx, "-std=c++20", "-g", *common, "-isystem", include, *_WARNINGS]
    sources = [CSRC / "emulator" / f"{n}.cpp" for n in (*_EMULATOR, *(["races"] if mode == "race" else []))]
    jobs: list[tuple[Path, list[str | Path]]] = []
    for source in [*sources, CSRC / "array.cpp"]:
        key = _key([source], version(gxx), *map(str, base))
        out = CACHE / "host" / f"{mode}-{source.stem}-{key}.o"
        jobs.append((out, [*base, "-I", CSRC, "-c", source, "-o", "OUT"]))
    for cuh in kernels:
        unit = _registration(cuh)
        flags: list[str | Path] = [*of_kernels, *([] if optimise else ["-O0"]), "-I", csrc]
        key = _key([unit, cuh], version(gxx), *map(str, base), *map(str, flags))
        out = CACHE / "host" / f"{mode}-{cuh.stem}-{key}.o"
        jobs.append((out, [*base, *flags, "-c", unit, "-o", "OUT"]))
    with ThreadPoolExecutor(JOBS) as pool:
        objects = list(pool.map(lambda job: _cached(*job), jobs))
    name = hashlib.sha256(" ".join(o.name for o in objects).encode()).hexdigest()[:24]
    return _cached(CACHE / "host" / f"{mode}-{name}", [gxx, *common, *objects, "-o", "OUT"])


_UNIT = """// Generated: the kernels and plans of {name}.cuh, by name.
#include "{path}"

#include "emulator/register_op.h"

namespace prestissimo::cuda {{
EMULATED_OP({upper}_KERNELS, {upper}_PLANS)
}}
"""


def _registration(cuh: Path) -> Path:
    text = _UNIT.format(name=cuh.stem, path=cuh.resolve(), upper=cuh.stem.upper())
    path = CACHE / "host" / f"{cuh.stem}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.cpp"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return path
