# SPDX-License-Identifier: Apache-2.0
"""Where cuBLASLt lies that `linear` calls for arrays of CuPy and Numba: what `pip install "prestissimo[cuda]"` brings.

torch with CUDA has loaded its own by then, and the dynamic loader finds a CUDA toolkit's. It does not look into
site-packages, where the wheel nvidia-cublas puts it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

_VARIABLE = "PRESTISSIMO_CUBLASLT"  # read by csrc/cuda/cublaslt.h


def cublaslt_of_wheel() -> Path | None:
    """libcublasLt of the newest nvidia-cublas that is installed as a wheel; None without one."""
    spec = importlib.util.find_spec("nvidia")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    found = [f for folder in folders for f in Path(folder).glob("*/lib/libcublasLt.so.1[23]")]
    return max(found, key=lambda f: f.name, default=None)


@lru_cache(maxsize=1)
def load_cublaslt() -> None:
    """Load the wheel's library, once, unless the user named another or torch brings one: the kernels ask the dynamic
    loader for libcublasLt.so.13 or .12, which is then what has been loaded. What cannot be loaded they report."""
    if _VARIABLE in os.environ or _torch_brings_one():
        return
    path = cublaslt_of_wheel()
    if path is not None:
        with suppress(OSError):
            ctypes.CDLL(str(path))


def _torch_brings_one() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.version.cuda is not None
