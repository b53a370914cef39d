# SPDX-License-Identifier: Apache-2.0
import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console

from prestissimo.metrics.quick import quick_report, reference_embeddings

pytestmark = pytest.mark.usefixtures("judges")


def drums(seed: int) -> torch.Tensor:
    """Noise bursts: nothing like a plucked string."""
    rng = torch.Generator().manual_seed(seed)
    t = torch.arange(int(44_100 * 0.25)) / 44_100
    hits = [torch.randn(len(t), generator=rng) * torch.exp(-30 * t) for _ in range(13)]
    return 0.3 * torch.cat(hits).repeat(2, 1)


def test_report_of_tagged_clips(clips: list[torch.Tensor]) -> None:
    made = [*clips[:3], *(drums(i) for i in range(3))]
    reference = reference_embeddings(clips[3:6], ["MTT_vgg"])
    prompts = ["a piano", "piano again", "piano", "drums", "some drums", "just drums"]
    report = quick_report(made, prompts, ["piano"] * 3 + ["drums"] * 3, reference, draws=20)
    assert report.clips == 6
    assert report.reference_clips == {"MTT_vgg": 3}
    assert report.tags is not None
    by_name = {t.tag: t for t in report.tags.tags}
    assert by_name["drums"].rank.value == 1
    assert by_name["drums"].lift.value > 2
    json.dumps(report.to_dict())
    console = Console(record=True, width=140, file=io.StringIO())
    console.print(report)
    assert "Mean rank" in console.export_text()
    assert "drums 1" in report.row()
    nearer = quick_report(clips[:3], prompts[:3], [None] * 3, reference, draws=20)
    assert nearer.tags is None
    assert nearer.frechet["MTT_vgg"].value < report.frechet["MTT_vgg"].value


def test_bad_arguments_name_themselves(clips: list[torch.Tensor]) -> None:
    reference = {"MTT_vgg": np.random.default_rng(0).normal(size=(4, 256))}
    with pytest.raises(ValueError, match="prompts must hold one"):
        quick_report(clips[:2], ["a"], [None, None], reference)
    with pytest.raises(ValueError, match="tags must hold one"):
        quick_report(clips[:2], ["a", "b"], [None], reference)
    with pytest.raises(ValueError, match="no judge knows: kazoo"):
        quick_report(clips[:2], ["a", "b"], ["kazoo", None], reference)
    with pytest.raises(ValueError, match=r"reference_embeddings\['MTT_vgg'\]"):
        quick_report(clips[:2], ["a", "b"], [None, None], {"MTT_vgg": np.zeros(256)})
