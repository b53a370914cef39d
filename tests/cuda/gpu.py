# SPDX-License-Identifier: Apache-2.0
"""A real GPU behind the lanes' interface, through the driver's own C functions (libcuda); nothing else is needed.

Kept ready for a machine that has one: no part of it has run yet (docs/cuda.md).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

from . import toolchain
from .devices import Size3
from .lanes import source_of

_BUFFER_POINTER, _BUFFER_SIZE, _END = 1, 2, 0  # CU_LAUNCH_PARAM_*
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


class CudaError(RuntimeError):
    """A driver call failed; the text is the driver's."""


class Driver:
    """libcuda with a context on device 0."""

    def __init__(self) -> None:
        self._lib = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", 0)
        self._device = ctypes.c_int()
        self.call("cuDeviceGet", ctypes.byref(self._device), 0)
        context = ctypes.c_void_p()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self.call("cuCtxSetCurrent", context)

    def call(self, name: str, *args: object) -> None:
        code = getattr(self._lib, name)(*args)
        if code:
            text = ctypes.c_char_p()
            self._lib.cuGetErrorString(code, ctypes.byref(text))
            raise CudaError(f"{name}: {(text.value or b'error').decode()} ({code})")

    def capability(self) -> int:
        values = []
        for attribute in (_MAJOR, _MINOR):
            value = ctypes.c_int()
            self.call("cuDeviceGetAttribute", ctypes.byref(value), attribute, self._device)
            values.append(value.value)
        return 10 * values[0] + values[1]

    def name(self) -> str:
        text = ctypes.create_string_buffer(128)
        self.call("cuDeviceGetName", text, 128, self._device)
        return text.value.decode()


def driver() -> Driver | None:
    """None where there is no driver or no device."""
    try:
        return Driver()
    except (OSError, CudaError):
        return None


def target_of(capability: int) -> int | None:
    """The newest shipped target of the device's generation that it can run."""
    fit = [t for t in toolchain.TARGETS if t <= capability and t // 10 == capability // 10]
    return max(fit, default=None)


def kernels_of(cuda: Driver, op: str) -> GpuDevice:
    """An op's kernels from a cubin of the very PTX that the interpreter verifies."""
    target = target_of(cuda.capability())
    if target is None:
        raise LookupError(f"no shipped cubin for sm_{cuda.capability()}")
    return GpuDevice(cuda, toolchain.cubin(toolchain.ptx(source_of(op), target), op, target).path)


class GpuDevice:
    """One cubin on the device. Findings are the driver's errors: nothing else is checked there."""

    def __init__(self, cuda: Driver, cubin: Path) -> None:
        self._cuda = cuda
        self._image = cubin.read_bytes()
        self._module = ctypes.c_void_p()
        cuda.call("cuModuleLoadData", ctypes.byref(self._module), self._image)
        self._buffers: list[ctypes.c_uint64] = []

    def allocate(self, size: int, contents: bytes | None, misalign: int = 0) -> int:
        """The driver aligns to 256 bytes; uninitialised memory is filled with NaN bits."""
        base = ctypes.c_uint64()
        self._cuda.call("cuMemAlloc_v2", ctypes.byref(base), ctypes.c_size_t(size + misalign + 256))
        self._buffers.append(base)
        address = base.value + misalign
        data = contents if contents is not None else b"\xff" * size
        self._cuda.call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), data, ctypes.c_size_t(size))
        return address

    def read(self, address: int, size: int) -> bytes:
        out = ctypes.create_string_buffer(max(size, 1))
        self._cuda.call("cuMemcpyDtoH_v2", out, ctypes.c_uint64(address), ctypes.c_size_t(size))
        return out.raw[:size]

    def launch(
        self,
        kernel: str,
        grid: Size3,
        block: Size3,
        parameters: bytes,
        shared: int = 0,
        blocks: Sequence[int] = (),
    ) -> list[str]:
        if blocks:
            raise ValueError("a GPU launches whole grids")
        try:
            self.start(kernel, grid, block, parameters, shared)
            self._cuda.call("cuCtxSynchronize")
        except CudaError as error:
            return [str(error)]
        return []

    def start(self, kernel: str, grid: Size3, block: Size3, parameters: bytes, shared: int = 0) -> None:
        """Launch without waiting."""
        function = ctypes.c_void_p()
        self._cuda.call("cuModuleGetFunction", ctypes.byref(function), self._module, kernel.encode())
        data, size = (
            ctypes.create_string_buffer(parameters, len(parameters)),
            ctypes.c_size_t(len(parameters)),
        )
        extra = (ctypes.c_void_p * 5)(
            _BUFFER_POINTER,
            ctypes.cast(data, ctypes.c_void_p),
            _BUFFER_SIZE,
            ctypes.cast(ctypes.byref(size), ctypes.c_void_p),
            _END,
        )
        self._cuda.call("cuLaunchKernel", function, *grid, *block, shared, None, None, extra)

    def milliseconds(
        self, kernel: str, grid: Size3, block: Size3, parameters: bytes, shared: int = 0, runs: int = 50
    ) -> float:
        """Mean time of a launch among `runs`, after a few to warm up."""
        events = ctypes.c_void_p(), ctypes.c_void_p()
        for e in events:
            self._cuda.call("cuEventCreate", ctypes.byref(e), 0)
        for k in range(runs + 5):
            if k == 5:
                self._cuda.call("cuEventRecord", events[0], None)
            self.start(kernel, grid, block, parameters, shared)
        self._cuda.call("cuEventRecord", events[1], None)
        self._cuda.call("cuEventSynchronize", events[1])
        elapsed = ctypes.c_float()
        self._cuda.call("cuEventElapsedTime", ctypes.byref(elapsed), *events)
        return elapsed.value / runs

    def close(self) -> None:
        for base in self._buffers:
            self._cuda.call("cuMemFree_v2", base)
        self._buffers.clear()
        self._cuda.call("cuModuleUnload", self._module)
