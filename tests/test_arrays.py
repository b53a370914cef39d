# SPDX-License-Identifier: Apache-2.0
"""Arrays of other libraries: what an op sees of them, and the examples of docs/arrays.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prestissimo import ops

_core = pytest.importorskip("prestissimo._core")
DOCS = Path(__file__).parent.parent / "docs" / "arrays.md"


class Cuda:
    """What Numba's device arrays show of themselves; the pointer is never followed."""

    def __init__(self, **changes: Any) -> None:
        self.__cuda_array_interface__ = {
            "shape": (2, 3, 64),
            "typestr": "<f4",
            "data": (0x7000_0000, False),
            "version": 3,
            "strides": None,
            "stream": 2,
            **changes,
        }


def test_a_cuda_array_interface_is_read() -> None:
    assert _core.describe(Cuda()) == {
        "data": 0x7000_0000,
        "dtype": "float32",
        "device": "cuda",
        "shape": (2, 3, 64),
        "strides": (192, 64, 1),
        "stream": 2,
    }


def test_strides_are_bytes_there_and_elements_here() -> None:
    seen = _core.describe(Cuda(typestr="<f2", shape=(4, 5), strides=(2, 8), stream=0x1234))
    assert (seen["dtype"], seen["strides"], seen["stream"]) == ("float16", (1, 4), 0x1234)


def test_no_stream_is_the_default_stream() -> None:
    assert _core.describe(Cuda(stream=None))["stream"] == 0


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"typestr": "<c8"}, TypeError, "element type '<c8'"),
        ({"shape": (1,) * 7}, ValueError, "7 dimensions"),
        ({"shape": (2, -1)}, ValueError, "negative size"),
        ({"shape": (2, 3), "strides": (4,)}, ValueError, "2 sizes and 1 strides"),
        ({"shape": (2, 3), "strides": (10, 4)}, ValueError, "split its elements"),
        ({"shape": (1 << 40, 1 << 40)}, ValueError, "impossible shape"),
        ({"stream": 0}, ValueError, "stream 0"),
        ({"mask": object()}, ValueError, "masked"),
        ({"data": "nowhere"}, TypeError, "malformed"),
        ({"shape": 3}, TypeError, "malformed"),
    ],
)
def test_a_wrong_interface_is_told_of(changes: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=re.escape(words)):
        _core.describe(Cuda(**changes))


def test_a_missing_key_is_told_of() -> None:
    array = Cuda()
    del array.__cuda_array_interface__["data"]
    with pytest.raises(TypeError, match="malformed"):
        _core.describe(array)


@pytest.mark.skipif(
    _core.build_info()["cuda"] is not None, reason="a build with CUDA would follow the pointer"
)
def test_a_build_without_cuda_says_so() -> None:
    with pytest.raises(RuntimeError, match="no CUDA kernels"):
        _core.adaln_modulate(Cuda(), None, None, None, None, 1e-6, "layer", Cuda())


def test_numpy_views_are_read_in_place() -> None:
    x = np.arange(24, dtype=np.float32).reshape(4, 6)[::2, 1:]
    seen = _core.describe(x)
    assert (seen["data"], seen["shape"], seen["strides"]) == (x.ctypes.data, (2, 5), (12, 1))
    assert _core.describe(torch.zeros(2, 3).T)["strides"] == (1, 3)


@pytest.mark.parametrize("array", [3.5, "text", None, object()])
def test_what_is_no_array_is_refused(array: object) -> None:
    with pytest.raises(TypeError, match="array must be an array"):
        _core.describe(array)


def examples() -> dict[str, str]:
    return dict(re.findall(r"^## (.+?)\n.*?```python\n(.+?)```", DOCS.read_text(), re.MULTILINE | re.DOTALL))


def run(code: str, tmp_path: Path, **environment: str) -> None:
    script = tmp_path / "example.py"
    script.write_text(code)
    environment = {**os.environ, **environment}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_numpy_example(tmp_path: Path) -> None:
    run(examples()["NumPy, without torch"], tmp_path)


def test_the_numba_example_in_its_simulator(tmp_path: Path) -> None:
    pytest.importorskip("numba.cuda")
    run(examples()["Numba"], tmp_path, NUMBA_ENABLE_CUDASIM="1")


def test_ops_take_and_return_the_simulator_s_arrays(tmp_path: Path) -> None:
    pytest.importorskip("numba.cuda")
    code = """
import numpy as np
from numba import cuda
from prestissimo import ops
x = np.random.default_rng(0).normal(size=(2, 5, 64)).astype(np.float32)
y = ops.adaln_modulate(cuda.to_device(x))
assert type(y) is type(cuda.to_device(x)), type(y)
np.testing.assert_array_equal(y.copy_to_host(), ops.adaln_modulate(x))
"""
    run(code, tmp_path, NUMBA_ENABLE_CUDASIM="1")
    assert ops.adaln_modulate(np.ones((1, 1, 4), np.float32)).shape == (1, 1, 4)
