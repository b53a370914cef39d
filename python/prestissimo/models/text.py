# SPDX-License-Identifier: Apache-2.0
"""The text encoder on disk, text.safetensors and tokenizer.json, and how it is made of a published BERT."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from prestissimo.atomic import write_bytes
from prestissimo.models.checkpoint import load_into, read_config, save_checkpoint
from prestissimo.models.schema import from_json
from prestissimo.nn.text_encoder import TextEncoder, TextEncoderConfig

__all__ = ["convert_bert", "load_text_encoder", "rename_bert"]

WEIGHTS, TOKENIZER = "text.safetensors", "tokenizer.json"
MAX_TOKENIZER_BYTES = 32 << 20


def load_text_encoder(folder: str | Path, kernels: str = "auto") -> TextEncoder:
    """The encoder of a model folder, frozen and in eval mode; the metadata of the weights hold its sizes.

    Raises FileNotFoundError, or ValueError that names the file that is wrong.
    """
    folder = Path(folder)
    path = folder / WEIGHTS
    config = from_json(TextEncoderConfig, read_config(path), f"{path}: the configuration")
    tokenizer = read_tokenizer(folder / TOKENIZER)
    with torch.device("meta"):
        encoder = TextEncoder(config, tokenizer, kernels)
    load_into(encoder, path)
    return encoder.eval().requires_grad_(False)


def read_tokenizer(path: Path) -> Tokenizer:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such tokenizer file")
    if path.stat().st_size > MAX_TOKENIZER_BYTES:
        raise ValueError(f"{path}: a tokenizer has at most {MAX_TOKENIZER_BYTES} bytes")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ValueError(f"{path}: not a tokenizer ({error})") from error


def convert_bert(source: str | Path, folder: str | Path, max_tokens: int = 64) -> TextEncoderConfig:
    """Make text.safetensors (int8 throughout) and tokenizer.json of a folder of Hugging Face's BERT files.

    source: a folder with config.json, model.safetensors and tokenizer.json, for instance all-MiniLM-L6-v2.
    Raises FileNotFoundError, or ValueError where it is no BERT with GELU and absolute positions.
    """
    source, folder = Path(source), Path(folder)
    try:
        bert = json.loads((source / "config.json").read_text(encoding="utf-8"))
        if (bert["hidden_act"], bert["position_embedding_type"]) != ("gelu", "absolute"):
            raise ValueError("it must have gelu and absolute positions")
        config = TextEncoderConfig(
            vocabulary=bert["vocab_size"],
            width=bert["hidden_size"],
            depth=bert["num_hidden_layers"],
            heads=bert["num_attention_heads"],
            ff_inner=bert["intermediate_size"],
            max_tokens=min(max_tokens, bert["max_position_embeddings"]),
            norm_eps=bert["layer_norm_eps"],
        )
        tensors = rename_bert(load_file(source / "model.safetensors"), config)
    except (KeyError, TypeError, json.JSONDecodeError, SafetensorError) as error:
        raise ValueError(f"{source}: not a BERT model ({error!r})") from error
    tokenizer = json.loads((source / TOKENIZER).read_text(encoding="utf-8"))
    tokenizer |= {"truncation": None, "padding": None}  # the encoder's own, from its configuration
    folder.mkdir(parents=True, exist_ok=True)
    save_checkpoint(folder / WEIGHTS, tensors, asdict(config), int8=True)
    write_bytes(
        folder / TOKENIZER,
        json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")).encode(),
        overwrite=True,
    )
    return config


def rename_bert(bert: Mapping[str, Tensor], config: TextEncoderConfig) -> dict[str, Tensor]:
    """Hugging Face's names to those of `TextEncoder`, with its quantised table still one tensor, `words`.

    The embedding of the one token type is added to the positions; query, key and value become one matrix.
    """
    positions = bert["embeddings.position_embeddings.weight"][: config.max_tokens]
    tensors = {
        "words": bert["embeddings.word_embeddings.weight"],
        "positions": positions + bert["embeddings.token_type_embeddings.weight"][0],
        "norm.weight": bert["embeddings.LayerNorm.weight"],
        "norm.bias": bert["embeddings.LayerNorm.bias"],
    }
    names = {
        "out": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "expand": "intermediate.dense",
        "contract": "output.dense",
        "feed_forward_norm": "output.LayerNorm",
    }
    for i in range(config.depth):
        layer = f"encoder.layer.{i}"
        for part in ("weight", "bias"):
            qkv = [bert[f"{layer}.attention.self.{name}.{part}"] for name in ("query", "key", "value")]
            tensors[f"blocks.{i}.qkv.{part}"] = torch.cat(qkv)
            for ours, theirs in names.items():
                tensors[f"blocks.{i}.{ours}.{part}"] = bert[f"{layer}.{theirs}.{part}"]
    return tensors
