# SPDX-License-Identifier: Apache-2.0
"""From one op's pieces (schema, kernel, reference, fake, gradient) to `torch.ops.prestissimo.<op>`.

An op is a function of arrays. Torch tensors go through the dispatcher, so that autograd, torch.compile, fake
tensors and export see one opaque op; NumPy arrays and other DLPack producers go straight to the compiled kernel,
without torch.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

try:
    import torch
except ModuleNotFoundError:  # ops on NumPy arrays need no torch
    torch = None  # type: ignore[assignment]

try:
    from prestissimo import _core
except ImportError as error:  # a pure-Python install: every op runs through its reference
    _core = None  # type: ignore[assignment]
    _why_no_core = str(error)

log = logging.getLogger("prestissimo")

if _core is not None and os.environ.get("PRESTISSIMO_ISA"):
    _core.set_isa(os.environ["PRESTISSIMO_ISA"])


class MissingKernelError(RuntimeError):
    """A reference would have run where a kernel exists, and strict kernels were asked for."""


_strict = False
_warned = False


@contextlib.contextmanager
def strict_kernels(on: bool = True) -> Iterator[None]:
    """Within the block, any fallback to a reference where a kernel exists raises `MissingKernelError`."""
    global _strict
    before, _strict = _strict, on
    try:
        yield
    finally:
        _strict = before


def compiled() -> bool:
    """Whether the compiled module is there; without it every op runs through its plain-PyTorch reference."""
    return _core is not None


def _fall_back(name: str) -> None:
    global _warned
    if _strict:
        raise MissingKernelError(f"{name}: the compiled module prestissimo._core is missing ({_why_no_core})")
    if not _warned:
        _warned = True
        log.warning("prestissimo._core is missing (%s): ops run through their references", _why_no_core)


if torch is not None:
    _library = torch.library.Library("prestissimo", "DEF")
    _plain_types = frozenset((torch.Tensor, torch.nn.Parameter, type(None), float, int, bool, str, list))


class Op:
    """One op. `kernel` and `reference` take the arguments of `schema` in order and return its results.

    `check` raises ValueError naming the argument; the compiled kernel makes the same checks itself, so it runs only
    for fake tensors and ahead of the reference. `dtypes` are those of the first argument that have a kernel; others
    (float64 above all) run through the reference, and so do arguments that `covers` denies.
    """

    def __init__(
        self,
        schema: str,
        *,
        kernel: Callable[..., Any],
        reference: Callable[..., Any],
        fake: Callable[..., Any],
        check: Callable[..., None] | None = None,
        dtypes: Sequence[str] = ("float32", "bfloat16", "float16"),
        covers: Callable[..., bool] | None = None,
    ) -> None:
        self.name = schema[: schema.index("(")]
        self.schema = schema
        self.kernel, self.reference, self.check, self.covers = kernel, reference, check, covers
        self.overload: Any = None
        self.takes_list = schema[schema.index("(") + 1 :].startswith("Tensor[]")
        if torch is None:
            return
        run = self.run_reference if _core is None else self._dispatch(dtypes)
        self._run = run
        _library.define(schema)
        _library.impl(self.name, run, "CompositeExplicitAutograd")

        def fake_checked(*args: Any) -> Any:
            if check is not None:
                check(*args)
            return fake(*args)

        torch.library.register_fake(f"prestissimo::{self.name}", fake_checked, lib=_library)
        self.overload = getattr(torch.ops.prestissimo, self.name).default

    def gradient(self, backward: Callable[..., Any], setup: Callable[..., None]) -> None:
        """Attach a backward: `setup(ctx, inputs, output)` saves, `backward(ctx, *dy)` gives one gradient per input.

        The gradient of a Tensor[] is a list, None where an element has none; so are dy and needs_input_grad.

        What torch.library.register_autograd does, with a short cut: plain tensors reach the kernel without a second
        trip through the dispatcher. A small call costs 5 µs where gradients are enabled and 12 µs when it records,
        against 13 and 36 µs (our measurement, AMD Zen 4, torch 2.13.0).
        """
        if torch is None:
            return
        C = torch._C

        def forward(*args: Any) -> Any:
            *inputs, keyset = args
            if _plain(inputs):
                return self._run(*inputs)
            with C._AutoDispatchBelowAutograd():
                return self.overload.redispatch(keyset & C._after_autograd_keyset, *inputs)

        class Gradient(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *args: Any) -> Any:
                output = forward(*args)
                setup(ctx, args[:-1], output)
                return output

            @staticmethod
            @torch.autograd.function.once_differentiable
            def backward(ctx: Any, *dy: Any) -> Any:
                return (*backward(ctx, *dy), None)

        Gradient.__name__ = Gradient.__qualname__ = f"{self.name}_gradient"
        if "Tensor[]" in self.schema:  # autograd.Function itself sees no tensors inside lists
            torch._library.autograd.supports_tensorlist(Gradient)

        def autograd(keyset: Any, *args: Any) -> Any:
            if C.is_grad_enabled() and C._any_requires_grad(*args):
                return Gradient.apply(*args, keyset)
            return forward(*args, keyset)

        _library.impl(self.name, autograd, "Autograd", with_keyset=True)

    def _dispatch(self, dtypes: Sequence[str]) -> Callable[..., Any]:
        """The kernel where the dtype of the first argument (or of its first element) has one, else the reference: a
        closure, being called often."""
        kernel, has_kernel = self.kernel, frozenset(getattr(torch, d) for d in dtypes)
        covers = self.covers

        def run_list(*args: Any) -> Any:
            known = not args[0] or args[0][0].dtype in has_kernel
            return kernel(*args) if known else self.run_reference(*args)

        if self.takes_list:
            return run_list

        def run_covered(*args: Any) -> Any:
            known = args[0].dtype in has_kernel and covers is not None and covers(*args)
            return kernel(*args) if known else self.run_reference(*args)

        def run(*args: Any) -> Any:
            return kernel(*args) if args[0].dtype in has_kernel else self.run_reference(*args)

        return run if covers is None else run_covered

    def run_reference(self, *args: Any) -> Any:
        """The reference behind the same checks; what runs where no kernel can."""
        if _core is None:
            _fall_back(self.name)
        if self.check is not None:
            self.check(*args)
        return self.reference(*args)

    def __call__(self, *args: Any) -> Any:
        first = args[0][0] if self.takes_list and args[0] else args[0]
        if torch is not None and isinstance(first, torch.Tensor):
            return self.overload(*args)
        if _core is not None and (self.covers is None or self.covers(*args)):
            return self.kernel(*args)
        return self._through_torch(*args)

    def _through_torch(self, *args: Any) -> Any:
        import numpy as np

        if torch is None:
            raise RuntimeError(
                f"{self.name} needs the compiled module prestissimo._core, or torch for its reference"
            )

        def to_torch(a: Any) -> Any:
            if isinstance(a, (list, tuple)):
                return [to_torch(v) for v in a]
            return torch.from_numpy(a) if isinstance(a, np.ndarray) else a

        out = self.overload(*map(to_torch, args))
        return type(out)(o.numpy() for o in out) if isinstance(out, (tuple, list)) else out.numpy()


def empty_like(a: Any) -> Any:
    """An uninitialised contiguous array of `a`'s kind, shape, dtype and device."""
    if torch is not None and isinstance(a, torch.Tensor):
        return a.new_empty(a.shape) if not a.is_contiguous() else torch.empty_like(a)
    return new_empty(a, a.shape)


def new_empty(like: Any, shape: Sequence[int], dtype: str | None = None) -> Any:
    """An uninitialised array of `like`'s kind, device and (unless named) dtype."""
    if torch is not None and isinstance(like, torch.Tensor):
        return like.new_empty(shape, dtype=None if dtype is None else getattr(torch, dtype))
    kind = type(like).__module__.partition(".")[0]
    wanted = like.dtype if dtype is None else dtype
    if kind == "numba":
        from numba import cuda

        return cuda.device_array(tuple(shape), dtype=wanted)
    if kind == "cupy":
        import cupy

        with like.device:
            return cupy.empty(tuple(shape), dtype=wanted)
    if hasattr(like, "__array_namespace__"):
        space = like.__array_namespace__()
        return space.empty(tuple(shape), dtype=like.dtype if dtype is None else getattr(space, dtype))
    import numpy as np

    return np.empty(tuple(shape), dtype=wanted)


def scratch(like: Any, shape: Sequence[int], dtype: str | None = None) -> Any:
    """What GPU kernels keep between two launches, and the CPU's need not: None there."""
    if torch is not None and isinstance(like, torch.Tensor):
        return new_empty(like, shape, dtype) if like.is_cuda else None
    import numpy as np

    return None if isinstance(like, np.ndarray) else new_empty(like, shape, dtype)


def launch(kernel: Callable[..., None], *args: Any) -> None:
    """Call a compiled kernel; arguments whose strides it does not take are copied first.

    Outputs, which the kernel fills, come from `new_empty` and `empty_like` and are contiguous.
    """
    try:
        kernel(*args)
    except _core.NotContiguous:
        kernel(*map(contiguous, args))


def contiguous(a: Any) -> Any:
    if isinstance(a, (list, tuple)):
        return [contiguous(v) for v in a]
    if not hasattr(a, "shape"):
        return a
    if torch is not None and isinstance(a, torch.Tensor):
        return a.contiguous()
    if getattr(getattr(a, "flags", None), "c_contiguous", False):
        return a
    return (
        a.__array_namespace__().asarray(a, copy=True, order="C")
        if hasattr(a, "__array_namespace__")
        else a.copy()
    )


def _plain(args: Sequence[Any]) -> bool:
    """No subclass, no dispatch mode: nothing below autograd has a say in this call."""
    if torch._C._len_torch_dispatch_stack():
        return False
    return all(type(a) in _plain_types and (type(a) is not list or _plain_elements(a)) for a in args)


def _plain_elements(a: list[Any]) -> bool:
    return all(type(v) in _plain_types for v in a)


def expect_shape(op: str, name: str, a: Any, *allowed: tuple[int, ...]) -> None:
    """ValueError naming the argument unless `a` is None or has one of the shapes."""
    if a is not None and tuple(a.shape) not in allowed:
        wanted = " or ".join(str(list(s)) for s in allowed)
        raise ValueError(f"{op}: {name} must be {wanted}, got {list(a.shape)}")


def expect_latent(op: str, name: str, x: Any) -> None:
    """ValueError naming the argument unless `x` is a batch of samples, [B, ...]."""
    if len(x.shape) < 1:
        raise ValueError(f"{op}: {name} must have at least 1 dimension, got shape []")


def expect_like(op: str, name: str, a: Any, x: Any, first: str = "x") -> None:
    """ValueError or TypeError naming the argument unless `a` is None or has the shape and dtype of `x`."""
    expect_shape(op, name, a, tuple(x.shape))
    if a is not None and a.dtype != x.dtype:
        raise TypeError(f"{op}: {name} must be {x.dtype} like {first}, got {a.dtype}")


def expect_per_sample(op: str, name: str, a: Any, x: Any) -> None:
    """ValueError or TypeError naming the argument unless `a` has one float32 for each sample (float64 with it)."""
    expect_shape(op, name, a, (x.shape[0],))
    wanted = "float64" if "float64" in str(x.dtype) else "float32"
    if a is not None and wanted not in str(a.dtype) and "float32" not in str(a.dtype):
        raise TypeError(f"{op}: {name} must be float32, got {a.dtype}")


def per_sample(x: Any, value: Any) -> Any:
    """A number for all samples of `x` as one for each, float32 (float64 with it); arrays stay as they are."""
    if hasattr(value, "shape") and len(value.shape) > 0:
        return value
    wide = "float64" if "float64" in str(x.dtype) else "float32"
    if torch is not None and isinstance(x, torch.Tensor):
        if isinstance(value, torch.Tensor):
            return value.to(x.device, getattr(torch, wide)).expand(x.shape[:1])
        return x.new_full(x.shape[:1], value, dtype=getattr(torch, wide))
    return _full(x, x.shape[:1], value, wide)


def _full(like: Any, shape: Sequence[int], value: Any, dtype: str) -> Any:
    """An array of `like`'s kind, not torch's, with one value throughout."""
    if hasattr(like, "__array_namespace__"):
        space = like.__array_namespace__()
        return space.full(tuple(shape), float(value), dtype=getattr(space, dtype))
    import numpy as np

    return np.full(tuple(shape), float(value), dtype=dtype)


def one_number(like: Any, value: Any) -> Any:
    """A number, or an array of one, as a float32 array without dimensions of the kind of `like` (float64 with it)."""
    if value is None:
        return None
    wide = "float64" if "float64" in str(like.dtype) else "float32"
    if torch is not None and isinstance(like, torch.Tensor):
        return torch.as_tensor(value, dtype=getattr(torch, wide), device=like.device).reshape(())
    if hasattr(value, "astype"):
        return value.astype(wide).reshape(())
    return value if hasattr(value, "shape") else _full(like, (), value, wide)
