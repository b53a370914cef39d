# SPDX-License-Identifier: Apache-2.0
"""Bugs planted into copies of the kernels' sources, and which lanes must catch them: tests of the testers.

A lane is plain, asan or race (the host lane's builds) or ptx. `late` and `early` say when cp.async copies land;
`ordered` has the threads of a block run in turn, `level` no warp ahead of the others. A lane that is not named for a
bug may miss it, for a reason that the bug's note gives where it is not plain; where the reason is the schedule, the
lane is named in `missed_by` and must miss it: that is why there are others.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import adaln_modulate, probes, toolchain
from .cases import Outcome
from .devices import HostDevice, HostOptions, PtxDevice, SanitizerError
from .lanes import PROBES
from .ptx import Module, Options
from .toolchain import CSRC


@dataclass(frozen=True)
class Bug:
    name: str
    file: str  # below csrc/, or probes.cuh
    old: str
    new: str
    case: Any
    caught_by: tuple[str, ...]  # lane, or lane-late, lane-early, lane-early-ordered, ...
    note: str = ""
    missed_by: tuple[str, ...] = ()
    silent_in: tuple[str, ...] = ()  # of caught_by: a checker alone notices, the results are right

    @property
    def op(self) -> str:
        return "probes" if isinstance(self.case, probes.Case) else "adaln_modulate"


def _rows(channels: int, **options: Any) -> adaln_modulate.Case:
    return adaln_modulate.Case(2, 3, channels, "bfloat16", weight=True, bias=True, **options)


_REDUCE, _KERNEL, _BODY = "cuda/reduce.cuh", "cuda/adaln_modulate.cuh", "cuda/adaln_rows.cuh"
_ROWS, _MOMENTS, _COLUMNS = "cuda/rows.cuh", "cuda/row_moments.cuh", "cuda/column_sums.cuh"
_HOST = ("plain", "asan", "race")

BUGS = [
    Bug(
        "no barrier between the warps' sums and their readers",
        _REDUCE,
        "  __syncthreads();\n#pragma unroll\n",
        "#pragma unroll\n",
        _rows(1536),
        (*_HOST, "ptx"),
    ),
    Bug(
        "scratch of the first sum used again for the second",
        _MOMENTS,
        "block_sum(moments, scratch + kMaxWarps);",
        "block_sum(moments, scratch);",
        _rows(1536),
        ("race", "ptx"),
        "a write after read: the output is right unless one warp is a whole sum ahead of another",
    ),
    Bug(
        "one vector read past the end of a row",
        _ROWS,
        "if (first + k * step < channels) f(k",
        "if (first + k * step <= channels) f(k",
        _rows(520),
        ("asan", "race", "ptx"),
        "plain: the value read decides whether the output shows it",
    ),
    Bug(
        "shared array two warps too short",
        _BODY,
        "SHARED_ARRAY(float, scratch, 3 * kMaxWarps);",
        "SHARED_ARRAY(float, scratch, 2 * kMaxWarps + 1);",
        _rows(1536, backward=False),
        (*_HOST, "ptx"),
    ),
    Bug(
        "16-byte loads from an odd address",
        _ROWS,
        ": row(row_) {",
        ": row(row_ + 1) {",
        _rows(256, backward=False),
        ("asan", "ptx"),
    ),
    Bug(
        "a barrier reached on two lines",
        _REDUCE,
        "  __syncthreads();\n#pragma unroll\n",
        "  if (threadIdx.x < 32)\n    __syncthreads();\n  else\n    __syncthreads();\n#pragma unroll\n",
        _rows(1536),
        _HOST,
        "ptx: the two are one barrier of the block since sm_70",
    ),
    Bug(
        "half a warp waits at a barrier for what the other half shuffles",
        _REDUCE,
        "  __syncthreads();\n#pragma unroll\n",
        "  if (lane < 16) __syncthreads();\n#pragma unroll\n",
        _rows(1536, backward=False),
        ("plain", "asan", "ptx"),
    ),
    Bug(
        "half a warp shuffles under a full mask",
        _REDUCE,
        "for (int i = 0; i < N; ++i) v[i] = warp_sum(v[i]);\n  if (warps == 1)",
        "for (int i = 0; i < N; ++i)\n    if (lane < 16) v[i] = warp_sum(v[i]);\n  if (warps == 1)",
        _rows(1536),
        (*_HOST, "ptx"),
    ),
    Bug(
        "a row's deviation is never stored",
        _BODY,
        "    a.statistics[2 * (b * f.time + t) + 1] = s.rstd;\n",
        "",
        _rows(64),
        (*_HOST, "ptx"),
    ),
    Bug(
        "samples write the same partial sums",
        _BODY,
        "((where[k] * f.batch + b) * a.blocks + at.block)",
        "(where[k] * f.batch * a.blocks + at.block)",
        _rows(64),
        (*_HOST, "ptx"),
    ),
    Bug(
        "wrong sign in dx",
        _BODY,
        "g[i] - mean[0] - n[i] * mean[1]",
        "g[i] + mean[0] - n[i] * mean[1]",
        _rows(64),
        (*_HOST, "ptx"),
    ),
    Bug(
        "channel groups of a tile added before all have arrived",
        _COLUMNS,
        "  Row::put(tile + at.group * Row::kFloats, at.lane, sum);\n  __syncthreads();\n",
        "  Row::put(tile + at.group * Row::kFloats, at.lane, sum);\n  __syncwarp();\n",
        adaln_modulate.Case(1, 70, 64, "bfloat16"),
        (*_HOST, "ptx"),
    ),
    Bug(
        "wait_group one too weak",
        "probes.cuh",
        "ptx::cp_async_wait<1>();",
        "ptx::cp_async_wait<2>();",
        probes.Case("attention", 97),
        ("plain-late", "asan-late", "race-late", "race-early", "ptx-late", "ptx-early"),
        "plain and asan early: the bytes are there by luck",
        missed_by=("plain-early", "asan-early"),
    ),
    Bug(
        "no barrier before a buffer is filled again",
        "probes.cuh",
        "    __syncthreads();  // this buffer is free for the tile after next\n",
        "",
        probes.Case("attention", 134),
        (
            *("plain-early", "asan-early", "ptx-late", "ptx-early"),
            *("race-late", "race-early", "race-late-ordered", "race-early-ordered"),
        ),
        "plain and asan late: the old bytes are read before the new ones land; early without a warp far ahead: too",
        missed_by=("plain-late", "asan-late", "plain-early-ordered", "plain-early-level"),
        silent_in=("ptx-late", "ptx-early"),
    ),
    Bug(
        "no warp barrier between plain stores and ldmatrix",
        "probes.cuh",
        "    __syncwarp();\n    uint32_t a[4], b[2];\n",
        "    uint32_t a[4], b[2];\n",
        probes.Case("product", 32),
        ("race", "ptx"),
        "plain and asan: the emulated ldmatrix meets all lanes, so the output is right",
    ),
    Bug(
        "fragments of V not transposed",
        "probes.cuh",
        "ptx::ldmatrix<true>(b, &v_tile",
        "ptx::ldmatrix<false>(b, &v_tile",
        probes.Case("attention", 33),
        (*_HOST, "ptx"),
    ),
    Bug(
        "a histogram without atomics",
        "probes.cuh",
        "atomicAdd(&bins[v & (kBins - 1)], 1);",
        "bins[v & (kBins - 1)] += 1;",
        probes.Case("atomics", 50),
        ("race", "ptx"),
        "plain and asan: one OS thread loses no update",
    ),
]

# Planted copies need one storage type only: what they cost is compiling.
_OTHER_TYPES = (
    "M(f32_x4, float, 4, __VA_ARGS__)",
    "M(f32_x1, float, 1, __VA_ARGS__)",
    "M(bf16_x1, bf16, 1, __VA_ARGS__)",
    "M(f16_x8, f16, 8, __VA_ARGS__)",
    "M(f16_x1, f16, 1, __VA_ARGS__)",
    "M(f32, float, 1, __VA_ARGS__)",
    "M(f16, f16, 1, __VA_ARGS__)",
)


def planted_source(bug: Bug, folder: Path) -> tuple[Path, Path]:
    """(the .cuh to compile, the csrc folder beside it): copies in `folder` with the bug in them."""
    csrc = folder / "csrc"
    shutil.copytree(CSRC, csrc, ignore=shutil.ignore_patterns("cpu"))
    (csrc / "cpu").mkdir()
    shutil.copy(CSRC / "cpu" / "isa.h", csrc / "cpu")
    shutil.copy(PROBES, folder)
    target = folder / bug.file if bug.op == "probes" else csrc / bug.file
    text = _replace_once(target.read_text(), bug.old, bug.new, bug.name)
    target.write_text(text)
    if bug.op == "probes":
        return folder / "probes.cuh", csrc
    instances = csrc / _ROWS
    text = instances.read_text()
    for instance in _OTHER_TYPES:
        text = _replace_once(text, instance, "", "one storage type")
    instances.write_text(text)
    return csrc / _KERNEL, csrc


def _replace_once(text: str, old: str, new: str, name: str) -> str:
    if text.count(old) != 1:
        raise ValueError(f"{name}: the text to damage occurs {text.count(old)} times: {old!r}")
    return text.replace(old, new)


def run(bug: Bug, lane: str, planner: HostDevice) -> Outcome:
    """The bug's case in one lane; a sanitizer's report counts as a finding.

    Every call has copies of its own, so that processes do not meet in them: what is built of them is kept by their
    content.
    """
    kind, *how = lane.split("-")
    late = "early" not in how
    module = {"probes": probes, "adaln_modulate": adaln_modulate}[bug.op]
    with tempfile.TemporaryDirectory() as folder:
        source, csrc = planted_source(bug, Path(folder))
        if kind == "ptx":
            text = toolchain.ptx(source, 80, csrc)
            return module.run(bug.case, PtxDevice(Module(text), Options(cp_async_late=late)), planner)
        executable = toolchain.worker(kind, [source], csrc, optimise=False)
    order = HostOptions(shuffle="ordered" not in how, skew="level" not in how, cp_async_late=late)
    with HostDevice(executable, order) as device:
        try:
            return module.run(bug.case, device, planner)
        except SanitizerError as report:
            return Outcome([str(report)], [])
