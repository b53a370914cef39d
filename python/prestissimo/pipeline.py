# SPDX-License-Identifier: Apache-2.0
"""Text in, audio out: one model's text encoder, transformer and codec behind diffusers' argument names."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from prestissimo import ops
from prestissimo.engines import ENGINES, Engine
from prestissimo.models.config import ModelConfig, bundled_models, load_model
from prestissimo.models.tempo import read_tempo_prior
from prestissimo.nn import DiT, MelCodec, TextContext, TextEncoder, pack_linears, plain_linears
from prestissimo.request import Request, per_item, seeds_for
from prestissimo.sampling import (
    SAMPLERS,
    STOCHASTIC,
    Denoiser,
    by_level,
    classifier_free,
    karras,
    latent_noise,
)
from prestissimo.stages import Stages
from prestissimo.tempo import TempoPrior, tempo_in

__all__ = ["Generation", "Pipeline", "Timing", "load"]

log = logging.getLogger("prestissimo")

# (step, sigma reached, x there, the step's denoised estimate); a tensor that it returns takes the place of x
StepCallback = Callable[[int, Tensor, Tensor, Tensor], "Tensor | None"]
# diffusers': (pipeline, step, timestep, {"latents": x}) to a mapping whose "latents", if any, replace x
EndOfStep = Callable[["Pipeline", int, Tensor, dict[str, Any]], "Mapping[str, Any] | None"]


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of one item."""

    text: float
    denoising: float
    decoding: float

    @property
    def total(self) -> float:
        return self.text + self.denoising + self.decoding


@dataclass(frozen=True)
class Generation:
    """One finished item: audio float32 (2, N), latents float32 (C, T), the request with the model's defaults
    filled in. audio is (2, 0) where decoding was not asked for."""

    audio: Tensor
    latents: Tensor
    request: Request
    timing: Timing


class Pipeline:
    """A loaded model. Made by :func:`load`; calling it makes music.

    Items are computed one at a time, each from its own seed, so that a batch gives the same bits as its items
    made alone.
    """

    def __init__(
        self,
        config: ModelConfig,
        text_encoder: TextEncoder,
        dit: DiT,
        codec: MelCodec,
        *,
        tempo_prior: TempoPrior | None = None,
        engine: Engine | None = None,
        threads: int | None = None,
        strict_kernels: bool = False,
    ) -> None:
        if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
            raise ValueError(f"threads must be a positive integer, got {threads!r}")
        self.config = config
        self.text_encoder, self.dit, self.codec = text_encoder, dit, codec
        self.tempo_prior = tempo_prior
        self.engine = engine or ENGINES["torch"]
        self.strict_kernels = strict_kernels
        self._threads = threads
        self._contexts: dict[str, TextContext] = {}
        if strict_kernels and not ops.compiled():
            raise ops.MissingKernelError("strict_kernels: the compiled module prestissimo._core is missing")
        if strict_kernels and self.device.type == "cpu":
            plain = [name for network in (text_encoder, dit, codec) for name in plain_linears(network)]
            if plain:
                raise ops.MissingKernelError(f"strict_kernels: {plain[0]} is not packed: see nn.pack_linears")

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def sample_rate(self) -> int:
        """Of the audio, in Hz."""
        return self.codec.config.sample_rate

    @property
    def device(self) -> torch.device:
        return self.dit.null_text.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the transformer's weights; text encoder and codec compute in float32."""
        return self.dit.null_text.dtype

    @property
    def threads(self) -> int:
        return self._threads or torch.get_num_threads()

    def resolve(self, request: Request, *, from_audio: bool = False) -> Request:
        """The request with this model's defaults, and if it takes a tempo, the prompt's or one drawn by the seed.

        from_audio: it starts from audio, whose beat a drawn tempo would miss: none is drawn. Raises ValueError for
        what the model cannot do.
        """
        sampling = self.config.sampling
        takes_tempo = "tempo" in self.dit.config.conditions
        if request.bpm and not takes_tempo:
            raise ValueError(f"bpm: the model {self.name!r} takes no tempo")
        if request.bpm is None and takes_tempo:
            bpm = tempo_in(request.prompt)
            if bpm is None and self.tempo_prior is not None:
                bpm = 0.0 if from_audio else self.tempo_prior.draw(request.prompt, request.seed)
            request = replace(request, bpm=bpm)
        return request.resolved(
            steps=sampling.steps,
            guidance=sampling.guidance,
            sampler=sampling.sampler,
            samplers=tuple(SAMPLERS),
            max_seconds=sampling.max_seconds,
        )

    def __call__(
        self,
        prompt: str | Sequence[str],
        seconds: float | Sequence[float] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        num_waveforms_per_prompt: int = 1,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        sampler: str | None = None,
        init_audio: Any = None,
        init_strength: float = 0.7,
        bpm: float | Sequence[float | None] | None = None,
        output_type: str = "audio",
        callback_on_step_end: EndOfStep | None = None,
    ) -> Tensor | list[Tensor]:
        """Music for one prompt or several.

        seconds (without: 12, or the length of init_audio), negative_prompt, bpm, seed and generator: one for all,
        or one per item (per prompt for the first three). One seed for several items counts up: seed, seed + 1,
        ...; without seed and generator it is random. latents: unit-variance starting noise, (C, T) or (B, C, T),
        in place of the seed's. bpm: tempo, in place of one that the prompt names or that the seed draws to suit its
        words; 0: no steady beat. init_audio: (2, N) at
        `sample_rate` to start from, left the further the nearer init_strength is to 1. callback_on_step_end:
        `f(pipe, step, sigma, {"latents": x})`; "latents" in a dictionary that it returns replaces x, and an
        exception from it ends the run.

        Returns float32 (2, N) in the range of about [-1, 1], N = round(seconds * sample_rate), or with
        output_type "latent" (C, T); a list of them, prompt by prompt, unless prompt is a string and
        num_waveforms_per_prompt is 1. Raises ValueError or TypeError naming the argument.
        """
        if output_type not in ("audio", "latent"):
            raise ValueError(f'output_type must be "audio" or "latent", got {output_type!r}')
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        each = num_waveforms_per_prompt
        if not prompts:
            raise ValueError("prompt must hold at least one prompt")
        if isinstance(each, bool) or not isinstance(each, int) or each < 1:
            raise ValueError(f"num_waveforms_per_prompt must be a positive integer, got {each!r}")
        count = len(prompts) * each
        if init_audio is not None:
            init_audio = _stereo(init_audio)
        if seconds is None:
            seconds = 12.0 if init_audio is None else init_audio.shape[1] / self.sample_rate
        lengths = per_item("seconds", seconds, len(prompts))
        negatives = per_item("negative_prompt", negative_prompt, len(prompts))
        tempi = per_item("bpm", bpm, len(prompts))
        seeds = seeds_for(seed, generator, count)
        requests = [
            self.resolve(
                Request(
                    prompt=prompts[i // each],
                    seed=seeds[i],
                    seconds=lengths[i // each],
                    steps=num_inference_steps,
                    guidance=guidance_scale,
                    negative_prompt=negatives[i // each],
                    sampler=sampler,
                    init_strength=init_strength,
                    bpm=tempi[i // each],
                ),
                from_audio=init_audio is not None,
            )
            for i in range(count)
        ]
        noises = [self._noise(request, latents, i, count) for i, request in enumerate(requests)]
        callback = None if callback_on_step_end is None else self._adapted(callback_on_step_end)
        results = []
        for request, noise in zip(requests, noises, strict=True):
            made = self.run(
                request, init_audio=init_audio, noise=noise, callback=callback, decode=output_type == "audio"
            )
            results.append(made.audio if output_type == "audio" else made.latents)
        return results[0] if isinstance(prompt, str) and each == 1 else results

    @torch.no_grad()
    def run(
        self,
        request: Request,
        *,
        init_audio: Any = None,
        noise: Tensor | None = None,
        callback: StepCallback | None = None,
        decode: bool = True,
    ) -> Generation:
        """One item, with its timing. noise: unit-variance (C, T) in place of the seed's; see `__call__`."""
        request = self.resolve(request, from_audio=init_audio is not None)
        assert request.sampler is not None
        assert request.steps is not None
        samples = self._samples(request)
        stages = Stages()
        with self._running():
            with stages("text"):
                denoiser = self._denoiser(request)
            with stages("denoising"):
                start = self._noise(request, noise) if noise is not None else self._seeded(request)
                init = None if init_audio is None else self._encoded(_stereo(init_audio), samples)
                sigmas = self.schedule(request.steps, request.init_strength if init is not None else 1.0)
                seeds = {"seeds": [request.seed]} if request.sampler in STOCHASTIC else {}
                x = SAMPLERS[request.sampler](denoiser, start, sigmas, callback, init, **seeds)
                if not torch.isfinite(x).all():
                    raise FloatingPointError(
                        "the denoised latents are not finite: the weights or the dtype are at fault"
                    )
            with stages("decoding"):
                audio = torch.empty(2, 0)
                if decode:
                    audio = self.codec.decode_waveform(x, length=samples)[0].float().cpu()
                    if not torch.isfinite(audio).all():
                        raise FloatingPointError(
                            f"the music is not finite: {request.steps} steps of {request.sampler} have left the "
                            "model's range; take more steps or less guidance"
                        )
        timing = Timing(**stages.seconds)
        return Generation(audio, x[0].float().cpu(), request, timing)

    def schedule(self, steps: int, strength: float = 1.0) -> Tensor:
        """Karras noise levels (N+1,), N = max(1, round(strength * steps)).

        The first is sigma_max for strength 1, else sigma_data * strength / (1 - strength) within the model's
        range: noise then makes up that share of the sum of both standard deviations, which is what strength
        means in flow matching too.
        """
        sampling = self.config.sampling
        first = sampling.sigma_max
        if strength < 1:
            first = min(first, sampling.sigma_data * strength / (1 - strength))
        first = max(first, 1.001 * sampling.sigma_min)
        return karras(max(1, round(strength * steps)), sampling.sigma_min, first, sampling.rho)

    def _samples(self, request: Request) -> int:
        return max(1, round(request.seconds * self.sample_rate))

    def _shape(self, request: Request) -> tuple[int, int]:
        return self.codec.config.channels, self.codec.latent_frames(self._samples(request))

    def _seeded(self, request: Request) -> Tensor:
        return latent_noise([request.seed], *self._shape(request)).to(self.device)

    def _noise(
        self, request: Request, latents: Tensor | None, item: int = 0, count: int = 1
    ) -> Tensor | None:
        """This item's part of the latents the caller gave, as (1, C, T)."""
        if latents is None:
            return None
        shape = self._shape(request)
        fits = isinstance(latents, Tensor) and (
            (count == 1 and latents.shape == shape) or latents.shape == (count, *shape)
        )
        if not fits:
            got = list(latents.shape) if isinstance(latents, Tensor) else type(latents).__name__
            wanted = f"{list(shape)}" if count == 1 else f"{[count, *shape]}"
            raise ValueError(f"latents must be a tensor {wanted}, got {got}")
        if not torch.isfinite(latents).all():
            raise ValueError("latents must be finite")
        part = latents if latents.ndim == 2 else latents[item]
        return part[None].to(self.device, torch.float32)

    def _context(self, prompt: str) -> TextContext:
        """Keys and values of one prompt, kept for the next items that have it."""
        if prompt not in self._contexts:
            if self.text_encoder.tokenizer.encode(prompt).overflowing:
                longest = self.text_encoder.config.max_tokens
                log.warning("the prompt is longer than %d tokens: the model reads no further", longest)
            tokens = self.text_encoder.encode([prompt])
            if len(self._contexts) >= 64:
                self._contexts.pop(next(iter(self._contexts)))
            self._contexts[prompt] = self.dit.encode_text(
                tokens.states.to(self.device), tokens.mask.to(self.device)
            )
        return self._contexts[prompt]

    def _denoiser(self, request: Request) -> Denoiser:
        """D of the prompt, guided away from the negative prompt or from no text."""
        assert request.guidance is not None
        sampling = self.config.sampling
        context = self._context(request.prompt)
        trained = (sampling.sigma_data, sampling.parameterisation)
        wanted = self._conditions(request)
        conditional = self.engine.prepare(self.dit, context, wanted, *trained)
        if request.guidance == 1:
            if request.negative_prompt:
                log.warning("negative_prompt has no effect where guidance_scale is 1")
            return conditional
        away = self._context(request.negative_prompt) if request.negative_prompt else self.dit.null_context()
        scale = request.guidance
        options: dict[str, Any] = {"rescale": sampling.rescale, "interval": sampling.interval}

        def guided(unsaid: dict[str, Tensor]) -> Denoiser:
            stacked = {name: torch.cat([wanted[name], unsaid[name]]) for name in wanted}
            both = self.engine.prepare(self.dit, TextContext.cat([context, away]), stacked, *trained)
            return classifier_free(conditional, both, scale, **options)

        # Guidance is away from no tempo too, so that it strengthens the beat as it does the text; above tempo_below
        # it would put drums into everything.
        in_time = guided({**wanted, **self._tempo(None, request)})
        if not request.bpm or sampling.tempo_below is None:
            return in_time
        return by_level(in_time, guided(wanted), sampling.tempo_below)

    def _conditions(self, request: Request) -> dict[str, Tensor]:
        """All conditions but the noise level, of one item."""
        seconds = torch.tensor([request.seconds], device=self.device)
        return {"seconds": seconds, **self._tempo(request.bpm, request)}

    def _tempo(self, bpm: float | None, request: Request) -> dict[str, Tensor]:
        """tempo (1,) and the beat of every latent (1, T), from beat 0 at the start, as far as the model knows them."""
        config, (_, T) = self.codec.config, self._shape(request)
        seconds = torch.arange(T, device=self.device) * (config.hop / config.sample_rate)
        tempo = torch.full((1,), bpm or 0.0, device=self.device)
        beats = (seconds * (bpm / 60 if bpm else float("nan")))[None]
        known = {"tempo": tempo, "beats": beats}
        return {name: value for name, value in known.items() if name in self.dit.config.conditions}

    def _encoded(self, audio: Tensor, samples: int) -> Tensor:
        """Latents (1, C, T) of the first `samples` samples, silence behind them where there are fewer."""
        audio = F.pad(audio[:, :samples], (0, max(0, samples - audio.shape[1])))
        return self.codec.encode(audio[None].to(self.device))

    def _adapted(self, callback: EndOfStep) -> StepCallback:
        def at_step_end(step: int, sigma: Tensor, x: Tensor, denoised: Tensor) -> Tensor | None:
            returned = callback(self, step, sigma, {"latents": x})
            return None if returned is None else returned.get("latents")

        return at_step_end

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        before = torch.get_num_threads()
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        try:
            with ops.strict_kernels() if self.strict_kernels else contextlib.nullcontext():
                yield
        finally:
            if self._threads is not None:
                torch.set_num_threads(before)


def _stereo(init_audio: Any) -> Tensor:
    audio = torch.as_tensor(init_audio, dtype=torch.float32)
    if audio.ndim != 2 or audio.shape[0] != 2 or audio.shape[1] == 0:
        raise ValueError(f"init_audio must be [2, N] with N >= 1, got {list(audio.shape)}")
    if not torch.isfinite(audio).all():
        raise ValueError("init_audio must be finite")
    return audio


def load(
    name_or_path: str | os.PathLike[str] = "mini",
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    threads: int | None = None,
    strict_kernels: bool = False,
) -> Pipeline:
    """A bundled model by name, or a folder of weights by path.

    device: "cpu" (default) or "cuda". dtype: of the transformer, "float32" (default), "bfloat16", on CUDA
    also "float16". threads: of the CPU, while it runs (default: torch's). strict_kernels: raise
    `prestissimo.ops.MissingKernelError` wherever a plain-PyTorch reference would run in place of a kernel.

    On the CPU the weights of linear layers are packed for `ops.linear`, and pipelines of one model share them.

    Raises ValueError naming the argument or the file that is wrong, FileNotFoundError for a missing file.
    """
    place = _device(device)
    number = _dtype(dtype, place)
    folder = _folder(name_or_path)
    config, text_encoder, dit, codec = load_model(folder)
    networks = {"text": text_encoder.to(place), "dit": dit.to(place, number), "codec": codec.to(place)}
    if place.type == "cpu" and ops.compiled():
        for part, network in networks.items():
            pack_linears(network, config.sha256.get(part))
    return Pipeline(
        config,
        text_encoder.eval(),
        dit.eval(),
        codec.eval(),
        tempo_prior=read_tempo_prior(folder),
        threads=threads,
        strict_kernels=strict_kernels,
    )


def _folder(name_or_path: str | os.PathLike[str]) -> Path:
    bundled = bundled_models()
    if isinstance(name_or_path, str) and name_or_path in bundled:
        return bundled[name_or_path]
    path = Path(name_or_path)
    if path.is_dir():
        return path
    names = ", ".join(bundled) or "none here"
    raise ValueError(
        f"model must be a bundled one ({names}) or a folder of weights, got {str(name_or_path)!r}"
    )


def _device(device: str | torch.device | None) -> torch.device:
    try:
        place = torch.device("cpu" if device is None else device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device must be cpu or cuda, got {device!r}") from error
    if place.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be cpu or cuda, got {device!r}")
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} is not available: prestissimo doctor tells why")
    return place


def _dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    offered = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if device.type == "cuda":
        offered["float16"] = torch.float16
    if dtype is None:
        return torch.float32
    if isinstance(dtype, str) and dtype in offered:
        return offered[dtype]
    if isinstance(dtype, torch.dtype) and dtype in offered.values():
        return dtype
    raise ValueError(f"dtype must be one of {', '.join(offered)} on {device.type}, got {dtype!r}")
