# SPDX-License-Identifier: Apache-2.0
"""What must stay true of the whole: a core without frameworks, one pool of threads, imports that cost little, ops that
work without the compiled module, one version, no pickle."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import prestissimo

PACKAGE = Path(prestissimo.__file__).parent
CSRC = Path(__file__).parents[1] / "csrc"

with_sources = pytest.mark.skipif(not CSRC.is_dir(), reason="csrc/ is not beside tests/")
with_core = pytest.mark.skipif(
    find_spec("prestissimo._core") is None, reason="built without prestissimo._core"
)


# ---- C++ and CUDA sources ---------------------------------------------------------------------------------------


def sources(*folders: str) -> Iterator[Path]:
    """C++ and CUDA files under these folders of csrc/ ("": all)."""
    found = [p for f in folders for p in sorted((CSRC / f).rglob("*")) if p.suffix in SUFFIXES]
    assert len(found) > 3 * len(folders), f"no sources under {folders}"
    yield from found


SUFFIXES = {".h", ".hpp", ".c", ".cpp", ".cuh", ".cu"}
COMMENT_OR_STRING = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL)


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(encoding="utf-8"), re.MULTILINE)


def code(path: Path) -> str:
    """The file without its comments and strings."""
    return COMMENT_OR_STRING.sub(" ", path.read_text(encoding="utf-8"))


@with_sources
def test_kernels_know_nothing_of_python_or_torch() -> None:
    framework = re.compile(r"(^|/)(Python\.h|pybind11|dlpack|torch|ATen|c10|caffe2)(/|$|\.h)")
    assert framework.search("torch/extension.h")
    assert not framework.search("cpu/vectorch.h")
    for path in sources("ops", "cpu", "cuda"):
        assert [i for i in includes(path) if framework.search(i)] == [], path
    # above them the door to Python is one file, with one beside it for arrays without DLPack; torch has none
    for path in sources(""):
        if path.stem not in ("module", "cuda_array_interface"):
            assert [i for i in includes(path) if framework.search(i)] == [], path
    door = includes(CSRC / "module.cpp")
    assert "Python.h" in door
    assert not [i for i in door if i.startswith(("torch", "ATen", "c10"))]


@with_sources
def test_inline_assembly_is_in_one_file() -> None:
    asm = re.compile(r"\b(__)?asm(__)?\b")
    found = {str(p.relative_to(CSRC)) for p in sources("ops", "cpu", "cuda") if asm.search(code(p))}
    assert found == {"cuda/ptx.cuh"}


@with_sources
def test_nothing_ends_the_process() -> None:
    ends = re.compile(r"\b(_?[eE]xit|quick_exit|abort|terminate)\s*\(")
    assert ends.search("std::abort ();")
    for path in sources("ops", "cpu", "cuda"):
        assert not ends.search(code(path)), path


# ---- Python sources ---------------------------------------------------------------------------------------------


def python_files() -> Iterator[tuple[Path, ast.Module]]:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 50
    for path in files:
        yield path, ast.parse(path.read_text(encoding="utf-8"), str(path))


PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def unpickles(tree: ast.AST) -> list[str]:
    """What in a module reads or writes pickles, as "line: what"."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[0] for alias in node.names]
            found += [f"{node.lineno}: import {n}" for n in names if n in PICKLES]
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".")[0]
            torchs = module == "torch" and {"load", "save"} & {alias.name for alias in node.names}
            if not node.level and (module in PICKLES or torchs):
                found.append(f"{node.lineno}: from {node.module}")
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in (
            "torch.load", "torch.save", "torch.jit.load", "torch.package", "pandas.read_pickle", "pd.read_pickle",
        ):  # fmt: skip
            found.append(f"{node.lineno}: {ast.unparse(node)}")
        elif (
            isinstance(node, ast.keyword)
            and node.arg == "allow_pickle"
            and ast.unparse(node.value) != "False"
        ):
            found.append(f"{node.lineno}: allow_pickle")
    return found


def test_nothing_is_pickled() -> None:
    planted = "import pickle\nfrom torch import load\ntorch.load(f)\nnp.load(f, allow_pickle=True)\nfrom dill import x"
    assert len(unpickles(ast.parse(planted))) == 5
    assert unpickles(ast.parse("np.load(f, allow_pickle=False)\nsafetensors.torch.load(f)")) == []
    found = {str(path): unpickles(tree) for path, tree in python_files()}
    assert {path: what for path, what in found.items() if what} == {}


# ---- versions and names -----------------------------------------------------------------------------------------


def test_one_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+([a-z.]+\d*)?", prestissimo.__version__)
    assert version("prestissimo") == prestissimo.__version__
    if find_spec("prestissimo._core") is not None:
        from prestissimo import _core

        assert _core.build_info()["version"] == prestissimo.__version__


@with_core
def test_every_op_is_public_and_in_the_table() -> None:
    from prestissimo import _core, ops
    from prestissimo.ops.cases import CASES

    composed = {"conv_transpose1d", "dit_block"}  # of conv1d and of many: no kernels of their own
    forward = {name for name in _core.op_names if not name.endswith("_backward")} | composed
    assert forward == {case.name for case in CASES}
    for name in forward:
        assert callable(getattr(ops, name)), name
        assert name in ops.__all__, name
    backward = {name.removesuffix("_backward") for name in _core.op_names if name.endswith("_backward")}
    # some gradients are ops that are there already, or the identity
    assert backward <= {case.name for case in CASES if case.gradients}


# ---- a process that imports the package -------------------------------------------------------------------------


def run(code: str, **environment: str) -> tuple[Any, str]:
    """What a fresh process prints last, as JSON, and its standard error."""
    settings = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "2", **environment}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=settings)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


PROBE = """
import json, sys, time
def mapped():
    try:
        lines = open("/proc/self/maps").read().splitlines()
    except OSError:
        return None
    return sorted({line.split(None, 5)[5] for line in lines if "libgomp" in line or "libomp" in line})
import torch
facts = {"torch": torch.__file__, "before": mapped(), "modules_before": sorted(sys.modules)}
begun = time.process_time()
import prestissimo
facts["seconds_package"] = time.process_time() - begun
prestissimo.load, prestissimo.ops, prestissimo.nn, prestissimo.sampling
facts["seconds_all"] = time.process_time() - begun
facts["after"], facts["modules"] = mapped(), sorted(sys.modules)
facts["denormal"] = sys.float_info.min / 2
facts["denormal_torch"] = float(torch.full((64,), 2.0**-126).mul(0.5).amax())
facts["cuda"] = torch.cuda.is_initialized()
try:
    from prestissimo import _core
except ImportError:
    _core = None
facts["threads"] = {}
if _core is not None:
    x = torch.randn(64, 257, 320)
    prestissimo.ops.adaln_modulate(x)
    facts["after"] = mapped()
    facts["denormal_after_op"] = sys.float_info.min / 2
    for n in (1, 3, 2):
        torch.set_num_threads(n)
        facts["threads"][n] = _core.max_threads()
print(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return run(PROBE)[0]


@with_core
def test_one_pool_of_threads(facts: dict[str, Any]) -> None:
    """The core runs on the OpenMP runtime that torch has loaded, and torch.set_num_threads rules both."""
    if facts["before"] is None:
        pytest.skip("no /proc/self/maps")
    if not facts["before"]:
        pytest.skip("this torch has no OpenMP")
    assert facts["after"] == facts["before"]
    assert len(facts["after"]) == 1
    assert facts["threads"] == {"1": 1, "3": 3, "2": 2}


def test_denormals_survive_the_import(facts: dict[str, Any]) -> None:
    """-ffast-math in a linked library would flush them to zero in the whole process."""
    assert facts["denormal"] > 0
    assert facts["denormal_torch"] > 0
    assert facts.get("denormal_after_op", 1) > 0


def test_the_import_costs_little_beyond_torch(facts: dict[str, Any]) -> None:
    """Processor time: the machine may be busy."""
    assert facts["seconds_package"] < 0.2
    assert facts["seconds_all"] < 1.0


def test_the_import_needs_no_heavy_package_and_no_gpu(facts: dict[str, Any]) -> None:
    new = {name.split(".")[0] for name in set(facts["modules"]) - set(facts["modules_before"])}
    heavy = {
        "transformers",
        "librosa",
        "sklearn",
        "scipy",
        "matplotlib",
        "torchaudio",
        "tensorboard",
        "triton",
    }
    assert "prestissimo" in new
    assert new & heavy == set()
    assert facts["cuda"] is False


WITHOUT_CORE = """
import json, logging, sys
sys.modules["prestissimo._core"] = None  # as in a wheel built without it: the import raises ImportError
lines = []
class Notes(logging.Handler):
    def emit(self, record):
        lines.append((record.levelname, record.getMessage()))
logging.getLogger("prestissimo").addHandler(Notes())
import numpy, torch
from prestissimo import ops
from prestissimo.ops.cases import CASES
wrong, ran = [], set()
tuples = lambda y: tuple(y) if isinstance(y, (tuple, list)) else (y,)
def array(v):
    return [array(t) for t in v] if isinstance(v, list) else v.numpy() if isinstance(v, torch.Tensor) else v
for case in CASES:
    arguments = case.make(case.small[0], torch.float32, torch.Generator().manual_seed(0))
    result, expected = tuples(case.op(**arguments)), tuples(case.reference(**arguments))
    arrays = {k: array(v) for k, v in arguments.items()}
    from_arrays = tuples(case.op(**arrays))
    for a, b, c in zip(result, expected, from_arrays):
        if not (torch.equal(a, b) and isinstance(c, numpy.ndarray) and (c == b.numpy()).all()):
            wrong.append(case.id)
    for name in case.gradients[:1]:
        leaf = arguments[name][0] if isinstance(arguments[name], list) else arguments[name]
        leaf.requires_grad_()
        tuples(case.op(**arguments))[0].sum().backward()
        if leaf.grad is None:
            wrong.append(case.id + " gradient")
    for spoil, error, _ in case.bad[:1]:
        try:
            case.op(**spoil(case.make(case.small[0], torch.float32, torch.Generator())))
            wrong.append(case.id + " took bad arguments")
        except error:
            pass
    with ops.strict_kernels():
        try:
            case.op(**arguments)
            wrong.append(case.id + " fell back")
        except ops.MissingKernelError as error:
            ran.add(str(error))
    with ops.strict_kernels(), ops.strict_kernels(False):
        case.op(**arguments)
print(json.dumps({"compiled": ops.compiled(), "wrong": wrong, "lines": lines, "refused": sorted(ran)}))
"""


def test_without_the_compiled_module_ops_run_through_their_references() -> None:
    facts, errors = run(WITHOUT_CORE)
    assert facts["compiled"] is False
    assert facts["wrong"] == []
    assert len(facts["lines"]) == 1, "said once, not at each call"
    level, message = facts["lines"][0]
    assert level == "WARNING"
    assert "prestissimo._core is missing" in message
    assert errors == "", "through logging, not to standard error"
    from prestissimo.ops.cases import CASES

    assert {text.split(":")[0] for text in facts["refused"]} == {case.name for case in CASES}
