# SPDX-License-Identifier: Apache-2.0
"""What the table of ops cannot ask of the ops over all pairs: extreme logits, memory, several processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from prestissimo import ops
from prestissimo.ops.info_nce import reference
from prestissimo.ops.segment_similarity import reference as segment_similarity_reference
from prestissimo.ops.tolerance import assert_close

pytest.importorskip("prestissimo._core")


def unit_pairs(M: int, E: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    a = torch.randn(M, E, generator=rng)
    b = 0.5 * a + torch.randn(M, E, generator=rng)
    return F.normalize(a, dim=1), F.normalize(b, dim=1)


def gradients_of(f: Any, *tensors: torch.Tensor, **settings: Any) -> list[torch.Tensor]:
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    loss = f(*leaves, **settings)
    loss.backward()
    return [loss.detach(), *(t.grad for t in leaves)]  # type: ignore[list-item]


@pytest.mark.parametrize("form", ["symmetric", "rows", "sigmoid"])
@pytest.mark.parametrize("scale", [100.0, 2000.0, -70.0])
def test_info_nce_of_large_logits(form: str, scale: float) -> None:
    """Beyond the range of exp in float32, where maxima must be kept; some blocks of 32 columns inside, some not."""
    a, b = unit_pairs(300, 24)
    b[40:60] = a[40:60]  # positives of cosine 1
    a[100], b[150] = 0.0, 0.0
    s = torch.tensor(scale)
    result = gradients_of(ops.info_nce, a, b, s, form=form)
    exact = gradients_of(reference, a.double(), b.double(), s.double(), form=form)
    same = gradients_of(reference, a, b, s, form=form)
    for r, e, o in zip(result, exact, same, strict=True):
        rounding = torch.finfo(torch.float32).eps * abs(scale)  # of a logit
        assert (r - e).abs().max() <= 3 * (o - e).abs().max() + rounding * e.abs().max()


def test_info_nce_keeps_the_digits_of_a_small_loss() -> None:
    """The loss of a batch that is learned almost by heart: 1e-9, where log-softmax in float32 says zero."""
    a = torch.eye(8)
    s = torch.tensor(23.0)
    loss, _, _, ds = gradients_of(ops.info_nce, a, a, s)
    exact = gradients_of(reference, a.double(), a.double(), s.double())
    assert 0 < exact[0] < 1e-8
    assert loss == pytest.approx(exact[0].item(), rel=1e-5)
    assert ds == pytest.approx(exact[3].item(), rel=1e-5)


@pytest.mark.parametrize("form", ["symmetric", "sigmoid"])
def test_info_nce_of_scale_zero(form: str) -> None:
    a, b = unit_pairs(40, 8)
    s = torch.tensor(0.0)
    result = gradients_of(ops.info_nce, a, b, s, form=form)
    exact = gradients_of(reference, a.double(), b.double(), s.double(), form=form)
    assert not result[1].any()
    assert not result[2].any()
    assert result[0] == pytest.approx(exact[0].item(), rel=1e-6)
    assert result[3] == pytest.approx(exact[3].item(), rel=1e-5)


@pytest.mark.parametrize("length", [2e-3, 300.0])
def test_info_nce_of_short_and_long_rows(length: float) -> None:
    """In float16 scale / length^2 is beyond the largest number, or takes gradients below the smallest."""
    a, b = (length * v for v in unit_pairs(40, 24))
    tensors = a.half(), b.half(), torch.tensor(20.0, dtype=torch.float16)
    settings = {"form": "rows", "normalize": True}
    result = gradients_of(ops.info_nce, *tensors, **settings)
    exact = gradients_of(reference, *(t.double() for t in tensors), **settings)
    same = gradients_of(reference, *tensors, **settings)
    for r, e, o in zip(result[1:3], exact[1:3], same[1:3], strict=True):
        assert_close(r, o, e, gradient=True)


def test_info_nce_leaves_out_padding_and_twins() -> None:
    """A padded batch equals the batch without padding; a twin in one group is no negative."""
    a, b = unit_pairs(20, 16)
    scale = 10.0
    groups = torch.arange(20)
    groups[[3, 11]] = -1
    kept = groups >= 0
    expected = ops.info_nce(a[kept], b[kept], scale)
    assert ops.info_nce(a, b, scale, a_group=groups, b_group=groups) == pytest.approx(
        expected.item(), rel=1e-6
    )
    b[7], groups[7] = b[5], 5
    mask = torch.ones(20, 20, dtype=torch.bool)
    mask[5, 7] = mask[7, 5] = False
    mask[:, [3, 11]] = mask[[3, 11]] = False
    grouped = ops.info_nce(a, b, scale, a_group=groups, b_group=groups)
    assert grouped == ops.info_nce(a, b, scale, mask=mask)


def test_info_nce_without_anchors_is_nan() -> None:
    a, b = unit_pairs(5, 4)
    assert ops.info_nce(a, b, 1.0, mask=torch.zeros(5, 5, dtype=torch.bool)).isnan()


_MEMORY = """
import resource, sys, torch
from prestissimo import ops
torch.set_num_threads(2)
op, shape = getattr(ops, sys.argv[1]), tuple(map(int, sys.argv[2:]))
a, b = (torch.randn(s) / 5 for s in (shape, (shape[0], shape[-1])))
a, b = a.requires_grad_(), b.requires_grad_()
s = torch.tensor(1.0, requires_grad=True)
small = [t[:64].detach().requires_grad_() for t in (a, b)]
op(*small, s).sum().backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
op(a, b, s).sum().backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.parametrize(
    ("op", "shape", "limit"),
    [("info_nce", (12288, 32), 60), ("segment_similarity", (2048, 36, 8), 60)],
    ids=["info_nce", "segment_similarity"],
)
def test_nothing_of_the_size_of_all_pairs_is_stored(op: str, shape: tuple[int, ...], limit: float) -> None:
    """In megabytes, results and gradients included; the pairs' products alone would be 604."""
    command = [sys.executable, "-c", _MEMORY, op, *map(str, shape)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < limit


def test_segment_similarity_of_padding_and_of_nothing() -> None:
    """A song padded by masked segments scores as the song; without segments it scores NaN, alone."""
    segments, text = unit_pairs(5 * 7, 12)[0].view(5, 7, 12), unit_pairs(9, 12, seed=1)[0]
    mask = torch.ones(5, 7, dtype=torch.bool)
    mask[:, 4:] = False
    scores = ops.segment_similarity(segments, text, 0.1, mask)
    assert torch.equal(scores, ops.segment_similarity(segments[:, :4], text, 0.1))
    mask[2] = False
    scores = ops.segment_similarity(segments, text, 0.1, mask)
    assert scores[2].isnan().all()
    assert not scores[[0, 1, 3, 4]].isnan().any()


@pytest.mark.parametrize("temperature", [1e-3, -0.1, 1e4])
def test_segment_similarity_of_extreme_temperatures(temperature: float) -> None:
    """Next to a maximum, a softmin, next to a mean."""
    rng = torch.Generator().manual_seed(2)
    segments, text = torch.randn(6, 30, 16, generator=rng), torch.randn(11, 16, generator=rng)
    tau = torch.tensor(temperature)
    total = lambda f: lambda *leaves: (f(*leaves) * torch.arange(1, 12)).sum()  # noqa: E731
    leaves = (segments, text, tau)
    result = gradients_of(total(ops.segment_similarity), *leaves)
    exact = gradients_of(total(segment_similarity_reference), *(v.double() for v in leaves))
    same = gradients_of(total(segment_similarity_reference), *leaves)
    for r, e, o in zip(result, exact, same, strict=True):
        assert (r - e).abs().max() <= 3 * (o - e).abs().max() + 1e-6 * e.abs().max()


# ---- several processes: each writes its loss and gradients; the formulas of open_clip's loss.py say what they must be


def _gather_all(tensors: list[torch.Tensor], rank: int, with_grad: bool, keep_own: bool) -> torch.Tensor:
    """What `gather_features` gives process `rank`: other processes' rows with or without gradient."""
    return torch.cat(
        [t if with_grad or (keep_own and i == rank) else t.detach() for i, t in enumerate(tensors)]
    )


def _clip_loss(
    images: list[torch.Tensor],
    texts: list[torch.Tensor],
    scale: torch.Tensor,
    rank: int,
    local: bool,
    grad: bool,
) -> torch.Tensor:
    all_images = _gather_all(images, rank, grad, not local)
    all_texts = _gather_all(texts, rank, grad, not local)
    if local:
        per_image, per_text = scale * images[rank] @ all_texts.T, scale * texts[rank] @ all_images.T
    else:
        per_image = scale * all_images @ all_texts.T
        per_text = per_image.T
    labels = torch.arange(len(per_image)) + (len(per_image) * rank if local else 0)
    return (F.cross_entropy(per_image, labels) + F.cross_entropy(per_text, labels)) / 2


def _siglip_loss(
    images: list[torch.Tensor], texts: list[torch.Tensor], scale: torch.Tensor, bias: torch.Tensor, rank: int
) -> torch.Tensor:
    n = len(images[rank])
    total = torch.zeros((), dtype=scale.dtype)
    for i, text in enumerate(texts):
        logits = scale * images[rank] @ text.T + bias
        labels = 2 * torch.eye(n, dtype=logits.dtype) * (i == rank) - 1
        total = total - F.logsigmoid(labels * logits).sum() / n
    return total


def _inputs(world: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    pairs = [unit_pairs(9, 20, seed) for seed in range(world)]
    return [a for a, _ in pairs], [b for _, b in pairs]


_SETTINGS: list[dict[str, Any]] = [
    {"local_loss": local, "gather_with_grad": grad} for local in (False, True) for grad in (False, True)
] + [{"form": "sigmoid"}]


def _run(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world)
    images, texts = _inputs(world)
    out = []
    for settings in _SETTINGS:
        a, b = images[rank].clone().requires_grad_(), texts[rank].clone().requires_grad_()
        s, t = torch.tensor(8.0, requires_grad=True), torch.tensor(-5.0, requires_grad=True)
        bias = t if "form" in settings else None
        loss = ops.info_nce_gathered(a, b, s, bias, **settings)
        loss.backward()
        out.append([loss.detach(), a.grad, b.grad, s.grad, t.grad])
    torch.save(out, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("world", [2, 4])
def test_info_nce_gathered_equals_open_clip(world: int, tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_run, (world, str(tmp_path)), nprocs=world)
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]
    for k, settings in enumerate(_SETTINGS):
        leaves = [[v.double().requires_grad_() for v in part] for part in _inputs(world)]
        numbers = [torch.tensor((8.0, -5.0), dtype=torch.float64, requires_grad=True) for _ in range(world)]
        losses = []
        for rank, n in enumerate(numbers):
            if "form" in settings:
                losses.append(_siglip_loss(*leaves, n[0], n[1], rank))
            else:
                losses.append(
                    _clip_loss(*leaves, n[0], rank, settings["local_loss"], settings["gather_with_grad"])
                )
        torch.stack(losses).sum().backward()  # what flows between processes is summed
        for rank in range(world):
            loss, da, db, ds, dt = results[rank][k]
            torch.testing.assert_close(loss.double(), losses[rank].detach(), rtol=1e-6, atol=1e-7)
            for result, exact in ((da, leaves[0][rank].grad), (db, leaves[1][rank].grad)):
                torch.testing.assert_close(result.double(), exact, rtol=1e-5, atol=1e-7)
            torch.testing.assert_close(ds.double(), numbers[rank].grad[0], rtol=1e-5, atol=1e-6)
            if "form" in settings:
                torch.testing.assert_close(dt.double(), numbers[rank].grad[1], rtol=1e-5, atol=1e-6)


def test_info_nce_gathered_has_no_rows() -> None:
    a, b = unit_pairs(3, 4)
    with pytest.raises(ValueError, match="info_nce_gathered: form"):
        ops.info_nce_gathered(a, b, 1.0, form="rows")
