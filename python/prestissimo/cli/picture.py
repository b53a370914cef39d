# SPDX-License-Identifier: Apache-2.0
"""A picture of a piece: waveform of both channels above, spectrogram of their mean below."""

from __future__ import annotations

import importlib.util
import io

import numpy as np

from prestissimo.audio import Audio

__all__ = ["draw", "require_matplotlib"]


def require_matplotlib() -> None:
    """Raises ImportError naming the extra where matplotlib is absent; costs no import of it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError('--plot needs matplotlib: pip install "prestissimo[plot]"')


def draw(audio: Audio, sample_rate: int, title: str) -> bytes:
    """A PNG, 1200 x 700, of (2, N) audio."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    seconds = audio.shape[1] / sample_rate
    figure = Figure(figsize=(12, 7), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    wave, spectrum = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    # matplotlib reads $ as mathematics
    wave.set_title(title.replace("$", r"\$")[:110], loc="left", fontsize=10)
    low, high = _envelope(audio, 2000)
    times = np.linspace(0, seconds, low.shape[1])
    for channel, name in enumerate(("left", "right")[: audio.shape[0]]):
        wave.fill_between(times, low[channel], high[channel], alpha=0.6, label=name, linewidth=0)
    wave.set_ylim(-1.05, 1.05)
    wave.set_ylabel("amplitude")
    wave.legend(loc="upper right", fontsize=8)

    levels, hop, size = _spectrogram(audio.mean(axis=0))
    frequencies = np.arange(size // 2 + 1) * sample_rate / size
    frames = np.arange(levels.shape[1]) * hop / sample_rate
    mesh = spectrum.pcolormesh(
        frames, frequencies[1:], levels[1:], vmin=-90, vmax=0, cmap="magma", shading="nearest"
    )
    mesh.set_rasterized(True)
    spectrum.set_yscale("log")
    spectrum.set_ylim(30, sample_rate / 2)
    spectrum.set_xlim(0, seconds)
    spectrum.set_xlabel("time, s")
    spectrum.set_ylabel("frequency, Hz")
    figure.colorbar(mesh, ax=spectrum, label="dB below the loudest", pad=0.01)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _envelope(audio: Audio, columns: int) -> tuple[Audio, Audio]:
    """Least and greatest sample of each of at most `columns` stretches: (C, columns) each."""
    starts = np.unique(np.linspace(0, audio.shape[1], columns, endpoint=False, dtype=np.int64))
    return np.minimum.reduceat(audio, starts, axis=1), np.maximum.reduceat(audio, starts, axis=1)


def _spectrogram(mono: Audio, size: int = 2048) -> tuple[Audio, int, int]:
    """20 log10 |STFT| relative to its maximum, (size / 2 + 1, frames), with its hop and size, in samples.

    At most 1200 frames: the picture has no more columns.
    """
    hop = max(512, len(mono) // 1200)
    padded = np.pad(mono, (size // 2, size // 2 + hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    magnitudes = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)).T
    reference = max(float(magnitudes.max()), 1e-9)
    return (20 * np.log10(np.maximum(magnitudes / reference, 1e-6))).astype(np.float32), hop, size
