# SPDX-License-Identifier: Apache-2.0
"""`prestissimo doctor`: what was found here, what will be used, and how to get what is missing."""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from prestissimo._version import __version__

__all__ = ["advise", "doctor", "examine"]

_LIBRARIES = (
    "torch",
    "numpy",
    "safetensors",
    "tokenizers",
    "soundfile",
    "soxr",
    "pyloudnorm",
    "typer",
    "rich",
)

# extra: the modules that tell whether it is there
_EXTRAS = {
    "plot": ("matplotlib",),
    "bench": ("pytest_benchmark", "onnx", "onnxruntime", "openvino", "entmax", "ot"),
    "data": ("mido",),
    "train": ("tensorboard", "accelerate"),
    "test": ("pytest", "hypothesis", "ruff", "mypy"),
    "numba": ("numba",),
    "nvtx": ("nvtx",),
    "cupy": ("cupy",),
}
#: 12 s by the default steps, the fastest of four in turn with the pure-Python package and with the compiled one.
_WITHOUT_KERNELS = "12 s of music took 1.5 times as long (AMD Zen 4, 1 thread, 2026-11-23)"
_FOR_A_GPU = ("nvtx", "cupy")  # extras that are not missed where there is no driver


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show versions, CPU, threads, CUDA, engines, models and extras, and how to get what is missing.

    Exits with 1 where the main job, `prestissimo generate`, cannot run.
    """
    found = examine()
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        _print(found)
    if any(a["severity"] == "error" for a in found["advice"]):
        raise typer.Exit(1)


def examine() -> dict[str, Any]:
    """Everything that `doctor` prints, as JSON-ready values."""
    found: dict[str, Any] = {
        "prestissimo": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
    }
    found["kernels"] = _kernels()
    found["cpu"] = _cpu(found["kernels"])
    found["cuda"] = _cuda(found["kernels"])
    found["engines"] = _engines(found["libraries"]["torch"])
    found["models"] = _models()
    found["extras"] = {
        extra: {module: importlib.util.find_spec(module) is not None for module in modules}
        for extra, modules in _EXTRAS.items()
    }
    found["advice"] = advise(found)
    return found


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _kernels() -> dict[str, Any]:
    """The compiled module: what it was built with, which instruction sets it carries, which one runs."""
    from prestissimo import ops  # which sets the instruction set that PRESTISSIMO_ISA asks for

    try:
        from prestissimo import _core
    except ImportError as error:
        return {"compiled": ops.compiled(), "reason": str(error)}
    return {
        "compiled": True,
        "build": _core.build_info(),
        "isa": _core.isa(),
        "supported_isas": list(_core.supported_isas()),
        "threads": _core.max_threads(),
        "ops": sorted(_core.op_names),
    }


def _cpu(kernels: dict[str, Any]) -> dict[str, Any]:
    """Processor, cores this process may use, and the vector instructions the system reports."""
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines():
            name, _, value = line.partition(":")
            fields[name.strip()] = value.strip()
    except OSError:
        pass
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    known = (
        "avx2",
        "fma",
        "f16c",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512_vnni",
        "avx512_bf16",
        "amx_int8",
    )
    usable = getattr(os, "sched_getaffinity", None)
    cpu: dict[str, Any] = {
        "model": fields.get("model name") or platform.processor() or platform.machine(),
        "family": fields.get("cpu family"),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": len(usable(0)) if usable else os.cpu_count(),
        "vector_instructions": [flag for flag in (*known, "amx_bf16", "asimd", "sve") if flag in flags],
        "isa_used": kernels.get("isa"),
        "environment": {
            name: os.environ[name]
            for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_PROC_BIND", "PRESTISSIMO_ISA")
            if name in os.environ
        },
    }
    if importlib.util.find_spec("torch") is not None:
        import torch

        cpu["torch_threads"] = torch.get_num_threads()
        cpu["torch_capability"] = torch.backends.cpu.get_cpu_capability()
    return cpu


def _cuda(kernels: dict[str, Any]) -> dict[str, Any]:
    """The kernels' own CUDA build, torch's, the driver's newest CUDA version, and the devices."""
    found: dict[str, Any] = {
        "kernels": (kernels.get("build") or {}).get("cuda"),
        "torch": None,
        "driver": _driver_version(),
        "cublaslt": _cublaslt(),
        "devices": [],
    }
    if importlib.util.find_spec("torch") is None:
        return found
    import torch

    found["torch"] = torch.version.cuda
    if torch.version.cuda is not None and torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(i)
            found["devices"].append(
                {
                    "name": properties.name,
                    "compute_capability": f"{properties.major}.{properties.minor}",
                    "memory_mb": properties.total_memory // 2**20,
                }
            )
    return found


def _cublaslt() -> str | None:
    """The cuBLASLt of a toolkit or of the extra "cuda", for arrays that are not torch's; None without one."""
    from prestissimo.ops.cublaslt import cublaslt_of_wheel

    named = (
        os.environ.get("PRESTISSIMO_CUBLASLT") or cublaslt_of_wheel() or ctypes.util.find_library("cublasLt")
    )
    return None if named is None else str(named)


def _driver_version() -> str | None:
    """The newest CUDA version that the installed driver runs, from the driver itself; None without one."""
    name = ctypes.util.find_library("cuda") or ("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return None
    version = ctypes.c_int(0)
    if driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _engines(torch_version: str | None) -> list[dict[str, Any]]:
    if torch_version is None:
        return [{"name": "torch", "available": False, "reason": "torch is not installed"}]
    from prestissimo.engines import ENGINES

    reasons = {name: engine.unavailable() for name, engine in ENGINES.items()}
    return [{"name": name, "available": why is None, "reason": why} for name, why in reasons.items()]


def _models() -> list[dict[str, Any]]:
    """Every bundled model: the size and SHA-256 of each of its files."""
    folder = Path(__file__).parents[1] / "models" / "weights"
    models = []
    for model in sorted(p for p in folder.glob("*") if (p / "config.json").is_file()):
        files = [
            {
                "file": path.name,
                "bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path in sorted(model.iterdir())
            if path.suffix in (".safetensors", ".json")
        ]
        models.append({"name": model.name, "folder": str(model), "files": files, "damage": _damage(model)})
    return models


def _damage(model: Path) -> str | None:
    """What is wrong with a model's weights, by the digests that they and its config.json name; None if nothing is."""
    if importlib.util.find_spec("torch") is None:
        return None
    from prestissimo.models.checkpoint import load_checkpoint
    from prestissimo.models.config import read_model_config

    try:
        for part, digest in read_model_config(model).sha256.items():
            path = model / f"{part}.safetensors"
            if load_checkpoint(path).sha256 != digest:
                return f"{path} is not the file that config.json names"
    except (OSError, ValueError) as error:
        return str(error)
    return None


def advise(found: dict[str, Any]) -> list[dict[str, str]]:
    """What is missing, how much that matters, and what to do about it."""
    advice: list[dict[str, str]] = []

    def say(severity: str, missing: str, do: str) -> None:
        advice.append({"severity": severity, "missing": missing, "do": do})

    for name, version in found["libraries"].items():
        if version is None:
            say(
                "error",
                f"{name} is not installed",
                f"pip install {'torch==2.13.0' if name == 'torch' else name}",
            )
    if not found["models"]:
        say(
            "error",
            "no bundled model was found",
            "reinstall prestissimo, or pass --model a folder of weights",
        )
    for model in found["models"]:
        if model["damage"] is not None:
            say("error", f"model {model['name']}: {model['damage']}", "reinstall prestissimo")
    kernels, cpu, cuda = found["kernels"], found["cpu"], found["cuda"]
    if not kernels["compiled"]:
        say(
            "warning",
            f"the compiled kernels are missing ({kernels['reason']}): plain PyTorch replaces them; {_WITHOUT_KERNELS}",
            "install a C++17 compiler and reinstall without PRESTISSIMO_PURE",
        )
    elif not kernels["build"].get("openmp", True):
        say(
            "warning",
            "the kernels were built without OpenMP: they use one thread",
            "reinstall with GCC or Clang + libomp",
        )
    if kernels["compiled"] and kernels["isa"] != kernels["supported_isas"][-1]:
        say(
            "note",
            f"kernels run {kernels['isa']} of {kernels['supported_isas']}",
            "unset PRESTISSIMO_ISA",
        )
    if cpu.get("torch_threads", cpu["usable_cores"]) < cpu["usable_cores"]:
        say(
            "note",
            f"torch uses {cpu['torch_threads']} of {cpu['usable_cores']} cores",
            "pass --threads, or unset OMP_NUM_THREADS",
        )
    if cuda["driver"] is not None:
        if cuda["torch"] is None:
            say(
                "note",
                "an NVIDIA driver is here but torch is a CPU build",
                "install torch with CUDA from pytorch.org",
            )
        elif not cuda["devices"]:
            say("warning", "torch has CUDA but sees no device", "check nvidia-smi and CUDA_VISIBLE_DEVICES")
        if cuda["kernels"] is None:
            say("note", "the kernels were built without CUDA", "put nvcc 13 on PATH and reinstall")
        elif int(cuda["driver"].split(".")[0]) < 13:
            say(
                "warning",
                f"the driver runs CUDA {cuda['driver']}, the kernels need 13",
                "install driver 580 or later",
            )
    if cuda["driver"] is not None and cuda["torch"] is None and cuda["cublaslt"] is None:
        say(
            "note",
            "no cuBLASLt: `linear` on a GPU takes no arrays of CuPy and Numba",
            'pip install "prestissimo[cuda]"',
        )
    for extra, modules in found["extras"].items():
        if extra in _FOR_A_GPU and cuda["driver"] is None:
            continue
        absent = [module for module, there in modules.items() if not there]
        if absent:
            say("note", f"extra '{extra}': {', '.join(absent)} absent", f'pip install "prestissimo[{extra}]"')
    return advice


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    kernels, cpu, cuda = found["kernels"], found["cpu"], found["cuda"]
    table.add_row("prestissimo", f"{found['prestissimo']}, Python {found['python']}, {found['platform']}")
    table.add_row(
        "libraries",
        ", ".join(f"{name} {version or 'ABSENT'}" for name, version in found["libraries"].items()),
    )
    table.add_row("CPU", f"{cpu['model']}, {cpu['usable_cores']} of {cpu['cores']} cores usable")
    table.add_row("", " ".join(cpu["vector_instructions"]) or "no vector instructions reported")
    if kernels["compiled"]:
        build = kernels["build"]
        table.add_row("kernels", f"{kernels['isa']} used of {', '.join(kernels['supported_isas'])}")
        openmp = "OpenMP" if build.get("openmp") else "no OpenMP"
        table.add_row("", f"{build.get('compiler')}, {openmp}: {', '.join(kernels['ops'])}")
    else:
        table.add_row("kernels", f"none compiled: {kernels['reason']}")
    if "torch_threads" in cpu:
        own = f", kernels {kernels['threads']}" if kernels["compiled"] else ""
        table.add_row(
            "threads", f"torch {cpu['torch_threads']}{own}; torch capability {cpu['torch_capability']}"
        )
    devices = ", ".join(
        f"{d['name']} (sm_{d['compute_capability'].replace('.', '')})" for d in cuda["devices"]
    )
    table.add_row(
        "CUDA",
        f"kernels {cuda['kernels'] or 'built without'}, torch {cuda['torch'] or 'built without'}, "
        f"driver {cuda['driver'] or 'none'}, cuBLASLt beside torch's {cuda['cublaslt'] or 'none'}, "
        f"devices: {devices or 'none'}",
    )
    for engine in found["engines"]:
        table.add_row(
            "engine", f"{engine['name']}: {'available' if engine['available'] else engine['reason']}"
        )
    for model in found["models"]:
        table.add_row(
            "model",
            f"{model['name']}: {sum(f['bytes'] for f in model['files']) / 1e6:.1f} MB in {model['folder']}",
        )
        for file in model["files"]:
            table.add_row("", f"{file['file']:<24} {file['bytes']:>11,} bytes  sha256 {file['sha256']}")
    if not found["models"]:
        table.add_row("model", "none")
    for extra, modules in found["extras"].items():
        state = ", ".join(f"{m}{'' if there else ' ABSENT'}" for m, there in modules.items())
        table.add_row(f"extra {extra}", state)
    console.print(table)
    console.print()
    if not found["advice"]:
        console.print("Nothing is missing.")
    for item in found["advice"]:
        console.print(f"[bold]{item['severity']}[/bold]: ", end="")
        console.print(f"{item['missing']} -> {item['do']}", markup=False)
