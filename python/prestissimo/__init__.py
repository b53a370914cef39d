# SPDX-License-Identifier: Apache-2.0
"""Prestissimo: text to music by diffusion, on kernels of our own.

>>> pipe = prestissimo.load("mini")                                        # doctest: +SKIP
>>> audio = pipe("calm solo piano in a minor key", seconds=12, seed=7)     # doctest: +SKIP
>>> prestissimo.audio.write("out.wav", audio, pipe.sample_rate)            # doctest: +SKIP
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import logging
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from prestissimo._version import __version__

if TYPE_CHECKING:
    from prestissimo import audio, nn, ops, sampling
    from prestissimo.pipeline import Generation, Pipeline, load

__all__ = ["Generation", "Pipeline", "__version__", "audio", "load", "nn", "ops", "sampling"]

logging.getLogger("prestissimo").addHandler(logging.NullHandler())


class _TorchFirst(importlib.abc.MetaPathFinder):
    """Imports torch, where it is installed, before the compiled module is loaded by whatever path.

    The dynamic loader then resolves the module's libgomp.so.1 to the copy that torch has loaded, so that
    there is one pool of threads. Doing it here and not on `import prestissimo` keeps torch's 1.4 s (our
    measurement, AMD Zen 4 (EPYC, 2 cores), torch 2.13.0, 2026-11-22) off the commands that need none of it.
    """

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> None:
        if name == "prestissimo._core":
            with contextlib.suppress(ImportError):
                importlib.import_module("torch")


sys.meta_path.insert(0, _TorchFirst())

_LAZY = {"Generation": "pipeline", "Pipeline": "pipeline", "load": "pipeline"}
_MODULES = ("audio", "nn", "ops", "sampling")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"prestissimo.{_LAZY[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"prestissimo.{name}")
    raise AttributeError(f"module 'prestissimo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
