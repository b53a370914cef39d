# SPDX-License-Identifier: Apache-2.0
"""How results and gradients of an op of `prestissimo.ops.cases` are judged, on any device: against its reference in
float64 and in the dtype under test, which run on the CPU unless told otherwise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from prestissimo import ops
from prestissimo.ops.cases import OpCase
from prestissimo.ops.tolerance import assert_close, assert_close_but_at_jumps, relative_error

Device = torch.device | str
STRIDES = ("transposed", "sliced", "misaligned")
NOT_FINITE = (float("nan"), float("inf"), -float("inf"))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def is_float(v: Any) -> bool:
    return isinstance(v, torch.Tensor) and v.is_floating_point()


def each(v: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """`v` with its tensors changed: an argument is a tensor, a list of tensors, or something else."""
    if isinstance(v, list):
        return [each(t, change) for t in v]
    if isinstance(v, ops.PackedWeight):
        data = change(v.data)
        if isinstance(data, torch.Tensor) and data.device.type != v.data.device.type:
            return v.to(data.device)  # the layout is the device's
        return dataclasses.replace(v, data=data)
    return change(v) if isinstance(v, torch.Tensor) else v


def clone(
    arguments: dict[str, Any],
    dtype: torch.dtype | None = None,
    grad: tuple[str, ...] = (),
    device: Device = "cpu",
) -> dict[str, Any]:
    """Copies on `device`; floats in `dtype`, those of the arguments in `grad` asking for gradients."""

    def copy(v: torch.Tensor) -> torch.Tensor:
        return v.detach().to(device, dtype or v.dtype).clone() if is_float(v) else v.to(device)

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


def strided(v: torch.Tensor, kind: str) -> torch.Tensor:
    """An equal tensor in other memory: transposed storage, every second element, or one element off its alignment."""
    if kind == "transposed" and v.dim() >= 2:
        return v.transpose(-1, -2).contiguous().transpose(-1, -2)
    if kind == "sliced" and v.dim() >= 1:
        wide = v.new_full((*v.shape[:-1], 2 * v.shape[-1]), torch.nan if v.is_floating_point() else 0)
        wide[..., ::2] = v
        return wide[..., ::2]
    flat = v.new_empty(v.numel() + 1)[1:]
    return flat.copy_(v.reshape(-1)).view(v.shape)


def with_not_finite(case: OpCase, dtype: torch.dtype, value: float) -> Iterator[dict[str, Any]]:
    """Arguments with `value` among their elements, one argument after the other."""
    for name in case.gradients if case.not_finite is None else case.not_finite:
        arguments = case.make((2, 3, 40), dtype, generator())
        t = tensors(arguments[name])[0]
        t.put_(t.new_tensor(7 % t.numel(), dtype=torch.int64), t.new_tensor(value))
        yield arguments


def check_values(
    case: OpCase,
    arguments: dict[str, Any],
    device: Device = "cpu",
    oracle: Device = "cpu",
    lay: Callable[[torch.Tensor], torch.Tensor] = lambda t: t,
    others: Callable[[], Iterable[dict[str, Any]]] = tuple,
) -> None:
    """AssertionError unless the op on `device` lies within the tolerance of its reference on `oracle`.

    lay: puts the op's arguments into other memory, there. others: arguments like these, for eager's error on them.
    """

    def by_reference(a: dict[str, Any]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Every output in its own dtype and in float64."""
        there = clone(a, device=oracle)
        exact = outputs(case.reference(**clone(a, torch.float64, device=oracle)))
        for pair in zip(outputs(case.reference(**clone(a, device=oracle))), exact, strict=True):
            same, wide = (case.conditioned(there, v) for v in pair) if case.conditioned else pair
            yield same, wide

    result = outputs(case.op(**{k: each(v, lay) for k, v in clone(arguments, device=device).items()}))
    there = clone(arguments, device=oracle)
    for i, (r, (s, e)) in enumerate(zip(result, by_reference(arguments), strict=True)):
        r = r.to(oracle)
        if case.conditioned:
            r = case.conditioned(there, r)

        def elsewhere(i: int = i) -> float:
            return max((relative_error(*list(by_reference(a))[i]) for a in others()), default=0.0)

        if case.exact:
            same_bits = torch.equal(r.isnan(), s.isnan()) and torch.equal(r.nan_to_num(0), s.nan_to_num(0))
            assert same_bits, f"{case.id}: output {i} must equal the reference bit for bit"
        elif case.distance:
            distance = case.distance(**clone(arguments, torch.float64, device=oracle))
            assert_close_but_at_jumps(r, s, e, case.distance(**there), distance, name=case.id)
        else:
            assert_close(r, s, e, name=f"{case.id} output {i}", elsewhere=elsewhere)


DRAWS = 8  # of inputs, where eager's error on one is not enough


def like(case: OpCase, shape: tuple[int, ...], dtype: torch.dtype) -> Callable[[], Iterable[dict[str, Any]]]:
    """Further arguments of this size, for `check_values`."""
    return lambda: (case.make(shape, dtype, generator(1000 + k)) for k in range(DRAWS))


def check_gradients(
    case: OpCase, shape: tuple[int, ...], dtype: torch.dtype, seed: int, device: Device = "cpu"
) -> None:
    """AssertionError unless every gradient on `device` lies within the tolerance of the reference's."""
    Gradients = dict[str, list[torch.Tensor]]

    def of(seed: int, op: bool) -> tuple[Gradients, ...]:
        """By the reference in float64 and in `dtype`, and by the op if so wished."""
        arguments = case.make(shape, dtype, generator(seed))
        versions = [
            (clone(arguments, torch.float64, case.gradients), case.reference),
            (clone(arguments, None, case.gradients), case.reference),
        ]
        if op:
            versions.append((clone(arguments, None, case.gradients, device), case.op))
        rng = generator(100 + seed)
        dy: list[torch.Tensor] | None = None
        for a, f in versions:
            y = differentiable(f(**a))
            dy = dy or [torch.randn(o.shape, generator=rng, dtype=torch.float64).to(dtype) + 0.25 for o in y]
            torch.autograd.backward(y, [g.to(o) for g, o in zip(dy, y, strict=True)])
        return tuple(
            {n: [judged(n, g.cpu()) for g in gradients(a, (n,))] for n in case.gradients} for a, _ in versions
        )

    def judged(name: str, gradient: torch.Tensor) -> torch.Tensor:
        terms = case.terms.get(name)
        return gradient if terms is None else torch.stack([gradient.reshape(()), gradient.new_tensor(terms)])

    exact, same, result = of(seed, op=True)
    for name in case.gradients:
        for i, r in enumerate(result[name]):

            def elsewhere(name: str = name, i: int = i) -> float:
                draws = (of(1000 + k, op=False) for k in range(DRAWS))
                return max(relative_error(s[name][i], e[name][i]) for e, s in draws)

            assert_close(
                r,
                same[name][i],
                exact[name][i],
                gradient=True,
                name=f"{case.id} {list(shape)} d{name} {i}",
                elsewhere=elsewhere,
            )
