# SPDX-License-Identifier: Apache-2.0
"""`prestissimo doctor` tells what is there, and what to do about what is not."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
from pathlib import Path

import pytest

from prestissimo import __version__, ops
from prestissimo.cli import doctor, run


def test_json_holds_all_that_is_promised(capsys):
    code = run(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["prestissimo"] == __version__
    assert found["libraries"]["torch"] == importlib.metadata.version("torch")
    assert found["cpu"]["model"]
    assert found["cpu"]["usable_cores"] == len(os.sched_getaffinity(0))
    assert found["kernels"]["compiled"] == ops.compiled()
    if ops.compiled():
        assert found["kernels"]["isa"] in found["kernels"]["supported_isas"]
        assert "adaln_modulate" in found["kernels"]["ops"]
    assert set(found["cuda"]) == {"kernels", "torch", "driver", "cublaslt", "devices"}
    assert {"name": "torch", "available": True, "reason": None} in found["engines"]
    assert set(found["extras"]) >= {"plot", "bench", "data", "train", "test"}
    assert code == (1 if any(a["severity"] == "error" for a in found["advice"]) else 0)


def test_text_names_the_same_things(capsys):
    run(["doctor"])
    text = capsys.readouterr().out
    for word in (
        "prestissimo",
        __version__,
        "torch",
        "cores usable",
        "kernels",
        "CUDA",
        "engine",
        "model",
        "extra",
    ):
        assert word in text


def test_damaged_weights_are_noticed(tiny_model, tmp_path):
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    assert doctor._damage(folder) is None
    weights = (folder / "dit.safetensors").read_bytes()
    (folder / "dit.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert "dit.safetensors" in doctor._damage(folder)
    (folder / "dit.safetensors").write_bytes(weights[:-1])
    assert "dit.safetensors" in doctor._damage(folder)
    (folder / "dit.safetensors").unlink()
    assert "dit.safetensors" in doctor._damage(folder)


@pytest.fixture
def found():
    """A machine where nothing is missing."""
    return {
        "libraries": {"torch": "2.13.0"},
        "models": [{"name": "mini", "damage": None}],
        "kernels": {
            "compiled": True,
            "isa": "avx512",
            "supported_isas": ["scalar", "avx2", "avx512"],
            "build": {"openmp": True, "cuda": "13.0"},
        },
        "cpu": {"usable_cores": 2, "torch_threads": 2},
        "cuda": {"driver": None, "torch": None, "kernels": None, "cublaslt": None, "devices": []},
        "extras": {"plot": {"matplotlib": True}},
    }


def test_nothing_is_said_where_nothing_is_missing(found):
    assert doctor.advise(found) == []


@pytest.mark.parametrize(
    ("change", "severity", "missing", "do"),
    [
        ({"libraries": {"torch": None}}, "error", "torch is not installed", "pip install torch"),
        ({"models": []}, "error", "no bundled model", "--model"),
        ({"models": [{"name": "mini", "damage": "dit is short"}]}, "error", "mini: dit is", "reinstall"),
        ({"kernels": {"compiled": False, "reason": "no module"}}, "warning", "1.5 times", "compiler"),
        ({"kernels": {"build": {"openmp": False}}}, "warning", "without OpenMP", "reinstall"),
        ({"kernels": {"isa": "avx2"}}, "note", "avx2 of", "PRESTISSIMO_ISA"),
        ({"cpu": {"usable_cores": 8}}, "note", "torch uses 2 of 8 cores", "--threads"),
        ({"cuda": {"driver": "13.0", "kernels": "13.0"}}, "note", "no cuBLASLt", "prestissimo[cuda]"),
        ({"cuda": {"driver": "13.0", "kernels": "13.0"}}, "note", "torch is a CPU build", "pytorch.org"),
        ({"cuda": {"driver": "13.0", "torch": "13.0"}}, "warning", "sees no device", "nvidia-smi"),
        ({"cuda": {"driver": "13.0", "torch": "13.0", "devices": [1]}}, "note", "built without CUDA", "nvcc"),
        (
            {"cuda": {"driver": "12.4", "torch": "12.4", "devices": [1], "kernels": "13.0"}},
            "warning",
            "12.4",
            "580",
        ),
        ({"extras": {"plot": {"matplotlib": False}}}, "note", "'plot': matplotlib", "prestissimo[plot]"),
    ],
)
def test_each_missing_thing_has_its_advice(found, change, severity, missing, do):
    for part, values in change.items():
        found[part] = {**found[part], **values} if part in ("kernels", "cpu", "cuda") else values
    matching = [a for a in doctor.advise(found) if missing in a["missing"]]
    assert len(matching) == 1
    assert matching[0]["severity"] == severity
    assert do in matching[0]["do"]
