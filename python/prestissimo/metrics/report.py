# SPDX-License-Identifier: Apache-2.0
"""An evaluation's dictionary as tables: for the terminal, Markdown and a page with plots."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Group

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; } th, td { padding: 0.2rem 0.8rem 0.2rem 0; }
th { text-align: left; border-bottom: 1px solid #888; } td { border-bottom: 1px solid #ddd; }
h2 { margin-bottom: 0; } img { max-width: 100%; } p { color: #555; margin: 0.2rem 0; }
"""


@dataclass(frozen=True)
class Table:
    """Title, a sentence on how to read it, header, and rows of text."""

    title: str
    note: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def _figure(value: Any, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}g}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def _interval(interval: Mapping[str, float], share: bool = False) -> str:
    show = _share if share else _figure
    return f"{show(interval['value'])} ({show(interval['low'])} to {show(interval['high'])})"


def tables(report: Mapping[str, Any]) -> list[Table]:
    """Every section of :func:`prestissimo.metrics.evaluation.evaluate_clips` that is there, in order."""
    builders: dict[str, Callable[[Any], list[Table]]] = {
        "tags": _tags,
        "tempo": _tempo,
        "pairs": _pairs,
        "distance": lambda rows: _distance(rows, "Distance to real music"),
        "distance_long": lambda rows: _distance(rows, "Distance to real music, long clips"),
        "sound": _sound,
        "structure": lambda rows: [_standing(rows, "Structure of long clips")],
        "copies": _copies,
    }
    return [t for name, build in builders.items() if report.get(name) for t in build(report[name])]


def _tags(section: Mapping[str, Any]) -> list[Table]:
    unprompted = any(row["lift_unprompted"] is not None for row in section["tags"])
    real = any("real_lift" in row for row in section["tags"])
    header = ["Tag", "Clips", "Rank", "Lift", "Probability", "Elsewhere"]
    header += ["Lift over no text"] if unprompted else []
    header += ["Lift on real music"] if real else []
    rows = []
    for row in section["tags"]:
        cells = [row["tag"], str(row["clips"]), _interval(row["rank"]), _interval(row["lift"])]
        cells += [_figure(row["probability"]), _figure(row["elsewhere"])]
        cells += [_figure(row["lift_unprompted"])] if unprompted else []
        cells += [f"{_figure(row.get('real_lift'))} ({row.get('real_clips', 0)} clips)"] if real else []
        rows.append(tuple(cells))
    note = (
        f"Mean rank {_interval(section['mean_rank'])}, chance {section['chance_rank']:g}, "
        f"p = {section['p_value']:.2g}. Rank and lift of the prompted tag among the prompts, by networks that "
        "wrote no caption; 95 % bootstrap intervals over wordings."
    )
    return [Table("Prompted tags", note, tuple(header), rows)]


def _tempo(section: Mapping[str, Any]) -> list[Table]:
    rows = [
        (judge, str(r["clips"]), _interval(r["met"], share=True), _share(r["exact"]), _share(r["chance"]))
        for judge, r in section.items()
    ]
    note = "Share of clips within 4 % of the tempo that the prompt asks for, up to octaves."
    return [Table("Prompted tempo", note, ("Judge", "Clips", "Met", "Same octave", "Chance"), rows)]


def _pairs(section: Sequence[Mapping[str, Any]]) -> list[Table]:
    rows = [
        (
            r["attribute"],
            " / ".join(r["values"]),
            str(r["pairs"]),
            _interval(r["ordered"], share=True),
            " / ".join(_figure(m, 4) for m in r["medians"]),
        )
        for r in section
    ]
    note = "Prompts that differ in one word, same seed: share of pairs whose measure goes the right way; chance 50 %."
    return [Table("Attribute pairs", note, ("Attribute", "Values", "Pairs", "Right", "Medians"), rows)]


def _distance(rows: Sequence[Mapping[str, Any]], title: str) -> list[Table]:
    cells = []
    for r in rows:
        p = r["prdc"] or {}
        cells.append(
            (
                r["network"],
                r["name"],
                str(r["clips"]),
                _interval(r["frechet"]),
                _figure(r["real"]),
                _figure(r["ratio"]),
                _figure(r["mmd"]),
                *(_figure(p.get(name), 2) for name in ("density", "coverage", "recall")),
            )
        )
    note = (
        "Fréchet distance, one mean embedding a clip; beside it as many held-out real clips (small sets are "
        "biased upwards) and the ratio of the two."
    )
    header = ("Network", "Set", "Clips", "Fréchet", "Real", "Ratio", "MMD", "Density", "Coverage", "Recall")
    return [Table(title, note, header, cells)]


def _standing(section: Mapping[str, Any], title: str) -> Table:
    rows = [
        (name, *(_figure(s[k]) for k in ("median", "real_median", "quartile")), _share(s["percentile"]))
        for name, s in section.items()
    ]
    note = "Median of the generated clips among held-out real ones; 50 % where nothing tells them apart."
    return Table(title, note, ("Measure", "Generated", "Real", "Real 25th %", "Percentile"), rows)


def _sound(section: Mapping[str, Any]) -> list[Table]:
    bands = [
        (name, *(f"{section[k][name]:.1f}" for k in ("made", "real")), f"{section['difference'][name]:+.1f}")
        for name in section["made"]
    ]
    out = [
        Table(
            "Spectrum",
            "Medians over clips, dB: share of each band in the energy, and side over mid.",
            ("Band", "Generated", "Real", "Difference"),
            bands,
        ),
        _standing(section["standing"], "Pulse, key and brightness"),
    ]
    if "real or generated" in section:
        rows = [(network, _interval(i, share=True)) for network, i in section["real or generated"].items()]
        note = "Accuracy of a linear classifier on clips that it has not seen; 50 % is indistinguishable."
        out.append(Table("Real or generated?", note, ("Network", "Accuracy"), rows))
    return out


def _copies(section: Mapping[str, Any]) -> list[Table]:
    out = []
    for features, found in section.items():
        note = (
            f"Highest cross-correlation with any training window: median {found['score']['median']:.3f}, "
            f"of held-out real music {found['score']['real_median']:.3f}; "
            f"most {found['most']['made']:.3f} and {found['most']['real']:.3f}. The nearest pairs:"
        )
        rows = [(c["clip"], f"{c['score']:.3f}", c["title"], str(c["frame"])) for c in found["closest"]]
        header = ("Clip", "Score", "Training track", "Frame")
        out.append(Table(f"Nearest training music by {features}", note, header, rows))
    return out


def console(report: Mapping[str, Any]) -> Group:
    """The tables for the terminal."""
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    parts: list[Any] = []
    for table in tables(report):
        shown = RichTable(*table.header, title=table.title, title_justify="left", caption_justify="left")
        shown.caption = Text(table.note)
        for row in table.rows:
            shown.add_row(*(Text(cell) for cell in row))
        parts += [shown, ""]
    return Group(*parts)


def _about(report: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value}" for name, value in report.get("about", {}).items() if value is not None
    )


def markdown(report: Mapping[str, Any]) -> str:
    """The tables in Markdown."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    parts = ["# Evaluation", _about(report)]
    for table in tables(report):
        body = [line(table.header), line(["---"] * len(table.header)), *(line(row) for row in table.rows)]
        parts += [f"## {table.title}", table.note, "\n".join(body)]
    return "\n\n".join(part for part in parts if part) + "\n"


def page(report: Mapping[str, Any]) -> str:
    """The tables and plots as one HTML page that needs no other file; without matplotlib, no plots."""
    parts = [f"<h1>Evaluation</h1><p>{html.escape(_about(report))}</p>"]
    parts += [f'<img alt="{html.escape(name)}" src="{data}">' for name, data in plots(report).items()]
    parts += [table_html(table) for table in tables(report)]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Evaluation</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def table_html(table: Table) -> str:
    """Title, note and table, every cell escaped."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    return (
        f"<h2>{html.escape(table.title)}</h2><p>{html.escape(table.note)}</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def plots(report: Mapping[str, Any]) -> dict[str, str]:
    """PNG data addresses by name: lift of the tags, the distance scale, the attribute pairs."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return {}

    def chart(title: str, rows: list[tuple[str, Mapping[str, float]]], mark: float | None, log: bool) -> str:
        figure = Figure(figsize=(7, 0.6 + 0.28 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for place, (_, i) in enumerate(rows):
            low, high = max(i["value"] - i["low"], 0), max(i["high"] - i["value"], 0)
            axes.errorbar(i["value"], place, xerr=[[low], [high]], fmt="o", color="#2060a0", capsize=3)
        if mark is not None:
            axes.axvline(mark, color="#999", linewidth=1)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.invert_yaxis()
        axes.set_title(title, loc="left")
        if log:
            axes.set_xscale("log")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()

    out = {}
    if report.get("tags"):
        rows = [(r["tag"], r["lift"]) for r in report["tags"]["tags"]]
        out["lift"] = chart("Lift of the prompted tag (1: no effect)", rows, 1.0, log=True)
    if report.get("pairs"):
        pairs = [(" / ".join(r["values"]), r["ordered"]) for r in report["pairs"]]
        out["pairs"] = chart("Pairs in the right order (0.5: chance)", pairs, 0.5, log=False)
    for network in dict.fromkeys(r["network"] for r in report.get("distance", [])):
        chosen = [(r["name"], r["frechet"]) for r in report["distance"] if r["network"] == network]
        out[f"distance {network}"] = chart(f"Fréchet distance, {network}", chosen, None, log=True)
    return out
