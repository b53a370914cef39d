# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from prestissimo import ops
from prestissimo.nn.text_encoder import TextEncoder, TextEncoderConfig

CONFIG = TextEncoderConfig(vocabulary=20, width=16, depth=2, heads=4, ff_inner=24, max_tokens=6)


def encoder(config: TextEncoderConfig = CONFIG) -> TextEncoder:
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "calm", "solo", "piano", "loud", "drums"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    torch.manual_seed(3)
    made = TextEncoder(config, tokenizer).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    made.words.int8.random_(-127, 128)
    made.words.scale.uniform_(0.001, 0.02)
    return made


def test_shapes_mask_and_mean() -> None:
    states, mask, pooled = encoder().encode(["calm solo piano", "drums"])
    assert states.shape == (2, 5, 16)
    assert mask.tolist() == [[True] * 5, [True] * 3 + [False] * 2]
    torch.testing.assert_close(pooled, torch.stack([states[0].mean(dim=0), states[1, :3].mean(dim=0)]))
    assert not states.requires_grad


def test_ids_are_framed_and_cut() -> None:
    ids, mask = encoder().tokenize(["calm solo piano loud drums calm calm", "never heard", ""])
    assert ids.tolist() == [[1, 4, 5, 6, 7, 2], [1, 3, 3, 2, 0, 0], [1, 2, 0, 0, 0, 0]]
    assert mask.sum(dim=1).tolist() == [6, 4, 2]


def test_company_changes_nothing() -> None:
    made, texts = encoder(), ["calm", "calm solo piano loud", "drums drums", "", "loud"]
    together = made.encode(texts, batch=2)
    for i, text in enumerate(texts):
        alone = made.encode([text])
        torch.testing.assert_close(together.states[i][together.mask[i]], alone.states[0])
        torch.testing.assert_close(together.pooled[i], alone.pooled[0])


def test_order_matters() -> None:
    pooled = encoder().encode(["calm piano", "piano calm"]).pooled
    assert not torch.allclose(pooled[0], pooled[1], atol=1e-3)


def test_only_the_rows_asked_for_become_floats() -> None:
    made = encoder()
    ids = torch.tensor([[1, 4, 2]])
    torch.testing.assert_close(made.words(ids), (made.words.int8.double() * made.words.scale)[ids].float())
    assert made.words.int8.dtype == made.bfloat16().words.int8.dtype == torch.int8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_equal_reference(dtype: torch.dtype) -> None:
    made = encoder().to(dtype)
    ids, mask = made.tokenize(["calm solo piano", "drums"])
    states = {}
    with ops.strict_kernels(ops.compiled()):
        for made.kernels in ("auto", "reference"):
            states[made.kernels] = made(ids, mask)
    want = made.double()(ids, mask)[mask]
    error = {kernels: (y[mask] - want).abs().max() for kernels, y in states.items()}
    assert error["auto"] <= 2 * error["reference"] + torch.finfo(dtype).eps * want.abs().max()


def test_gradients_reach_the_weights() -> None:
    made = encoder()
    states = made(*made.tokenize(["calm solo"]))
    states.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in made.parameters())


@pytest.mark.parametrize("texts", ["calm", [], None, [1], [None]])
def test_texts_must_be_strings(texts: object) -> None:
    with pytest.raises(TypeError):
        encoder().encode(texts)


def test_wrong_ids() -> None:
    with pytest.raises(ValueError, match=r"ids must be \[B, S\] with S in 1..6, got \[1, 7\]"):
        encoder()(torch.zeros(1, 7, dtype=torch.int64), torch.ones(1, 7, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"mask must be bool \[1, 2\]"):
        encoder()(torch.zeros(1, 2, dtype=torch.int64), torch.ones(1, 2))


def test_the_tokenizer_must_fit() -> None:
    with pytest.raises(ValueError, match="tokenizer must have at most 8 tokens, got 9"):
        encoder(dataclasses.replace(CONFIG, vocabulary=8))


@pytest.mark.parametrize(
    ("field", "value"), [("width", 18), ("depth", 0), ("norm_eps", 0.0), ("heads", True)]
)
def test_wrong_configurations_name_their_field(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(CONFIG, **{field: value})
