# SPDX-License-Identifier: Apache-2.0
"""What each row of a benchmark is held to, and by how much it meets or misses that: the one list of goals."""

from __future__ import annotations

from typing import Any, NamedTuple

STREAMED = 8.0  # MB of input and output above which a copy is the bar
Row = dict[str, Any]  # name, fastest_s and what the benchmark itself noted

# Ops of one pass over their arguments: the bytes decide
STREAMING = {
    "adaln_modulate",
    "gated_residual",
    "gated_residual_adaln",
    "qk_norm_rope",
    "swiglu",
    "geglu",
    "quantize_rows",
}
LISTS = {"squared_norm", "graft_update"}


class Goal(NamedTuple):
    """`value` should be `least` or more."""

    what: str
    value: float
    least: float

    @property
    def missed(self) -> bool:
        return self.value < self.least


def kind_of(row: Row) -> str:
    return str(row["name"]).split("[")[0]


def op_of(row: Row) -> str:
    """What is timed; rows of older files have an op's name in their own."""
    kind, _, inside = str(row["name"]).partition("[")
    return str(row.get("op") or (inside.split("-")[0] if kind == "test_op" else kind.removeprefix("test_")))


def goals_of(row: Row) -> list[Goal]:
    """The goals of a row, which is empty for those that only state a figure."""
    of = {
        "test_op": _one_pass,
        "test_forward": _attention,
        "test_backward": lambda r: [Goal("SDPA", r["of_sdpa"], 1.3)],
        "test_linear": _linear,
        "test_block": lambda r: [Goal("ceiling", r["of_ceiling"], r["goal_of_ceiling"])],
        "test_block_training": lambda r: [Goal("eager", r["training_gain"], r["goal_gain"])],
        "test_oobleck": _oobleck,
        "test_topk": _selection,
        "test_info_nce": _pairs,
        "test_segment_similarity": _pairs,
        "test_memory": lambda r: [Goal("memory", r["memory_limit_mb"] / max(r["memory_mb"], 1e-9), 1.0)],
        "test_sampler": lambda r: [Goal("eager", r["gain"], 1.0)],
    }.get(kind_of(row))
    goals = of(row) if of else []
    if "goal_ms" in row:
        goals = [*goals, Goal("time", row["goal_ms"] / 1e3 / row["fastest_s"], 1.0)]
    if "goal_gflop" in row:
        work = row.get("gflop_per_call", row.get("gflop"))
        goals = [*goals, Goal("work", row["goal_gflop"] / work, 1.0)]
    return goals


def below(row: Row) -> list[str]:
    """The goals that a row misses."""
    return [goal.what for goal in goals_of(row) if goal.missed]


def _one_pass(row: Row) -> list[Goal]:
    if "of_ceiling" in row:
        least = 0.75 if op_of(row) == "hierarchy_argmax" else 0.0
        goals = [Goal("ceiling", row["of_ceiling"], least)] if least else []
        return [*goals, Goal("eager", row["gain"], 1.0), Goal("compile", row["of_compile"], 0.95)]
    streaming = op_of(row) in STREAMING
    goals = [
        Goal("gain", row["gain"], 0.85 * row["bytes_ratio"]) if streaming else Goal("eager", row["gain"], 1.0)
    ]
    goals += [Goal("compile", row["of_compile"], 0.95)]
    for name in ("openvino", "onnxruntime"):
        if name in row["microseconds"]:
            goals += [Goal(name, row["microseconds"][name] / row["microseconds"]["prestissimo"], 1.0)]
    if row["megabytes"] > STREAMED and (streaming or op_of(row) in LISTS):
        goals += [Goal("copy", row["of_copy"], 0.8)]
    return goals


def _attention(row: Row) -> list[Goal]:
    """bfloat16: half of the ceiling from 1000 keys and queries on, 35 % below; float32: torch's own at least."""
    if row["dtype"] != "bfloat16":
        return [Goal("SDPA", row["of_sdpa"], 1.0)]
    T, S = row["shape"][1:3]
    return [
        Goal("ceiling", row["of_ceiling"], 0.5 if min(T, S) >= 1000 else 0.35),
        Goal("SDPA", row["of_sdpa"], 1.0),
    ]


def _linear(row: Row) -> list[Goal]:
    """Of oneDNN's prepacked product; what F.linear, OpenVINO and ONNX Runtime take is never less."""
    rate = row["gflop_per_s"]
    users = [k for k in ("F.linear", "openvino", "onnxruntime") if k in rate and row["dtype"] != "int8"]
    goals = [Goal("oneDNN", row["of_onednn"], 0.95 if row["dtype"] == "bfloat16" else 0.9)]
    goals += [Goal(k, rate["prestissimo"] / rate[k], 1.0) for k in users]
    if row["dtype"] == "int8" and row["shape"][0] in (257, 1025):
        goals += [Goal("bf16", row["of_bf16"], 1.7)]
    return goals


def _oobleck(row: Row) -> list[Goal]:
    if row["dtype"] == "int8":
        return [Goal("rivals", row["gain"], 3.0)]
    return [Goal("ceiling", row["of_ceiling"], 0.7), Goal("rivals", row["gain"], 1.0)]


def _selection(row: Row) -> list[Goal]:
    """Over the loop in PyTorch, forward and backward: 20 on Lead-AE's rows, 10 on the widest; peers never faster."""
    name = str(row["name"])
    least = 20.0 if "lead-ae" in name else 10.0 if "widest" in name else 1.0
    goals = [Goal("loop", row["gain"]["loop"], least)]
    return goals + [Goal(k, v, 1.0) for k, v in row["gain"].items() if k not in ("loop", "prestissimo")]


def _pairs(row: Row) -> list[Goal]:
    goals = [Goal("ceiling", row["of_ceiling"], 0.75)] + [Goal(k, v, 1.0) for k, v in row["gain"].items()]
    return goals + ([Goal("fp32", row["of_fp32"], 1.7)] if row.get("of_fp32") else [])
