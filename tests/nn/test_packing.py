# SPDX-License-Identifier: Apache-2.0
"""Networks whose linear layers are packed: the same outputs, one copy of the weights, no plain product left."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from test_dit import inputs, trained
from torch import nn

import prestissimo
from prestissimo import ops
from prestissimo.models.config import load_model
from prestissimo.nn import PackedLinear, pack_linears, parameter_count, plain_linears
from prestissimo.pipeline import Pipeline

pytestmark = pytest.mark.skipif(not ops.compiled(), reason="the compiled module is missing")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_transformer_equals_the_plain_one(dtype: torch.dtype) -> None:
    x, conditions, text, mask = inputs(T=31)
    exact = trained()
    exact.load_state_dict(trained(dtype=dtype).state_dict())
    want = exact.double()(x.double(), conditions, text.double(), mask)
    arguments = (x.to(dtype), conditions, text.to(dtype), mask)
    plain, packed = trained(dtype=dtype), pack_linears(trained(dtype=dtype))
    assert plain_linears(packed) == []
    assert parameter_count(packed) == parameter_count(plain) == sum(p.numel() for p in plain.parameters())
    assert plain_linears(plain)
    with torch.no_grad():
        error = [(net(*arguments).double() - want).abs().max() for net in (plain, packed)]
    assert error[1] <= 2 * error[0] + torch.finfo(dtype).eps * want.abs().max()
    by_ops = packed(*arguments)
    packed.kernels = "reference"
    assert {m.kernels for m in packed.modules() if isinstance(m, PackedLinear)} == {"reference"}
    error.append((packed(*arguments).double() - want).abs().max())
    assert error[2] <= 2 * error[0] + torch.finfo(dtype).eps * want.abs().max()
    assert not torch.equal(packed(*arguments), by_ops)


def test_gradients_pass_through_packed_layers_to_the_input() -> None:
    x, conditions, text, mask = inputs()
    gradients = []
    for net in (trained(), pack_linears(trained())):
        here = x.clone().requires_grad_()
        net(here, conditions, text, mask).square().sum().backward()
        gradients.append(here.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("dtype", "item"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_a_packed_weight_takes_the_memory_of_the_plain_one(dtype: torch.dtype, item: int) -> None:
    layer = nn.Linear(320, 1536).to(dtype)
    packed = PackedLinear(layer)
    assert sum(t.nbytes for t in packed.state_dict().values()) == item * (320 + 1) * 1536
    assert torch.equal(packed.weight, layer.weight)
    assert not list(packed.parameters())


def test_what_trains_or_has_no_kernel_stays() -> None:
    assert plain_linears(pack_linears(nn.Sequential(nn.Linear(3, 2).double()))) == ["0"]
    assert plain_linears(trained())


def test_one_name_is_one_copy_as_long_as_it_is_used() -> None:
    def data(name: str | None) -> torch.Tensor:
        layer = pack_linears(nn.Sequential(nn.Linear(8, 8)), name)[0]
        assert isinstance(layer, PackedLinear)
        return layer.data

    first, again, other, unnamed = data("weights"), data("weights"), data("other"), data(None)
    assert first is again
    assert len({t.data_ptr() for t in (first, other, unnamed)}) == 3
    before = first.clone()
    del first, again
    gc.collect()
    assert not torch.equal(data("weights"), before)  # nn.Linear draws new numbers


def test_pipelines_of_one_model_share_its_weights(tiny_model) -> None:
    pipes = [prestissimo.load(tiny_model) for _ in range(2)]
    half = prestissimo.load(tiny_model, dtype="bfloat16")
    for part in ("text_encoder", "dit", "codec"):
        one, two, other = (
            [m for m in getattr(p, part).modules() if isinstance(m, PackedLinear)] for p in (*pipes, half)
        )
        assert one
        assert all(a.data is b.data for a, b in zip(one, two, strict=True))
        assert part != "dit" or not any(a.data is b.data for a, b in zip(one, other, strict=True))
    assert pipes[0].dit is not pipes[1].dit


def test_threads_share_a_pipeline(tiny_model) -> None:
    pipe = prestissimo.load(tiny_model, strict_kernels=True)
    settings = {"seconds": 0.4, "guidance_scale": 2.0, "output_type": "latent"}
    alone = [pipe("calm", seed=i, **settings) for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda i: pipe("calm", seed=i, **settings), range(4)))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_no_plain_product_is_left(tiny_model, monkeypatch: pytest.MonkeyPatch) -> None:
    want = Pipeline(*load_model(tiny_model))("calm", seconds=0.5, seed=7, output_type="latent")
    pipe = prestissimo.load(tiny_model, strict_kernels=True)

    def linear(*args: object) -> None:
        raise AssertionError("F.linear was called")

    monkeypatch.setattr(F, "linear", linear)
    got = pipe("calm", seconds=0.5, seed=7, output_type="latent")
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3 * float(want.abs().max()))
    assert pipe("calm", seconds=0.5, seed=7).isfinite().all()


def test_strict_kernels_refuse_plain_layers(tiny_model) -> None:
    networks = load_model(tiny_model)
    Pipeline(*networks)
    with pytest.raises(ops.MissingKernelError, match=r"blocks\.0\.qkv is not packed"):
        Pipeline(*networks, strict_kernels=True)
