# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import importlib

import pytest
import torch
from torch import Tensor

from prestissimo import ops
from prestissimo.nn.dit import DiT, DiTConfig, TextContext
from prestissimo.nn.rope import rope_tables

SMALL = DiTConfig(latent_channels=6, width=32, depth=3, heads=2, ff_inner=24, text_dim=12, features=16)


def trained(config: DiTConfig = SMALL, dtype: torch.dtype = torch.float32) -> DiT:
    """A network none of whose weights is zero."""
    torch.manual_seed(1)
    dit = DiT(config)
    for parameter in dit.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return dit.to(dtype).eval()


def inputs(B: int = 2, T: int = 7, S: int = 5) -> tuple[Tensor, dict, Tensor, Tensor]:
    g = torch.Generator().manual_seed(B * 1000 + T * 10 + S)
    x = torch.randn(B, SMALL.latent_channels, T, generator=g)
    conditions = {"sigma": torch.rand(B, generator=g) + 0.1, "seconds": torch.rand(B, generator=g) * 30}
    mask = torch.arange(S) < torch.arange(S, S - B, -1).clamp_min(1)[:, None]
    return x, conditions, torch.randn(B, S, SMALL.text_dim, generator=g), mask


@pytest.mark.parametrize("T", [1, 2, 3, 5, 7, 13, 64, 127])
@pytest.mark.parametrize("latents_per_token", [1, 2, 3])
def test_any_length(T: int, latents_per_token: int) -> None:
    dit = trained(dataclasses.replace(SMALL, latents_per_token=latents_per_token))
    x, conditions, text, mask = inputs(T=T)
    y = dit(x, conditions, text, mask)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert torch.isfinite(y).all()
    assert y.std() > 0.01


@pytest.mark.parametrize(
    "change", [{"norm": "rms"}, {"rope_dim": 8}, {"rope_base": 100.0}, {"norm_eps": 0.1}]
)
def test_configurations(change: dict) -> None:
    other = trained(dataclasses.replace(SMALL, **change))
    other.load_state_dict(trained().state_dict())
    assert not torch.allclose(other(*inputs()), trained()(*inputs()), atol=1e-4)


def test_fresh_weights_predict_zero() -> None:
    x, conditions, text, mask = inputs()
    assert torch.equal(DiT(SMALL)(x, conditions, text, mask), torch.zeros_like(x))


def test_every_input_matters() -> None:
    dit = trained()
    x, conditions, text, mask = inputs()
    y = dit(x, conditions, text, mask)
    for name, value in conditions.items():
        other = {**conditions, name: value * 1.1}
        assert not torch.allclose(y, dit(x, other, text, mask), atol=1e-4)
    assert not torch.allclose(y, dit(x, conditions, text + 0.1, mask), atol=1e-4)
    assert not torch.allclose(y, dit(x + 0.1, conditions, text, mask), atol=1e-4)


def test_position_matters() -> None:
    x, conditions, text, mask = inputs()
    y = trained()(x, conditions, text, mask)
    assert not torch.allclose(y.flip(-1), trained()(x.flip(-1), conditions, text, mask), atol=1e-3)


@pytest.mark.parametrize("names", [("budget",), ("target_sigma", "budget")])
def test_adding_a_condition_changes_no_bit(names: tuple[str, ...]) -> None:
    dit = trained()
    x, conditions, text, mask = inputs()
    wider = dit.with_conditions(*names)
    assert set(wider.config.conditions) == {"sigma", "seconds", *names}
    added = {name: torch.tensor([3.0, 0.0]) for name in names}
    assert torch.equal(dit(x, conditions, text, mask), wider(x, {**conditions, **added}, text, mask))
    assert not wider.training
    wider(x, {**conditions, **added}, text, mask).square().mean().backward()
    grad = wider.conditions[names[0]].linear.weight.grad
    assert grad.abs().max() > 0


def in_time(config: DiTConfig = SMALL) -> DiT:
    return trained(dataclasses.replace(config, conditions=("sigma", "seconds", "beats")))


def test_beats_change_nothing_until_trained_nor_where_unknown() -> None:
    x, conditions, text, mask = inputs()
    beats = torch.arange(7.0).expand(2, 7) / 3
    plain = trained()
    assert torch.equal(
        plain(x, conditions, text, mask),
        plain.with_conditions("beats")(x, {**conditions, "beats": beats}, text, mask),
    )
    dit = in_time()
    unknown = dit(x, {**conditions, "beats": torch.full((1, 7), torch.nan)}, text, mask)
    half = dit(
        x, {**conditions, "beats": beats.where(torch.tensor([[True], [False]]), torch.nan)}, text, mask
    )
    known = dit(x, {**conditions, "beats": beats}, text, mask)
    assert torch.equal(half[1], unknown[1])
    assert torch.equal(half[0], known[0])
    assert not torch.allclose(known, unknown, atol=1e-3)


def test_beats_count_in_bars_of_four() -> None:
    x, conditions, text, mask = inputs()
    dit, beats = in_time(), torch.arange(7.0)[None] / 3
    y = dit(x, {**conditions, "beats": beats}, text, mask)
    assert torch.allclose(y, dit(x, {**conditions, "beats": beats + 400}, text, mask), atol=1e-3)
    assert not torch.allclose(y, dit(x, {**conditions, "beats": beats + 1}, text, mask), atol=1e-3)
    paired = in_time(dataclasses.replace(SMALL, latents_per_token=2))
    assert paired(x, {**conditions, "beats": beats}, text, mask).shape == x.shape
    with pytest.raises(ValueError, match=r"beats must be \[2, 7\], got \[1, 6\]"):
        dit(x, {**conditions, "beats": beats[:, :6]}, text, mask)


def test_hidden_states() -> None:
    dit = trained()
    x, conditions, text, mask = inputs()
    y, hidden = dit(x, conditions, text, mask, return_hidden=(0, 2, -2))
    assert list(hidden) == [0, 2, -2]
    assert hidden[0].shape == (2, 7, SMALL.width)
    assert torch.equal(y, dit(x, conditions, text, mask))
    assert torch.equal(hidden[-2], dit(x, conditions, text, mask, return_hidden=[1])[1][1])
    assert not torch.equal(hidden[0], hidden[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_equal_reference(dtype: torch.dtype) -> None:
    x, conditions, text, mask = inputs(T=31)
    exact = trained()
    exact.load_state_dict(trained(dtype=dtype).state_dict())
    exact = exact.double()
    exact.kernels = "reference"
    want = exact(x.double(), conditions, text.double(), mask)
    dit = trained(dtype=dtype)
    error = {}
    for dit.kernels in ("auto", "reference"):
        error[dit.kernels] = (dit(x.to(dtype), conditions, text.to(dtype), mask).double() - want).abs().max()
    assert error["auto"] <= 2 * error["reference"] + torch.finfo(dtype).eps * want.abs().max()
    assert error["reference"] < 0.1 * want.abs().max()


@pytest.mark.skipif(not ops.compiled(), reason="the compiled module is not built")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_reference_runs_where_a_kernel_exists(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    x, conditions, text, mask = inputs()
    dit = trained(dtype=dtype)
    for name in ("adaln_modulate", "attention", "gated_residual_adaln", "qk_norm_rope", "swiglu"):
        monkeypatch.setattr(importlib.import_module(f"prestissimo.ops.{name}")._op, "reference", None)
    with ops.strict_kernels():
        dit(x.to(dtype), conditions, text.to(dtype), mask).float().sum().backward()


def test_text_context_is_the_same_as_text() -> None:
    dit = trained()
    x, conditions, text, mask = inputs()
    context = dit.encode_text(text, mask)
    assert torch.equal(dit(x, conditions, text, mask), dit(x, conditions, context))
    assert context.batch == 2
    assert context.keys[0].shape == (2, 5, SMALL.heads, SMALL.head_dim)


def test_contexts_stack() -> None:
    dit = trained()
    x, conditions, text, mask = inputs()
    short = dit.encode_text(text[:, :3])
    both = TextContext.cat([dit.encode_text(text, mask), short])
    twice = {name: value.repeat(2) for name, value in conditions.items()}
    y = dit(x.repeat(2, 1, 1), twice, both)
    torch.testing.assert_close(y[:2], dit(x, conditions, text, mask))
    torch.testing.assert_close(y[2:], dit(x, conditions, short))
    one = dit.encode_text(text[:1])
    y = dit(x, conditions, text[:1].repeat(2, 1, 1))
    torch.testing.assert_close(dit(x, conditions, one.expand(2)), y)


@pytest.mark.parametrize("junk", [1e4, float("nan"), float("inf")])
def test_padding_is_never_read(junk: float) -> None:
    dit = trained()
    x, conditions, text, mask = inputs()
    y = dit(x, conditions, text, mask)
    dirty = torch.where(mask[..., None], text, junk)
    assert torch.equal(y, dit(x, conditions, dirty, mask))
    longer = torch.cat([dirty, torch.full((2, 4, SMALL.text_dim), junk)], dim=1)
    torch.testing.assert_close(y, dit(x, conditions, longer, torch.nn.functional.pad(mask, (0, 4))))


def test_dropped_captions_are_the_null_text() -> None:
    dit = trained()
    x, conditions, text, mask = inputs()
    dropped = mask & torch.tensor([[True], [False]])
    y = dit(x, conditions, text, dropped)
    torch.testing.assert_close(y[:1], dit(x, conditions, text, mask)[:1])
    torch.testing.assert_close(y[1:], dit(x, conditions)[1:])
    torch.testing.assert_close(y[1:], dit(x, conditions, dit.null_context(2))[1:])
    y.square().sum().backward()
    assert dit.null_text.grad.abs().max() > 0


def test_every_weight_learns() -> None:
    dit = trained().train()
    x, conditions, text, mask = inputs()
    mask[1] = False
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, hidden = dit(x, conditions, text, mask, return_hidden=[1])
    assert hidden[1].dtype == torch.float32
    y.float().square().mean().backward()
    still = [name for name, p in dit.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert still == []


def test_gradient_to_the_latent() -> None:
    dit = trained(dtype=torch.float64)
    x, conditions, text, mask = inputs(T=3)
    x = x.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: dit(x, conditions, text.double(), mask), x)


def test_compiles_in_one_graph() -> None:
    dit = trained()
    x, conditions, text, mask = inputs()
    compiled = torch.compile(dit, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, conditions, text, mask), dit(x, conditions, text, mask))


def test_flops_count_the_matrix_products() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    dit = trained()
    x, conditions, text, _ = inputs(B=1, T=13)
    context = dit.encode_text(text)
    with FlopCounterMode(display=False) as counter:
        dit(x, conditions, context)
    # torch's counter leaves out the CPU's fused attention: two products of tokens × (tokens + S) per block
    attention = 4 * SMALL.depth * 13 * (13 + 5) * SMALL.width
    assert dit.flops(13, 5) == counter.get_total_flops() + attention
    with FlopCounterMode(display=False) as counter:
        dit.encode_text(text)
    assert dit.text_flops(5) == counter.get_total_flops()


def test_the_planned_size_fits_its_budget() -> None:
    dit = DiT(DiTConfig(latent_channels=128))
    assert dit.flops(345, 32) <= 10e9
    assert sum(p.numel() for p in dit.parameters()) <= 13.7e6


def test_rope_depends_on_distance_only() -> None:
    cos, sin = rope_tables(9, 16)
    q, k = torch.randn(16, dtype=torch.float64), torch.randn(16, dtype=torch.float64)
    rotated = [ops.qk_norm_rope(v.expand(1, 9, 1, 16), cos, sin, norm="none")[0][0, :, 0] for v in (q, k)]
    scores = rotated[0] @ rotated[1].T
    for offset in (-3, 0, 4):
        diagonal = scores.diagonal(offset)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5, rtol=0)
    torch.testing.assert_close(scores[0, 0], q @ k)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 5, 7)}, r"x must be \[B, 6, T\]"),
        ({"x": torch.zeros(2, 6, 0)}, "x must be"),
        ({"conditions": {"sigma": torch.ones(2)}}, "conditions must be"),
        ({"conditions": {"sigma": torch.ones(3), "seconds": torch.ones(2)}}, r"sigma must be \[2\]"),
        ({"text": torch.zeros(2, 5, 11)}, r"text must be \[B, S, 12\]"),
        ({"text": torch.zeros(3, 5, 12), "text_mask": None}, "text must have the batch of x"),
        ({"text_mask": torch.ones(2, 5)}, "text_mask must be bool"),
        ({"return_hidden": [3]}, "return_hidden must index 3 blocks"),
    ],
)
def test_wrong_arguments_name_themselves(change: dict, message: str) -> None:
    x, conditions, text, mask = inputs()
    arguments = {"x": x, "conditions": conditions, "text": text, "text_mask": mask, **change}
    with pytest.raises(ValueError, match=message):
        trained()(**arguments)


@pytest.mark.parametrize(
    ("field", "value"),
    [("width", 0), ("heads", 3), ("depth", 1.5), ("norm", "batch"), ("conditions", ("bpm",)), ("features", 3),
     ("conditions", ("sigma", "sigma")), ("rope_dim", 18), ("rope_base", 0.0), ("norm_eps", 0.0)],
)  # fmt: skip
def test_wrong_configurations_name_their_field(field: str, value: object) -> None:
    with pytest.raises(ValueError, match="width" if field == "heads" else field):
        dataclasses.replace(SMALL, **{field: value})


def test_unknown_kernels() -> None:
    with pytest.raises(ValueError, match="kernels must be"):
        DiT(SMALL, kernels="fast")
