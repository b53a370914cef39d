# SPDX-License-Identifier: Apache-2.0
"""`prestissimo generate`: prompts in, audio files out."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prestissimo._version import __version__

if TYPE_CHECKING:
    from rich.console import Console

    from prestissimo.cli.jobs import Job
    from prestissimo.pipeline import Generation, Pipeline

__all__ = ["console_for", "generate", "make_all"]

log = logging.getLogger("prestissimo")

_MUSIC, _SEVERAL, _FILE, _RUN, _REPORT = "Music", "Several pieces", "Output file", "Running", "Reporting"


def generate(
    prompt: Annotated[str | None, typer.Argument(help="What to play, in words.", show_default=False)] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds",
            "-s",
            help="Length.",
            show_default="12, or that of --init-audio",
            rich_help_panel=_MUSIC,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="The same seed makes the same music.", show_default="random", rich_help_panel=_MUSIC
        ),
    ] = None,
    negative_prompt: Annotated[
        str | None,
        typer.Option(
            help="What not to play; needs guidance above 1.", show_default=False, rich_help_panel=_MUSIC
        ),
    ] = None,
    bpm: Annotated[
        float | None,
        typer.Option(
            help="Tempo, for a model that takes one: 30 to 300; 0 for no steady beat.",
            show_default="what the prompt says, else drawn by the seed to suit it",
            rich_help_panel=_MUSIC,
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Sampling steps.", show_default="the model's", rich_help_panel=_MUSIC)
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            help="How closely to follow the prompt; 1 is off.",
            show_default="the model's",
            rich_help_panel=_MUSIC,
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            help="euler, heun, dpm2, dpmpp_2s, dpmpp_2m, ddim, pingpong or ctm.",
            show_default="the model's",
            rich_help_panel=_MUSIC,
        ),
    ] = None,
    init_audio: Annotated[
        Path | None,
        typer.Option(help="Audio file to start from.", show_default=False, rich_help_panel=_MUSIC),
    ] = None,
    strength: Annotated[
        float, typer.Option(help="How far to leave --init-audio: 0 to 1.", rich_help_panel=_MUSIC)
    ] = 0.7,
    resample: Annotated[
        bool, typer.Option("--resample", help="Accept --init-audio at another rate.", rich_help_panel=_MUSIC)
    ] = False,
    num: Annotated[
        int, typer.Option("--num", "-n", help="Pieces per prompt: seeds count up.", rich_help_panel=_SEVERAL)
    ] = 1,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="One prompt a line; or CSV headed prompt, seconds, seed, negative_prompt, bpm, steps, "
            "guidance, sampler, strength.",
            show_default=False,
            rich_help_panel=_SEVERAL,
        ),
    ] = None,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            help="File (.wav .flac .mp3 .opus .ogg), folder, or - for stdout.",
            rich_help_panel=_FILE,
        ),
    ] = "out.wav",
    format: Annotated[
        str | None,
        typer.Option(
            help="wav, flac, mp3, opus or ogg.", show_default="from the name, else wav", rich_help_panel=_FILE
        ),
    ] = None,
    bit_depth: Annotated[
        str | None,
        typer.Option(
            "--bit-depth",
            "--subtype",
            help="16, 24 or float for WAV; 16 or 24 for FLAC.",
            show_default="16",
            rich_help_panel=_FILE,
        ),
    ] = None,
    lufs: Annotated[
        float | None,
        typer.Option(
            help="Set the loudness, for instance -14, as far as the peak allows.",
            show_default=False,
            rich_help_panel=_FILE,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace existing files.", rich_help_panel=_FILE)
    ] = False,
    model: Annotated[
        str, typer.Option(help="A bundled model, or a folder of weights.", rich_help_panel=_RUN)
    ] = "mini",
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda.", show_default="cpu", rich_help_panel=_RUN)
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32 or bfloat16.", show_default="float32", rich_help_panel=_RUN),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads.", show_default="all cores", rich_help_panel=_RUN)
    ] = None,
    strict_kernels: Annotated[
        bool,
        typer.Option("--strict-kernels", help="Fail where a slow fallback would run.", rich_help_panel=_RUN),
    ] = False,
    plot: Annotated[
        bool,
        typer.Option(
            "--plot", help="Draw waveform and spectrogram beside the file.", rich_help_panel=_REPORT
        ),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Report as JSON on stdout (on stderr with -o -).",
            rich_help_panel=_REPORT,
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing but errors.", rich_help_panel=_REPORT)
    ] = False,
) -> None:
    """Make music from text.

    \b
    prestissimo generate "calm solo piano in a minor key" --seed 7 -o out.wav
    prestissimo generate "fast techno" -n 4 --lufs -14 --format flac -o takes/
    prestissimo generate --prompts prompts.csv -o album/ --json
    prestissimo generate "the same on strings" --init-audio tune.wav -o new.wav
    prestissimo generate "taiko drums" -o - | aplay
    """
    from prestissimo import audio
    from prestissimo.cli import jobs

    if quiet:
        log.setLevel(logging.ERROR)
    if (prompt is None) == (prompts is None):
        raise ValueError("give a PROMPT or --prompts FILE, one of the two")
    if output == "-" and sys.stdout.isatty():
        raise ValueError("standard output is a terminal: pipe it somewhere, or give -o a file")
    if lufs is not None and not -70 <= lufs <= 0:
        raise ValueError(f"lufs must be between -70 and 0, got {lufs:g}")
    rows = [jobs.Row({"prompt": prompt}, "")] if prompts is None else jobs.read_prompts(prompts)
    if seconds is None:
        seconds = 12.0 if init_audio is None else audio.duration(init_audio)
    options = {
        "seconds": seconds,
        "steps": steps,
        "guidance": guidance,
        "negative_prompt": negative_prompt,
        "sampler": sampler,
        "init_strength": strength,
        "bpm": bpm,
    }
    todo = jobs.plan(
        rows,
        options,
        seed=secrets.randbits(32) if seed is None else seed,
        output=output,
        number=num,
        format=format,
        bit_depth=bit_depth,
        plot=plot,
        overwrite=overwrite,
    )
    for job in todo:
        if lufs is not None and job.request.seconds < 0.4:
            raise ValueError(f"lufs is defined for 0.4 s or more, got {job.request.seconds:g} s")
    if init_audio is not None:
        audio.read(init_audio)  # so that a wrong file is told of before the model is loaded
    if plot:
        from prestissimo.cli import picture

        picture.require_matplotlib()

    begun = time.perf_counter()
    from prestissimo.pipeline import load

    pipe = load(model, device=device, dtype=dtype, threads=threads, strict_kernels=strict_kernels)
    todo = [job.with_request(pipe.resolve(job.request, from_audio=init_audio is not None)) for job in todo]
    start = None
    if init_audio is not None:
        hint = "; --resample converts it"
        try:
            start = audio.read(init_audio, pipe.sample_rate, convert=resample)
        except ValueError as error:
            raise ValueError(f"{error}{hint if 'Hz is needed' in str(error) else ''}") from error
    jobs.make_folder(todo)
    report: dict[str, Any] = {
        "prestissimo": __version__,
        "model": pipe.name,
        "device": str(pipe.device),
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "threads": pipe.threads,
        "sample_rate": pipe.sample_rate,
        "load_seconds": round(time.perf_counter() - begun, 4),
        "outputs": [],
    }
    output_settings = {"bit_depth": bit_depth, "lufs": lufs, "overwrite": overwrite}
    try:
        make_all(pipe, todo, start, output_settings, report["outputs"], console_for(quiet or as_json))
    finally:
        # what was finished before an error or Ctrl-C is on the disk, and in the report
        if as_json:
            report["peak_memory_mb"] = _peak_memory_mb()
            print(json.dumps(report, indent=2), file=sys.stderr if output == "-" else sys.stdout, flush=True)


def console_for(quiet: bool) -> Console:
    from rich.console import Console

    return Console(stderr=True, quiet=quiet, highlight=False)


def _peak_memory_mb() -> float | None:
    """Peak resident memory of this process.

    Linux counts the parent's, up to the exec, in ru_maxrss: a large one would pass for ours.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    try:
        import resource
    except ImportError:  # Windows
        return None
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(kilobytes / (1024 * 1024 if sys.platform == "darwin" else 1024), 1)


def make_all(
    pipe: Pipeline,
    todo: list[Job],
    start: Any,
    settings: dict[str, Any],
    outputs: list[dict[str, Any]],
    console: Console,
) -> None:
    """Makes and writes one piece after the other, each complete on the disk before the next begins."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        for i, job in enumerate(todo, 1):
            label = f"piece {i} of {len(todo)}" if len(todo) > 1 else "denoising"
            task = progress.add_task(label, total=job.request.steps)

            def advance(step: int, *_: Any, task: Any = task) -> None:
                progress.update(task, completed=step + 1)

            made = pipe.run(job.request, init_audio=start, callback=advance)
            try:
                entry = _write(pipe, job, made, settings)
            except OSError as error:
                if error.errno is None:
                    raise
                again = f"{error.strerror}; --seed {job.request.seed} makes this piece again"
                raise OSError(error.errno, again, error.filename) from error
            progress.remove_task(task)
            outputs.append(entry)
            console.print(_summary(entry), soft_wrap=True, markup=False)


def _write(pipe: Pipeline, job: Job, made: Generation, settings: dict[str, Any]) -> dict[str, Any]:
    from prestissimo import atomic, audio

    request, sound = made.request, made.audio.numpy()
    entry: dict[str, Any] = {
        "file": "-" if job.path is None else str(job.path),
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "seed": request.seed,
        "seconds": round(sound.shape[1] / pipe.sample_rate, 6),
        "bpm": request.bpm,
        "steps": request.steps,
        "guidance": request.guidance,
        "sampler": request.sampler,
    }
    provenance = {
        "model": pipe.name,
        "prestissimo": __version__,
        **{k: v for k, v in entry.items() if k != "file"},
    }
    loudness = settings["lufs"]
    if loudness is not None and math.isinf(audio.measure_loudness(sound, pipe.sample_rate)):
        log.warning("the loudness cannot be set: the audio is silent")
        loudness = None
    if loudness is not None:
        sound, reached = audio.match_loudness(sound, pipe.sample_rate, loudness, job.format.peak_dbfs)
        entry["lufs"] = round(reached, 2)
    else:
        sound, gain = audio.limit_peak(sound, job.format.peak_dbfs)
        entry["gain_db"] = round(gain, 3)
    data = audio.encode(
        sound,
        pipe.sample_rate,
        job.format,
        bit_depth=settings["bit_depth"],
        title=request.prompt,
        comment=provenance,
    )
    if job.path is None:
        _to_standard_output(data)
    else:
        atomic.write_bytes(job.path, data, overwrite=settings["overwrite"])
    if job.picture is not None:
        from prestissimo.cli import picture

        drawn = picture.draw(sound, pipe.sample_rate, request.prompt)
        atomic.write_bytes(job.picture, drawn, overwrite=settings["overwrite"])
        entry["plot"] = str(job.picture)
    timing = made.timing
    entry["timing"] = {
        "text": round(timing.text, 5),
        "denoising": round(timing.denoising, 5),
        "decoding": round(timing.decoding, 5),
        "total": round(timing.total, 5),
    }
    entry["rtf"] = round(timing.total * pipe.sample_rate / sound.shape[1], 5)
    return entry


def _to_standard_output(data: bytes) -> None:
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError as error:
        # the interpreter flushes once more on its way out, which must find a reader
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OSError("standard output was closed before everything was written") from error


def _summary(entry: dict[str, Any]) -> str:
    t = entry["timing"]
    loudness = f", {entry['lufs']:.1f} LUFS" if "lufs" in entry else ""
    name = "standard output" if entry["file"] == "-" else entry["file"]
    return (
        f"{name}: {entry['seconds']:.2f} s{loudness}, seed {entry['seed']}, made in {t['total']:.2f} s "
        f"(text {t['text']:.2f}, denoising {t['denoising']:.2f}, decoding {t['decoding']:.2f}): "
        f"real-time factor {entry['rtf']:.3f}, {1 / max(entry['rtf'], 1e-9):.1f}x real time"
    )
