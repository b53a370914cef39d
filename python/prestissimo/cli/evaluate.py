# SPDX-License-Identifier: Apache-2.0
"""`prestissimo evaluate`: how good a model, or a folder of music, is."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prestissimo._version import __version__

if TYPE_CHECKING:
    from prestissimo.data.store import FeatureStore
    from prestissimo.metrics.clips import ClipSet
    from prestissimo.metrics.generated import Generated, Job
    from prestissimo.metrics.prompts import Prompt
    from prestissimo.pipeline import Pipeline

__all__ = ["evaluate", "nearest_music"]

_WHAT, _REAL, _RUN = "What is judged", "Real music to compare with", "Running"
_SHORT, _LONG = 6.0, 32.0


def evaluate(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for clips, cache and reports.")
    ] = Path("evaluation"),
    model: Annotated[
        str, typer.Option(help="A bundled model or a folder of weights.", rich_help_panel=_WHAT)
    ] = "mini",
    audio_dir: Annotated[
        Path | None,
        typer.Option(
            help="Judge these audio files instead. Files named after the ids of the prompts "
            "(tag-piano-03.wav) are judged by them.",
            show_default=False,
            rich_help_panel=_WHAT,
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="Prompts (TSV).", show_default="the fixed ones", rich_help_panel=_WHAT),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Sampling steps.", show_default="the model's", rich_help_panel=_WHAT)
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(help="Guidance scale.", show_default="the model's", rich_help_panel=_WHAT),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            help="euler, heun, dpm2, dpmpp_2s, dpmpp_2m, ddim, pingpong or ctm.",
            show_default="the model's",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the first clip of each prompt.", rich_help_panel=_WHAT)] = 0,
    data: Annotated[
        Path | None,
        typer.Option(
            help="A built data set: its training tracks are the reference, its held-out tracks the yardstick.",
            show_default=False,
            rich_help_panel=_REAL,
        ),
    ] = None,
    reference_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of real music as reference.", show_default=False, rich_help_panel=_REAL),
    ] = None,
    real_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder of other real music as yardstick.", show_default=False, rich_help_panel=_REAL
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="100 clips of 6 s: to choose checkpoints.", rich_help_panel=_RUN)
    ] = False,
    madmom: Annotated[
        bool, typer.Option("--madmom", help="madmom judges tempi too.", rich_help_panel=_RUN)
    ] = False,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads.", show_default="all", rich_help_panel=_RUN)
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON instead of tables.", rich_help_panel=_RUN)
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.", rich_help_panel=_RUN)] = False,
) -> None:
    """Judge a model, or any folder of music: text adherence, distance to real music, sound.

    Clips and everything measured of them are kept in the output folder: a run that was stopped goes on where
    it was. Writes report.json, report.md and report.html.

    \b
    prestissimo evaluate --quick --data build
    prestissimo evaluate --audio-dir generated --reference-dir real
    """
    from prestissimo import atomic
    from prestissimo.metrics import report as reports
    from prestissimo.metrics.evaluation import Evaluator, evaluate_clips
    from prestissimo.metrics.prompts import fixed_prompts, read_prompts

    if data is not None and reference_dir is not None:
        raise ValueError("--data and --reference-dir must not both be given")
    begun = time.perf_counter()
    table = read_prompts(prompts) if prompts else fixed_prompts()
    _check_judges()
    store = _store(data)
    output.mkdir(parents=True, exist_ok=True)
    music = {}
    if store is not None:
        from rich.console import Console

        with Console(stderr=True, quiet=quiet).status("Choosing windows of the real music"):
            music = _stored_music(store, quick)
    pipe: Pipeline | None = None
    if audio_dir is None:
        asked = [] if store is None or quick else _captioned(store, music, seed)
        pipe, made = _generated(
            model, table, asked, output, quick, seed, steps, guidance, sampler, threads, quiet
        )
    else:
        from prestissimo.metrics.generated import from_folder

        made = from_folder(audio_dir, table)
    if store is None:
        music = _folders_music(reference_dir, real_dir, 300 if quick else 1000, made)
    others = _other_sets(pipe, music.get("real"), quick)
    evaluator = Evaluator(output / "cache", threads=threads, progress=not quiet)
    report = evaluate_clips(made, others=others, evaluator=evaluator, madmom=madmom, **music)
    if store is not None and pipe is not None and not quick:
        report["copies"] = nearest_music(store, pipe, made, music["real"], quiet)
    report["about"] = {
        "prestissimo": __version__,
        "model": None if pipe is None else pipe.name,
        "folder": None if audio_dir is None else audio_dir.name,
        "clips": len(made),
        "steps": steps,
        "guidance": guidance,
        "sampler": sampler,
        "seed": seed,
        "quick": quick,
        "date": time.strftime("%Y-%m-%d"),
        "machine": platform.machine(),
        "seconds": round(time.perf_counter() - begun, 1),
    }
    files = {
        "report.json": json.dumps(report, indent=1, allow_nan=True),
        "report.md": reports.markdown(report),
        "report.html": reports.page(report),
    }
    for name, text in files.items():
        atomic.write_bytes(output / name, text.encode(), overwrite=True)
    if as_json:
        print(files["report.json"])
    else:
        from rich.console import Console

        Console().print(reports.console(report))
        print(f"{output / 'report.html'}")


def _check_judges() -> None:
    """Found out before an hour of generating, not after it."""
    from prestissimo.metrics.embeddings import judge
    from prestissimo.metrics.tags import JUDGE_NETWORKS

    for name in JUDGE_NETWORKS:
        judge(name)


def _store(data: Path | None) -> FeatureStore | None:
    if data is None:
        return None
    from prestissimo.data.store import FeatureStore

    return FeatureStore(data)


def _generated(
    model: str,
    table: list[Prompt],
    captioned: list[Job],
    output: Path,
    quick: bool,
    seed: int,
    steps: int | None,
    guidance: float | None,
    sampler: str | None,
    threads: int | None,
    quiet: bool,
) -> tuple[Pipeline, Generated]:
    """The model, and its clips, made where they are missing. Other weights or settings have a folder of
    their own, so that no stale clip is judged."""
    from prestissimo.metrics.generated import from_jobs, generate_missing, plan
    from prestissimo.models.config import bundled_models
    from prestissimo.pipeline import load

    pipe = load(model, threads=threads)
    weights = bundled_models().get(model, Path(model))
    texts = [job.prompt.text for job in captioned]
    settings = json.dumps([steps, guidance, sampler, [p.text for p in table], texts])
    folder = output / "clips" / hashlib.sha256((_digest(weights) + settings).encode()).hexdigest()[:12]

    def make(job: Job) -> Any:
        return pipe(
            job.prompt.text,
            seconds=job.seconds,
            seed=job.seed,
            num_inference_steps=steps,
            guidance_scale=0.0 if job.unprompted else guidance,
            sampler=sampler,
        )

    jobs = [*plan(table, quick=quick, seed=seed, long_tags=not captioned), *captioned]
    generate_missing(jobs, make, folder, pipe.sample_rate, progress=not quiet)
    return pipe, from_jobs(jobs, folder, pipe.sample_rate)


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".json")):
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _stored_music(store: FeatureStore, quick: bool) -> dict[str, ClipSet]:
    """Reference and yardstick, short and long, as `evaluate_clips` names them."""
    from prestissimo.metrics.clips import stored_clips

    short, long = round(_SHORT * 44_100), round(_LONG * 44_100)
    count = 300 if quick else 1000
    music = {
        "reference": stored_clips(store, "train", samples=short, count=count),
        "real": stored_clips(store, "heldout", samples=short, count=100 if quick else 500),
    }
    if not quick:
        music["long_reference"] = stored_clips(store, "train", samples=long, count=count // 2)
        music["long_real"] = stored_clips(store, "heldout", samples=long, count=120)
    return music


def _captioned(store: FeatureStore, music: dict[str, ClipSet], seed: int) -> list[Job]:
    """Clips after the captions of the held-out music, short and long; none where it has no captions."""
    from prestissimo.data.captions import CaptionStore
    from prestissimo.metrics.generated import captioned

    captions = CaptionStore(store)
    lengths = {"real": _SHORT, "long_real": _LONG}
    return [job for name, s in lengths.items() for job in captioned(music[name], captions, s, seed=seed)]


def _folders_music(
    reference_dir: Path | None, real_dir: Path | None, count: int, made: Generated
) -> dict[str, ClipSet]:
    """The same of folders, in clips as long as the generated ones."""
    from prestissimo.metrics.clips import folder_clips

    music = {}
    shortest = min(clip.shape[1] / made.sample_rate for clip in made.clips().take(20).clips)
    length = min(_SHORT, shortest)
    if reference_dir is not None:
        music["reference"] = folder_clips(reference_dir, seconds=length, count=count)
    if real_dir is not None:
        music["real"] = folder_clips(real_dir, seconds=length, count=500)
    return music


def _other_sets(pipe: Pipeline | None, real: ClipSet | None, quick: bool) -> dict[str, ClipSet]:
    """The ends of the scale: what the codec alone does to real music, and what it makes of random latents."""
    import torch

    from prestissimo.metrics.clips import ClipSet, LazyClips
    from prestissimo.sampling import latent_noise

    if pipe is None or real is None:
        return {}
    codec = pipe.codec

    @torch.no_grad()
    def reconstructed(clip: torch.Tensor) -> torch.Tensor:
        return codec.decode_waveform(codec.encode(clip[None]), length=clip.shape[1])[0]

    @torch.no_grad()
    def random(index: int) -> torch.Tensor:
        samples = round(_SHORT * pipe.sample_rate)
        noise = latent_noise([index], codec.config.channels, codec.latent_frames(samples))
        return codec.decode_waveform(codec.config.latent_std * noise, length=samples)[0]

    sets = {"codec": real.map(reconstructed)}
    if not quick:
        count = min(100, len(real))
        readers = [lambda i=i: random(i) for i in range(count)]  # type: ignore[misc]
        sets["random latents"] = ClipSet(LazyClips(readers), [str(i) for i in range(count)])
        tracks = _ace_step()
        if tracks is not None:
            from prestissimo.metrics.clips import folder_clips

            sets["ACE-Step"] = folder_clips(tracks, seconds=_SHORT)
    return sets


def _ace_step() -> Path | None:
    """Clips of a large generator, where their package is installed: a mark on the scale, never trained on."""
    from importlib.util import find_spec

    spec = find_spec("immich_memories_music")
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    return Path(places[0]) / "tracks" if places else None


def nearest_music(
    store: FeatureStore, pipe: Pipeline, made: Generated, real: ClipSet, quiet: bool
) -> dict[str, Any]:
    """Nearest training windows, by latent and by chroma, of up to 100 short clips; see `copy_report`."""
    import torch
    from rich.console import Console

    from prestissimo.metrics.attributes import chroma
    from prestissimo.metrics.copies import Library, copy_report

    tracks = store.select("train")
    titles = [f"{t.title} ({t.author})" for t in tracks]
    codec = pipe.codec
    short = made.where(lambda p, s: s == _SHORT and p is not None and p.kind == "tag")
    short_clips = short.clips().take(100)
    real = real.take(100)

    @torch.no_grad()
    def latents(audio: torch.Tensor) -> torch.Tensor:
        """The 32 components of the largest variance: the shape of the music, not its noise."""
        return codec.encode(audio[None])[0, :32]

    def pitch(audio: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(chroma(audio)).float()

    out = {}
    with Console(stderr=True, quiet=quiet).status("Searching the training music"):
        for name, feature in (("latent", latents), ("chroma", pitch)):
            library = Library([_by_minutes(store, track, feature) for track in tracks])
            out[name] = copy_report(
                library,
                titles,
                zip(short_clips.tracks, (feature(c) for c in short_clips.clips), strict=True),
                (feature(c) for c in real.clips),
            )
    return out


def _by_minutes(store: FeatureStore, track: Any, feature: Any) -> Any:
    """A feature of a whole track, piece by piece: the pieces are whole latent frames and whole chroma columns."""
    import torch

    piece = 4096 * 640
    starts = range(0, track.samples, piece)
    return torch.cat([feature(store.audio(track, s, min(piece, track.samples - s))) for s in starts], dim=1)
