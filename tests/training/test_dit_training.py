# SPDX-License-Identifier: Apache-2.0
"""Training of the diffusion transformer: its batches, its loss, resuming, and starting from shipped weights."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from prestissimo.data.analysis import Measures
from prestissimo.data.attributes import TAGS, WindowAttributes, write_windows
from prestissimo.data.beats import Beats
from prestissimo.data.captions import CaptionStore
from prestissimo.data.store import StoredTrack
from prestissimo.models.checkpoint import load_checkpoint
from prestissimo.models.config import read_model_config
from prestissimo.nn import TextEncoder
from prestissimo.training import dit as dit_module
from prestissimo.training.configuration import find_configuration, read_toml
from prestissimo.training.dit import DiTTraining, train_dit
from prestissimo.training.export import BUNDLED, export_dit
from prestissimo.training.latents import Captions, LatentWindows, Lengths, StoredCaptions
from prestissimo.training.pca import read_latents

LENGTHS = Lengths((16, 48), (0.75, 0.25), tokens=480)


def test_batches_are_functions_of_seed_and_step(latents: Path, captions: Captions) -> None:
    one, two = (LatentWindows(latents, captions, seed=5) for _ in range(2))
    one.batch(0, LENGTHS)
    for step in (7, 3):
        a, b = one.batch(step, LENGTHS), two.batch(step, LENGTHS)
        assert torch.equal(a.latents, b.latents)
        assert (a.captions, a.seconds.tolist()) == (b.captions, b.seconds.tolist())
    other = LatentWindows(latents, captions, seed=6)
    assert other.batch(7, LENGTHS).captions != one.batch(7, LENGTHS).captions
    assert one.batch(8, LENGTHS).captions != one.batch(7, LENGTHS).captions


def test_a_batch_is_stretches_of_captioned_training_tracks(latents: Path, captions: Captions) -> None:
    stored, index = read_latents(latents)
    rate = 44100 / 4096
    tracks = [t for t in index["tracks"] if t["split"] == "train" and t["id"] in captions]
    windows = LatentWindows(latents, captions, scale=torch.full((8,), 2.0))
    for step in range(3):
        batch = windows.batch(step, LENGTHS)
        B, C, T = batch.latents.shape
        assert (C, B) == (8, 480 // T)
        assert T in LENGTHS.frames
        assert batch.seconds.tolist() == pytest.approx([T / rate] * B)
        for item, text in zip(batch.latents, batch.captions, strict=True):
            rows = item.T.numpy() / 2
            at = next(
                i for i in range(len(stored) - T + 1) if np.allclose(stored[i : i + T], rows, atol=2e-3)
            )
            track = next(t for t in tracks if t["offset"] <= at <= t["offset"] + t["frames"] - T)
            assert text.split()[0] == captions.tags(track["id"], 0, 6)[0]


def test_beats_go_on_at_the_tempo_and_stay_unknown_where_they_are(latents: Path, captions: Captions) -> None:
    windows, first = LatentWindows(latents, captions), set()
    for step in range(6):
        batch = windows.batch(step, LENGTHS)
        B, _, T = batch.latents.shape
        assert batch.beats.shape == (B, T)
        fast = torch.tensor([text.startswith("fast") for text in batch.captions])
        assert batch.tempo.tolist() == [120.0 if f else 60.0 for f in fast]
        assert torch.equal(batch.beats.isnan(), ~fast[:, None].expand(B, T))
        assert batch.beats[fast].diff(dim=1).numpy() == pytest.approx(2 * 4096 / 44100, abs=1e-4)
        first.update(batch.beats[fast][:, 0].floor().tolist())
    assert first == {0.0, 1.0, 2.0, 3.0}  # any beat of a bar


def test_lengths_keep_their_shares_and_the_tokens() -> None:
    rng = np.random.default_rng(0)
    drawn = Counter(LENGTHS.draw(rng) for _ in range(2000))
    assert set(drawn) == {(30, 16), (10, 48)}
    assert drawn[30, 16] / 2000 == pytest.approx(0.75, abs=0.04)
    with pytest.raises(ValueError, match="frames and weights"):
        Lengths((16,), (0.5, 0.5))


def test_sampling_is_half_way_to_equal_shares_of_tags(latents: Path, captions: Captions) -> None:
    """Three tracks are calm, one is fast: its share is n^(1/2) / (n^(1/2) + (3n)^(1/2)), not 1/4."""
    windows = LatentWindows(latents, captions)
    words = Counter(t.split()[0] for step in range(60) for t in windows.batch(step, LENGTHS).captions)
    assert words["fast"] / words.total() == pytest.approx(1 / (1 + 3**0.5), abs=0.04)


def test_what_does_not_fit_is_refused(
    latents: Path, captions: Captions, text_encoder: TextEncoder, config: DiTTraining, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="no captioned track of split 'heldout_package'"):
        LatentWindows(latents, captions, "heldout_package")
    long = replace(config, lengths=Lengths((16, 201), (0.5, 0.5)))
    with pytest.raises(ValueError, match=r"lengths\.frames must be at most 200"):
        train_dit(long, latents, captions, text_encoder, tmp_path)
    wide = replace(config, model=replace(config.model, latent_channels=9))
    with pytest.raises(ValueError, match=r"model\.latent_channels must be 8, got 9"):
        train_dit(wide, latents, captions, text_encoder, tmp_path)
    other = replace(config, model=replace(config.model, text_dim=32))
    with pytest.raises(ValueError, match=r"model\.text_dim must be 16"):
        train_dit(other, latents, captions, text_encoder, tmp_path)


# ---- captions of a data set --------------------------------------------------------------------------------------

WINDOW = 262144
MEASURES = Measures(-20.0, 1500.0, 2.0, -8.0, -6.0, 120.0, 0.4, 9, 0.5)


def stored(folder: Path) -> StoredCaptions:
    """A recording with a flute, twenty windows of techno around it, and a rendering."""
    flute, techno = (TAGS.index(tag) for tag in ("flute", "techno"))
    rows = [WindowAttributes("p/flute", i, MEASURES, ((flute, 0.9), (techno, 0.05))) for i in range(2)]
    rows += [WindowAttributes("p/techno", i, MEASURES, ((techno, 0.6),)) for i in range(20)]
    rows.append(WindowAttributes("p/render", 0, MEASURES, (), ("harp", "piano", "cello", "violin"), "waltz"))
    write_windows(rows, folder / "p.tsv")

    def track(name: str, windows: int) -> StoredTrack:
        size = (windows * WINDOW, 0, windows * 512, 0.0)
        return StoredTrack(name, "p", "train", "", "A", "MIT", "", 0, *size)

    tracks = [track("p/flute", 2), track("p/techno", 20), track("p/render", 1), track("p/untagged", 1)]
    return StoredCaptions(CaptionStore(tracks, folder))


def test_captions_of_a_data_set(tmp_path: Path) -> None:
    captions = stored(tmp_path)
    assert "p/flute" in captions
    assert "p/untagged" not in captions
    assert captions.tags("p/flute", 0.0, 6.0)[0] == "flute"
    assert captions.tags("p/techno", 12.0, 6.0)[0] == "techno"
    assert captions.tags("p/render", 0.0, 5.0) == ("harp", "piano", "cello", "waltz")
    texts = [captions.text("p/flute", 0.0, 6.0, np.random.default_rng(i)) for i in range(20)]
    assert texts == [captions.text("p/flute", 0.0, 6.0, np.random.default_rng(i)) for i in range(20)]
    assert len(set(texts)) > 5
    assert sum("flute" in text.lower() for text in texts) > 10
    assert not any("techno" in text.lower() for text in texts)


# ---- loss --------------------------------------------------------------------------------------------------------


def test_the_share_of_dropped_texts(
    latents: Path,
    captions: Captions,
    text_encoder: TextEncoder,
    config: DiTTraining,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the network is shown: rows without any token for that share, whole prompts otherwise."""
    shown: list[Tensor] = []
    full: list[Tensor] = []

    told: list[Tensor] = []

    def network(model: Any, batch: Any, text: Tensor, mask: Tensor, in_time: Tensor) -> Any:
        shown.append(mask)
        told.append(in_time)
        full.append(text_encoder.encode(batch.captions).mask)
        return lambda x, sigma: x

    kept: dict[str, Any] = {}
    monkeypatch.setattr(dit_module, "_network", network)
    monkeypatch.setattr(dit_module, "train", lambda model, loss_of, *rest: kept.update(loss_of=loss_of))
    settings = replace(config, lengths=replace(LENGTHS, tokens=1600), drop_text=0.25, drop_tempo=0.5)
    train_dit(settings, latents, captions, text_encoder, tmp_path)
    for step in range(12):
        kept["loss_of"](step)
    empty = torch.cat([~mask.any(1) for mask in shown])
    assert len(empty) > 500
    assert float(empty.float().mean()) == pytest.approx(0.25, abs=0.05)
    assert not torch.cat(told)[empty].any()  # a dropped text takes the tempo with it
    assert float(torch.cat(told)[~empty].float().mean()) == pytest.approx(0.5, abs=0.05)
    for mask, whole in zip(shown, full, strict=True):
        assert torch.equal(mask[mask.any(1)], whole[mask.any(1)])


def validation(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if "validation/mean" in row]


# ---- runs --------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """What no handler expects."""


class Mortal:
    """Captions that kill their process at the n-th text."""

    def __init__(self, captions: Captions, texts: int) -> None:
        self.captions, self.left = captions, texts

    def __contains__(self, track_id: object) -> bool:
        return track_id in self.captions

    def tags(self, track_id: str, start: float, seconds: float) -> Sequence[str]:
        return self.captions.tags(track_id, start, seconds)

    def beats(self, track_id: str, start: float, seconds: float) -> Beats:
        return self.captions.beats(track_id, start, seconds)

    def text(self, track_id: str, start: float, seconds: float, rng: np.random.Generator) -> str:
        self.left -= 1
        if self.left < 0:
            raise Killed
        return self.captions.text(track_id, start, seconds, rng)


def test_a_killed_run_ends_as_one_never_stopped(
    latents: Path, captions: Captions, text_encoder: TextEncoder, config: DiTTraining, tmp_path: Path
) -> None:
    settings = replace(config, loop=replace(config.loop, checkpoint_minutes=0.0))
    train_dit(settings, latents, captions, text_encoder, tmp_path / "whole")
    for texts in (60, 65):  # 48 are those of the validation set
        with pytest.raises(Killed):
            train_dit(settings, latents, Mortal(captions, texts), text_encoder, tmp_path / "killed")
    train_dit(settings, latents, captions, text_encoder, tmp_path / "killed")
    one, two = (load_file(tmp_path / n / "state.safetensors") for n in ("whole", "killed"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    logs = [
        [json.loads(line) for line in (tmp_path / n / "log.jsonl").read_text().splitlines()]
        for n in ("whole", "killed")
    ]
    assert [r.get("loss") for r in logs[0]] == [r.get("loss") for r in logs[1]]
    assert validation(tmp_path / "whole") == validation(tmp_path / "killed")
    assert len(validation(tmp_path / "whole")) == 2
    with pytest.raises(ValueError, match=r"config\.p_std was 1\.2, is now 1\.0"):
        train_dit(replace(settings, p_std=1.0), latents, captions, text_encoder, tmp_path / "killed")
    wider = replace(settings, model=replace(settings.model, ff_inner=96))
    with pytest.raises(ValueError, match=r"config\.model\.ff_inner was 64, is now 96"):
        train_dit(wider, latents, captions, text_encoder, tmp_path / "killed")


def test_shipped_weights_regain_their_loss(
    latents: Path,
    captions: Captions,
    text_encoder: TextEncoder,
    config: DiTTraining,
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    """int8 weights without optimizer state: after its warm-up the run is as good as the one they came from."""
    loop = replace(config.loop, steps=80, learning_rate=1e-2, decay=0.5, validate_every=1000)
    settings = replace(config, loop=loop, drop_text=0.0)
    train_dit(settings, latents, captions, text_encoder, tmp_path / "first")
    export_dit(tmp_path / "first", tmp_path / "shipped", base=tiny_model)
    weights = load_checkpoint(tmp_path / "shipped" / "dit.safetensors").tensors
    short = replace(settings, loop=replace(loop, steps=16, warmup=8, learning_rate=1e-3))
    train_dit(short, latents, captions, text_encoder, tmp_path / "second", init=weights)
    train_dit(short, latents, captions, text_encoder, tmp_path / "scratch")
    first, second, scratch = (
        validation(tmp_path / name)[-1]["validation/mean"] for name in ("first", "second", "scratch")
    )
    assert first < 0.9 * scratch, "the first run must have learnt something"
    assert second < first * 1.02


def test_a_run_leaves_packages_out(latents: Path, captions: Captions, tmp_path: Path) -> None:
    index = (latents / "latents_index.json").read_text()
    (tmp_path / "latents_index.json").write_text(index.replace('"p/calm-1"', '"other/fast"'))
    (tmp_path / "latents.f16").symlink_to(latents / "latents.f16")

    class Named:
        text, tags, beats = captions.text, captions.tags, captions.beats

        def __contains__(self, track_id: object) -> bool:
            return track_id == "other/fast" or track_id in captions

    every, some = (LatentWindows(tmp_path, Named(), leave_out=names) for names in ((), ("other", "none")))
    assert "other/fast" in every.ids
    assert some.ids == [name for name in every.ids if name != "other/fast"]


def test_configurations_of_the_bundled_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = read_toml(find_configuration(None, "dit"), data=tmp_path, steps=5)
    assert (values.pop("data"), values.pop("output")) == (tmp_path, "runs/dit")
    first = DiTTraining.from_dict(values)
    assert (first.loop.steps, first.loop.learning_rate, first.loop.betas) == (5, 1e-3, (0.9, 0.98))
    same = replace(DiTTraining(), loop=first.loop, leave_out=first.leave_out)
    assert first == same, "code and file have the same defaults"
    monkeypatch.chdir(tmp_path)

    def further(run: str, before: str) -> DiTTraining:
        values = read_toml(find_configuration(Path(f"{run}.toml"), "dit"))
        folders = [values.pop(name) for name in ("data", "output", "init")]
        assert folders == ["data", f"runs/{run}", f"runs/{before}"]
        return DiTTraining.from_dict(values)

    second = further("dit_second", "dit")
    assert second.loop.steps == 2000
    assert second == replace(first, loop=second.loop, leave_out=())
    third = further("dit_third", "dit_second")
    assert third.model == read_model_config(BUNDLED).dit, "the file must be that of the model that ships"
    assert third.model == replace(first.model, conditions=("sigma", "seconds", "tempo", "beats"))
    assert third == replace(second, loop=third.loop, model=third.model, p_mean=0.1, bfloat16=False)
    Path("dit_second.toml").write_text("")
    assert read_toml(find_configuration(Path("dit_second.toml"), "dit")) == {}, (
        "a file that is there comes first"
    )
    assert find_configuration(Path("other.toml"), "dit") == Path("other.toml")
    for wrong, message in (
        ({"model": {"latent_channels": 8, "widht": 3}}, r"a\.toml\.model must not have 'widht'"),
        ({"loops": {}}, r"a\.toml must not have 'loops'"),
        ({"loop": {"steps": "many"}}, r"a\.toml\.loop\.steps must be of type int"),
        ({"drop_text": 1.5}, r"a\.toml: drop_text must be in \[0, 1\]"),
        ({"p_std": 0.0}, "p_std and sigma_data must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            DiTTraining.from_dict(wrong, "a.toml")
    (tmp_path / "a.toml").write_text("[loop\n")
    with pytest.raises(ValueError, match=r"a\.toml: Expected"):
        read_toml(tmp_path / "a.toml")
