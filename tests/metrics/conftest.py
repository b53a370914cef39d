# SPDX-License-Identifier: Apache-2.0
import importlib.util

import pytest
import torch


@pytest.fixture(scope="session")
def judges() -> None:
    """Skips where the judges' weights are not installed."""
    if importlib.util.find_spec("musicnn") is None:
        pytest.skip("needs pip install --no-deps musicnn==0.1.0")


@pytest.fixture(scope="session")
def clips() -> list[torch.Tensor]:
    """Eight stereo clips of 3.2 s at 44.1 kHz: plucked tones of different pitch and brightness."""
    rng = torch.Generator().manual_seed(3)
    t = torch.arange(int(0.4 * 44_100)) / 44_100
    out = []
    for k in range(8):
        notes = []
        for _ in range(8):
            f = 110 * 2 ** (torch.randint(0, 24, (1,), generator=rng).item() / 12)
            partials = range(1, 4 + 3 * k)
            notes.append(sum(torch.sin(2 * torch.pi * f * i * t) / i * torch.exp(-4 * t) for i in partials))
        mono = 0.1 * torch.cat(notes)
        noise = 0.002 * torch.randn(2, len(mono), generator=rng)
        out.append(torch.stack([mono * (0.5 + k / 16), mono * (1 - k / 16)]) + noise)
    return out
