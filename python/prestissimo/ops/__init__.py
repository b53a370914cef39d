# SPDX-License-Identifier: Apache-2.0
"""Drop-in ops with CPU SIMD and CUDA kernels. Each file holds one op: reference, function, fake kernel, gradient."""

from .adaln_modulate import adaln_modulate
from .ctm_map import ctm_map
from .edm_denoise import edm_denoise
from .edm_precondition import edm_precondition
from .philox_normal import philox_normal
from .registration import MissingKernelError, compiled, strict_kernels

__all__ = [
    "MissingKernelError",
    "adaln_modulate",
    "compiled",
    "ctm_map",
    "edm_denoise",
    "edm_precondition",
    "philox_normal",
    "strict_kernels",
]
