# SPDX-License-Identifier: Apache-2.0
"""What each kernel takes on each target: registers, shared memory, spills by ptxas, instructions by cuobjdump.

resources.json is the committed table; `python -m tests.cuda.resources [op ...]` writes it anew, or the rows of these
ops only.
"""

from __future__ import annotations

import collections
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from . import toolchain
from .lanes import OPS, source_of
from .toolchain import HERE, TARGETS

TABLE = HERE / "resources.json"
INSTALL = "pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm"
Resources = dict[str, int]

_USED = re.compile(r"Compiling entry function '(\w+)'.*?Used (\d+) registers(.*?)$", re.S | re.M)
_SASS = re.compile(r"^\s+/\*[0-9a-f]{4,5}\*/\s+(?:\{\s*)?(@!?U?P\w+\s+)?([A-Z][\w.]*)")
# Instructions worth watching: memory by width, tensor cores, exchanges, transcendental functions, divergence.
_WATCHED = ("HMMA", "LDSM", "LDGSTS", "LDG", "STG", "LDS", "STS", "LDL", "STL", "MUFU", "SHFL", "BAR", "BSSY")


def nvcc_version() -> str:
    m = re.search(r"release ([\d.]+), V([\d.]+)", toolchain.version(toolchain.find("nvcc") or "nvcc"))
    return m.group(2) if m else "unknown"


def cuobjdump() -> str | None:
    """With nvdisasm, which it calls: from the PATH, beside nvcc, or the PyPI packages that INSTALL names."""
    if (tool := toolchain.find("cuobjdump")) and toolchain.find("nvdisasm"):
        return tool
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or [] if spec else []:
        for found in Path(folder).glob("*/bin/cuobjdump"):
            if (found.parent / "nvdisasm").exists():
                return str(found)
    return None


def used(op: str, target: int) -> dict[str, Resources]:
    """By kernel: registers, bytes of static shared memory, bytes spilled (always 0: ptxas fails on a spill)."""
    log = toolchain.cubin(toolchain.ptx(source_of(op), target), op, target).log
    table = {}
    for kernel, registers, rest in _USED.findall(log):
        shared = re.search(r"(\d+) bytes smem", rest)
        spills = re.search(r"(\d+) bytes spill stores", log)
        table[kernel] = {
            "registers": int(registers),
            "shared": int(shared.group(1)) if shared else 0,
            "spills": int(spills.group(1)) if spills else 0,
        }
    return table


def instructions(op: str, target: int) -> dict[str, Resources]:
    """By kernel: SASS instructions in all and of each watched kind, memory accesses by width. @!PT never runs."""
    tool = cuobjdump()
    if tool is None:
        raise RuntimeError(f"cuobjdump or nvdisasm is not installed: {INSTALL}")
    cubin = toolchain.cubin(toolchain.ptx(source_of(op), target), op, target).path
    path = f"{os.environ.get('PATH', '')}:{Path(tool).parent}"
    run = subprocess.run(
        [tool, "-sass", str(cubin)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PATH": path},
    )
    text = run.stdout
    counts: dict[str, collections.Counter[str]] = {}
    kernel = ""
    for line in text.split("\n"):
        if m := re.search(r"Function : (\S+)", line):
            kernel = m.group(1)
            counts[kernel] = collections.Counter()
        elif (m := _SASS.match(line)) and kernel:
            guard, name = m.groups()
            base = name.split(".")[0]
            if (guard or "").strip() == "@!PT" or base == "NOP":
                continue
            counts[kernel]["sass"] += 1
            if base in _WATCHED:
                width = re.search(r"\.(128|64)\b", name) if base in ("LDG", "STG", "LDGSTS") else None
                counts[kernel][f"{base}.{width.group(1)}" if width else base] += 1
    return {k: dict(sorted(c.items())) for k, c in counts.items()}


def measure(ops: Sequence[str]) -> dict[str, dict[str, Resources]]:
    """By "op/sm_target" and kernel."""
    table: dict[str, dict[str, Resources]] = {}
    for op in ops:
        for target in TARGETS:
            rows, sass = used(op, target), instructions(op, target)
            table[f"{op}/sm_{target}"] = {k: rows[k] | sass[k] for k in sorted(rows)}
    return table


def write(ops: Sequence[str]) -> None:
    """One line a kernel, so that a change shows as the line that changed."""
    lines = ["{", f' "nvcc": "{nvcc_version()}",']
    known = (committed() if TABLE.exists() else {}) | measure(ops)
    units = [f"{op}/sm_{target}" for op in OPS for target in TARGETS]
    table = {unit: known[unit] for unit in units if unit in known}
    for i, (unit, kernels) in enumerate(table.items()):
        lines.append(f' "{unit}": {{')
        rows = [f'  "{k}": {json.dumps(v)}' for k, v in kernels.items()]
        lines += [r + "," for r in rows[:-1]] + rows[-1:]
        lines.append(" }" + "," * (i + 1 < len(table)))
    TABLE.write_text("\n".join([*lines, "}"]) + "\n")


def committed() -> dict[str, dict[str, Resources]]:
    return {k: v for k, v in json.loads(TABLE.read_text()).items() if k != "nvcc"}


def committed_nvcc() -> str:
    return str(json.loads(TABLE.read_text())["nvcc"])


if __name__ == "__main__":
    write(sys.argv[1:] or OPS)
    print(f"wrote {TABLE}")
