# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from prestissimo.models.checkpoint import load_checkpoint, load_into, quantize_channels, save_checkpoint
from prestissimo.nn import DiT, DiTConfig


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(80, 64), nn.Conv1d(64, 3, 5), nn.LayerNorm(3))


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {
        "a": torch.randn(3, 4),
        "b.c": torch.tensor(2.5),
        "ids": torch.arange(5),
        "empty": torch.zeros(0, 3),
        "half": torch.randn(7).bfloat16(),
    }
    sha256 = save_checkpoint(path, tensors, {"width": 3, "name": "ü"})
    back = load_checkpoint(path)
    assert back.config == {"width": 3, "name": "ü"}
    assert back.sha256 == sha256
    assert set(back.tensors) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(back.tensors[name], tensor)
        assert back.tensors[name].dtype == tensor.dtype
    assert save_checkpoint(path, back.tensors) == sha256


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    files = [tmp_path / name for name in "abcd"]
    for file in files:
        save_checkpoint(file, network(), {"width": 3, "name": "ü"}, int8=True)
    assert len({file.read_bytes() for file in files}) == 1


def test_int8_round_trip(tmp_path: Path) -> None:
    path, module = tmp_path / "a.safetensors", network()
    save_checkpoint(path, module, int8=True)
    stored = load_file(path)
    assert stored["0.weight.int8"].dtype == torch.int8
    assert stored["0.weight.scale"].shape == (64, 1)
    assert "1.weight" in stored, "960 numbers are too few to be worth scales"
    other = network()
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    load_into(other, path)
    step = module[0].weight.abs().amax(dim=1, keepdim=True) / 127
    assert ((other[0].weight - module[0].weight).abs() <= step / 2 * 1.001).all()
    assert torch.equal(other[1].weight, module[1].weight)


def test_int8_by_choice(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    weight = torch.randn(4, 6, 5)
    save_checkpoint(path, {"up": weight, "plain": weight}, int8=lambda name, t: 1 if name == "up" else None)
    back = load_checkpoint(path, keep_int8=["up"]).tensors
    assert back["up.scale"].shape == (1, 6, 1)
    assert torch.equal(back["plain"], weight)
    torch.testing.assert_close(load_checkpoint(path).tensors["up"], back["up.int8"] * back["up.scale"])


@given(st.integers(1, 5), st.integers(0, 9), st.floats(1e-30, 1e30), st.integers(0, 99))
def test_quantisation_error_is_half_a_step(rows: int, columns: int, size: float, seed: int) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * size
    weight[0] = 0
    if columns == 0:
        return
    q, scale = quantize_channels(weight)
    assert q.min() >= -127
    assert (weight - q * scale).abs().le(scale * 0.50001).all()
    assert (q.abs().amax(dim=1) == 127).logical_or(weight.abs().amax(dim=1) == 0).all()


def test_a_module_may_keep_its_integers(tmp_path: Path) -> None:
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Module()
            self.table.register_buffer("int8", torch.zeros(100, 50, dtype=torch.int8))
            self.table.register_buffer("scale", torch.zeros(100, 1))

    path, weight = tmp_path / "a.safetensors", torch.randn(100, 50)
    save_checkpoint(path, {"table": weight}, int8=True)
    rows = Rows()
    load_into(rows, path)
    assert rows.table.int8.dtype == torch.int8
    torch.testing.assert_close(rows.table.int8 * rows.table.scale, weight, atol=0.02, rtol=0)


def test_a_condition_added_later_is_optional(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    dit = DiT(DiTConfig(latent_channels=4, width=16, depth=2, heads=2, ff_inner=8, text_dim=6, features=8))
    for parameter in dit.parameters():
        nn.init.normal_(parameter)
    save_checkpoint(path, dit)
    wider = DiT(dit.with_conditions("budget").config)
    with pytest.raises(ValueError, match=r"missing: conditions\.budget\.linear\.bias, conditions\.budget"):
        load_into(wider, path)
    load_into(wider, path, optional=["conditions."])
    x, conditions = torch.randn(1, 4, 5), {"sigma": torch.ones(1), "seconds": torch.ones(1)}
    assert torch.equal(dit(x, conditions), wider(x, {**conditions, "budget": torch.ones(1)}))


def test_quantised_size_of_the_first_model(tmp_path: Path) -> None:
    path = tmp_path / "dit.safetensors"
    save_checkpoint(path, DiT(DiTConfig(latent_channels=128)), int8=True)
    assert path.stat().st_size <= 14_000_000


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-50] ^= 4
    path.write_bytes(data)


def header(path: Path, change: Callable[[dict], None]) -> None:
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    entries = json.loads(data[8 : 8 + size])
    change(entries)
    text = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


def huge_shape(entries: dict) -> None:
    entries["0.bias"]["shape"] = [2**40, 2**40]


def far_offsets(entries: dict) -> None:
    entries["0.bias"]["data_offsets"] = [0, 2**60]


def other_format(entries: dict) -> None:
    entries["__metadata__"]["format"] = "pt"


def broken_config(entries: dict) -> None:
    entries["__metadata__"]["config"] = "{"


def deep_config(entries: dict) -> None:
    entries["__metadata__"]["config"] = "[" * 100_000


def list_config(entries: dict) -> None:
    entries["__metadata__"]["config"] = "[]"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "not a readable safetensors file"),
        (flip_a_bit, "SHA-256"),
        (lambda path: path.write_bytes(b""), "not a readable"),
        (lambda path: path.write_bytes(b"\xff" * 100), "not a readable"),
        (lambda path: path.write_bytes(struct.pack("<Q", 2**62) + b"{}"), "not a readable"),
        (lambda path: header(path, huge_shape), "not a readable"),
        (lambda path: header(path, far_offsets), "not a readable"),
        (lambda path: header(path, other_format), "format must be 'prestissimo 1', got 'pt'"),
        (lambda path: header(path, broken_config), "not JSON"),
        (lambda path: header(path, deep_config), "not JSON"),
        (lambda path: header(path, list_config), "must be an object"),
    ],
)
def test_damaged_files(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, network())
    damage(path)
    with pytest.raises(ValueError, match=message) as caught:
        load_into(network(), path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"w": torch.zeros(2, 3)}, r"w must be \[3, 2\], got \[2, 3\]"),
        ({}, "missing: w"),
        ({"w": torch.zeros(3, 2), "v": torch.zeros(1)}, "no part of the model: v"),
        ({"w.int8": torch.zeros(3, 2, dtype=torch.int8)}, r"w.scale must broadcast to \[3, 2\], got nothing"),
        ({"w.int8": torch.zeros(3, 2, dtype=torch.int8), "w.scale": torch.zeros(3)}, r"got \[3\]"),
        ({"w.int8": torch.zeros(3, 2, dtype=torch.int8), "w.scale": torch.zeros(2, 1)}, r"got \[2, 1\]"),
        ({"w.int8": torch.zeros(3, 2), "w.scale": torch.zeros(3, 1)}, "must be int8 with finite"),
        ({"w.int8": torch.zeros(3, 2, dtype=torch.int8), "w.scale": torch.full((3, 1), torch.nan)}, "finite"),
        ({"w": torch.zeros(3, 2), "w.int8": torch.zeros(3, 2, dtype=torch.int8), "w.scale": torch.ones(3, 1)},
         "w must be stored once"),
        ({"w": torch.zeros(3, 2, dtype=torch.int64)}, "w must be torch.float32, got torch.int64"),
    ],
)  # fmt: skip
def test_wrong_tensors(tmp_path: Path, tensors: dict, message: str) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, tensors)
    module = nn.Module()
    module.w = nn.Parameter(torch.ones(3, 2))
    with pytest.raises(ValueError, match=message):
        load_into(module, path)
    assert torch.equal(module.w, torch.ones(3, 2))


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(FileNotFoundError, match="no such weights file"):
            load_checkpoint(path)


def test_plain_safetensors_are_refused(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="format must be"):
        load_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_cannot_be_quantised_is_refused(tmp_path: Path, value: float) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(ValueError, match="finite"):
        save_checkpoint(path, {"w": torch.full((64, 64), value)}, int8=True)
    assert not path.exists()
