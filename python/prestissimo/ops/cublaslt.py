# SPDX-License-Identifier: Apache-2.0
"""Where cuBLASLt lies that `linear` calls for arrays of CuPy and Numba: what `pip install "prestissimo[cuda]"` brings.

torch with CUDA has loaded its own by then, and the dynamic loader finds a CUDA toolkit's. It does not look into
site-packages, where the wheel nvidia-cublas puts it.
"""

from __future__ import annotations

import importlib.util
import os
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
def name_cublaslt() -> None:
    """Tell the kernels of the wheel's library, once, unless the user named another or torch brings one."""
    if _VARIABLE in os.environ or _torch_brings_one():
        return
    path = cublaslt_of_wheel()
    if path is not None:
        os.environ[_VARIABLE] = str(path)


def _torch_brings_one() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.version.cuda is not None
