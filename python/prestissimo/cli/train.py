# SPDX-License-Identifier: Apache-2.0
"""`prestissimo train`: each part of a model again, from the built data set to a folder that generates."""

from __future__ import annotations

import errno
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from torch import Tensor

    from prestissimo.training.dit import DiTTraining

__all__ = ["app"]

app = typer.Typer(
    help="Train a part of the model. The same line again goes on after a kill, as if there had been none.",
    no_args_is_help=True,
)

_BUNDLED = "the bundled model's"
_Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="TOML file; codec.toml, dit.toml, dit_second.toml and dit_third.toml ship.",
        show_default=_BUNDLED,
    ),
]
_Data = Annotated[
    Path | None,
    typer.Option("--data", help="Folder that `prestissimo data build` wrote.", show_default="the file's"),
]
_Out = Annotated[
    Path | None, typer.Option("--out", "-o", help="Checkpoint and logs.", show_default="the file's")
]
_Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="all cores")]
_Steps = Annotated[int | None, typer.Option(min=1, help="Optimizer steps in all.", show_default="the file's")]
_Base = Annotated[
    Path | None,
    typer.Option(help="Model folder of the text encoder and the codec.", show_default="the bundled one"),
]
_Codec = Annotated[
    Path | None, typer.Option(help="codec.safetensors of the latents.", show_default="that of --base")
]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]


@app.command()
def codec(
    config: _Config = None,
    data: _Data = None,
    out: _Out = None,
    init: Annotated[
        Path | None,
        typer.Option(help="codec.safetensors to start from; its latents stay.", show_default=False),
    ] = None,
    threads: _Threads = None,
    steps: _Steps = None,
    quiet: _Quiet = False,
) -> None:
    """Fit the components, encode all tracks, train the decoder: OUT/codec.safetensors.

    \b
    prestissimo train codec --data data --out runs/codec
    """
    from prestissimo.training.codec import CodecTrainingConfig, train_codec
    from prestissimo.training.configuration import find_configuration

    _talk(quiet)
    path = find_configuration(config, "codec")
    settings = CodecTrainingConfig.read(path, steps=steps, data=data, output=out, threads=threads)
    train_codec(settings, init, not quiet)
    print(settings.output / "codec.safetensors")


@app.command()
def dit(
    config: _Config = None,
    data: _Data = None,
    out: _Out = None,
    init: Annotated[
        Path | None,
        typer.Option(
            help="Weights to start from: folder of a run (its average) or of a model, or dit.safetensors.",
            show_default="the file's",
        ),
    ] = None,
    threads: _Threads = None,
    steps: _Steps = None,
    base: _Base = None,
    codec: _Codec = None,
    windows: Annotated[
        Path | None, typer.Option(help="Attribute files of captions.", show_default="those that ship")
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(help="At the end, make a model folder for `generate --model`.", show_default=False),
    ] = None,
    quiet: _Quiet = False,
) -> None:
    """Train the diffusion transformer on the latents and captions of a data set.

    Several processes, each with batches of its own: accelerate launch --num_processes 4 -m prestissimo train dit ...

    \b
    prestissimo train dit --data data --out runs/dit --export mine
    prestissimo generate "calm solo piano" --model mine
    """
    import torch

    from prestissimo.data.beats import BeatGrid
    from prestissimo.data.captions import CaptionStore
    from prestissimo.data.store import FeatureStore
    from prestissimo.models.text import load_text_encoder
    from prestissimo.training.codec import load_codec
    from prestissimo.training.dit import train_dit
    from prestissimo.training.export import BUNDLED, export_dit
    from prestissimo.training.latents import StoredCaptions
    from prestissimo.training.pca import encode_store

    _talk(quiet)
    settings, folders = _read(config, steps, data=data, output=out)
    base = base or BUNDLED
    codec = codec or base / "codec.safetensors"
    known = codec.is_file()
    if not known and (export is not None or not (folders["data"] / "latents_index.json").is_file()):
        what = "no codec: give --codec, or make one with `prestissimo train codec`"
        raise FileNotFoundError(errno.ENOENT, what, str(codec))
    if threads is not None:
        torch.set_num_threads(threads)
    store = FeatureStore(folders["data"])
    captions = StoredCaptions(
        CaptionStore(store) if windows is None else CaptionStore(store, windows),
        BeatGrid(store) if "beats" in settings.model.conditions else None,
    )
    text_encoder = load_text_encoder(base)
    if init is None and not (folders["output"] / "state.safetensors").exists():
        init = folders.get("init")  # what a run has begun with is in its checkpoint
    weights = None if init is None else _weights(init, settings)
    if known:
        encode_store(load_codec(codec), store, folders["data"])
    train_dit(settings, folders["data"], captions, text_encoder, folders["output"], None, weights, not quiet)
    if export is not None:
        export_dit(folders["output"], export, base=base, codec=codec)
        print(export)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a run, finished or not, or its state.safetensors.")],
    folder: Annotated[Path, typer.Argument(help="Model folder to write.")],
    base: _Base = None,
    codec: _Codec = None,
    name: Annotated[str | None, typer.Option(help="Name of the model.", show_default="the folder's")] = None,
) -> None:
    """Make a model folder of the averaged weights of a run, in int8.

    \b
    prestissimo train export runs/dit mine
    """
    from prestissimo.training.export import export_dit

    export_dit(run, folder, base=base, codec=codec, name=name)
    print(folder)


@app.command()
def tempo(
    folder: Annotated[Path, typer.Argument(help="Model folder; its tempo.json is written anew.")],
    data: Annotated[Path, typer.Option(help="Folder that `prestissimo data build` wrote.")],
    windows: Annotated[
        Path | None, typer.Option(help="Attribute files of captions.", show_default="those that ship")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the captions' wording.")] = 0,
) -> None:
    """Learn which words go with which tempo, for prompts that name none. Takes a few seconds.

    \b
    prestissimo train tempo mine --data data
    """
    from prestissimo.data.captions import CaptionStore
    from prestissimo.data.store import FeatureStore
    from prestissimo.models.tempo import write_tempo_prior
    from prestissimo.training.tempo import fit_tempo

    if not (folder / "config.json").is_file():
        raise FileNotFoundError(errno.ENOENT, "not a model folder", str(folder))
    store = FeatureStore(data)
    captions = CaptionStore(store) if windows is None else CaptionStore(store, windows)
    print(write_tempo_prior(folder, fit_tempo(store, captions, seed)))


def _talk(quiet: bool) -> None:
    """What the loop has to say, such as where it resumes."""
    if not quiet:
        logging.getLogger("prestissimo").setLevel(logging.INFO)


def _read(
    config: Path | None, steps: int | None, **given: Path | None
) -> tuple[DiTTraining, dict[str, Path]]:
    """The settings of a run, its folders, and "init" where it starts from weights."""
    from prestissimo.training.configuration import find_configuration, read_toml
    from prestissimo.training.dit import DiTTraining

    path = find_configuration(config, "dit")
    values = read_toml(path, steps=steps, **given)
    folders: dict[str, Path] = {}
    for name in ("data", "output", "init"):
        folder: Any = values.pop(name, None)
        if name == "init" and folder is None:
            continue
        if not isinstance(folder, str | Path):
            option = {"data": "--data", "output": "--out", "init": "--init"}[name]
            raise ValueError(f"{path} must name the folder {name!r}, or {option} be given")
        folders[name] = Path(folder).expanduser()
    return DiTTraining.from_dict(values, str(path)), folders


def _weights(path: Path, settings: DiTTraining) -> dict[str, Tensor]:
    """Weights to start from; conditions of the settings that they do not know are left to the run."""
    from dataclasses import replace

    import torch

    from prestissimo.models.checkpoint import load_into, read_config
    from prestissimo.nn import DiT
    from prestissimo.training.state import read_average

    tensors: dict[str, Tensor] | None = None
    file = path / "dit.safetensors" if path.is_dir() else path
    if (path / "state.safetensors").is_file():
        tensors, progress = read_average(path / "state.safetensors")
        known = progress.get("config", {}).get("model", {})
    else:
        known = read_config(file)
    conditions = tuple(c for c in settings.model.conditions if c in known.get("conditions", ()))
    with torch.device("meta"):
        model = DiT(replace(settings.model, conditions=conditions))
    if tensors is not None:
        try:
            model.load_state_dict(tensors, assign=True)
        except RuntimeError as error:
            raise ValueError(f"{path} does not fit the model: {error}") from error
        return dict(model.state_dict())
    load_into(model, file)
    return dict(model.state_dict())
