# SPDX-License-Identifier: Apache-2.0
"""The help of every command prints as it was meant: no marks of its markup left, no extra swallowed by them."""

from __future__ import annotations

import re

import pytest

from prestissimo.cli import run
from prestissimo.cli.app import app

GROUPS = {group.name: group.typer_instance for group in app.registered_groups}
COMMANDS = [
    [command.name or command.callback.__name__]  # type: ignore[union-attr]
    for command in app.registered_commands
]
COMMANDS += [
    [name, command.name or command.callback.__name__]  # type: ignore[list-item, union-attr]
    for name, group in GROUPS.items()
    for command in group.registered_commands  # type: ignore[union-attr]
]


@pytest.mark.parametrize("command", [[], *COMMANDS], ids=" ".join)
def test_help_prints_as_it_was_meant(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Usage" in text
    assert "\\" not in text
    for extra in re.findall(r'pip\s+install\s+"prestissimo(.*?)"', text):
        assert re.fullmatch(r"\[[a-z]+\]", extra)
