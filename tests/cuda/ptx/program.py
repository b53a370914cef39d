# SPDX-License-Identifier: Apache-2.0
"""Reads the PTX that nvcc writes: one `Module` for a file, one `Kernel` for an entry, read when it is asked
for.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from .formats import TYPES, UNSIGNED, Array, Type


class PtxError(Exception):
    """Something that the interpreter does not know. It stops the test by name and line."""


Operand = str | list["Operand"]


@dataclass
class Instruction:
    opcode: str
    modifiers: list[str]
    operands: list[Operand]
    guard: str | None  # predicate register
    negated: bool
    line: int
    text: str

    def fail(self, why: str) -> PtxError:
        return PtxError(f"PTX line {self.line}: {why}: {self.text}")

    # Implementations take the modifiers they know, one by one; what is left over is an error.
    def flag(self, name: str) -> bool:
        if name in self.modifiers:
            self.modifiers.remove(name)
            return True
        return False

    def choice(self, *names: str, default: str | None = None) -> str:
        for n in names:
            if self.flag(n):
                return n
        if default is None:
            raise self.fail(f"expected one of {', '.join(names)}")
        return default

    def type(self) -> Type:
        """The last modifier, which must be a type."""
        name = self.modifiers.pop() if self.modifiers else ""
        if name not in TYPES:
            raise self.fail(f"type .{name} is not supported")
        return TYPES[name]


@dataclass
class Parameter:
    name: str
    offset: int
    bytes: int


@dataclass
class Kernel:
    name: str
    parameters: list[Parameter]
    registers: dict[str, Type] = field(default_factory=dict)
    shared: dict[str, int] = field(default_factory=dict)  # offsets
    shared_bytes: int = 0
    dynamic: list[str] = field(default_factory=list)  # names of the dynamic shared array
    local: dict[str, int] = field(default_factory=dict)
    local_bytes: int = 0
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    understood: bool = False  # every instruction has been compiled once

    @property
    def parameter_bytes(self) -> int:
        return max((p.offset + p.bytes for p in self.parameters), default=0)


_ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\((.*?)\)([^{]*)\{", re.S)
_PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)(?:\s+\.ptr(?:\s+\.\w+)*(?:\s+\.align\s+\d+)?)?"
    r"\s+([A-Za-z_$][\w$]*)(?:\[(\d+)\])?"
)
_SHARED = re.compile(r"\.shared\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?")
_LOCAL = re.compile(r"\.local\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?")
_GLOBAL = re.compile(
    r"^(?:\.visible\s+)?\.(?:global|const)\s+(?:\.align\s+\d+\s+)?\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?"
    r"(?:\s*=\s*\{?([^;}]*)\}?)?\s*;",
    re.M,
)
# A scope's brace, a label, or a statement, whose own braces enclose vector operands.
_STATEMENT = re.compile(r"\s*(?:(\{)|(\})|([\w$%]+)\s*:(?!:)|((?:[^;{}]|\{[^;{}]*\})+?)\s*;)")
_PARTS = re.compile(r"(?:@(!?)(%?[\w$]+)\s+)?([a-z]\w*)((?:[.:]+\w+)*)\s*(.*)$", re.S)


def _align(offset: int, to: int) -> int:
    return -(-offset // to) * to


def _size(type_name: str, count: str | None) -> int:
    return TYPES[type_name].bytes * int(count or 1)


class Module:
    """The entries, shared and global variables of one PTX file."""

    def __init__(self, text: str) -> None:
        text = re.sub(r"/\*.*?\*/", lambda m: "\n" * m.group().count("\n"), text, flags=re.S)
        self.text = re.sub(r"//[^\n]*", "", text)
        target = re.search(r"\.target\s+(\w+)", self.text)
        if not target:
            raise PtxError("no .target directive: this is not PTX")
        self.target = target.group(1)
        self._bodies: dict[str, tuple[str, int, str]] = {}
        self._kernels: dict[str, Kernel] = {}
        outside, last = [], 0
        for m in _ENTRY.finditer(self.text):
            end = self._closing_brace(m.end())
            self._bodies[m.group(1)] = (m.group(2), m.end(), self.text[m.end() : end])
            outside.append(self.text[last : m.start()])
            last = end + 1
        outside.append(self.text[last:])
        self._outside = "".join(outside)
        if ".func" in self._outside:
            raise PtxError("device functions (.func) are not supported: everything is to be inlined")

    def _closing_brace(self, at: int) -> int:
        depth = 1
        for m in re.compile(r"[{}]").finditer(self.text, at):
            depth += 1 if m.group() == "{" else -1
            if depth == 0:
                return m.start()
        raise PtxError("an entry has no closing brace")

    @property
    def entries(self) -> list[str]:
        return list(self._bodies)

    def line_span(self, name: str) -> tuple[int, int]:
        """First and last line number (from 1) of an entry's body."""
        _, start, body = self._bodies[name]
        first = self.text.count("\n", 0, start) + 1
        return first, first + body.count("\n")

    def with_statement(self, number: int, old: str, new: str) -> Module:
        """This module with one statement of one line changed; the other entries are shared."""
        changed = copy.copy(self)
        changed._bodies, changed._kernels = dict(self._bodies), dict(self._kernels)
        for name, (head, start, body) in self._bodies.items():
            first, last = self.line_span(name)
            if first <= number <= last:
                lines = body.split("\n")
                line = " ".join(lines[number - first].split())
                if old not in line:
                    raise PtxError(f"line {number} does not hold {old}")
                lines[number - first] = line.replace(old, new)
                changed._bodies[name] = (head, start, "\n".join(lines))
                changed._kernels.pop(name, None)
                return changed
        raise PtxError(f"line {number} lies in no entry")

    def globals(self) -> Iterator[tuple[str, Array]]:
        """Module-level .global and .const arrays with their contents."""
        for type_name, name, count, initial in _GLOBAL.findall(self._outside):
            t = TYPES[type_name]
            values = [v.strip() for v in initial.split(",") if v.strip()]
            array = np.zeros(int(count or max(len(values), 1)), t.dtype)
            for k, v in enumerate(values):
                array[k] = parse_immediate(v, t)
            yield name, array

    def kernel(self, name: str) -> Kernel:
        if name not in self._kernels:
            if name not in self._bodies:
                raise PtxError(f"no entry named {name}")
            self._kernels[name] = self._read(name)
        return self._kernels[name]

    def _read(self, name: str) -> Kernel:
        head, start, body = self._bodies[name]
        kernel = Kernel(name, [])
        offset = 0
        for align, type_name, parameter, count in _PARAMETER.findall(head):
            size = _size(type_name, count)
            offset = _align(offset, int(align or TYPES[type_name].bytes))
            kernel.parameters.append(Parameter(parameter, offset, size))
            offset += size
        for line in self._outside.split("\n"):
            if ".shared" in line:
                _declare_shared(kernel, line.strip())
        _Body(kernel, self.text.count("\n", 0, start) + 1).read(body)
        return kernel


def _declare_shared(kernel: Kernel, statement: str) -> None:
    m = _SHARED.search(statement)
    if not m:
        raise PtxError(f"shared variable: {statement}")
    align, type_name, name, count = m.groups()
    if statement.startswith(".extern") or statement.rstrip(";").endswith("[]"):
        kernel.dynamic.append(name)
        return
    kernel.shared_bytes = _align(kernel.shared_bytes, int(align or TYPES[type_name].bytes))
    kernel.shared[name] = kernel.shared_bytes
    kernel.shared_bytes += _size(type_name, count)


class _Body:
    """Statements of one entry. Braces open scopes: registers of inline asm get names of their own."""

    def __init__(self, kernel: Kernel, line: int) -> None:
        self.kernel, self.line = kernel, line
        self.scopes: list[dict[str, str]] = [{}]
        self.scoped = 0

    def read(self, body: str) -> None:
        at = 0
        while m := _STATEMENT.match(body, at):
            start = next(m.start(g) for g in (1, 2, 3, 4) if m.group(g))
            line = self.line + body.count("\n", at, start)
            if m.group(1):
                self.scopes.append({})
            elif m.group(2):
                self.scopes.pop()
            elif m.group(3):
                self.kernel.labels[m.group(3)] = len(self.kernel.instructions)
            else:
                self._statement(" ".join(m.group(4).split()), line)
            self.line += body.count("\n", at, m.end())
            at = m.end()
        if body[at:].strip():
            raise PtxError(f"PTX line {self.line}: cannot read {body[at : at + 60]!r}")

    def _statement(self, text: str, line: int) -> None:
        if text.startswith(".reg"):
            self._registers(text)
        elif text.startswith(".shared"):
            _declare_shared(self.kernel, text)
        elif text.startswith(".local"):
            m = _LOCAL.match(text)
            assert m, text
            align, type_name, name, count = m.groups()
            self.kernel.local_bytes = _align(self.kernel.local_bytes, int(align or TYPES[type_name].bytes))
            self.kernel.local[name] = self.kernel.local_bytes
            self.kernel.local_bytes += _size(type_name, count)
        elif text.startswith(".pragma"):
            pass
        elif text.startswith("."):
            raise PtxError(f"PTX line {line}: directive {text.split()[0]} is not supported")
        else:
            self.kernel.instructions.append(self._instruction(text, line))

    def _registers(self, text: str) -> None:
        type_name, names = re.match(r"\.reg\s*\.(\w+)\s+(.*)", text).groups()  # type: ignore[union-attr]
        for name in names.split(","):
            m = re.match(r"(\S+?)<(\d+)>", name.strip())
            for r in [f"{m.group(1)}{i}" for i in range(int(m.group(2)))] if m else [name.strip()]:
                if len(self.scopes) > 1:
                    self.scoped += 1
                    self.scopes[-1][r] = f"{r}__{self.scoped}"
                self.kernel.registers[self.scopes[-1].get(r, r)] = TYPES[type_name]

    def _instruction(self, text: str, line: int) -> Instruction:
        for scope in self.scopes[1:]:
            if scope:
                names = "|".join(map(re.escape, scope))
                text = re.sub(rf"(?<![\w.%$])({names})(?![\w$])", lambda m: scope[m.group(1)], text)  # noqa: B023
        m = _PARTS.match(text)
        if not m:
            raise PtxError(f"PTX line {line}: cannot read {text!r}")
        negated, guard, opcode, modifiers, operands = m.groups()
        words = [w for w in re.split(r"[.:]+", modifiers) if w]
        return Instruction(opcode, words, _operands(operands), guard, negated == "!", line, text)


def _operands(text: str) -> list[Operand]:
    out: list[Operand] = []
    depth, word = 0, ""
    for ch in [*text, ","]:
        depth += (ch in "{[(") - (ch in "}])")
        if ch == "," and depth == 0:
            word = word.strip()
            if word.startswith("{"):
                out.append(_operands(word[1:-1]))
            elif word:
                out.append(word)
            word = ""
        else:
            word += ch
    return out


def parse_immediate(text: str, t: Type) -> Array:
    """A literal as one element of `t`: 0fXXXXXXXX, 0dXXXXXXXXXXXXXXXX, or an integer cut to the width."""
    if re.fullmatch(r"0[fF][0-9a-fA-F]{8}", text):
        value = np.array(int(text[2:], 16), np.uint32)
        return value.view(np.float32).astype(t.dtype) if t.name == "f64" else value.view(t.dtype)
    if re.fullmatch(r"0[dD][0-9a-fA-F]{16}", text):
        return np.array(int(text[2:], 16), np.uint64).view(np.float64).astype(t.dtype)
    integer = int(text.rstrip("U"), 0) & ((1 << 8 * t.bytes) - 1)
    return np.array(integer, np.uint64).astype(UNSIGNED[t.bytes]).view(t.dtype)
