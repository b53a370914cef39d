# SPDX-License-Identifier: Apache-2.0
"""What the table of ops cannot ask of the ops over hierarchies of labels: the paper's form, ties, memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from prestissimo import ops

pytest.importorskip("prestissimo._core")


def labels(N: int, S: int, C: int, E: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Features, subclasses near their classes, parents, classes; rows of length 1."""
    rng = torch.Generator().manual_seed(seed)
    unit = lambda *shape: F.normalize(torch.randn(*shape, generator=rng), dim=-1)  # noqa: E731
    parents, classes = torch.randint(0, C, (S,), generator=rng), unit(C, E)
    return unit(N, E), F.normalize(unit(S, E) + classes[parents], dim=-1), parents, classes


def test_argmax_is_that_of_two_softmaxes() -> None:
    x, w, parents, u = labels(500, 211, 17, 32)
    x64, w64, u64 = x.double(), w.double(), u.double()
    p = torch.softmax(100 * (x64 @ w64.T), -1) * torch.softmax(100 * (x64 @ u64.T), -1)[:, parents]
    assert torch.equal(ops.hierarchy_argmax(x, w, parents, u), parents[p.argmax(-1)])
    assert torch.equal(
        ops.hierarchy_argmax(x, w, parents), parents[torch.softmax(x64 @ w64.T, -1).argmax(-1)]
    )
    r = ops.hierarchy_probs(100 * (x @ w.T), 100 * (x @ u.T), parents)
    assert torch.equal(ops.hierarchy_argmax(x, w, parents, u), parents[r.argmax(-1)])


def test_classes_as_their_own_subclasses() -> None:
    x, _, _, u = labels(300, 1, 20, 24)
    own = torch.arange(20)
    assert torch.equal(ops.hierarchy_argmax(x, u, own, u), (x @ u.T).argmax(-1))


@pytest.mark.parametrize("N", [1, 3, 70])
def test_the_first_of_equals_decides(N: int) -> None:
    """Also where threads share the columns."""
    x, w, _, _ = labels(N, 1, 1, 16)
    many = w.expand(400, -1)
    parents = torch.arange(400).flip(0)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert (ops.hierarchy_argmax(x, many, parents) == 399).all()
            last_rises = torch.cat([many[:-1], 2 * many[-1:] * (x[:1] @ w[0]).sign()])
            assert ops.hierarchy_argmax(x[:1], last_rises, parents) == 0
    finally:
        torch.set_num_threads(before)


def test_nothing_finite() -> None:
    """torch.argmax's order: NaN above infinity, a row of minus infinity gives its first element."""
    x = torch.ones(1, 1)
    parents = torch.arange(4)
    inf, nan = torch.inf, torch.nan
    for column, winner in [
        ((-inf, -inf, -inf, -inf), 0),
        ((-inf, -3.0, inf, inf), 2),
        ((1.0, inf, nan, nan), 2),
        ((-3.0, -2.0, -2.0, -5.0), 1),
        ((-1e-45, 0.0, 1e-45, 0.0), 2),
    ]:
        w = torch.tensor(column)[:, None]
        assert ops.hierarchy_argmax(x, w, parents) == winner == w[:, 0].argmax(), column


def test_parents_must_be_classes() -> None:
    x, w, parents, u = labels(3, 5, 2, 4)
    for wrong in (-1, 2):
        parents[3] = wrong
        with pytest.raises(
            ValueError, match=r"hierarchy_argmax: parents must be from 0 to 1, got -?\d at subclass 3"
        ):
            ops.hierarchy_argmax(x, w, parents, u)
        with pytest.raises(ValueError, match=r"hierarchy_probs: parents must be from 0 to 1"):
            ops.hierarchy_probs(x @ w.T, x @ u.T, parents)
    assert ops.hierarchy_argmax(x, w, parents).shape == (3,)  # labels of any kind where there are no classes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_backward_equals_autograd(dtype: torch.dtype) -> None:
    """In float64 the closed form, to 1e-12 of what autograd says."""
    rng = torch.Generator().manual_seed(0)
    x, z = (torch.randn(4, n, generator=rng).to(dtype).double() for n in (30, 6))
    parents = torch.randint(0, 6, (30,), generator=rng)
    g = torch.randn(4, 30, generator=rng, dtype=torch.float64)
    from prestissimo.ops.hierarchy_probs import backward_reference, reference

    leaves = [v.clone().requires_grad_() for v in (x, z)]
    auto = torch.autograd.grad(reference(*leaves, parents), leaves, g)
    for a, b in zip(auto, backward_reference(g, x, z, parents), strict=True):
        assert (a - b).abs().max() <= 1e-12


_MEMORY = """
import resource, torch
from prestissimo import ops
torch.set_num_threads(2)
x, w, u = torch.randn(30_000, 16), torch.randn(4000, 16), torch.randn(100, 16)
parents = torch.arange(4000) % 100
ops.hierarchy_argmax(x[:500], w, parents, u)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ops.hierarchy_argmax(x, w, parents, u)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_argmax_stores_no_matrix() -> None:
    """The ratings alone would be 480 MB."""
    done = subprocess.run([sys.executable, "-c", _MEMORY], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 20
