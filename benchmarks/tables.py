# SPDX-License-Identifier: Apache-2.0
"""Rows of benchmarks as tables, one for each family, one line for both numbers of threads, losses marked."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from goals import STREAMING, Row, below, goals_of, kind_of, op_of

Cell = Callable[[Row], str]
Column = tuple[str, Cell]

FAMILIES: dict[str, set[str]] = {
    "Elementwise ops and norms": STREAMING,
    "Noise": {"philox_normal", "philox_gumbel", "renoise"},
    "Diffusion": {
        "edm_precondition", "edm_denoise", "ctm_map", "cfg_combine", "apg_combine", "sampler_step", "dmd_gradient",
        "pseudo_huber", "dynamic_threshold",
    },
    "Hidden states": {"layer_drop", "hidden_variance"},
    "Lists of tensors": {"squared_norm", "graft_update"},
    "Classes by their subclasses": {"hierarchy_argmax", "hierarchy_probs"},
    "Pieces of decoders": {
        "conv1d", "conv_transpose1d", "depthwise_conv1d", "snake", "peak_phase", "project_phase", "inverse_stft",
        "spectrum_from_bands",
    },
}  # fmt: skip
PEERS = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}


def ratio(value: float) -> str:
    """Cut and not rounded: a figure is never better than what was measured."""
    return f"{math.floor(value * 100) / 100:.2f}"


def label(row: Row) -> str:
    """The row's name without the test's and without the number of threads."""
    inside = str(row["name"]).partition("[")[2].removesuffix("]")
    return re.sub(r"-[12]t?$", "", inside) if "threads" in row else inside


def by_label(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows that differ in the number of threads alone, together."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((kind_of(row), label(row)), []).append(row)
    return [sorted(group, key=lambda row: row.get("threads", 0)) for group in groups.values()]


def marks(group: Sequence[Row]) -> str:
    """What misses a goal, and by which value."""
    found = []
    for row in group:
        threads = f" on {row['threads']}" if len(group) > 1 else ""
        found += [f"{g.what} {ratio(g.value)} < {g.least:.2f}{threads}" for g in goals_of(row) if g.missed]
    return "**below:** " + ", ".join(found) if found else ""


def both(f: Cell) -> Callable[[Sequence[Row]], str]:
    def cell(group: Sequence[Row]) -> str:
        cells = [f(row) for row in group]
        return cells[0] if len(set(cells)) == 1 else " / ".join(cells)

    return cell


def rows_to_table(rows: Sequence[Row], first: str, columns: Sequence[Column]) -> list[str]:
    """Without columns whose cells are all empty; a line says its numbers of threads where not all have the same."""
    groups = by_label(rows)
    threads = [tuple(row["threads"] for row in group if "threads" in row) for group in groups]
    usual = threads[0] if len(set(threads)) == 1 else (1, 2)
    cells = [[both(f)(group) for _, f in columns] for group in groups]
    kept = [i for i in range(len(columns)) if any(line[i] for line in cells)]
    named = f"{first}; {_threads(usual)}" if usual in threads and usual else first
    titles = [named, *(columns[i][0] for i in kept), ""]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for group, line, count in zip(groups, cells, threads, strict=True):
        name = label(group[0]) + ("" if count in (usual, ()) else f"; {_threads(count)}")
        lines.append(f"| {' | '.join([name, *(line[i] for i in kept), marks(group)])} |")
    return [*lines, ""]


def _threads(counts: Sequence[int]) -> str:
    return " / ".join(map(str, counts)) + (" thread" if tuple(counts) == (1,) else " threads")


def _time(seconds: float) -> str:
    unit, size = ("µs", 1e6) if seconds < 1e-3 else ("ms", 1e3) if seconds < 1 else ("s", 1.0)
    value = seconds * size
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"


def _microseconds(row: Row) -> str:
    return _time(row["microseconds"]["prestissimo"] / 1e6)


def _times(name: str, where: str = "microseconds") -> Cell:
    """How many times longer a rival takes."""

    def cell(row: Row) -> str:
        times = row.get(where, {})
        return ratio(times[name] / times["prestissimo"]) if name in times else ""

    return cell


def _rate(name: str) -> Cell:
    """How many times slower a rival is, of rates."""

    def cell(row: Row) -> str:
        rates = row["gflop_per_s"]
        return ratio(rates["prestissimo"] / rates[name]) if name in rates else ""

    return cell


def _value(name: str, digits: str = "") -> Cell:
    """A ratio, or what `digits` says."""

    def cell(row: Row) -> str:
        value = row.get(name)
        return "" if value is None else f"{value:{digits}}" if digits else ratio(value)

    return cell


def _ops(rows: Sequence[Row]) -> list[str]:
    columns: list[Column] = [
        ("MB", _value("megabytes", ".1f")),
        ("ours", _microseconds),
        ("eager (bytes)", lambda row: f"{ratio(row['gain'])} ({row['bytes_ratio']:.1f})"),
        ("compile", _value("of_compile")),
        *((title, _times(name)) for name, title in PEERS.items()),
        ("copy", _value("of_copy")),
        ("of ceiling", _value("of_ceiling")),
    ]
    lines = []
    for family, names in FAMILIES.items():
        if chosen := [row for row in rows if op_of(row) in names]:
            lines += [f"### {family}", "", *rows_to_table(chosen, "op, size, dtype", columns)]
    known = set().union(*FAMILIES.values())
    if rest := [row for row in rows if op_of(row) not in known]:
        lines += ["### Other ops", "", *rows_to_table(rest, "op, size, dtype", columns)]
    return lines


def _attention(rows: Sequence[Row]) -> list[str]:
    columns: list[Column] = [
        ("ours", _microseconds),
        ("SDPA", _value("of_sdpa")),
        ("of ceiling", _value("of_ceiling")),
    ]
    lines = ["### attention", ""]
    for kind in ("forward", "backward"):
        if chosen := [row for row in rows if kind_of(row) == f"test_{kind}"]:
            lines += rows_to_table(chosen, kind, columns)
    return lines


def _linear(rows: Sequence[Row]) -> list[str]:
    return [
        "### linear",
        "",
        *rows_to_table(
            rows,
            "rows, dtype",
            [
                ("M, N, K", lambda row: ", ".join(map(str, row["shape"]))),
                ("GFLOP/s", lambda row: f"{row['gflop_per_s']['prestissimo']:.0f}"),
                ("of oneDNN", _value("of_onednn")),
                ("F.linear", _rate("F.linear")),
                *((title, _rate(name)) for name, title in PEERS.items()),
                ("our bf16", _value("of_bf16")),
                ("error", _value("relative_error", ".0e")),
            ],
        ),
    ]


def _block(rows: Sequence[Row]) -> list[str]:
    lines = ["### dit_block", ""]
    if forward := [row for row in rows if kind_of(row) == "test_block"]:
        lines += rows_to_table(
            forward,
            "block",
            [
                ("GFLOP/s", lambda row: f"{row['gflop_per_s']['prestissimo']:.0f}"),
                ("of ceiling", _value("of_ceiling")),
                ("the same ops", _rate("ops")),
                ("eager", _rate("eager")),
                ("compile", _rate("compile")),
                ("OpenVINO", _rate("openvino")),
                ("error", _value("relative_error", ".0e")),
            ],
        )
    if training := [row for row in rows if kind_of(row) == "test_block_training"]:
        lines += rows_to_table(
            training, "training step, bfloat16", [("ours", _microseconds), ("eager", _value("training_gain"))]
        )
    return lines


def _oobleck(rows: Sequence[Row]) -> list[str]:
    return [
        "### Oobleck decoder, 2.97 s of stereo",
        "",
        *rows_to_table(
            rows,
            "products",
            [
                ("ours", lambda row: _time(row["seconds"]["prestissimo"])),
                ("of ceiling", _value("of_ceiling")),
                ("eager bf16", _times("eager", "seconds")),
                ("OpenVINO bf16", _times("openvino", "seconds")),
                ("signal to noise, dB", lambda row: f"{row['snr']['ours']:.1f}"),
                ("of eager", lambda row: f"{row['snr']['eager']:.1f}"),
            ],
        ),
    ]


def _selection(rows: Sequence[Row]) -> list[str]:
    return [
        "### Top-k, forward and backward",
        "",
        *rows_to_table(
            rows,
            "op, rows",
            [
                ("ours", _microseconds),
                ("loop", _times("loop")),
                ("torchsort", _times("torchsort")),
                ("entmax", _times("entmax")),
                ("POT, forward alone", _times("POT, forward alone")),
            ],
        ),
    ]


def _pairs(rows: Sequence[Row]) -> list[str]:
    lines = ["### Products of all pairs, forward and backward", ""]
    if timed := [row for row in rows if kind_of(row) != "test_memory"]:
        # their names have no op
        named = [{**row, "name": row["name"].replace("[", f"[{row['op']}-")} for row in timed]
        lines += rows_to_table(
            named,
            "op, dtype",
            [
                ("sizes", lambda row: ", ".join(map(str, row["shape"]))),
                ("ours", lambda row: _time(row["seconds"]["prestissimo"])),
                ("of ceiling", _value("of_ceiling")),
                ("ClipLoss", _times("clip_loss", "seconds")),
                ("einsum", _times("einsum", "seconds")),
                ("our fp32", _value("of_fp32")),
            ],
        )
    if memory := [row for row in rows if kind_of(row) == "test_memory"]:
        lines += rows_to_table(
            memory,
            "memory beyond inputs, result and gradients",
            [("MB", _value("memory_mb", ".0f")), ("limit", _value("memory_limit_mb", ".0f")),
             ("seconds", _value("seconds", ".1f"))],
        )  # fmt: skip
    return lines


def _samplers(rows: Sequence[Row]) -> list[str]:
    return [
        "### Samplers, 20 steps of a network that takes no time",
        "",
        *rows_to_table(
            rows,
            "sampler, latent, guidance",
            [
                ("a step", lambda row: _time(row["microseconds_a_step"]["prestissimo"] / 1e6)),
                ("eager", _value("gain")),
            ],
        ),
    ]


_UNITS = {"goal_gflop": "GFLOP", "goal_ms": "ms"}


def _stages(rows: Sequence[Row]) -> list[str]:
    lines = [
        "### The bundled model, 32 s of stereo",
        "",
        "| stage | ms | GFLOP a call | goal | × real time | parameters | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        work = row.get("gflop_per_call", row.get("gflop"))
        goals = [f"{row[key]:.0f} {unit}" for key, unit in _UNITS.items() if key in row]
        cells = [
            row["name"].removeprefix("test_") + (f", {row['calls']} calls" if "calls" in row else ""),
            f"{row['fastest_s'] * 1e3:.1f}",
            "" if work is None else f"{work:.2f}",
            ", ".join(goals),
            f"{row['x_real_time']:.0f}" if "x_real_time" in row else "",
            f"{row['parameters'] / 1e6:.1f} M" if "parameters" in row else "",
            marks([row]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _ceilings(rows: Sequence[Row]) -> list[str]:
    return [
        "### Ceilings of the machine",
        "",
        *rows_to_table(
            rows,
            "dtype",
            [
                ("oneDNN prepacked, 2048³, G(FL)OP/s", _value("ceiling_gflop_per_s", ".0f")),
                ("copy of 64 MB, GB/s", _value("copy_gb_per_s", ".1f")),
            ],
        ),
    ]


def _summary(rows: Sequence[Row]) -> list[str]:
    """How many rows there are of each op with goals, and how many miss one."""
    held = [row for row in rows if goals_of(row)]
    missing: dict[str, int] = {}
    for row in held:
        missing[op_of(row)] = missing.get(op_of(row), 0) + bool(below(row))
    missed = sum(missing.values())
    named = ", ".join(f"{op} {n}" for op, n in sorted(missing.items(), key=lambda item: -item[1]) if n)
    return [f"{missed} of {len(held)} rows with a goal miss one" + (f": {named}." if named else "."), ""]


SECTIONS: tuple[tuple[Callable[[Row], bool], Callable[[Sequence[Row]], list[str]]], ...] = (
    (lambda row: "ceiling_gflop_per_s" in row and "copy_gb_per_s" in row, _ceilings),
    (lambda row: kind_of(row) in ("test_block", "test_block_training"), _block),
    (lambda row: kind_of(row) in ("test_forward", "test_backward"), _attention),
    (lambda row: kind_of(row) == "test_linear", _linear),
    (lambda row: kind_of(row) == "test_oobleck", _oobleck),
    (lambda row: kind_of(row) == "test_op", _ops),
    (lambda row: kind_of(row) == "test_sampler", _samplers),
    (lambda row: kind_of(row) == "test_topk", _selection),
    (lambda row: kind_of(row) in ("test_info_nce", "test_segment_similarity", "test_memory"), _pairs),
    (
        lambda row: kind_of(row) != "test_oobleck" and bool({"goal_gflop", "goal_ms", "gflop"} & row.keys()),
        _stages,
    ),
)


def table(rows: Sequence[Row]) -> str:
    """Every row, by family."""
    machines = {", ".join(f"{k} {v}" for k, v in row["machine"].items()) for row in rows if "machine" in row}
    lines = [*sorted(machines), "", *_summary(rows)]
    for belongs, write in SECTIONS:
        if chosen := [row for row in rows if belongs(row)]:
            lines += write(chosen)
    for row in rows:
        if "native" in row:
            ours, native = row["microseconds"], row["native"]
            lines += [f"{row['name']}: {ours:.1f} µs (torch's own addcmul {native:.1f} µs)", ""]
    return "\n".join(lines)
