# SPDX-License-Identifier: Apache-2.0
"""Damages compiled PTX in one place at a time and asks whether the PTX lane notices: what the cases are worth.

python -m tests.cuda.mutate adaln_modulate [--count 150] [--seed 3] [--target 80] [--seconds 600] [--record]

Every mutant runs the op's cases until one notices. Survivors are printed with their PTX; those whose damage cannot be
seen are argued in mutation.json, one by one, by kernel, line and text (by hand or by equivalent.py's arguments), and
leave the score, as do mutants of instructions that no case executes (loop remainders that the block sizes never enter)
and those that are no PTX any more. An op whose PTX has changed is run anew, or named with the reason under "unscored".
Verdicts are kept beside the builds for as long as PTX, cases and interpreter stay: a long run may be made in slices.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import toolchain
from .devices import HostDevice, PtxDevice
from .equivalent import why_equivalent
from .lanes import Builds, Record, cases_of
from .ptx import Module, Options, PtxError
from .toolchain import HERE

RECORD = HERE / "mutation.json"
STEPS = 100_000  # far above what any case takes
NAMED = ("kernel", "line", "old", "new")  # of a mutant in RECORD: a barrier stands in more than one line


@dataclass(frozen=True)
class Mutant:
    kernel: str
    kind: str
    line: int
    old: str
    new: str


def _replace(pattern: str, replacement: str | Callable[[re.Match[str]], str]) -> Callable[[str], str | None]:
    compiled = re.compile(pattern)

    def damage(text: str) -> str | None:
        new, count = compiled.subn(replacement, text, count=1)
        return new if count and new != text else None

    return damage


def _plus(amount: int) -> Callable[[re.Match[str]], str]:
    return lambda m: m.group(1) + str(int(m.group(2)) + amount) + m.group(3)


_OFF_BY_ONE = {"lt": "le", "le": "lt", "gt": "ge", "ge": "gt", "eq": "ne", "ne": "eq"}

# Kind and damage of a statement; None where it does not apply.
OPERATORS: list[tuple[str, Callable[[str], str | None]]] = [
    ("barrier dropped", _replace(r"^(@\S+ )?bar\.(warp\.)?sync.*;", "")),
    ("store dropped", _replace(r"^(@\S+ )?st\.(global|shared)\..*;", "")),
    ("wait_group weaker", _replace(r"(wait_group )(\d+)(;)", _plus(1))),
    ("copy dropped", _replace(r"^(@\S+ )?cp\.async\.c[ag].*;", "")),
    ("trans flipped", _replace(r"\.trans\.shared", ".shared")),
    (
        "comparison off by one",
        _replace(r"setp\.(lt|le|gt|ge|eq|ne)\.", lambda m: f"setp.{_OFF_BY_ONE[m.group(1)]}."),
    ),
    (
        "branch inverted",
        _replace(r"^@(!?)(%p\d+) bra", lambda m: f"@{'' if m.group(1) else '!'}{m.group(2)} bra"),
    ),
    ("shuffle distance", _replace(r"(shfl\.sync\.\w+\.b32 .*, )(\d+)(, \d+, -?\d+;)", _plus(1))),
    ("add to sub", _replace(r"^add\.f32", "sub.f32")),
    ("sub to add", _replace(r"^sub\.f32", "add.f32")),
    ("mul to add", _replace(r"^mul\.f32", "add.f32")),
    ("fma without addend", _replace(r"^fma\.rn\.f32 (\S+), (\S+), (\S+), (\S+);", r"mul.f32 \1, \2, \3;")),
    ("division inverted", _replace(r"^div\.rn\.f32 (\S+), (\S+), (\S+);", r"div.rn.f32 \1, \3, \2;")),
    ("select swapped", _replace(r"^(selp\.\S+ \S+) (\S+), (\S+), (\S+;)", r"\1 \3, \2, \4")),
    ("constant plus one", _replace(r"^((?:add|sub|and|or)\.[bsu](?:32|64) \S+, \S+ )(-?\d+)(;)", _plus(1))),
    ("shift plus one", _replace(r"^(sh[lr]\.[bsu](?:32|64) \S+, \S+ )(\d+)(;)", _plus(1))),
    (
        "address plus one",
        _replace(r"^((?:ld|st)\.(?:global|shared)\.[^\[]*\[%r\w*\+?)(-?\d*)(\].*;)", lambda m: _move(m)),
    ),
    ("parameter moved", _replace(r"^(ld\.param\.\S+ [^\[]*\[\w+\+)(\d+)(\];)", _plus(8))),
    ("min and max", _replace(r"^(min|max)\.", lambda m: {"min": "max.", "max": "min."}[m.group(1)])),
    (
        "and and or",
        _replace(
            r"^(and|or)\.(pred|b32|b64)", lambda m: f"{'or' if m.group(1) == 'and' else 'and'}.{m.group(2)}"
        ),
    ),
    ("product of integers", _replace(r"^mul\.lo\.(s32|s64)", r"add.\1")),
    ("wide product", _replace(r"^(mul\.wide\.[su]32 \S+, \S+ )(\d+)(;)", _plus(1))),
    (
        "remainder to quotient",
        _replace(r"^(div|rem)\.u32", lambda m: {"div": "rem.u32", "rem": "div.u32"}[m.group(1)]),
    ),
    ("halves swapped", _replace(r"^(mov\.b32 )\{(\S+), ?(\S+)\}(, .*;)", r"\1{\3, \2}\4")),
]


def _move(m: re.Match[str]) -> str:
    """An address moved by the width of the access, so that it stays aligned."""
    vector, width = re.search(r"\.v([24])", m.group(1)), re.search(r"\.[busf](\d+) ", m.group(1))
    step = (int(width.group(1)) // 8 if width else 4) * (int(vector.group(1)) if vector else 1)
    offset = int(m.group(2) or 0) + step
    return f"{m.group(1).rstrip('+')}+{offset}{m.group(3)}"


def mutants(module: Module) -> Iterator[Mutant]:
    for kernel in module.entries:
        for ins in module.kernel(kernel).instructions:
            for kind, damage in OPERATORS:
                if (new := damage(ins.text + ";")) is not None:
                    yield Mutant(kernel, kind, ins.line, ins.text + ";", new)


# By kernel and line: the cases that run this instruction, quickest first. To the others its damage makes no difference.
Baseline = dict[tuple[str, int], list[Any]]


def baseline(op: str, module: Module, planner: HostDevice) -> Baseline:
    """Of undamaged runs."""
    times: dict[tuple[str, int], list[tuple[float, int]]] = collections.defaultdict(list)
    cases = [*cases_of(op).CASES, *getattr(cases_of(op), "FAR_CASES", ())]
    for k, case in enumerate(cases):
        device, start = PtxDevice(module), time.perf_counter()
        outcome = cases_of(op).run(case, device, planner)
        if not outcome.clean:
            raise RuntimeError(f"{case} fails without any damage:\n{outcome}")
        spent = time.perf_counter() - start
        for kernel, counts in device.machine.statistics.executed.items():
            code = module.kernel(kernel).instructions
            for line in {i.line for i, n in zip(code, counts, strict=True) if n}:
                times[kernel, line].append((spent, k))
    return {place: [cases[k] for _, k in sorted(t)] for place, t in times.items()}


class NoticedError(Exception):
    """A checker found something: the rest of the case need not run."""


class FirstFinding(PtxDevice):
    def launch(self, *arguments: Any, **rest: Any) -> list[str]:
        if super().launch(*arguments, **rest):
            raise NoticedError
        return []


def verdict(op: str, module: Module, mutant: Mutant, base: Baseline, planner: HostDevice) -> str:
    """How the mutant was noticed, or survived."""
    damaged = module.with_statement(mutant.line, mutant.old, mutant.new)
    damaged.kernel(
        mutant.kernel
    ).understood = True  # all but the damage is: it need not be compiled to see that
    for case in base[mutant.kernel, mutant.line]:
        try:
            outcome = cases_of(op).run(case, FirstFinding(damaged, Options(max_steps=STEPS)), planner)
        except PtxError:
            return "not PTX"
        except NoticedError:
            return "checker"
        if outcome.wrong:
            return "result"
    return "survived"


def draw(module: Module, base: Baseline, count: int, seed: int) -> tuple[list[Mutant], int]:
    """`count` mutants of executed instructions, every kind as evenly as it can be; how many there are in all."""
    by_kind: dict[str, list[Mutant]] = collections.defaultdict(list)
    everything = 0
    for m in mutants(module):
        everything += 1
        if (m.kernel, m.line) in base:
            by_kind[m.kind].append(m)
    rng = random.Random(seed)
    for pool in by_kind.values():
        rng.shuffle(pool)
    chosen: list[Mutant] = []
    while len(chosen) < count and any(by_kind.values()):
        for kind in sorted(by_kind):
            if by_kind[kind] and len(chosen) < count:
                chosen.append(by_kind[kind].pop())
    return chosen, everything


def argument(unit: str, module: Module, mutant: Mutant) -> dict[str, Any] | None:
    """The entry of a mutant that an argument of equivalent.py covers."""
    code = module.kernel(mutant.kernel).instructions
    at = next(k for k, i in enumerate(code) if i.line == mutant.line and i.text + ";" == mutant.old)
    why = why_equivalent(mutant.kernel, [i.text + ";" for i in code], at, mutant.new)
    if why is None:
        return None
    return {"of": unit, **{k: getattr(mutant, k) for k in NAMED}, "why": why}


def read() -> dict[str, Any]:
    if not RECORD.exists():
        return {"scores": {}, "unscored": {}, "equivalent": []}
    records: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    return records


def write(unit: str, score: dict[str, Any], used: Sequence[dict[str, Any]]) -> None:
    """The score of a unit and the arguments that it used, in the place of its old ones; one line an argument."""
    records = read()
    records["scores"][unit] = score
    records["unscored"].pop(unit.partition("/")[0], None)
    kept = [e for e in records["equivalent"] if e["of"] != unit] + list(used)
    kept.sort(key=lambda e: (e["of"], e["kernel"], e["line"], e["new"]))
    arguments = ",\n".join("  " + json.dumps(e) for e in kept)
    scores = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(records["scores"].items()))
    unscored = json.dumps(records["unscored"])
    RECORD.write_text(
        f'{{\n "scores": {{\n{scores}\n }},\n "unscored": {unscored},\n "equivalent": [\n{arguments}\n ]\n}}\n',
        encoding="utf-8",
    )


class Verdicts:
    """Those of earlier runs under the same fingerprint."""

    def __init__(self, folder: Path, unit: str, fingerprint: str) -> None:
        self.path, self.fingerprint = folder / f"{unit.replace('/', '-')}.json", fingerprint
        kept = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.of: dict[str, str] = kept.get("verdicts", {}) if kept.get("fingerprint") == fingerprint else {}

    @staticmethod
    def name(mutant: Mutant) -> str:
        return f"{mutant.kernel}:{mutant.line}: {mutant.old} -> {mutant.new}"

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps({"fingerprint": self.fingerprint, "verdicts": self.of}))


@dataclass
class Tally:
    """What became of the mutants that ran, by kind, and the arguments that were used."""

    how: dict[str, collections.Counter[str]] = field(
        default_factory=lambda: collections.defaultdict(collections.Counter)
    )
    used: list[dict[str, Any]] = field(default_factory=list)

    def score(self) -> dict[str, Any]:
        total = sum(self.how.values(), collections.Counter[str]())
        counted = sum(total.values()) - total["equivalent"] - total["not PTX"]
        if counted == 0:
            raise SystemExit(f"no mutant counts: {dict(total) or 'none ran'}; give more --count or --seconds")
        noticed = counted - total["survived"]
        return {
            "mutants": sum(total.values()),
            "noticed": noticed,
            "equivalent": total["equivalent"],
            "survived": total["survived"],
            "score": round(noticed / counted, 4),
        }


def try_all(
    op: str, target: int, chosen: Sequence[Mutant], base: Baseline, builds: Builds, seconds: float
) -> Tally:
    """The mutants in their order, until `seconds` of the processor are gone."""
    unit, module, planner = f"{op}/compute_{target}", builds.module(op, target), builds.planner(op)
    argued = {tuple(e[k] for k in NAMED): e for e in read()["equivalent"] if e["of"] == unit}
    verdicts = Verdicts(toolchain.CACHE / "mutants", unit, Record(builds).fingerprint(f"{op}/ptx-{target}"))
    tally, started = Tally(), time.perf_counter()
    for k, mutant in enumerate(chosen, 1):
        if time.process_time() > seconds:
            break
        name = verdicts.name(mutant)
        if name not in verdicts.of:
            verdicts.of[name] = verdict(op, module, mutant, base, planner)
            verdicts.write()
        how = verdicts.of[name]
        if how == "survived":
            entry = argued.get(tuple(getattr(mutant, name) for name in NAMED)) or argument(
                unit, module, mutant
            )
            if entry:
                how = "equivalent"
                tally.used.append(entry)
            else:
                place = f"{mutant.kernel} line {mutant.line}, {mutant.kind}"
                print(f"survived: {place}: {mutant.old}  ->  {mutant.new}")
        tally.how[mutant.kind][how] += 1
        if k % 25 == 0:
            print(f"{k} of {len(chosen)}, {time.perf_counter() - started:.0f} s", flush=True)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("op")
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--target", type=int, default=80, choices=toolchain.TARGETS)
    parser.add_argument("--seconds", type=float, default=600.0, help="of the processor: what ran is scored")
    parser.add_argument("--record", action="store_true", help="write the score into mutation.json")
    o = parser.parse_args()
    with Builds() as builds:
        module = builds.module(o.op, o.target)
        base = baseline(o.op, module, builds.planner(o.op))
        chosen, everything = draw(module, base, o.count, o.seed)
        tally = try_all(o.op, o.target, chosen, base, builds, o.seconds)
        ptx = toolchain.ptx_hash(builds.ptx(o.op, o.target))
    for kind, counts in sorted(tally.how.items()):
        print(f"{kind:24s} {dict(counts)}")
    score = tally.score() | {"seed": o.seed, "of": everything, "ptx": ptx}
    print(score)
    if o.record:
        write(f"{o.op}/compute_{o.target}", score, tally.used)


if __name__ == "__main__":
    main()
