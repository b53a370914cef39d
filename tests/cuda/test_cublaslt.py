# SPDX-License-Identifier: Apache-2.0
"""How cuBLASLt is found and called, against a stand-in that takes its arguments on the host.

What this cannot show: that the library itself takes them as its documentation says.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from . import toolchain
from .toolchain import CSRC, HERE

FLOAT32, BFLOAT16, FLOAT16, INT8, INT32 = 0, 1, 2, 4, 5  # DType of csrc/dtype.h
TYPES = {FLOAT32: torch.float32, BFLOAT16: torch.bfloat16, FLOAT16: torch.float16, INT8: torch.int8}


class Product(ctypes.Structure):
    _fields_ = (
        ("M", ctypes.c_int64),
        ("N", ctypes.c_int64),
        ("K", ctypes.c_int64),
        ("a", ctypes.c_void_p),
        ("a_stride", ctypes.c_int64),
        ("b", ctypes.c_void_p),
        ("b_stride", ctypes.c_int64),
        ("d", ctypes.c_void_p),
        ("d_stride", ctypes.c_int64),
        ("type", ctypes.c_uint8),
        ("d_type", ctypes.c_uint8),
        ("alpha", ctypes.c_float),
        ("beta", ctypes.c_float),
        ("bias", ctypes.c_void_p),
    )


def library(name: str, *sources: Path, name_in_file: str = "") -> Path:
    if not toolchain.find("g++"):
        pytest.skip("g++ is not installed")
    flags = ["g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-I", str(CSRC)]
    path = toolchain.CACHE / f"{name}-{toolchain.source_hash(sources)}.so"
    named = [f"-Wl,-soname,{name_in_file}"] if name_in_file else []
    return toolchain._cached(path, [*flags, *sources, "-o", "OUT", "-ldl", *named])


@pytest.fixture(scope="module")
def stand_in() -> ctypes.CDLL:
    path = library("stand_in_cublaslt", HERE / "stand_in_cublaslt.cpp")
    os.environ["PRESTISSIMO_CUBLASLT"] = str(path)
    return ctypes.CDLL(str(path))


@pytest.fixture(scope="module")
def calls(stand_in: ctypes.CDLL) -> ctypes.CDLL:
    return ctypes.CDLL(str(library("cublaslt_calls", HERE / "cublaslt_calls.cpp", CSRC / "array.cpp")))


def multiply(calls: ctypes.CDLL, **fields: object) -> str:
    error = ctypes.create_string_buffer(500)
    product = Product(**{"alpha": 1.0, "beta": 0.0, **fields})
    failed = calls.multiply(ctypes.byref(product), error, ctypes.c_size_t(len(error)))
    return error.value.decode() if failed else ""


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16, FLOAT16])
@pytest.mark.parametrize(("alpha", "beta", "bias"), [(1.0, 0.0, False), (0.75, 1.0, False), (1.0, 0.0, True)])
def test_float_products(
    calls: ctypes.CDLL, stand_in: ctypes.CDLL, dtype: int, alpha: float, beta: float, bias: bool
) -> None:
    M, N, K = 5, 7, 11
    rng = torch.Generator().manual_seed(0)
    a, b, d, c = (
        torch.randn(rows, stride, generator=rng).to(TYPES[dtype])
        for rows, stride in ((M, K + 2), (N, K + 3), (M, N + 1), (1, N))
    )
    expected = alpha * (a[:, :K].double() @ b[:, :K].double().T) + beta * d[:, :N].double()
    expected = expected + (c.double() if bias else 0)
    beyond = d[:, N:].clone()
    fields = {"type": dtype, "d_type": dtype, "alpha": alpha, "beta": beta}
    error = multiply(
        calls,
        **{
            "M": M,
            "N": N,
            "K": K,
            "a": a.data_ptr(),
            "a_stride": K + 2,
            "b": b.data_ptr(),
            "b_stride": K + 3,
        },
        **{"d": d.data_ptr(), "d_stride": N + 1, "bias": c.data_ptr() if bias else None, **fields},
    )
    assert error == ""
    eps = torch.finfo(TYPES[dtype]).eps
    torch.testing.assert_close(d[:, :N].double(), expected, rtol=eps, atol=eps)
    assert torch.equal(d[:, N:], beyond)
    assert stand_in.stand_in_live_objects() == 0


def test_integer_products(calls: ctypes.CDLL) -> None:
    M, N, K = 5, 16, 32
    rng = torch.Generator().manual_seed(1)
    a, b = (torch.randint(-128, 128, (n, K), generator=rng, dtype=torch.int8) for n in (M, N))
    d = torch.empty(M, N, dtype=torch.int32)
    fields = {"a_stride": K, "b_stride": K, "d_stride": N, "type": INT8, "d_type": INT32}
    pointers = {"a": a.data_ptr(), "b": b.data_ptr(), "d": d.data_ptr()}
    assert multiply(calls, M=M, N=N, K=K, **pointers, **fields) == ""
    assert torch.equal(d, a.int() @ b.int().T)


def test_an_error_names_op_and_function(calls: ctypes.CDLL, stand_in: ctypes.CDLL) -> None:
    x = torch.zeros(64, dtype=torch.int8)
    pointers = dict.fromkeys(("a", "b", "d"), x.data_ptr())
    strides = {"a_stride": 3, "b_stride": 3, "d_stride": 3}
    error = multiply(calls, M=3, N=3, K=3, **pointers, **strides, type=INT8, d_type=INT32)
    assert error == "op: cublasLtMatmul returned 15"
    error = multiply(calls, M=3, N=3, K=5, **pointers, **strides, type=FLOAT32, d_type=FLOAT32)
    assert error == "op: cublasLtMatrixLayoutCreate returned 7"
    assert stand_in.stand_in_live_objects() == 0


def test_without_the_library_it_says_what_to_do(calls: ctypes.CDLL) -> None:
    code = f"""
import ctypes, sys
calls = ctypes.CDLL({calls._name!r})
error = ctypes.create_string_buffer(500)
x = (ctypes.c_int64 * 16)()
assert calls.multiply(x, error, ctypes.c_size_t(500)) == 1
print(error.value.decode())
"""
    environment = {**os.environ, "PRESTISSIMO_CUBLASLT": "/nowhere/libcublasLt.so"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("products on a GPU need cuBLASLt: /nowhere/libcublasLt.so was not found")
    assert "PRESTISSIMO_CUBLASLT" in done.stdout


def test_the_wheel_is_loaded_from_where_pip_puts_it(tmp_path: Path) -> None:
    """In a process of its own: a site-packages with nvidia/cu13/lib, and a torch that brings none. The dynamic loader
    has the library then, by the name that the kernels ask for, and the environment is as it was."""
    file = tmp_path / "nvidia" / "cu13" / "lib" / "libcublasLt.so.13"
    file.parent.mkdir(parents=True)
    file.symlink_to(library("libcublasLt", HERE / "stand_in_cublaslt.cpp", name_in_file=file.name))
    (tmp_path / "torch.py").write_text("class version:\n    cuda = None\n")
    source = Path(importlib.import_module("prestissimo.ops.cublaslt").__file__ or "")
    code = f"""
import ctypes, os, runpy
before = dict(os.environ)
module = runpy.run_path({str(source)!r})
assert str(module["cublaslt_of_wheel"]()) == {str(file)!r}
module["load_cublaslt"]()
assert dict(os.environ) == before
try:
    ctypes.CDLL({file.name!r}, os.RTLD_NOW | os.RTLD_NOLOAD).cublasLtMatmul
    print("loaded")
except OSError:
    print("not loaded")
"""
    environment = {k: v for k, v in os.environ.items() if k != "PRESTISSIMO_CUBLASLT"}
    environment["PYTHONPATH"] = str(tmp_path)
    for named in ({}, {"PRESTISSIMO_CUBLASLT": "/elsewhere/libcublasLt.so"}):
        done = subprocess.run(
            [sys.executable, "-S", "-c", code],
            env=environment | named,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == ("not loaded" if named else "loaded")
