# SPDX-License-Identifier: Apache-2.0
"""Every op of `prestissimo.ops.cases`, every variant, dtype and ISA, against its plain-PyTorch reference."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from prestissimo import ops
from prestissimo.ops.cases import CASES, OpCase
from prestissimo.ops.tolerance import assert_close, assert_close_but_at_jumps

_core = pytest.importorskip("prestissimo._core")

cases = pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
dtyped = pytest.mark.parametrize(
    ("case", "dtype"),
    [pytest.param(c, d, id=f"{c.id}-{str(d)[6:]}") for c in CASES for d in c.dtypes],
)
ALL_ISAS = ("scalar", "avx2", "avx512", "avx512_bf16")


@pytest.fixture(params=ALL_ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param not in _core.supported_isas():
        pytest.skip(f"this processor has no {request.param}")
    before = _core.isa()
    _core.set_isa(request.param)
    yield request.param
    _core.set_isa(before)


@pytest.fixture(autouse=True)
def no_fallback() -> Iterator[None]:
    with ops.strict_kernels():
        yield


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def is_float(v: Any) -> bool:
    return isinstance(v, torch.Tensor) and v.is_floating_point()


def each(v: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """`v` with its tensors changed: an argument is a tensor, a list of tensors, or something else."""
    if isinstance(v, list):
        return [each(t, change) for t in v]
    if isinstance(v, ops.PackedWeight):
        return dataclasses.replace(v, data=change(v.data))
    return change(v) if isinstance(v, torch.Tensor) else v


def clone(
    arguments: dict[str, Any], dtype: torch.dtype | None = None, grad: tuple[str, ...] = ()
) -> dict[str, Any]:
    def copy(v: torch.Tensor) -> torch.Tensor:
        return v.detach().to(dtype or v.dtype).clone() if is_float(v) else v

    out = {k: each(v, copy) for k, v in arguments.items()}
    for name in grad:
        each(out[name], torch.Tensor.requires_grad_)
    return out


def tensors(v: Any) -> list[torch.Tensor]:
    """A tensor, or the tensors of a list, as a list."""
    return [t for t in v if isinstance(t, torch.Tensor)] if isinstance(v, list) else [v]


def gradients(arguments: dict[str, Any], names: tuple[str, ...]) -> list[torch.Tensor]:
    """Of every tensor of these arguments; None, which autograd takes as zero, as zeros."""
    leaves = [t for name in names for t in tensors(arguments[name])]
    return [torch.zeros_like(t) if t.grad is None else t.grad for t in leaves]


def outputs(y: Any) -> tuple[torch.Tensor, ...]:
    return tuple(y) if isinstance(y, (tuple, list)) else (y,)


def differentiable(y: Any) -> list[torch.Tensor]:
    return [o for o in outputs(y) if o.requires_grad]


def check_values(case: OpCase, arguments: dict[str, Any]) -> None:
    exact = outputs(case.reference(**clone(arguments, torch.float64)))
    same = outputs(case.reference(**clone(arguments)))
    result = outputs(case.op(**arguments))
    for i, (r, s, e) in enumerate(zip(result, same, exact, strict=True)):
        if case.conditioned:
            r, s, e = (case.conditioned(arguments, v) for v in (r, s, e))
        if case.exact:
            same_bits = torch.equal(r.isnan(), s.isnan()) and torch.equal(r.nan_to_num(0), s.nan_to_num(0))
            assert same_bits, f"{case.id}: output {i} must equal the reference bit for bit"
        elif case.distance:
            distance = case.distance(**clone(arguments, torch.float64))
            assert_close_but_at_jumps(r, s, e, case.distance(**clone(arguments)), distance, name=case.id)
        else:
            assert_close(r, s, e, name=f"{case.id} output {i}")


@dtyped
def test_values(case: OpCase, dtype: torch.dtype, isa: str) -> None:
    for seed, shape in enumerate(case.small):
        check_values(case, case.make(shape, dtype, generator(seed)))


@dtyped
def test_gradients(case: OpCase, dtype: torch.dtype, isa: str) -> None:
    if not case.gradients:
        pytest.skip("no gradient by design")
    for seed, shape in enumerate(case.gradient_small):
        arguments = case.make(shape, dtype, generator(seed))
        versions = [
            (clone(arguments, torch.float64, case.gradients), case.reference),
            (clone(arguments, None, case.gradients), case.reference),
            (clone(arguments, None, case.gradients), case.op),
        ]
        rng = generator(100 + seed)
        dy: list[torch.Tensor] | None = None
        for a, f in versions:
            y = differentiable(f(**a))
            dy = dy or [torch.randn(o.shape, generator=rng, dtype=torch.float64).to(dtype) + 0.25 for o in y]
            torch.autograd.backward(y, [g.to(o.dtype) for g, o in zip(dy, y, strict=True)])
        for name in case.gradients:
            grads = zip(*(gradients(a, (name,)) for a, _ in versions), strict=True)
            for i, (exact, same, result) in enumerate(grads):
                where = f"{case.id} {list(shape)} d{name} {i}"
                if name in case.terms:
                    exact, same, result = (
                        torch.stack([g, g.new_tensor(case.terms[name])]) for g in (exact, same, result)
                    )
                assert_close(result, same, exact, gradient=True, name=where)


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


def strided(v: torch.Tensor, kind: str) -> torch.Tensor:
    """An equal tensor in other memory: transposed storage, every second element, or one element off its alignment."""
    if kind == "transposed" and v.dim() >= 2:
        return v.transpose(-1, -2).contiguous().transpose(-1, -2)
    if kind == "sliced" and v.dim() >= 1:
        wide = torch.full(
            (*v.shape[:-1], 2 * v.shape[-1]), torch.nan if v.is_floating_point() else 0, dtype=v.dtype
        )
        wide[..., ::2] = v
        return wide[..., ::2]
    flat = torch.empty(v.numel() + 1, dtype=v.dtype)[1:]
    return flat.copy_(v.reshape(-1)).view(v.shape)


@pytest.mark.parametrize("kind", ["transposed", "sliced", "misaligned"])
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


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@dtyped
def test_not_finite(case: OpCase, dtype: torch.dtype, value: float) -> None:
    for name in case.gradients if case.not_finite is None else case.not_finite:
        arguments = case.make((2, 3, 40), dtype, generator())
        flat = tensors(arguments[name])[0].view(-1)
        flat[7 % flat.numel()] = value
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
