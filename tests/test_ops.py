# SPDX-License-Identifier: Apache-2.0
"""Every op of `prestissimo.ops.cases`, every variant, dtype and ISA, against its plain-PyTorch reference."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from prestissimo import ops
from prestissimo.ops.cases import CASES, OpCase

from .op_checks import (
    NOT_FINITE,
    STRIDES,
    check_gradients,
    check_values,
    clone,
    differentiable,
    each,
    generator,
    gradients,
    is_float,
    like,
    outputs,
    strided,
    tensors,
    with_not_finite,
)

_core = pytest.importorskip("prestissimo._core")

cases = pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
dtyped = pytest.mark.parametrize(
    ("case", "dtype"),
    [pytest.param(c, d, id=f"{c.id}-{str(d)[6:]}") for c in CASES for d in c.dtypes],
)


@pytest.fixture(autouse=True)
def no_fallback() -> Iterator[None]:
    with ops.strict_kernels():
        yield


@dtyped
def test_values(case: OpCase, dtype: torch.dtype, isa: str) -> None:
    for seed, shape in enumerate(case.small):
        check_values(case, case.make(shape, dtype, generator(seed)), others=like(case, shape, dtype))


@dtyped
def test_gradients(case: OpCase, dtype: torch.dtype, isa: str) -> None:
    if not case.gradients:
        pytest.skip("no gradient by design")
    for seed, shape in enumerate(case.gradient_small):
        check_gradients(case, shape, dtype, seed)


@cases
def test_gradcheck(case: OpCase) -> None:
    if not case.gradients:
        pytest.skip("no gradient by design")
    if not case.smooth:
        pytest.skip("not the gradient of the values")
    arguments = clone(case.make((2, 3, 5), torch.float64, generator()), None, case.gradients)

    leaves = tuple(t for n in case.gradients for t in tensors(arguments[n]))

    def f(*values: torch.Tensor) -> Any:
        rest = iter(values)
        changed = {n: each(arguments[n], lambda _: next(rest)) for n in case.gradients}
        return tuple(o for o in outputs(case.op(**{**arguments, **changed})) if o.is_floating_point())

    assert torch.autograd.gradcheck(f, leaves)


@cases
def test_some_gradients_only(case: OpCase) -> None:
    """Each differentiable argument alone: the others' gradients are not computed and change nothing."""
    arguments = case.make(case.small[0], case.dtypes[0], generator())
    full = clone(arguments, None, case.gradients)
    torch.autograd.backward([o.sum() for o in differentiable(case.op(**full))])
    for name in case.gradients:
        alone = clone(arguments, None, (name,))
        torch.autograd.backward([o.sum() for o in differentiable(case.op(**alone))])
        for one, two in zip(gradients(alone, (name,)), gradients(full, (name,)), strict=True):
            assert torch.equal(one, two), name


@pytest.mark.parametrize("kind", STRIDES)
@dtyped
def test_strides(case: OpCase, dtype: torch.dtype, kind: str) -> None:
    for shape in case.small:
        arguments = case.make(shape, dtype, generator())
        odd = {k: each(v, lambda t: strided(t, kind)) for k, v in arguments.items()}
        expected, result = outputs(case.op(**arguments)), outputs(case.op(**odd))
        for e, r in zip(expected, result, strict=True):
            assert torch.equal(e, r), f"{case.id} {list(shape)} {kind}"


@dtyped
def test_row_strides_need_no_copy(case: OpCase, dtype: torch.dtype) -> None:
    """Chunks of a wider tensor, as `modulation.chunk(6, -1)` gives them."""
    arguments = case.make((2, 5, 24) if case.gradients else case.small[0], dtype, generator())

    def chunk(v: torch.Tensor) -> torch.Tensor:
        return torch.cat([v, v, v], dim=-1).chunk(3, dim=-1)[1] if is_float(v) and v.dim() >= 2 else v

    chunks = {k: each(v, chunk) for k, v in arguments.items()}
    for e, r in zip(outputs(case.op(**arguments)), outputs(case.op(**chunks)), strict=True):
        assert torch.equal(e, r)


@pytest.mark.parametrize("value", NOT_FINITE)
@dtyped
def test_not_finite(case: OpCase, dtype: torch.dtype, value: float) -> None:
    for arguments in with_not_finite(case, dtype, value):
        check_values(case, arguments)


@dtyped
def test_same_bits(case: OpCase, dtype: torch.dtype) -> None:
    """Twice, and for one, two and three threads; gradients too."""
    shape = case.real.get("mini-32s", case.small[-1])
    arguments = case.make(shape, dtype, generator())
    runs = []
    threads = torch.get_num_threads()
    try:
        for n in (threads, 1, 2, 3, threads):
            torch.set_num_threads(n)
            a = clone(arguments, None, case.gradients)
            y = outputs(case.op(**a))
            torch.autograd.backward([o.float().square().sum() for o in differentiable(y)])
            runs.append([o.detach() for o in y] + gradients(a, case.gradients))
    finally:
        torch.set_num_threads(threads)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], run, strict=True))


@cases
def test_threads_are_torchs(case: OpCase) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert _core.max_threads() == 3
    finally:
        torch.set_num_threads(threads)


@dtyped
def test_inputs_unchanged(case: OpCase, dtype: torch.dtype) -> None:
    arguments = case.make(case.small[0], dtype, generator())
    before = clone(arguments)
    for name in case.gradients:
        each(arguments[name], torch.Tensor.requires_grad_)
    y = case.op(**arguments)
    torch.autograd.backward([o.sum() for o in differentiable(y)])
    for k, v in arguments.items():
        pairs = zip(tensors(before[k]), tensors(v), strict=True)
        assert all(torch.equal(one, two.detach()) for one, two in pairs if isinstance(one, torch.Tensor)), k


@cases
def test_bad_arguments_name_themselves(case: OpCase) -> None:
    good = case.make(case.small[0], case.dtypes[0], generator())
    for change, error, name in case.bad:
        for context in (ops.strict_kernels(), ops.strict_kernels(False)):
            with context, pytest.raises(error, match=rf"^{case.name}: {name}\b"):
                case.op(**change(dict(good)))


@cases
def test_bad_arguments_of_fake_tensors(case: OpCase) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    good = case.make(case.small[0], case.dtypes[0], generator())
    for change, error, name in case.bad:
        changed = change(dict(good))
        with FakeTensorMode() as mode:
            fake = {k: each(v, mode.from_tensor) for k, v in changed.items()}
            with pytest.raises(error, match=rf"{case.name}: {name}\b"):
                case.op(**fake)


@cases
def test_opcheck(case: OpCase) -> None:
    arguments = clone(case.make(case.small[0], case.dtypes[0], generator()), None, case.gradients)
    overload = getattr(torch.ops.prestissimo, case.name).default
    torch.library.opcheck(overload, case.overload_arguments(arguments))


@cases
def test_compile(case: OpCase) -> None:
    """One graph, no break, equal values and gradients."""
    torch._dynamo.reset()  # its limit of recompilations counts over all cases
    arguments = case.make(case.small[0], case.dtypes[0], generator())
    compiled = torch.compile(lambda a: outputs(case.op(**a)), fullgraph=True, backend="aot_eager")
    results = []
    for f in (lambda a: outputs(case.op(**a)), compiled):
        a = clone(arguments, None, case.gradients)
        y = f(a)
        torch.autograd.backward([o.sum() for o in differentiable(y)])
        results.append([o.detach() for o in y] + gradients(a, case.gradients))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({c.name for c in CASES}))
def test_inductor(name: str) -> None:
    case = next(c for c in CASES if c.name == name)
    arguments = case.make(case.small[0], case.dtypes[0], generator())
    torch._dynamo.reset()  # which counts the lambda's code of every op as one function, compiled too often
    y = torch.compile(lambda a: [o * 2 for o in outputs(case.op(**a))], fullgraph=True)(arguments)
    assert all(torch.equal(a, 2 * b) for a, b in zip(y, outputs(case.op(**arguments)), strict=True))


@dtyped
def test_numpy(case: OpCase, dtype: torch.dtype) -> None:
    """NumPy arrays in and out, read-only ones and odd strides included."""
    if dtype == torch.bfloat16:
        pytest.skip("NumPy has no bfloat16")
    arguments = case.make(case.small[0], dtype, generator())

    def array(v: torch.Tensor) -> np.ndarray:
        out = np.asfortranarray(v.numpy()) if v.dim() >= 2 else v.numpy()
        out.flags.writeable = False
        return out

    arrays = {k: each(v, array) for k, v in arguments.items()}
    expected = outputs(case.op(**arguments))
    for e, r in zip(expected, outputs(case.op(**arrays)), strict=True):
        assert isinstance(r, np.ndarray)
        np.testing.assert_array_equal(r, e.numpy())


@pytest.mark.parametrize("isa", ["scalar", "sse9"])
def test_environment_forces_the_isa(isa: str) -> None:
    code = "import prestissimo.ops; print(prestissimo._core.isa())"
    environment = {**os.environ, "PRESTISSIMO_ISA": isa}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    if isa == "scalar":
        assert done.stdout.strip() == "scalar"
    else:
        assert done.returncode != 0
        assert "isa must be scalar, avx2, avx512 or avx512_bf16" in done.stderr


def test_forced_isa_must_exist() -> None:
    with pytest.raises(ValueError, match="isa must be"):
        _core.set_isa("sse9")


def test_philox_is_the_published_generator() -> None:
    """Philox4x32-10 of the Random123 known-answer tests, through the reference's words."""
    import importlib

    philox = importlib.import_module("prestissimo.ops.philox_normal")

    def words(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
        tensors = [torch.tensor(v) for v in (*counter, *key)]
        return tuple(int(w) for w in philox.philox4x32_10(tensors[:4], tensors[4:]))

    f = 0xFFFFFFFF
    assert words((0, 0, 0, 0), (0, 0)) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    assert words((f, f, f, f), (f, f)) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)
    pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
    assert words(*pi) == (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)
