# SPDX-License-Identifier: Apache-2.0
"""Requests refuse what no model can do, naming the argument."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from prestissimo.request import Request, item_seeds, per_item, seeds_for


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"prompt": ""}, ValueError, "prompt must not be empty"),
        ({"prompt": " \n\t"}, ValueError, "prompt must not be empty"),
        ({"prompt": "x" * 2001}, ValueError, "prompt must be at most 2000 characters, got 2001"),
        ({"prompt": "bad \udcff"}, ValueError, "prompt is not valid Unicode"),
        ({"prompt": 5}, TypeError, "prompt must be text, got int"),
        ({"negative_prompt": "x" * 2001}, ValueError, "negative_prompt must be at most"),
        ({"seconds": 0}, ValueError, "seconds must be above 0, got 0"),
        ({"seconds": -3.0}, ValueError, "seconds must be above 0, got -3"),
        ({"seconds": math.nan}, ValueError, "seconds must be finite, got nan"),
        ({"seconds": math.inf}, ValueError, "seconds must be finite, got inf"),
        ({"seconds": "12"}, TypeError, "seconds must be a number, got str"),
        ({"seconds": True}, TypeError, "seconds must be a number, got bool"),
        ({"seed": -1}, ValueError, "seed must be 0 to"),
        ({"seed": 2**63}, ValueError, "seed must be 0 to"),
        ({"seed": 1.5}, TypeError, "seed must be an integer, got float"),
        ({"steps": 0}, ValueError, "num_inference_steps must be 1 to 1000, got 0"),
        ({"steps": 2.5}, TypeError, "num_inference_steps must be an integer"),
        ({"guidance": -0.5}, ValueError, "guidance_scale must be 0 to 100"),
        ({"guidance": math.nan}, ValueError, "guidance_scale must be finite"),
        ({"init_strength": 0.0}, ValueError, "init_strength must be above 0 and at most 1"),
        ({"init_strength": 1.5}, ValueError, "init_strength must be above 0 and at most 1"),
    ],
)
def test_wrong_fields_are_named(fields, error, message):
    with pytest.raises(error, match=message):
        Request(**{"prompt": "calm piano", "seed": 7, **fields})


def test_numbers_of_any_kind_are_taken():
    request = Request("calm piano", np.int64(7), seconds=np.float32(7.5), steps=np.int32(3))
    assert (type(request.seed), type(request.seconds), request.steps) == (int, float, 3)


def test_a_model_fills_in_its_defaults_and_limits():
    model = {
        "steps": 9,
        "guidance": 4.0,
        "sampler": "heun",
        "samplers": ("euler", "heun"),
        "max_seconds": 60.0,
    }
    resolved = Request("x", 1, guidance=1.0).resolved(**model)
    assert (resolved.steps, resolved.guidance, resolved.sampler) == (9, 1.0, "heun")
    with pytest.raises(ValueError, match="seconds must be at most 60, got 61"):
        Request("x", 1, seconds=61).resolved(**model)
    with pytest.raises(ValueError, match="sampler must be one of euler, heun, got 'ddim'"):
        Request("x", 1, sampler="ddim").resolved(**model)


def test_seeds_of_items():
    assert item_seeds(2**63 - 1, 2) == [2**63 - 1, 0]
    assert seeds_for(7, None, 3) == [7, 8, 9]
    assert seeds_for([5, 1], None, 2) == [5, 1]
    assert seeds_for(None, None, 1) != seeds_for(None, None, 1)
    generator = torch.Generator().manual_seed(0)
    first, second = seeds_for(None, generator, 1), seeds_for(None, generator, 1)
    assert first != second
    assert seeds_for(None, generator.manual_seed(0), 2) == [*first, *second]
    assert seeds_for(None, [torch.Generator().manual_seed(0)] * 2, 2) == [*first, *second]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((7, torch.Generator(), 1), "seed and generator"),
        (([1, 2], None, 3), "seed must be an integer, or a list of 3, got 2"),
        ((None, [torch.Generator()], 2), "generator must be"),
        ((None, 7, 1), "generator must be"),
    ],
)
def test_wrong_seeds_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        seeds_for(*arguments)


def test_one_value_for_all_or_one_each():
    assert per_item("seconds", 3.0, 2) == [3.0, 3.0]
    assert per_item("seconds", [1.0, 2.0], 2) == [1.0, 2.0]
    with pytest.raises(ValueError, match=r"seconds must be one, or one per prompt \(3\), got 2"):
        per_item("seconds", [1.0, 2.0], 3)
